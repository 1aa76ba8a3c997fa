import itertools

import numpy as np
import pytest

from dataplane.histogram import BUCKETS, bucket_bounds, bucket_of, percentiles


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


def test_small_values_are_exact() -> None:
    assert [bucket_bounds(bucket_of(value)) for value in range(-16, 16)] == [
        (value, value) for value in range(-16, 16)
    ]


def test_percentiles_of_nothing() -> None:
    assert percentiles(np.zeros(4, np.uint32), 0, (50.0,), 0, 0) == {}


def test_one_sample_is_exact() -> None:
    value = -123_456_789
    counts = np.ones(1, np.uint32)
    assert percentiles(counts, bucket_of(value), (1.0, 99.9), value, value) == {
        1.0: value,
        99.9: value,
    }
