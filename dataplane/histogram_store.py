"""The histograms of a session, in memory that grows with the range of its delays.

A session has a histogram for each delay: of the current computation interval and
of all closed ones, each twice, see `dataplane.session_state`. Most buckets stay
empty for ever: the delays of a path lie within a few octaves. So buckets come in
blocks of one octave, taken from a pool in the order in which octaves are first
needed. A directory says where an octave's block is; its four histograms share it.

Layout: number of blocks in use (uint64); a directory for each delay, `OCTAVES`
uint16, 0 or one more than the number of the block; then `BLOCKS_MAX` blocks, of
which only those in use, and the rest of their pages, have memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.arena import in_pages
from dataplane.histogram import BUCKETS, SUB_BUCKETS, moved
from dataplane.mapped_file import StoreError

OCTAVES = BUCKETS // SUB_BUCKETS
DELAYS = 3
BLOCKS_MAX = DELAYS * OCTAVES

BLOCK = np.dtype(
    [
        ("current", np.uint32, (2, SUB_BUCKETS)),
        ("total", np.uint64, (2, SUB_BUCKETS)),
    ]
)
"""Counts of one octave of one delay; the first index is the parity of the interval."""

DIRECTORY_AT = 8
BLOCKS_AT = DIRECTORY_AT + 2 * BLOCKS_MAX
SIZE = BLOCKS_AT + BLOCKS_MAX * BLOCK.itemsize
"""Bytes of the whole, with or without memory."""

BLOCKS_AT_FIRST = 10 * DELAYS
AT_FIRST = BLOCKS_AT + BLOCKS_AT_FIRST * BLOCK.itemsize
"""Bytes that need memory from the beginning: nearly all sessions come to use them."""

OCTAVE_BITS = SUB_BUCKETS.bit_length() - 1
BLOCK_WORDS = BLOCK.itemsize // 4

log = logging.getLogger(__name__)

Counts = npt.NDArray[np.uint64]

_WITHIN = np.arange(SUB_BUCKETS)
_FIRSTS = np.arange(1, DELAYS + 1) * OCTAVES
"""Where in the directory the next delay begins."""


def needs_memory(at: Any, entry: Any) -> Any:
    """Of a block, counted from 1 on, that is used for the first time, after those before it:
    whether it lies in a page that has no memory yet.

    `at` is where the whole begins, in memory of which each page has some or none.
    """
    return in_pages(at + _memory_before(entry)) < at + _end(entry)


def _end(entry: Any) -> Any:
    return BLOCKS_AT + entry * BLOCK.itemsize


def _memory_before(entry: Any) -> Any:
    return np.maximum(AT_FIRST, _end(entry - 1))


class HistogramStore:
    """Over a writable buffer of `SIZE` bytes, zeros at first."""

    __slots__ = ("_arrays", "_directory", "_reserve", "_used", "_view", "_words")

    def __init__(self, view: memoryview, reserve: Callable[[int, int], None]) -> None:
        """`reserve` gives memory to that many bytes of `view`, told how many of them have
        some; it may raise StoreError."""
        self._view = view
        self._reserve = reserve
        self._used = view[:DIRECTORY_AT].cast("Q")
        self._directory = view[DIRECTORY_AT:BLOCKS_AT].cast("H")
        self._words = view[BLOCKS_AT:].cast("I")
        self._arrays: npt.NDArray[np.void] | None = None

    def add(self, parity: int, delay: int, bucket: int, samples: int = 1) -> None:
        """Writer: count samples in the current interval."""
        entry, bucket = self._entry(delay, bucket)
        if entry:
            at = (entry - 1) * BLOCK_WORDS + parity * SUB_BUCKETS + (bucket & SUB_BUCKETS - 1)
            self._words[at] += samples

    def add_each(self, parity: int, buckets: npt.NDArray[np.int64]) -> None:
        """Writer: as `add`, one sample for each of `buckets`, which say of which delay they
        are: `delay * BUCKETS` is added to them."""
        directory = np.frombuffer(self._directory, np.uint16)
        new = directory[buckets >> OCTAVE_BITS] == 0
        if new.any():
            for bucket in buckets[new].tolist():
                self.add(parity, *divmod(bucket, BUCKETS))
            buckets = buckets[~new]
        blocks = directory[buckets >> OCTAVE_BITS].astype(np.intp) - 1
        places = blocks * BLOCK_WORDS + parity * SUB_BUCKETS + (buckets & SUB_BUCKETS - 1)
        np.add.at(np.frombuffer(self._words, np.uint32), places, np.uint32(1))

    def add_stretch(
        self, parity: int, delay: int, first: int, counts: npt.NDArray[np.uint32]
    ) -> None:
        """Writer: as `add`, for as many buckets, from `first` on, as there are `counts`."""
        start = first & -SUB_BUCKETS
        whole = counts
        if first != start or len(counts) % SUB_BUCKETS:
            length = -(-(first - start + len(counts)) // SUB_BUCKETS) * SUB_BUCKETS
            whole = np.zeros(length, np.uint32)
            whole[first - start : first - start + len(counts)] = counts
        octaves = whole.reshape(-1, SUB_BUCKETS)
        for octave in np.flatnonzero(octaves.any(axis=1)).tolist():
            entry = self._directory[delay * OCTAVES + (start >> OCTAVE_BITS) + octave]
            if entry:
                self._blocks()["current"][entry - 1, parity] += octaves[octave]
                continue
            bucket = start + octave * SUB_BUCKETS
            for offset in np.flatnonzero(octaves[octave]).tolist():
                self.add(parity, delay, bucket + offset, int(octaves[octave, offset]))

    def close(self, old: int) -> None:
        """Writer: the totals of the other parity are those of parity `old` with its interval
        added; its own interval is empty. Of all delays."""
        used = self._used[0]
        if used:
            new, blocks = 1 - old, self._blocks()
            totals, currents = blocks["total"], blocks["current"]
            np.add(totals[:used, old], currents[:used, old], out=totals[:used, new])
            currents[:used, new] = 0

    def move(self, parity: int, delay: int, from_ns: int, to_ns: int) -> None:
        """Writer: have what is counted in closed intervals about another origin. The current
        one must be empty."""
        first, counts = self.total(parity, delay)
        if not len(counts):
            return
        start = delay * OCTAVES
        known = [entry - 1 for entry in self._directory[start : start + OCTAVES] if entry]
        totals = self._blocks()["total"]
        totals[known, parity] = 0
        for at in np.flatnonzero(counts).tolist():
            entry, bucket = self._entry(delay, moved(first + at, from_ns, to_ns))
            if entry:
                totals[entry - 1, parity, bucket & SUB_BUCKETS - 1] += counts[at]

    def clear(self) -> None:
        """Writer: forget all samples. Memory that is in use stays so."""
        self._blocks()[: self._used[0]] = np.zeros((), BLOCK)

    def interval(self, parity: int) -> list[tuple[npt.NDArray[np.intp], Counts]]:
        """The current interval, for each delay: buckets, in order, and their counts; all
        others are empty."""
        directory = np.frombuffer(self._directory, np.uint16)
        octaves = np.flatnonzero(directory)
        counts = self._blocks()["current"][directory[octaves] - 1, parity]
        buckets = (octaves % OCTAVES << OCTAVE_BITS)[:, None] + _WITHIN
        ends = [0, *octaves.searchsorted(_FIRSTS).tolist()]
        return [
            (
                buckets[ends[delay] : ends[delay + 1]].ravel(),
                counts[ends[delay] : ends[delay + 1]].ravel(),
            )
            for delay in range(DELAYS)
        ]

    def total(self, parity: int, delay: int) -> tuple[int, Counts]:
        """All samples, those of the current interval among them: the first bucket of a
        stretch that holds everything, and its counts."""
        directory = self._directory[delay * OCTAVES : (delay + 1) * OCTAVES].tolist()
        known = [octave for octave, entry in enumerate(directory) if entry]
        if not known:
            return 0, np.zeros(0, np.uint64)
        first = known[0]
        counts = np.zeros((known[-1] + 1 - first, SUB_BUCKETS), np.uint64)
        where, mine = [octave - first for octave in known], [directory[o] - 1 for o in known]
        blocks = self._blocks()
        counts[where] = blocks["current"][mine, parity] + blocks["total"][mine, parity]
        return first << OCTAVE_BITS, counts.reshape(-1)

    def _blocks(self) -> npt.NDArray[np.void]:
        if self._arrays is None:
            self._arrays = np.frombuffer(self._view, BLOCK, BLOCKS_MAX, BLOCKS_AT)
        return self._arrays

    def _entry(self, delay: int, bucket: int) -> tuple[int, int]:
        """The block that a bucket is in, as `_allocate` says."""
        entry = self._directory[delay * OCTAVES + (bucket >> OCTAVE_BITS)]
        return (entry, bucket) if entry else self._allocate(delay, bucket)

    def _allocate(self, delay: int, bucket: int) -> tuple[int, int]:
        """A block for the octave of a bucket, and the bucket; where the file system is
        full, the nearest ones that there are, or 0 for none."""
        entry = self._used[0] + 1
        try:
            self._reserve(_end(entry), int(_memory_before(entry)))
        except StoreError as error:
            log.warning("percentiles become inexact: %s", error)
            return self._nearest(delay, bucket)
        self._used[0] = entry
        self._directory[delay * OCTAVES + (bucket >> OCTAVE_BITS)] = entry
        return entry, bucket

    def _nearest(self, delay: int, bucket: int) -> tuple[int, int]:
        wanted = bucket >> OCTAVE_BITS
        start = delay * OCTAVES
        known = [octave for octave in range(OCTAVES) if self._directory[start + octave]]
        if not known:
            return 0, bucket
        octave = min(known, key=lambda octave: abs(octave - wanted))
        return self._directory[start + octave], 0 if octave > wanted else SUB_BUCKETS - 1
