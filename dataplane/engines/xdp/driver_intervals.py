"""The computation intervals of a session whose replies are counted in the driver.

The program counts in the current interval, and in the next one once the current one's
time is over: user space has a whole interval's time to close it.
"""

from __future__ import annotations

import numpy as np

from dataplane.engines.xdp.collector_layouts import BUCKETS, DIRECTIONS, ORIGINS, Command
from dataplane.engines.xdp.driver_rounds import (
    COUNTED_AT,
    FOLDED_DUPLICATES,
    FOLDED_LATE,
    FOLDED_REORDERED,
    FOLDED_SAMPLES,
    TOGETHER,
    TOGETHER_T3_NS,
)
from dataplane.engines.xdp.session_maps import SessionMaps
from dataplane.engines.xdp.sums import DelaySums, IntervalSums, Running, delay_state
from dataplane.histogram import SUB_BUCKETS, bucket_of, distance, moved
from dataplane.loss import LossAttribution
from dataplane.stamp.intervals import Intervals
from dataplane.stamp.session_table import Cell, Row
from dataplane.statistics import INT64_MAX, DelayState
from dataplane.store import SessionStore

_COUNTED_SIZE = 4 * DIRECTIONS * BUCKETS
_WRAP = 1 << 32


class DriverIntervals(Intervals):
    """As `Intervals`, with the sums of the program folded in."""

    _samples = Cell(FOLDED_SAMPLES)
    _duplicates = Cell(FOLDED_DUPLICATES)
    _late = Cell(FOLDED_LATE)
    _reordered = Cell(FOLDED_REORDERED)
    _together = Cell(TOGETHER)
    _together_t3_ns = Cell(TOGETHER_T3_NS)

    def __init__(
        self,
        store: SessionStore,
        length_ns: int,
        window: int,
        maps: SessionMaps,
        row: Row,
    ) -> None:
        self.hold = False
        """The program is not to be asked, for a moment."""
        self._maps = maps
        self._earlier: list[DelayState] | None = None
        arena = self._arena = None if row.table is None else row.table.arena
        self._counted_at = 0 if arena is None else arena.allocate(_COUNTED_SIZE)
        memory = bytearray(_COUNTED_SIZE) if arena is None else arena.view[self._counted_at :]
        self._counted = np.frombuffer(memory, np.uint32, DIRECTIONS * BUCKETS).reshape(
            DIRECTIONS, BUCKETS
        )
        row.cells[COUNTED_AT, row.index] = self._counted_at // 8
        super().__init__(store, length_ns, window, row)

    def let_go(self) -> None:
        """Of memory that is not the store's."""
        if self._arena is not None:
            self._arena.free(self._counted_at, _COUNTED_SIZE)
            self._arena = None

    @property
    def loss(self) -> LossAttribution | None:
        """Up to date with packets that were settled together with others'."""
        loss, packets = self._loss, self._together
        if packets and loss is not None:
            self._together = 0
            counter = ((loss.latest_counter or 0) + packets) % _WRAP
            loss.settle_in_order(counter, self._together_t3_ns, packets)
        return loss

    @loss.setter
    def loss(self, value: LossAttribution | None) -> None:
        self._loss = value

    @property
    def regular(self) -> bool:
        """Whether all that the current interval has counted is the program's."""
        return self._earlier is None

    @property
    def parity(self) -> int:
        """Of the current interval."""
        return self.head.closed % 2

    def fold(self) -> None:
        """Bring the current interval up to date with what the program has copied."""
        copied, parity = self._maps.copied, self.parity
        sums, counters = copied.intervals[parity], self.counters
        if sums.samples != self._samples:
            new = sums.samples - self._samples
            self._fold_delays(sums, copied.running, new)
            counters.received += new
            self._samples = sums.samples
        counters.duplicates += sums.duplicates - self._duplicates
        counters.late += sums.late - self._late
        counters.reordered += sums.reordered - self._reordered
        self._duplicates, self._late = sums.duplicates, sums.late
        self._reordered = sums.reordered

    def _fold_delays(self, sums: IntervalSums, running: Running, new: int) -> None:
        for direction in self._store.directions:
            found, delay = delay_state(sums, direction, running), self.delays[direction]
            origin_ns = delay.origin_ns or found.origin_ns
            if self._earlier is None:
                delay.assign(found)
            else:
                delay.assign(self._earlier[direction])
                delay.merge(found)
            delay.move_origin(origin_ns)
            if new == 1:
                bucket = bucket_of(distance(found.last_ns, found.origin_ns))
                self._counted[direction, bucket] += 1
                self._count(direction, bucket, 1, found.origin_ns, origin_ns)
            else:
                self._fold_counts(direction, found, origin_ns)

    def _count(
        self, direction: int, bucket: int, samples: int, counted_ns: int, origin_ns: int
    ) -> None:
        """In a bucket that is about the origin `counted_ns`. The origin was moved when the program
        had begun to count in the next interval, if they differ."""
        if counted_ns != origin_ns:
            bucket = moved(bucket, counted_ns, origin_ns)
        self._views.histograms.add(self.parity, direction, bucket, samples)

    def _fold_counts(self, direction: int, found: DelayState, origin_ns: int) -> None:
        """In whole octaves. The program may have counted some that its sums do not have yet."""
        first, end = _stretch(found)
        counts = self._maps.histograms[self.parity][direction][first:end].copy()
        before = self._counted[direction, first:end]
        new = counts - before
        before[:] = counts
        if found.origin_ns == origin_ns:
            self._views.histograms.add_stretch(self.parity, direction, first, new)
            return
        for at in np.flatnonzero(new).tolist():
            self._count(direction, first + at, int(new[at]), found.origin_ns, origin_ns)

    def close(self, end_ns: int, next_start_ns: int, next_end_ns: int, *, suspect: bool) -> None:
        closing = self.parity
        self._maps.command(Command.COPY | Command.BOUNDARY, boundary=INT64_MAX << 1 | 1 - closing)
        self.fold()
        super().close(end_ns, next_start_ns, next_end_ns, suspect=suspect)
        self._forget(closing)
        # From here on the program may count in the other one, if the next is over, too.
        theirs = self._maps.origins_ns
        origins = [delay.origin_ns or own for delay, own in zip(self.delays, theirs, strict=True)]
        self._maps.command(
            Command.RESET | Command.BOUNDARY | (Command.ORIGIN if origins != theirs else 0),
            parity=closing,
            boundary=next_end_ns << 1 | 1 - closing,
            **dict(zip(ORIGINS, origins, strict=True)),
        )

    def begin(self, start_ns: int, end_ns: int, *, suspect: bool) -> None:
        super().begin(start_ns, end_ns, suspect=suspect)
        self._publish_end()

    def take_up(self, now_ns: int, resumed: bool) -> None:
        super().take_up(now_ns, resumed)
        if any(delay.samples for delay in self.delays):
            self._earlier = [DelayState.from_buffer_copy(delay) for delay in self.delays]
        self._publish_end()

    def interrupt(self) -> None:
        super().interrupt()
        self._maps.command(Command.BREAK_PAIRS)

    def reset(self) -> None:
        """Fold in what there is, and have the program begin anew."""
        self._maps.command(
            Command.BREAK_PAIRS | Command.COPY | Command.RESET | Command.ORIGIN,
            parity=self.parity,
        )
        # There is nothing in the program's histogram that was not counted yet.
        self._forget_counts(self.parity)
        self.fold()
        self._forget(self.parity)

    def _forget(self, parity: int) -> None:
        self._forget_counts(parity)
        self._samples = self._duplicates = self._late = self._reordered = 0
        self._earlier = None

    def _forget_counts(self, parity: int) -> None:
        sums = self._maps.copied.intervals[parity]
        if sums.samples:
            for counted, delay in zip(self._counted, sums.delays, strict=True):
                counted[slice(*_stretch(delay))] = 0

    def _publish_end(self) -> None:
        self._maps.command(Command.BOUNDARY, boundary=self.end_ns << 1 | self.parity)


def _stretch(delay: DelaySums | DelayState) -> tuple[int, int]:
    """Of the buckets that these delays are counted in, in whole octaves: the first, and the
    first one behind them."""
    least, most = (
        bucket_of(distance(delay_ns, delay.origin_ns)) for delay_ns in (delay.min_ns, delay.max_ns)
    )
    return least & -SUB_BUCKETS, (most | SUB_BUCKETS - 1) + 1
