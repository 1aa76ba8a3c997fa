"""The transmitting side of one STAMP session: when to send, and what.

Rules that hold here:

- Packets are due at ``start + k * interval``, whatever the delay of earlier ones:
  the schedule does not drift.
- A sender that is late by whole intervals skips those slots and counts them. It
  neither bursts nor uses up sequence numbers, so skipping is never seen as loss.
"""

from __future__ import annotations

from dataplane.config import SenderSession
from dataplane.stamp.packet import OPEN
from dataplane.stamp.session_table import (
    END_SEQUENCE,
    END_SLOT,
    INTERVAL_NS,
    NEVER,
    SEQUENCE,
    SKIPPED,
    SLOT,
    START_NS,
    TAI_OFFSET_S,
    Cell,
    Row,
    due_ns_of,
)
from dataplane.stamp.timestamp import ErrorEstimate, encode_timestamp

_SEQUENCE = 0xFFFFFFFF
_NS_PER_US = 1_000
_NS_PER_S = 1_000_000_000


class SessionSender:
    """One run of one session.

    ``start_ns`` is when the first packet is due, on the monotonic clock that
    ``send`` is told. ``first_sequence`` continues the numbers of an earlier run.
    """

    __slots__ = ("_first_sequence", "config", "row")

    sequence = Cell(SEQUENCE)
    """Number of the next packet, not wrapped."""

    skipped = Cell(SKIPPED)
    """Slots in which nothing was sent, because the engine came too late."""

    tai_offset_s = Cell(TAI_OFFSET_S)
    """TAI minus UTC, which PTPv2 timestamps need; settable at any time."""

    _start_ns = Cell(START_NS)
    _interval_ns = Cell(INTERVAL_NS)
    _slot = Cell(SLOT)
    _end_slot = Cell(END_SLOT)
    _end_sequence = Cell(END_SEQUENCE)

    def __init__(
        self,
        config: SenderSession,
        *,
        start_ns: int,
        first_sequence: int = 0,
        first_slot: int = 0,
        tai_offset_s: int = 0,
        row: Row | None = None,
    ) -> None:
        """Slots before `first_slot` are none of this sender's; `row` is the session's."""
        self.row = row or Row.alone()
        self.config = config
        self.sequence = self._first_sequence = first_sequence
        self.skipped = 0
        self.tai_offset_s = tai_offset_s
        self._start_ns = start_ns
        self._interval_ns = config.interval_us * _NS_PER_US
        self._slot = first_slot
        self._end_slot = self._end_sequence = NEVER
        if config.duration_s is not None:
            self._end_slot = -(-config.duration_s * _NS_PER_S // self._interval_ns)
        if config.packet_count is not None:
            self._end_sequence = first_sequence + config.packet_count

    @property
    def sent(self) -> int:
        """Packets of this run so far."""
        return self.sequence - self._first_sequence

    @property
    def complete(self) -> bool:
        """Whether the packet count or the duration of the run is reached."""
        return due_ns_of(self.row) == NEVER

    def next_send_ns(self) -> int | None:
        """When the next packet is due, on the monotonic clock; None once complete."""
        due_ns = due_ns_of(self.row)
        return None if due_ns == NEVER else due_ns

    def send(self, now_ns: int, t1_ns: int, error: ErrorEstimate) -> bytes:
        """The UDP payload to transmit now.

        ``now_ns`` is monotonic; ``t1_ns`` is wall time since 1970, read as late
        as possible. RuntimeError once complete.
        """
        payload = bytearray(OPEN.length)
        self.send_into(payload, 0, now_ns, t1_ns, error)
        return bytes(payload)

    def send_into(
        self,
        buffer: bytearray | memoryview,
        offset: int,
        now_ns: int,
        t1_ns: int,
        error: ErrorEstimate,
    ) -> None:
        """As ``send``, into a place of 44 bytes."""
        if self.complete:
            raise RuntimeError(f"run of session {self.config.ssid} is complete")
        self._advance(now_ns)
        fmt = self.config.timestamp_format
        OPEN.sender.pack_into(
            buffer,
            offset,
            self.sequence & _SEQUENCE,
            encode_timestamp(t1_ns, fmt, self.tai_offset_s),
            error.in_format(fmt).encode(),
            self.config.ssid,
        )
        self.sequence += 1

    def _advance(self, now_ns: int) -> None:
        """Use up the slot that ``now_ns`` lies in, and skip those before it."""
        slot = self._slot
        current = max(slot, (now_ns - self._start_ns) // self._interval_ns)
        current = min(current, self._end_slot - 1)
        if current != slot:
            self.skipped += current - slot
        self._slot = current + 1
