"""What a session says of percentiles, against the delays themselves."""

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.histogram import RELATIVE_ERROR, UNIT_NS
from dataplane.session_state import FORWARD
from dataplane.stamp.intervals import Intervals
from dataplane.statistics import DelaySummary
from dataplane.store import SessionStore
from tests.unit.stamp.network import MS, S, session

PERCENTS = (1.0, 50.0, 95.0, 99.0, 99.9)
JITTER_NS = 20_000


def check(summary: DelaySummary | None, values: list[int], *origins_ns: int) -> None:
    """Off by no more than the distances from what has been the origin."""
    assert summary is not None
    ordered = sorted(values)
    for percent in PERCENTS:
        exact = ordered[max(1, -int(-percent * len(values) // 100)) - 1]
        error = sum(
            max(abs(exact - origin_ns) * RELATIVE_ERROR, UNIT_NS / 2) + 1
            for origin_ns in origins_ns
        )
        assert abs(summary.percentiles[percent] - exact) <= error, percent


@settings(max_examples=60)
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
    """The first origin is at the first delay, since the session was cleared."""
    with tempfile.TemporaryDirectory() as folder:
        store = SessionStore.create(Path(folder) / "s", session(percentiles=PERCENTS))
        counted = Intervals(store, S, 64)
        if cleared:
            counted.add(0, 5 * S, -5 * S)
            store.clear()
            counted.rest()
        taken = [[base_ns + value for value in values] for values in intervals]
        together = [value for values in taken for value in values]
        sequence, origins = 0, [together[0]]
        for values in taken:
            for value in values:
                sequence += 1
                counted.add(sequence, value, -value)
            counted.close(sequence, sequence, sequence + S, suspect=False)
            origins.append(counted.delays[FORWARD].origin_ns)
        snapshot = store.snapshot()
        for values, interval, origin_ns in zip(taken, snapshot.intervals, origins, strict=False):
            check(interval.forward, values, origin_ns)
        check(snapshot.forward, together, *dict.fromkeys(origins))
        check(snapshot.round_trip, [0] * len(together), 1)
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


def test_the_origin_follows_a_path(tmp_path: Path) -> None:
    """The first packet has waited for address resolution, and later the route changes."""
    chance = random.Random(7)
    store = SessionStore.create(tmp_path / "s", session(percentiles=PERCENTS))
    counted = Intervals(store, S, 64)
    sequence, errors, total = 0, [], []
    for base_ns in (20 * MS, 20 * MS, 20 * MS, 25 * MS, 25 * MS, 25 * MS - S, 25 * MS - S):
        values = [base_ns + round(chance.expovariate(1 / JITTER_NS)) for _ in range(500)]
        if not sequence:
            values[0] += 42 * MS
        for value in values:
            sequence += 1
            counted.add(sequence, value, 0)
        total += values
        counted.close(sequence, sequence, sequence + S, suspect=False)
        summary = store.intervals[-1].forward
        assert summary is not None
        exact = sorted(values)
        errors.append(
            max(
                abs(summary.percentiles[percent] - exact[round(percent * 5) - 1])
                for percent in (50.0, 95.0)
            )
        )
    poor = [error > JITTER_NS / 5 for error in errors]
    assert poor == [True, False, False, True, False, True, False]
    snapshot = store.snapshot()
    assert snapshot.forward.samples == len(total) == 3_500
    assert abs(snapshot.forward.percentiles[50.0] - sorted(total)[1_749]) < S / 32
