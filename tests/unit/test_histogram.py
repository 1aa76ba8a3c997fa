import itertools

import numpy as np
import pytest

from dataplane.histogram import (
    BUCKETS,
    UNIT_NS,
    bucket_bounds,
    bucket_of,
    distance,
    moved,
    origin_at,
    percentiles,
)


@pytest.mark.parametrize("value", [0, 1, 15, 16, 17, 31, 32, 33, 1_000, 10**9, 2**62, 2**63 - 1])
def test_value_is_within_its_bucket(value: int) -> None:
    for signed in (value, -value, -value - 1):
        low, high = bucket_bounds(bucket_of(signed))
        assert low <= signed <= high


def test_buckets_are_contiguous_over_all_of_int64() -> None:
    bounds = [bucket_bounds(index) for index in range(BUCKETS)]
    assert bounds[0][0] == -(2**63)
    assert bounds[-1][1] == 2**63 - 1
    assert all(a[1] + 1 == b[0] for a, b in itertools.pairwise(bounds))


def test_small_distances_are_told_apart_by_units() -> None:
    bounds = [(UNIT_NS * unit, UNIT_NS * (unit + 1) - 1) for unit in range(-16, 16)]
    assert [bucket_bounds(bucket_of(low)) for low, _ in bounds] == bounds


def test_distances_saturate() -> None:
    least, most = -(2**63), 2**63 - 1
    assert (distance(least, 1), distance(least, -1)) == (least, least + 1)
    assert (distance(most, -1), distance(most, 1)) == (most, most - 1)
    assert (distance(0, least + 1), distance(0, least)) == (most, most)


def test_no_origin_is_at_zero() -> None:
    assert origin_at(0) == 1
    assert [origin_at(value) for value in (-(2**63), 2**63 - 1)] == [-(2**63) + 1, 2**63 - 1]


def test_what_was_counted_is_found_about_another_origin() -> None:
    value, origin, other = 10**9 + 12_345, 10**9, 10**9 + 5_000
    low, high = bucket_bounds(moved(bucket_of(value - origin), origin, other))
    assert abs(other + (low + high) // 2 - value) <= (12_345 + 7_345) / 32 + UNIT_NS


def test_percentiles_of_nothing() -> None:
    assert percentiles(np.zeros(4, np.uint32), 0, (50.0,), 1, 0, 0) == {}


def test_one_sample_is_exact() -> None:
    value, origin = -123_456_789, 10**9
    counts = np.ones(1, np.uint32)
    bucket = bucket_of(value - origin)
    assert percentiles(counts, bucket, (1.0, 99.9), origin, value, value) == {
        1.0: value,
        99.9: value,
    }
