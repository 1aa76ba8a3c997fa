"""Log-linear histogram of signed nanoseconds, in memory of a fixed size.

Every int64 has a bucket, so nothing under- or overflows. Magnitudes below
`SUB_BUCKETS` ns have a bucket each; every octave above is divided into
`SUB_BUCKETS` of equal width. A bucket is represented by its middle, which is
off by at most 1/32 of the value (`RELATIVE_ERROR`).

Index `CENTRE + i` holds the magnitudes of bucket i that are not negative, and
`CENTRE - 1 - i` the negative ones, shifted by one: -1 is magnitude 0. Indices
ascend with the values, so percentiles are a cumulative sum.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

_SUB_BITS = 4
SUB_BUCKETS = 1 << _SUB_BITS
RELATIVE_ERROR = 1 / (2 * SUB_BUCKETS)
CENTRE = (63 - _SUB_BITS + 1) * SUB_BUCKETS
BUCKETS = 2 * CENTRE

Counts = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]


def bucket_of(value_ns: int) -> int:
    """The bucket, 0..BUCKETS-1, of any int64."""
    magnitude = value_ns if value_ns >= 0 else ~value_ns
    if magnitude < SUB_BUCKETS:
        bucket = magnitude
    else:
        shift = magnitude.bit_length() - _SUB_BITS - 1
        bucket = (shift << _SUB_BITS) + (magnitude >> shift)
    return CENTRE + bucket if value_ns >= 0 else CENTRE - 1 - bucket


def buckets_of(values_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The bucket of each value, as `bucket_of` says."""
    magnitudes = np.where(values_ns >= 0, values_ns, ~values_ns)
    # A float64 rounds large magnitudes, at most up to the next power of two.
    lengths = np.frexp(magnitudes.astype(np.float64))[1].astype(np.int64)
    lengths -= magnitudes >> np.maximum(lengths - 1, 0) == 0
    shifts = np.maximum(lengths - _SUB_BITS - 1, 0)
    buckets = (shifts << _SUB_BITS) + (magnitudes >> shifts)
    return np.where(values_ns >= 0, CENTRE + buckets, CENTRE - 1 - buckets)


def bucket_bounds(index: int) -> tuple[int, int]:
    """The smallest and the largest value of a bucket."""
    if index < CENTRE:
        low, high = bucket_bounds(BUCKETS - 1 - index)
        return ~high, ~low
    bucket = index - CENTRE
    if bucket < SUB_BUCKETS:
        return bucket, bucket
    shift = (bucket >> _SUB_BITS) - 1
    low = (bucket - (shift << _SUB_BITS)) << shift
    return low, low + (1 << shift) - 1


def percentiles(
    counts: Counts,
    buckets: int | npt.NDArray[np.intp],
    percents: Iterable[float],
    min_ns: int,
    max_ns: int,
) -> dict[float, int]:
    """Percentiles by nearest rank, by percent; empty where nothing was counted.

    `counts` are of the `buckets` that hold all values, in order; of a stretch of
    buckets the first says enough. Results stay within `min_ns`..`max_ns`,
    the known extremes.
    """
    cumulative = np.cumsum(counts, dtype=np.uint64)
    total = int(cumulative[-1]) if len(cumulative) else 0
    if not total:
        return {}
    wanted = tuple(percents)
    ranks = [min(max(1, -int(-percent * total // 100)), total) for percent in wanted]
    found = {}
    for percent, index in zip(wanted, cumulative.searchsorted(ranks).tolist(), strict=True):
        bucket = buckets + index if isinstance(buckets, int) else int(buckets[index])
        low, high = bucket_bounds(bucket)
        found[percent] = min(max((low + high) // 2, min_ns), max_ns)
    return found
