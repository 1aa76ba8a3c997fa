"""Shared layout of what a sender session has collected, and the plain values read from it.

Rules that hold here:

- The host process writes; everyone else reads. `version` is odd while a write
  is going on.
- Per packet only the current computation interval is updated. Its statistics
  are added to the total when it closes; a reader adds the two.
- Current interval and total exist twice. `closed`, the number of the latest
  closed interval, says by its parity which are valid, so that one store of 64
  bits closes an interval: a writer that is killed leaves the state before or
  after, never between.
- What an interval counts is the difference of session counters between its
  start and its end. A packet therefore counts as sent in the interval in which
  it was sent, and as received or lost in the one in which that became known.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from enum import Enum

from dataplane.measurement import Record, TimestampMethod
from dataplane.stamp.errors import DiscardReason
from dataplane.statistics import DelayState, DelaySummary, LossSummary

FORWARD, BACKWARD, ROUND_TRIP = range(3)
"""Indices of the delays in every array of three."""

DIRECTIONS = 3
DISCARD_SLOTS = 16
DISCARD_INDEX = {reason: index for index, reason in enumerate(DiscardReason)}
"""Where a reason is counted, in arrays of `DISCARD_SLOTS`."""

UNKNOWN_NS = -(1 << 63)
"""Stands for None in arrays of int64."""


class Synchronization(Enum):
    """Whether a clock says that it is synchronised; its value stands for it in the layout."""

    UNKNOWN = 0
    NO = 1
    YES = 2

    @classmethod
    def of(cls, synchronized: bool) -> Synchronization:
        return cls.YES if synchronized else cls.NO

    @property
    def known(self) -> bool | None:
        """None for unknown."""
        return None if self is Synchronization.UNKNOWN else self is Synchronization.YES


class Counters(ctypes.Structure):
    """Counts since the session was created or cleared."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "sent",
            "received",
            "duplicates",
            "reordered",
            "late",
            "lost",
            "forward_lost",
            "backward_lost",
            "unresolved",
            "skipped",
            "send_errors",
        )
    )

    sent: int
    received: int
    duplicates: int
    reordered: int
    late: int
    lost: int
    forward_lost: int
    backward_lost: int
    unresolved: int
    skipped: int
    send_errors: int

    def assign(self, other: Counters) -> None:
        """Become a copy."""
        ctypes.memmove(ctypes.addressof(self), ctypes.addressof(other), ctypes.sizeof(self))


class IntervalState(ctypes.Structure):
    """One computation interval while it lasts."""

    _fields_ = (
        ("start_ns", ctypes.c_int64),
        ("start_monotonic_ns", ctypes.c_int64),
        ("end_monotonic_ns", ctypes.c_int64),
        ("suspect", ctypes.c_uint64),
        ("carried", ctypes.c_uint64),
        ("forward_lost", ctypes.c_int64),
        ("backward_lost", ctypes.c_int64),
        ("at_start", Counters),
        ("delay", DelayState * DIRECTIONS),
    )

    start_ns: int
    start_monotonic_ns: int
    end_monotonic_ns: int
    """When it is due to close."""

    suspect: int
    carried: int
    """Losses of earlier intervals that may still be attributed."""

    forward_lost: int
    backward_lost: int
    at_start: Counters
    delay: ctypes.Array[DelayState]


class TotalState(ctypes.Structure):
    """All closed intervals together."""

    _fields_ = (("delay", DelayState * DIRECTIONS),)

    delay: ctypes.Array[DelayState]


