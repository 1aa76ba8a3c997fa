"""How many requests a source may send; in the driver it is the program's `rate.h` that asks.

A token bucket, kept as the moment at which it will be full again (the virtual scheduling
of ITU-T I.371, annex A). Sources that have not been heard of for the longest make room
for new ones.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dataplane.stamp.timestamp import NS_PER_S

BURST_NS = NS_PER_S // 10
"""How far a source may be ahead of its rate: what it may send at once is the
packets of this time."""

SOURCES_MAX = 65_536
"""Sources whose rate is remembered."""

_ADDRESS_BYTES = 16

_FEW = 32
"""Requests below this are counted one by one, which is faster then."""

_MIX, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(48)

Rows = npt.NDArray[np.intp]
Times = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


class RateLimiter:
    """The buckets of all sources."""

    def __init__(self, packets_per_s: int) -> None:
        self._interval_ns = NS_PER_S // packets_per_s
        self._full_ns: OrderedDict[bytes, int] = OrderedDict()

    def admits(self, source: bytes, now_ns: int) -> bool:
        """Whether a request may be taken; it counts then. `now_ns` is wall time."""
        ahead_ns = self._full_ns.get(source, now_ns) - now_ns
        # The past, and what no bucket comes to, because the clock has been set back.
        if not 0 <= ahead_ns <= BURST_NS + self._interval_ns:
            ahead_ns = 0
        admitted = ahead_ns <= BURST_NS
        self._remember(source, now_ns + ahead_ns + self._interval_ns * admitted)
        return admitted

    def admitted(self, sources: Words, now_ns: Times) -> npt.NDArray[np.bool_]:
        """The same for a request a row, in their order; an address is two words.

        Sources heard of in one call count as heard of in any order.
        """
        count = len(sources)
        if count < _FEW:
            each = zip(_addresses(sources), now_ns.tolist(), strict=True)
            return np.fromiter(itertools.starmap(self.admits, each), np.bool_, count)
        admitted = np.ones(count, np.bool_)
        order, bounds = _by_source(sources)
        starts = bounds[:-1]
        counts = bounds[1:] - starts
        now_ns = now_ns[order]
        before = np.arange(count) - np.repeat(starts, counts)
        own_ns = now_ns - before * self._interval_ns
        for source, start, requests, earliest_ns, latest_ns in zip(
            _addresses(sources[order[starts]]),
            starts.tolist(),
            counts.tolist(),
            np.minimum.reduceat(own_ns, starts).tolist(),
            np.maximum.reduceat(own_ns, starts).tolist(),
            strict=True,
        ):
            if not self._admits_all(source, requests, earliest_ns, latest_ns):
                rows = slice(start, start + requests)
                times_ns = now_ns[rows].tolist()
                admitted[order[rows]] = [self.admits(source, at_ns) for at_ns in times_ns]
        return admitted

    def _admits_all(self, source: bytes, count: int, earliest_ns: int, latest_ns: int) -> bool:
        """Whether the next `count` requests are certainly within the rate; they count then.

        From the time of each, an interval is taken for each that is before it; the earliest
        and the latest are what is left at least and at most. Like that, a bucket stays where
        it was, or comes to the latest; and no request finds it further ahead than that.
        """
        full_ns = max(self._full_ns.get(source, latest_ns), latest_ns)
        if full_ns - earliest_ns > BURST_NS:
            return False
        self._remember(source, full_ns + count * self._interval_ns)
        return True

    def _remember(self, source: bytes, full_ns: int) -> None:
        self._full_ns[source] = full_ns
        self._full_ns.move_to_end(source)
        if len(self._full_ns) > SOURCES_MAX:
            self._full_ns.popitem(last=False)


def _addresses(sources: Words) -> Iterator[bytes]:
    raw = sources.tobytes()
    return (raw[at : at + _ADDRESS_BYTES] for at in range(0, len(raw), _ADDRESS_BYTES))


def _by_source(sources: Words) -> tuple[Rows, Rows]:
    """The rows in an order in which those of a source stay in theirs and are next to each
    other; and where each source begins, and the last one ends.

    Where the hashes of two are the same, each may begin several times.
    """
    count = len(sources)
    raw = sources.tobytes()
    if raw == raw[:_ADDRESS_BYTES] * count:
        return np.arange(count), np.array([0, count])
    first, second = sources[:, 0], sources[:, 1]
    mixed = (first ^ second * _MIX) * _MIX >> _SHIFT
    # Of 16 bits, a stable sort takes linear time.
    order = mixed.astype(np.uint16).argsort(kind="stable")
    first, second = first[order], second[order]
    bound = np.ones(count + 1, np.bool_)
    bound[1:-1] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return order, bound.nonzero()[0]
