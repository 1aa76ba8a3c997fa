"""What became of the packets of one session: its window, its intervals, and its store.

See `dataplane.stamp.collector` for the rules.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from dataplane.config import SenderSession
from dataplane.measurement import RecordRing
from dataplane.session_state import (
    Counters,
    SessionHead,
)
from dataplane.stamp.intervals import Intervals
from dataplane.stamp.session_table import (
    APART,
    DELAYS,
    EARLIEST_T1_NS,
    ESTIMATE,
    FATES,
    FIRST,
    HIGHEST,
    HISTOGRAMS,
    INTERVALS,
    KIND,
    MASK,
    NEXT,
    RING,
    SETTLED,
    SLOTS,
    STATE,
    STATEFUL,
    TAI_OFFSET_S,
    TIMEOUT_NS,
    TIMES,
    Cell,
    Kind,
    Row,
    SessionTable,
)
from dataplane.stamp.window import (
    LOST,
    RECEIVED,
    UNDER_WAY,
    UNRESOLVED,
    Window,
    window_of,
)
from dataplane.statistics import INT64_MAX
from dataplane.store import SessionStore

_NS_PER_S = 1_000_000_000


class PacketFates:
    """Packets are under way until they are received, lost or given up, and are settled in
    the order in which they were sent."""

    __slots__ = (
        "__weakref__",
        "_copies",
        "_intervals",
        "_number",
        "_refined",
        "_store",
        "_window",
        "config",
        "row",
        "ssid_zero_seen",
        "window",
    )

    def __init__(
        self,
        config: SenderSession,
        store: SessionStore,
        *,
        now_ns: int,
        resumed: bool = False,
        tai_offset_s: int = 0,
        table: SessionTable | None = None,
    ) -> None:
        """`table` is for sessions that are worked on together; the store is in its arena."""
        self.row = Row.alone() if table is None else table.row(config.ssid)
        self.config = config
        self.tai_offset_s = tai_offset_s
        """TAI minus UTC, which PTPv2 timestamps need; settable at any time."""
        self.ssid_zero_seen = False
        """A reply had SSID 0 (RFC 8972 §3): where the session is to stop then, stop it."""
        self.window = window_of(config)
        self._store = store
        self._window = Window(self.window, None if table is None else table.arena)
        self._refined: dict[int, tuple[int, int]] = {}
        self._copies: dict[int, set[int]] = {}
        self._mask = self.window - 1
        self._timeout_ns = config.loss_timeout_ms * 1_000_000
        self._reflector_estimate = -1
        self._highest = -1
        self.earliest_t1_ns = INT64_MAX
        self._intervals = self._make_intervals()
        if self._intervals.loss is not None:
            self._number = array("q", bytes(8 * self.window))
        self._next = self._first = self._settled = self._head.next_sequence
        self._take_up(now_ns, resumed)
        if table is not None:
            self._join(table)

    def _make_intervals(self) -> Intervals:
        length_ns = self.config.computation_interval_s * _NS_PER_S
        return Intervals(self._store, length_ns, self.window, self.row)

    def _join(self, table: SessionTable) -> None:
        """Let replies to this session be taken in together with others."""
        places, cells, row = self._store.places, table.cells, self.row.index
        assert places is not None
        cells[STATE, row], cells[RING, row], cells[HISTOGRAMS, row] = places[:3]
        cells[INTERVALS, row] = places.intervals
        kind = Kind(
            *(self._store.percentiles, len(self._store.directions)),
            *(self.config.history_depth + 1, self._store.stateful),
        )
        cells[KIND, row] = table.kind_of(kind)
        cells[SLOTS, row] = self._records.capacity + 1
        cells[STATEFUL, row] = self._store.stateful
        cells[DELAYS, row] = len(self._store.directions)
        cells[FATES, row], cells[TIMES, row] = self._window.fates_at, self._window.times_at
        table.collectors[row] = self

    _next = Cell(NEXT)
    _first = Cell(FIRST)
    _settled = Cell(SETTLED)
    _highest = Cell(HIGHEST)
    _mask = Cell(MASK)
    _timeout_ns = Cell(TIMEOUT_NS)
    _reflector_estimate = Cell(ESTIMATE)
    earliest_t1_ns = Cell(EARLIEST_T1_NS)
    """T1 of no packet sent here is before it."""

    _apart = Cell(APART)
    """Whether anything is known about single packets that is not in the window."""

    tai_offset_s = Cell(TAI_OFFSET_S)

    @property
    def _head(self) -> SessionHead:
        return self._intervals.head

    @property
    def _counters(self) -> Counters:
        return self._intervals.counters

    @property
    def _records(self) -> RecordRing:
        return self._store.records

    @property
    def _fate(self) -> bytearray | memoryview:
        return self._window.fates

    @property
    def _sent_ns(self) -> array[int] | memoryview:
        return self._window.times

    def know_earliest_t1(self, t1_ns: int) -> None:
        """A packet is about to leave, whose T1 is before those of all others: the first one,
        or the clock has been set back. Of all, for where it has been set forward packets
        that are under way keep theirs."""
        self.earliest_t1_ns = t1_ns

    def forget(self, sequence: int) -> None:
        """Nothing about this packet is of use any more, but for what is in the window."""
        self._refined.pop(sequence, None)
        self._copies.pop(sequence, None)
        self._apart = bool(self._refined or self._copies)

    def rest(self) -> None:
        """Nothing is expected of this session for a while: let go of what can be made anew."""
        self._intervals.rest()
        self._window.rest()
        self._store.rest()

    @property
    def next_sequence(self) -> int:
        """Number of the next packet, unwrapped; goes on from run to run."""
        return self._next

    @property
    def running(self) -> bool:
        return bool(self._head.running)

    @property
    def interval_end_ns(self) -> int:
        """From when on `sent` closes the current interval, and times out what is due:
        process replies that have arrived first."""
        return self._intervals.end_ns

    @property
    def in_flight(self) -> int:
        """Packets that are neither received nor timed out nor given up."""
        counters = self._counters
        return counters.sent - counters.received - counters.lost - counters.unresolved

    def expire(self, now_ns: int) -> list[int]:
        """Time out what is due and close intervals; returns the numbers of those
        closed since the last call. Process replies that have arrived first."""
        if now_ns >= self._intervals.end_ns or (
            self._settled < self._next
            and now_ns > self._sent_ns[self._settled & self._mask] + self._timeout_ns
        ):
            self._begin_write()
            self._expire(now_ns)
            self._end_write()
        return self._intervals.take_closed()

    def take_closed(self) -> list[int]:
        """Numbers of the intervals closed since the last call, or that of `expire`."""
        return self._intervals.take_closed()

    def closed_together(self, number: int) -> None:
        """An interval has been closed by a round."""
        self._intervals.was_closed(number)

    def move_origin(self, parity: int, direction: int, origin_ns: int) -> None:
        """A round that closes an interval has found that the next is to be about it."""
        self._store.move_origin(parity, direction, origin_ns)

    def next_timer_ns(self) -> int | None:
        """When `expire` has something to do next; None for never."""
        due = self._intervals.end_ns
        if self._settled < self._next:
            due = min(due, self._sent_ns[self._settled & self._mask] + self._timeout_ns + 1)
        return None if due == INT64_MAX else due

    def close(self) -> None:
        """Let go of what is not in the store."""
        if self.row.table is not None:
            self.row.table.cells[STATE, self.row.index] = 0
            self.row.table.collectors.pop(self.row.index, None)
            self.row.table.untold.discard(self.row.index)
        self._window.close()

    @property
    def _last_sent(self) -> int:
        """Sequence number of the newest packet when the reply being looked at arrived."""
        return self._next - 1

    def _settle(self) -> None:
        """Settle packets in order of sending, up to the first that is under way."""
        sequence, mask, loss = self._settled, self._mask, self._intervals.loss
        while sequence < self._next and self._fate[sequence & mask] != UNDER_WAY:
            if (
                loss is not None
                and self._fate[sequence & mask] == RECEIVED
                and loss.settle_received(self._number[sequence & mask], sequence, self._last_sent)
            ):
                self._intervals.attribute(loss)
            sequence += 1
        self._settled = sequence

    def _expire(self, as_of_ns: int, now_ns: int | None = None) -> None:
        """`now_ns` is given where it is later."""
        timeout_ns, now_ns = self._timeout_ns, now_ns or as_of_ns
        while self._settled < self._next:
            slot = self._settled & self._mask
            due_ns = self._sent_ns[slot] + timeout_ns
            if as_of_ns <= due_ns:
                break
            if due_ns >= self._intervals.end_ns:
                self._intervals.roll(due_ns, now_ns)
            self._fate[slot] = LOST
            self._counters.lost += 1
            if self._intervals.loss is not None:
                self._intervals.loss.settle_lost()
            self._settled += 1
            self._settle()
        if as_of_ns >= self._intervals.end_ns:
            self._intervals.roll(as_of_ns, now_ns)

    def _make_room(self, now_ns: int) -> None:
        """More is under way than the window holds: the oldest becomes unresolved."""
        self._expire(now_ns)
        if self._next - self._settled < self.window:
            return
        self._fate[self._settled & self._mask] = UNRESOLVED
        self._counters.unresolved += 1
        if self._intervals.loss is not None:
            self._intervals.loss.interrupt()
        self._settled += 1
        self._settle()

    def _give_up(self) -> None:
        """Everything under way becomes unresolved."""
        for sequence in range(self._settled, self._next):
            slot = sequence & self._mask
            if self._fate[slot] == UNDER_WAY:
                self._fate[slot] = UNRESOLVED
        self._counters.unresolved += max(0, self.in_flight)
        self._settled = self._next
        self._intervals.interrupt()

    def _take_up(self, now_ns: int, resumed: bool) -> None:
        head = self._head
        if head.clearing:
            self._store.clear()
        elif head.version % 2:
            head.torn_writes += 1
        self._begin_write()
        self._give_up()
        if head.running:
            self._intervals.take_up(now_ns, resumed)
        self._end_write()

    def _as_arrays(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Fates and times of sending, by slot. Sessions that never have runs go without."""
        return self._window.arrays

    def _begin_write(self) -> None:
        self._head.version |= 1

    def _end_write(self) -> None:
        self._head.version += 1