class SessionHead(ctypes.Structure):
    """What one look at a session needs, without intervals and histograms."""

    _fields_ = (
        ("version", ctypes.c_uint64),
        ("closed", ctypes.c_uint64),
        ("interval_base", ctypes.c_uint64),
        ("next_sequence", ctypes.c_uint64),
        ("running", ctypes.c_uint64),
        ("clearing", ctypes.c_uint64),
        ("torn_writes", ctypes.c_uint64),
        ("start_time_ns", ctypes.c_int64),
        ("discontinuity_ns", ctypes.c_int64),
        ("last_sent_ns", ctypes.c_int64),
        ("last_received_ns", ctypes.c_int64),
        ("reflector_error_ns", ctypes.c_int64),
        ("local_error_ns", ctypes.c_int64),
        ("t1_method", ctypes.c_uint8),
        ("t4_method", ctypes.c_uint8),
        ("reflector_synchronization", ctypes.c_uint8),
        ("local_synchronization", ctypes.c_uint8),
        ("counters", Counters),
        ("discards", ctypes.c_uint64 * DISCARD_SLOTS),
    )

    version: int
    """Odd while the host writes."""

    closed: int
    """Number of the latest closed interval; 0 before the first."""

    interval_base: int
    """Intervals up to this number have been cleared."""

    next_sequence: int
    running: int
    """Whether a run has begun and not ended: an open one is resumed after a restart."""

    clearing: int
    """Whether a clear has begun and not ended."""

    torn_writes: int
    """Times that the host was killed while it wrote; each may have cost one
    packet its place in part of the statistics."""

    start_time_ns: int
    """Of the current or latest run, Unix time; 0 before the first."""

    discontinuity_ns: int
    """When the counters were last at zero, Unix time; 0 before the first run."""

    last_sent_ns: int
    last_received_ns: int
    reflector_error_ns: int
    local_error_ns: int
    t1_method: int
    t4_method: int
    reflector_synchronization: int
    local_synchronization: int
    counters: Counters
    discards: ctypes.Array[ctypes.c_uint64]


class SessionState(ctypes.Structure):
    """Everything about a sender session but its closed intervals and records."""

    _fields_ = (
        ("head", SessionHead),
        ("interval", IntervalState * 2),
        ("total", TotalState * 2),
    )

    head: SessionHead
    interval: ctypes.Array[IntervalState]
    """Valid: `interval[closed % 2]`."""

    total: ctypes.Array[TotalState]
    """Valid: `total[closed % 2]`."""


@dataclass(frozen=True, slots=True)
class IntervalSummary:
    """One closed computation interval."""

    number: int
    """From 1; never reused by the session, not even after a clear."""

    start_time_ns: int
    end_time_ns: int
    suspect: bool
    """Shorter than configured, or interrupted by a stop, a clear or a restart."""

    sent: int
    received: int
    duplicates: int
    reordered: int
    late: int
    unresolved: int
    loss: LossSummary
    forward: DelaySummary | None
    backward: DelaySummary | None
    """None in one-way mode."""

    round_trip: DelaySummary | None
    """None in one-way mode."""


@dataclass(frozen=True, slots=True)
class SessionSnapshot:
    """A session as it stands; times are nanoseconds since 1970, None before the first."""

    sent: int
    received: int
    """Packets with a reply in time; duplicates do not count."""

    in_flight: int
    """Neither received nor timed out yet."""

    unresolved: int
    """Fate unknown, because the engine was interrupted or the run stopped."""

    duplicates: int
    reordered: int
    """Replies to a packet sent before one already received (RFC 4737 §4)."""

    late: int
    """Replies after the loss timeout or to unresolved packets; neither has a record."""

    skipped: int
    """Times to send that passed unused."""

    send_errors: int
    discards: dict[DiscardReason, int]
    next_sequence: int
    start_time_ns: int | None
    discontinuity_time_ns: int | None
    last_sent_ns: int | None
    last_received_ns: int | None
    t1_method: TimestampMethod
    t4_method: TimestampMethod
    reflector_synchronized: bool | None
    reflector_error_ns: int | None
    local_synchronized: bool | None
    local_error_ns: int | None
    torn_writes: int
    loss: LossSummary
    forward: DelaySummary
    backward: DelaySummary | None
    """None in one-way mode."""

    round_trip: DelaySummary | None
    """None in one-way mode."""

    intervals: list[IntervalSummary]
    """Closed ones, oldest first."""

    records: list[Record]
    """The latest, oldest first."""

    records_pending: int
    """Records that are waiting to be fetched."""

    records_dropped: int
    """Records that were overwritten before they were fetched."""

    consistent: bool
    """False if the writer was killed while it wrote and has not resumed, or
    was never seen to pause."""


