import itertools
import statistics

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataplane.histogram import (
    BUCKETS,
    RELATIVE_ERROR,
    UNIT_NS,
    bucket_of,
    distance,
    percentiles,
)
from dataplane.statistics import DelayState

SPREAD = st.integers(-(10**10), 10**10)
ORIGIN = st.sampled_from([0, 10**15, -(10**18), 4 * 10**18])


def filled(values: list[int], first_sequence: int = 0) -> DelayState:
    state = DelayState()
    for sequence, value in enumerate(values, first_sequence):
        state.update(value, sequence)
    return state


def check(state: DelayState, values: list[int]) -> None:
    summary = state.summary()
    assert summary.samples == len(values)
    assert (summary.min_ns, summary.max_ns) == (min(values), max(values))
    assert summary.last_ns == values[-1]
    assert summary.mean_ns is not None
    assert abs(summary.mean_ns * len(values) - sum(values)) <= len(values)
    if len(values) > 1:
        # About the first value, for floats to hold the reference exactly.
        expected = statistics.stdev([value - values[0] for value in values])
        assert summary.stddev_ns is not None
        assert abs(summary.stddev_ns - expected) <= 1 + expected * 1e-9
        differences = [abs(b - a) for a, b in itertools.pairwise(values)]
        assert summary.jitter_max_ns == max(differences)
        assert summary.jitter_ns is not None
        assert abs(summary.jitter_ns - sum(differences) / len(differences)) <= 1


@given(st.lists(SPREAD, min_size=1, max_size=200), ORIGIN)
def test_running_statistics_equal_those_of_the_list(values: list[int], origin: int) -> None:
    values = [origin + value for value in values]
    check(filled(values), values)


@given(st.lists(SPREAD, max_size=50), st.lists(SPREAD, max_size=50), ORIGIN)
def test_merging_equals_counting_together(first: list[int], second: list[int], origin: int) -> None:
    first, second = [origin + v for v in first], [origin + v for v in second]
    merged, later = filled(first), DelayState()
    later.continue_from(merged)
    for sequence, value in enumerate(second, len(first)):
        later.update(value, sequence)
    merged.merge(later)
    if first + second:
        check(merged, first + second)
    else:
        assert merged.samples == 0


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1) | SPREAD, min_size=1, max_size=300),
    st.integers(-(2**62), 2**62) | SPREAD,
    st.floats(0.01, 99.99),
)
def test_percentiles_are_within_the_error_bound(
    values: list[int], origin: int, percent: float
) -> None:
    values = [value for value in values if abs(value - origin) < 2**63] or [origin]
    counts = np.zeros(BUCKETS, np.uint32)
    for value in values:
        counts[bucket_of(distance(value, origin))] += 1
    rank = max(1, -int(-percent * len(values) // 100))
    exact = sorted(values)[rank - 1]
    found = percentiles(counts, 0, (percent,), origin, min(values), max(values))[percent]
    assert abs(found - exact) <= max(abs(exact - origin) * RELATIVE_ERROR, UNIT_NS / 2)
