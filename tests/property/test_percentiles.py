"""What a session says of percentiles, against the delays themselves."""

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.histogram import RELATIVE_ERROR, UNIT_NS
from dataplane.stamp.intervals import Intervals
from dataplane.statistics import DelaySummary
from dataplane.store import SessionStore
from tests.unit.stamp.network import MS, S, session

PERCENTS = (1.0, 50.0, 95.0, 99.0, 99.9)
JITTER_NS = 20_000


def check(summary: DelaySummary | None, values: list[int], origin_ns: int) -> None:
    assert summary is not None
    ordered = sorted(values)
    for percent in PERCENTS:
        exact = ordered[max(1, -int(-percent * len(values) // 100)) - 1]
        error = max(abs(exact - origin_ns) * RELATIVE_ERROR, UNIT_NS / 2) + 1
        assert abs(summary.percentiles[percent] - exact) <= error, percent


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.lists(st.integers(-(10**6), 10**9), min_size=1, max_size=40), min_size=1, max_size=4
    ),
    st.sampled_from([0, 8 * MS, 20 * MS, 20 * MS + S, 20 * MS - S, 6 * 10**18, -6 * 10**18]),
    st.booleans(),
)
def test_intervals_and_all_together(
    intervals: list[list[int]], base_ns: int, cleared: bool
) -> None:
    """The origin is at the first delay, in all intervals, until the session is cleared."""
    with tempfile.TemporaryDirectory() as folder:
        store = SessionStore.create(Path(folder) / "s", session(percentiles=PERCENTS))
        counted = Intervals(store, S, 64)
        if cleared:
            counted.add(0, 5 * S, -5 * S)
            store.clear()
            counted.rest()
        taken = [[base_ns + value for value in values] for values in intervals]
        together = [value for values in taken for value in values]
        sequence = 0
        for values in taken:
            for value in values:
                sequence += 1
                counted.add(sequence, value, -value)
            counted.close(sequence, sequence, sequence + S, suspect=False)
        snapshot = store.snapshot()
        for values, interval in zip(taken, snapshot.intervals, strict=True):
            check(interval.forward, values, together[0])
            check(interval.backward, [-value for value in values], -together[0])
        check(snapshot.forward, together, together[0])
        check(snapshot.backward, [-value for value in together], -together[0])
        store.close()


@pytest.mark.parametrize("offset_ns", [0, S, -S])
def test_a_narrow_distribution_far_from_zero(tmp_path: Path, offset_ns: int) -> None:
    """Of 20 ms and some 20 µs, percentiles are told apart by what the jitter is."""
    chance = random.Random(7)
    values = [20 * MS + offset_ns + round(chance.expovariate(1 / JITTER_NS)) for _ in range(2_000)]
    store = SessionStore.create(tmp_path / "s", session(percentiles=PERCENTS))
    counted = Intervals(store, S, 64)
    for sequence, value in enumerate(values):
        counted.add(sequence, value, 0)
    check(store.snapshot().forward, values, values[0])
    found = store.snapshot().forward.percentiles
    assert found[50.0] + JITTER_NS < found[95.0] < found[99.0] - JITTER_NS