class IntervalCodec:
    """Closed intervals as fixed-size entries, for a given number of percentiles."""

    def __init__(self, percentiles: tuple[float, ...], one_way: bool, stateful: bool) -> None:
        self.percentiles = percentiles
        self._one_way = one_way
        self._stateful = stateful
        self._struct = struct.Struct(f"=QqqQ10q{DIRECTIONS * (8 + len(percentiles))}q")
        self.size = self._struct.size

    def pack_into(self, buffer: memoryview, offset: int, interval: IntervalSummary) -> None:
        loss = interval.loss
        values = [
            interval.number,
            interval.start_time_ns,
            interval.end_time_ns,
            int(interval.suspect),
            interval.sent,
            interval.received,
            interval.duplicates,
            interval.reordered,
            interval.late,
            interval.unresolved,
            loss.round_trip,
            loss.forward or 0,
            loss.backward or 0,
            loss.undetermined,
        ]
        for delay in (interval.forward, interval.backward, interval.round_trip):
            values += self._delay(delay or DelaySummary())
        self._struct.pack_into(buffer, offset, *values)

    def unpack_from(self, buffer: memoryview, offset: int) -> IntervalSummary:
        values = self._struct.unpack_from(buffer, offset)
        width = 8 + len(self.percentiles)
        delays = [self._summary(values[14 + width * i : 14 + width * (i + 1)]) for i in range(3)]
        return IntervalSummary(
            number=values[0],
            start_time_ns=values[1],
            end_time_ns=values[2],
            suspect=bool(values[3]),
            sent=values[4],
            received=values[5],
            duplicates=values[6],
            reordered=values[7],
            late=values[8],
            unresolved=values[9],
            loss=LossSummary(
                round_trip=values[10],
                forward=values[11] if self._stateful else None,
                backward=values[12] if self._stateful else None,
                undetermined=values[13],
            ),
            forward=delays[FORWARD],
            backward=None if self._one_way else delays[BACKWARD],
            round_trip=None if self._one_way else delays[ROUND_TRIP],
        )

    def _delay(self, delay: DelaySummary) -> list[int]:
        known = [
            delay.last_ns,
            delay.min_ns,
            delay.max_ns,
            delay.mean_ns,
            delay.stddev_ns,
            delay.jitter_ns,
            delay.jitter_max_ns,
            *(delay.percentiles.get(percent) for percent in self.percentiles),
        ]
        return [delay.samples, *(UNKNOWN_NS if value is None else value for value in known)]

    def _summary(self, values: tuple[int, ...]) -> DelaySummary:
        known = [None if value == UNKNOWN_NS else value for value in values[1:]]
        last, least, most, mean, stddev, jitter, jitter_max = known[:7]
        return DelaySummary(
            samples=values[0],
            last_ns=last,
            min_ns=least,
            max_ns=most,
            mean_ns=mean,
            stddev_ns=stddev,
            jitter_ns=jitter,
            jitter_max_ns=jitter_max,
            percentiles={
                percent: value
                for percent, value in zip(self.percentiles, known[7:], strict=True)
                if value is not None
            },
        )


def loss_summary(lost: int, forward: int, backward: int, stateful: bool) -> LossSummary:
    """What is attributed, unless the parts contradict the whole."""
    if not stateful:
        return LossSummary(lost, None, None, lost)
    if forward < 0 or backward < 0 or forward + backward > lost:
        return LossSummary(lost, 0, 0, lost)
    return LossSummary(lost, forward, backward, lost - forward - backward)
