"""Log-linear histogram of distances from an origin, in memory of a fixed size.

The delays of a path differ by far less than they amount to, and one-way delays hold the
offset of two clocks besides. So what is counted is the signed distance, in nanoseconds,
of a delay from an origin near by.

The origin is at the first delay. That may be far from all others, as address resolution
is waited for, and routes change. So when an interval closes whose middle half shares
`NARROW` buckets or less, larger than the smallest, the origin moves to its latest delay,
or to its median if the latest is not in that half. What was counted before is moved
along: it keeps the error that it had, and gets that of its distance from the new origin.

Every int64 has a bucket; a distance of more than 64 bits counts as the largest. Distances
below `UNIT_NS * SUB_BUCKETS` are divided into buckets of `UNIT_NS`: finer ones would tell
apart what software cannot, and take memory. Every octave above is divided into
`SUB_BUCKETS` of equal width. A bucket is represented by its middle, which is off by at
most 1/32 of the distance (`RELATIVE_ERROR`) or by half a unit. To interpolate within a
bucket would be better for most distributions, and twice as bad for the worst.

Index `CENTRE + i` holds the magnitudes of bucket i that are not negative, and
`CENTRE - 1 - i` the negative ones, shifted by one: -1 is magnitude 0. Indices
ascend with the values, so percentiles are a cumulative sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

_UNIT_BITS = 8
UNIT_NS = 1 << _UNIT_BITS
_SUB_BITS = 4
SUB_BUCKETS = 1 << _SUB_BITS
RELATIVE_ERROR = 1 / (2 * SUB_BUCKETS)
CENTRE = (63 - _UNIT_BITS - _SUB_BITS + 1) * SUB_BUCKETS
BUCKETS = 2 * CENTRE

QUARTILES = (25.0, 50.0, 75.0)
NARROW = 4
SAMPLES_TO_MOVE = 8
"""With fewer delays in an interval the origin stays where it is."""

_LEAST, _MOST = -(1 << 63), (1 << 63) - 1

Int64 = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]
_Ns = TypeVar("_Ns", int, Int64)


def origin_at(delay_ns: _Ns) -> _Ns:
    """The origin at a delay, or at each, but never 0, which stands for none."""
    return delay_ns | 1


def distance(delay_ns: int, origin_ns: int) -> int:
    """What is counted of a delay."""
    return min(max(delay_ns - origin_ns, _LEAST), _MOST)


def distances(delays_ns: Int64, origins_ns: Int64) -> Int64:
    """As `distance` of each."""
    apart = delays_ns - origins_ns
    overflowed = ((delays_ns ^ origins_ns) & (delays_ns ^ apart)) < 0
    found: Int64 = np.where(overflowed, np.where(delays_ns < 0, _LEAST, _MOST), apart)
    return found


def bucket_of(distance_ns: int) -> int:
    """The bucket, 0..BUCKETS-1, of any int64."""
    magnitude = (distance_ns if distance_ns >= 0 else ~distance_ns) >> _UNIT_BITS
    if magnitude < SUB_BUCKETS:
        bucket = magnitude
    else:
        shift = magnitude.bit_length() - _SUB_BITS - 1
        bucket = (shift << _SUB_BITS) + (magnitude >> shift)
    return CENTRE + bucket if distance_ns >= 0 else CENTRE - 1 - bucket


def buckets_of(distances_ns: Int64) -> Int64:
    """The bucket of each, as `bucket_of` says."""
    magnitudes = np.where(distances_ns >= 0, distances_ns, ~distances_ns) >> _UNIT_BITS
    # A float64 rounds large magnitudes, at most up to the next power of two.
    lengths = np.frexp(magnitudes.astype(np.float64))[1].astype(np.int64)
    lengths -= magnitudes >> np.maximum(lengths - 1, 0) == 0
    shifts = np.maximum(lengths - _SUB_BITS - 1, 0)
    buckets = (shifts << _SUB_BITS) + (magnitudes >> shifts)
    return np.where(distances_ns >= 0, CENTRE + buckets, CENTRE - 1 - buckets)


def bucket_bounds(index: int) -> tuple[int, int]:
    """The smallest and the largest distance of a bucket."""
    if index < CENTRE:
        low, high = bucket_bounds(BUCKETS - 1 - index)
        return ~high, ~low
    bucket = index - CENTRE
    shift = max((bucket >> _SUB_BITS) - 1, 0)
    low = (bucket - (shift << _SUB_BITS)) << shift + _UNIT_BITS
    return low, low + (UNIT_NS << shift) - 1


def middles_of(buckets: Int64) -> Int64:
    """The middle of each, as of `bucket_bounds`, rounded down."""
    negative = buckets < CENTRE
    within = np.where(negative, CENTRE - 1 - buckets, buckets - CENTRE)
    shift = np.maximum((within >> _SUB_BITS) - 1, 0)
    low = within - (shift << _SUB_BITS) << shift + _UNIT_BITS
    # Of a negative bucket it is the complement of what it would be above zero, rounded up.
    half = (UNIT_NS << shift) >> 1
    middles: Int64 = np.where(negative, ~(low + half), low + half - 1)
    return middles


def moved(bucket: int, from_ns: int, to_ns: int) -> int:
    """Where what was counted about the origin `from_ns` is about `to_ns`."""
    low, high = bucket_bounds(bucket)
    return bucket_of(distance(from_ns + (low + high) // 2, to_ns))


def next_origin(quartiles_ns: Sequence[int], last_ns: int, origin_ns: int) -> int:
    """What is to be counted about after an interval with these quartiles and latest delay."""
    low, median, high, last = (
        bucket_of(distance(each, origin_ns)) for each in (*quartiles_ns, last_ns)
    )
    near = CENTRE - SUB_BUCKETS <= median < CENTRE + SUB_BUCKETS
    if near or high - low >= NARROW:
        return origin_ns
    return origin_at(last_ns if low <= last <= high else quartiles_ns[1])


def next_origins(quartiles_ns: Int64, last_ns: Int64, origins_ns: Int64) -> Int64:
    """As `next_origin` of each; `quartiles_ns` are three rows."""
    low, median, high = buckets_of(distances(quartiles_ns, origins_ns))
    last = buckets_of(distances(last_ns, origins_ns))
    near = (median >= CENTRE - SUB_BUCKETS) & (median < CENTRE + SUB_BUCKETS)
    stays = near | (high - low >= NARROW)
    moved_ns = np.where((low <= last) & (last <= high), last_ns, quartiles_ns[1]) | 1
    return np.where(stays, origins_ns, moved_ns)


def percentiles(
    counts: Counts,
    buckets: int | npt.NDArray[np.intp],
    percents: Iterable[float],
    origin_ns: int,
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
        found[percent] = min(max(origin_ns + (low + high) // 2, min_ns), max_ns)
    return found
