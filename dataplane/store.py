"""Everything that one sender session collects, in one mapped file.

The host process writes it, the plugin reads it without asking anybody, and a
host that was killed is followed by one that goes on from the file. Only the
fetch cursor is written by the reader.

Layout: `StoreHeader`, percentiles (float64), `SessionState`, ring of closed
intervals, ring of records, `HistogramStore`.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dataplane.arena import Arena
from dataplane.config import DelayMode, ReflectorMode, SenderSession
from dataplane.histogram import QUARTILES, SAMPLES_TO_MOVE, next_origin, percentiles
from dataplane.histogram_store import AT_FIRST as HISTOGRAMS_AT_FIRST
from dataplane.histogram_store import SIZE as HISTOGRAMS_SIZE
from dataplane.histogram_store import HistogramStore
from dataplane.mapped_file import MappedFile, StoreError
from dataplane.measurement import Record, RecordRing, RingHeader, TimestampMethod
from dataplane.session_state import (
    BACKWARD,
    DIRECTIONS,
    DISCARD_INDEX,
    FORWARD,
    ROUND_TRIP,
    IntervalCodec,
    IntervalState,
    IntervalSummary,
    SessionHead,
    SessionSnapshot,
    SessionState,
    Synchronization,
    TotalState,
    loss_summary,
)
from dataplane.statistics import DelayState, DelaySummary

__all__ = ["SessionStore", "StoreError"]

MAGIC = b"STAMPses"
LAYOUT_VERSION = 3

READ_ATTEMPTS = 200
"""Looks that a reader takes at a session before it puts up with an inconsistent one."""

READ_PAUSE_S = 50e-6
"""Pause after a look that found a write going on."""

_Delays = DelayState * DIRECTIONS
_Found = tuple[int | npt.NDArray[np.intp], npt.NDArray[np.uint64]]
"""Buckets of a delay, and their counts."""


class StoreHeader(ctypes.Structure):
    _fields_ = (
        ("magic", ctypes.c_char * 8),
        ("layout_version", ctypes.c_uint32),
        ("state_size", ctypes.c_uint32),
        ("size", ctypes.c_uint64),
        ("ssid", ctypes.c_uint32),
        ("result_depth", ctypes.c_uint32),
        ("history_depth", ctypes.c_uint32),
        ("percentile_count", ctypes.c_uint32),
        ("one_way", ctypes.c_uint32),
        ("stateful", ctypes.c_uint32),
    )

    magic: bytes
    layout_version: int
    state_size: int
    size: int
    ssid: int
    result_depth: int
    history_depth: int
    percentile_count: int
    one_way: int
    stateful: int


def _offset_of(structure: type[ctypes.Structure], name: str) -> int:
    offset: int = getattr(structure, name).offset
    return offset


def _aligned(size: int) -> int:
    return -(-size // 8) * 8


class StorePlaces(NamedTuple):
    """Of the parts of a store in an `Arena`."""

    state: int
    """Of the `SessionState`, in words of 8 bytes."""

    ring: int
    """Of the ring of records, in words."""

    histograms: int
    """Of the `HistogramStore`, in bytes."""

    intervals: int
    """Of the ring of closed intervals, in words."""


class StoreLayout(NamedTuple):
    """Where the parts of a store are in its file, in bytes, and what it keeps of intervals."""

    codec: IntervalCodec
    one_way: bool
    stateful: bool
    state_at: int
    intervals_at: int
    records_at: int
    histograms_at: int
    size: int
    """Of the file."""

    @classmethod
    def of(cls, config: SenderSession) -> StoreLayout:
        return _layout(
            config.percentiles,
            config.delay_mode is DelayMode.ONE_WAY,
            config.reflector_mode is ReflectorMode.STATEFUL,
            config.history_depth,
            config.result_depth,
        )


@functools.lru_cache(maxsize=256)
def _layout(
    percentiles: tuple[float, ...],
    one_way: bool,
    stateful: bool,
    history_depth: int,
    result_depth: int,
) -> StoreLayout:
    """Sessions that are configured alike have one."""
    codec = IntervalCodec(percentiles, one_way, stateful)
    state_at = ctypes.sizeof(StoreHeader) + 8 * len(percentiles)
    intervals_at = _aligned(state_at + ctypes.sizeof(SessionState))
    records_at = _aligned(intervals_at + (history_depth + 1) * codec.size)
    histograms_at = _aligned(records_at + RecordRing.size_of(result_depth))
    size = histograms_at + HISTOGRAMS_SIZE
    return StoreLayout(
        codec, one_way, stateful, state_at, intervals_at, records_at, histograms_at, size
    )


class SessionStore:
    """One sender session's file; make one with `create` or `open`."""

    __slots__ = (
        "_file",
        "_header",
        "_histograms",
        "_interval_cache",
        "_layout",
        "_records",
        "_state",
    )

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        view = file.view
        header = _checked_header(file.path, view)
        self._header: StoreHeader | None = header
        at = ctypes.sizeof(StoreHeader)
        count = header.percentile_count
        if at + 8 * count > header.size:
            raise StoreError(f"{file.path}: {header.size} bytes cannot hold {count} percentiles")
        percentiles: tuple[float, ...] = struct.unpack_from(f"={count}d", view, at)
        self._layout = _layout(
            *(percentiles, bool(header.one_way), bool(header.stateful)),
            *(header.history_depth, header.result_depth),
        )
        size = self._layout.size
        if header.size != size:
            raise StoreError(f"{file.path}: {header.size} bytes do not fit its depths, {size} do")
        self._interval_cache: dict[int, IntervalSummary] | None = None
        self._state: SessionState | None = None
        self._records: RecordRing | None = None
        self._histograms: HistogramStore | None = None
        # Says at once if it is no ring.
        self._records = self.records

    @property
    def state(self) -> SessionState:
        if self._state is None:
            self._state = SessionState.from_buffer(self._file.view, self._layout.state_at)
        return self._state

    @property
    def records(self) -> RecordRing:
        if self._records is None:
            layout = self._layout
            self._records = RecordRing(self._file.view[layout.records_at : layout.histograms_at])
        return self._records

    @property
    def histograms(self) -> HistogramStore:
        if self._histograms is None:
            file, at = self._file, self._layout.histograms_at
            self._histograms = HistogramStore(
                file.view[at:], lambda size, before: file.reserve(at + size, at + before)
            )
        return self._histograms

    def rest(self) -> None:
        """Forget all overlays: they are made again by whoever wants them. Of thousands
        of sessions few are looked into at a time."""
        self._state = self._records = self._histograms = self._header = None

    @property
    def places(self) -> StorePlaces | None:
        """Where its parts are in the arena, if it is in one."""
        place = self._file.place
        if place is None:
            return None
        layout = self._layout
        return StorePlaces(
            (place + layout.state_at) // 8,
            (place + layout.records_at) // 8,
            place + layout.histograms_at,
            (place + layout.intervals_at) // 8,
        )

    @classmethod
    def create(cls, path: Path, config: SenderSession, arena: Arena | None = None) -> SessionStore:
        """Put an empty store in place of whatever `path` was, and open it writable."""
        count = len(config.percentiles)
        layout = StoreLayout.of(config)
        header = StoreHeader(
            magic=MAGIC,
            layout_version=LAYOUT_VERSION,
            state_size=ctypes.sizeof(SessionState),
            size=layout.size,
            ssid=config.ssid,
            result_depth=config.result_depth,
            history_depth=config.history_depth,
            percentile_count=count,
            one_way=layout.one_way,
            stateful=layout.stateful,
        )
        ring = RingHeader(capacity=config.result_depth)
        content = bytearray(layout.records_at + ctypes.sizeof(ring))
        content[: ctypes.sizeof(header)] = bytes(header)
        struct.pack_into(f"={count}d", content, ctypes.sizeof(header), *config.percentiles)
        content[layout.records_at :] = bytes(ring)
        allocate = layout.histograms_at + HISTOGRAMS_AT_FIRST
        MappedFile.create(path, bytes(content), layout.size, allocate)
        return cls.open(path, writable=True, arena=arena)

    @classmethod
    def open(cls, path: Path, writable: bool, arena: Arena | None = None) -> SessionStore:
        """Open an existing store; `fetch` needs it writable. With an `arena` its memory
        is there, and it belongs to the arena's thread.

        Raises `StoreError` where it cannot be opened or is not such a store.
        """
        file = MappedFile(path, writable, arena)
        try:
            return cls(file)
        except StoreError:
            file.close()
            raise

    @property
    def _head(self) -> StoreHeader:
        if self._header is None:
            self._header = StoreHeader.from_buffer(self._file.view)
        return self._header

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def ssid(self) -> int:
        return self._head.ssid

    def matches(self, config: SenderSession) -> bool:
        """Whether a session configured like this can go on in this store.

        What makes results incomparable (addresses, path, ...) is for the caller.
        """
        header = self._head
        return (
            header.ssid == config.ssid
            and header.result_depth == config.result_depth
            and header.history_depth == config.history_depth
            and self.percentiles == config.percentiles
            and self.one_way == (config.delay_mode is DelayMode.ONE_WAY)
            and self.stateful == (config.reflector_mode is ReflectorMode.STATEFUL)
        )

    @property
    def percentiles(self) -> tuple[float, ...]:
        return self._layout.codec.percentiles

    @property
    def one_way(self) -> bool:
        return self._layout.one_way

    @property
    def stateful(self) -> bool:
        return self._layout.stateful

    @property
    def directions(self) -> Sequence[int]:
        """The delays that the session evaluates."""
        return (FORWARD,) if self.one_way else (FORWARD, BACKWARD, ROUND_TRIP)

    def close(self) -> None:
        """Let go of the file; neither the store nor anything taken from it may be used then."""
        self.rest()
        self._header = None
        self._file.close()

    def unlink(self) -> None:
        """Remove the file, if it is still there."""
        self._file.unlink()

    def fetch(self, maximum: int) -> list[Record]:
        """Take at most `maximum` records that were not fetched before, oldest first.

        One process at a time may fetch.
        """
        if not self._file.writable:
            raise StoreError(f"{self.path}: opened for reading only, records cannot be fetched")
        return self.records.fetch(maximum)

    def close_interval(
        self,
        end_ns: int,
        *,
        next_start_monotonic_ns: int,
        next_end_monotonic_ns: int,
        carried: int = 0,
        suspect: bool = False,
    ) -> int:
        """Writer: close the current interval at `end_ns`, Unix time, and begin the next.

        `carried` are losses that may still be attributed. Returns the number
        of the interval that was closed.
        """
        state, head = self.state, self.state.head
        number = head.closed + 1
        old, new = head.closed % 2, number % 2
        found = self.histograms.interval(old)
        summary = self._summarize(state.interval[old], found, number, end_ns, suspect)
        slots = self._head.history_depth + 1
        layout = self._layout
        at = layout.intervals_at + number % slots * layout.codec.size
        layout.codec.pack_into(self._file.view, at, summary)
        self.histograms.close(old)
        for direction in self.directions:
            closing, total = state.interval[old].delay[direction], state.total[new].delay[direction]
            total.assign(state.total[old].delay[direction])
            total.merge(closing)
            state.interval[new].delay[direction].begin(closing)
            origin_ns = self._next_origin_ns(found[direction], closing)
            if origin_ns != closing.origin_ns:
                self.move_origin(new, direction, origin_ns)
        following = state.interval[new]
        following.start_ns = end_ns
        following.start_monotonic_ns = next_start_monotonic_ns
        following.end_monotonic_ns = next_end_monotonic_ns
        following.suspect = 0
        following.carried = carried
        following.forward_lost = following.backward_lost = 0
        following.at_start.assign(head.counters)
        head.closed = number
        return number

    def move_origin(self, parity: int, direction: int, origin_ns: int) -> None:
        """Writer: have a delay about another origin, in the state of this parity, of which
        the current interval is empty."""
        total = self.state.total[parity].delay[direction]
        self.histograms.move(parity, direction, total.origin_ns, origin_ns)
        for delay in (total, self.state.interval[parity].delay[direction]):
            delay.move_origin(origin_ns)

    def clear(self) -> None:
        """Writer: forget statistics, counters, closed intervals and unfetched records.

        Numbers go on. A clear that is cut short shows in `state.head.clearing`
        and is to be repeated.
        """
        head = self.state.head
        head.clearing = 1
        head.version |= 1
        for interval in self.state.interval:
            at = _offset_of(IntervalState, "suspect")
            ctypes.memset(ctypes.addressof(interval) + at, 0, ctypes.sizeof(IntervalState) - at)
        ctypes.memset(ctypes.addressof(self.state.total), 0, ctypes.sizeof(self.state.total))
        ctypes.memset(ctypes.addressof(head.counters), 0, ctypes.sizeof(head.counters))
        ctypes.memset(ctypes.addressof(head.discards), 0, ctypes.sizeof(head.discards))
        self.histograms.clear()
        head.torn_writes = 0
        head.interval_base = head.closed
        self.records.clear()
        head.clearing = 0
        head.version += 1

    @property
    def intervals(self) -> list[IntervalSummary]:
        """Closed intervals that are kept, oldest first."""
        head = self.state.head
        for _ in range(READ_ATTEMPTS):
            closed, base = head.closed, head.interval_base
            found = self._read_intervals(closed, base)
            if head.closed == closed and head.interval_base == base:
                break
        return found

    def snapshot(self, record_count: int = 0) -> SessionSnapshot:
        """The session as it stands, with its latest `record_count` records.

        Counters and delays are of one moment; percentiles may already hold the
        packets that arrived while they were read.
        """
        while True:
            head, current, total, consistent = self._read_head()
            parity = head.closed % 2
            delays: list[DelaySummary | None] = [None] * DIRECTIONS
            for direction in self.directions:
                delay = total[direction]
                delay.merge(current[direction])
                counts = self.histograms.total(parity, direction)
                delays[direction] = delay.summary(self._percentiles(counts, delay))
            intervals = self._read_intervals(head.closed, head.interval_base)
            live, alive = self.state.head, self.state.interval[parity].delay
            if (live.closed, live.interval_base) == (head.closed, head.interval_base) and all(
                alive[direction].origin_ns == current[direction].origin_ns
                for direction in self.directions
            ):
                break
        counters = head.counters
        settled = counters.received + counters.lost + counters.unresolved
        reflector = Synchronization(head.reflector_synchronization)
        local = Synchronization(head.local_synchronization)
        return SessionSnapshot(
            sent=counters.sent,
            received=counters.received,
            in_flight=max(0, counters.sent - settled),
            unresolved=counters.unresolved,
            duplicates=counters.duplicates,
            reordered=counters.reordered,
            late=counters.late,
            skipped=counters.skipped,
            send_errors=counters.send_errors,
            discards={reason: head.discards[index] for reason, index in DISCARD_INDEX.items()},
            next_sequence=head.next_sequence,
            start_time_ns=head.start_time_ns or None,
            discontinuity_time_ns=head.discontinuity_ns or None,
            last_sent_ns=head.last_sent_ns or None,
            last_received_ns=head.last_received_ns or None,
            t1_method=TimestampMethod.from_code(head.t1_method),
            t4_method=TimestampMethod.from_code(head.t4_method),
            reflector_synchronized=reflector.known,
            reflector_error_ns=head.reflector_error_ns if reflector.value else None,
            local_synchronized=local.known,
            local_error_ns=head.local_error_ns if local.value else None,
            torn_writes=head.torn_writes,
            loss=loss_summary(
                counters.lost, counters.forward_lost, counters.backward_lost, self.stateful
            ),
            forward=delays[FORWARD] or DelaySummary(),
            backward=delays[BACKWARD],
            round_trip=delays[ROUND_TRIP],
            intervals=intervals,
            records=self.records.latest(record_count),
            records_pending=self.records.pending,
            records_dropped=self.records.dropped,
            consistent=consistent,
        )

    def _read_head(
        self,
    ) -> tuple[SessionHead, ctypes.Array[DelayState], ctypes.Array[DelayState], bool]:
        view, live, state_at = self._file.view, self.state.head, self._layout.state_at
        for _ in range(READ_ATTEMPTS):
            version = live.version
            head = SessionHead.from_buffer_copy(view, state_at)
            parity = head.closed % 2
            at = state_at + _offset_of(SessionState, "interval")
            at += _offset_of(IntervalState, "delay")
            current = _Delays.from_buffer_copy(view, at + parity * ctypes.sizeof(IntervalState))
            at = state_at + _offset_of(SessionState, "total") + _offset_of(TotalState, "delay")
            total = _Delays.from_buffer_copy(view, at + parity * ctypes.sizeof(TotalState))
            if live.version == version and not version % 2:
                return head, current, total, True
            time.sleep(READ_PAUSE_S)
        return head, current, total, False

    def _read_intervals(self, closed: int, base: int) -> list[IntervalSummary]:
        depth, layout = self._head.history_depth, self._layout
        cache = {}
        for number in range(max(base, closed - depth) + 1, closed + 1):
            at = layout.intervals_at + number % (depth + 1) * layout.codec.size
            known = self._interval_cache and self._interval_cache.get(number)
            cache[number] = known or layout.codec.unpack_from(self._file.view, at)
        # What was read while its slot was being overwritten has another number.
        self._interval_cache = {key: value for key, value in cache.items() if value.number == key}
        return list(self._interval_cache.values())

    def _summarize(
        self,
        interval: IntervalState,
        found: Sequence[_Found],
        number: int,
        end_ns: int,
        suspect: bool,
    ) -> IntervalSummary:
        now, then = self.state.head.counters, interval.at_start
        delays: list[DelaySummary | None] = [None] * DIRECTIONS
        for direction in self.directions:
            delay = interval.delay[direction]
            delays[direction] = delay.summary(self._percentiles(found[direction], delay))
        return IntervalSummary(
            number=number,
            start_time_ns=interval.start_ns,
            end_time_ns=end_ns,
            suspect=suspect or bool(interval.suspect),
            sent=now.sent - then.sent,
            received=now.received - then.received,
            duplicates=now.duplicates - then.duplicates,
            reordered=now.reordered - then.reordered,
            late=now.late - then.late,
            unresolved=now.unresolved - then.unresolved,
            loss=loss_summary(
                now.lost - then.lost,
                interval.forward_lost,
                interval.backward_lost,
                self.stateful,
            ),
            forward=delays[FORWARD],
            backward=delays[BACKWARD],
            round_trip=delays[ROUND_TRIP],
        )

    def _next_origin_ns(self, found: _Found, closing: DelayState) -> int:
        """What the delays of the next interval are counted about."""
        if closing.samples < SAMPLES_TO_MOVE or not self.percentiles:
            return closing.origin_ns
        quartiles = tuple(_percentiles(found, closing, QUARTILES).values())
        if len(quartiles) != len(QUARTILES):
            return closing.origin_ns
        return next_origin(quartiles, closing.last_ns, closing.origin_ns)

    def _percentiles(self, found: _Found, delay: DelayState) -> dict[float, int]:
        return _percentiles(found, delay, self.percentiles)


def _percentiles(found: _Found, delay: DelayState, percents: tuple[float, ...]) -> dict[float, int]:
    if not delay.samples:
        return {}
    buckets, counts = found
    return percentiles(*(counts, buckets, percents), delay.origin_ns, delay.min_ns, delay.max_ns)


def _checked_header(path: Path, view: memoryview) -> StoreHeader:
    size = len(view)
    if size < ctypes.sizeof(StoreHeader) or bytes(view[: len(MAGIC)]) != MAGIC:
        raise StoreError(f"{path}: not a session store")
    header = StoreHeader.from_buffer_copy(view)
    if header.layout_version != LAYOUT_VERSION:
        raise StoreError(f"{path}: layout version is {header.layout_version}, not {LAYOUT_VERSION}")
    expected = ctypes.sizeof(SessionState)
    if header.state_size != expected:
        raise StoreError(f"{path}: state of {header.state_size} bytes, not {expected}")
    if header.size != size:
        raise StoreError(f"{path}: {size} bytes long, not {header.size}")
    return header
