"""One reply at a time: from a UDP payload to a record, statistics, or a reason to ignore it."""

from __future__ import annotations

from dataplane.config import IPAddress, SsidZeroAction
from dataplane.measurement import Record, RecordFlag, TimestampMethod
from dataplane.session_state import (
    DISCARD_INDEX,
    Synchronization,
)
from dataplane.stamp.errors import DiscardReason, PacketError
from dataplane.stamp.packet import ReflectorPacket
from dataplane.stamp.packet_fates import PacketFates
from dataplane.stamp.replies import Ignored, Reply
from dataplane.stamp.timestamp import ErrorEstimate, decode_timestamp
from dataplane.stamp.window import (
    LOST,
    RECEIVED,
    UNDER_WAY,
    UNRESOLVED,
)
from dataplane.statistics import INT64_MAX

_WRAP = 1 << 32
_HALF = 1 << 31

_USERSPACE = TimestampMethod.USERSPACE.code


class ReplyTaking(PacketFates):
    """Takes in single replies; see `dataplane.stamp.collector` for the rules."""

    __slots__ = ()

    def discard(self, reason: DiscardReason) -> DiscardReason:
        """Count a packet that is not used."""
        self._begin_write()
        self._head.discards[DISCARD_INDEX[reason]] += 1
        self._end_write()
        return reason

    def receive(
        self,
        data: bytes | memoryview,
        *,
        source: IPAddress,
        source_port: int,
        t4_ns: int,
        now_ns: int,
        arrived_ns: int | None = None,
        t4_method: TimestampMethod = TimestampMethod.USERSPACE,
    ) -> Record | Ignored | DiscardReason:
        """A UDP payload arrived. No content raises.

        `arrived_ns` is T4 by the monotonic clock, where that is before `now_ns`:
        it decides whether the reply is late.
        """
        now_ns = now_ns if arrived_ns is None else arrived_ns
        config = self.config
        if source_port != config.reflector_udp_port:
            return self.discard(DiscardReason.WRONG_PORT)
        if source != config.reflector_address:
            return self.discard(DiscardReason.WRONG_ADDRESS)
        try:
            packet = ReflectorPacket.decode(data)
        except PacketError as error:
            return self.discard(error.reason)
        if packet.ssid != config.ssid:
            if packet.ssid:
                return self.discard(DiscardReason.SSID_MISMATCH)
            self.ssid_zero_seen = True
            if config.on_ssid_zero is SsidZeroAction.STOP:
                return self.discard(DiscardReason.SSID_MISMATCH)
        return self.take(self._decoded(packet, t4_ns, t4_method), now_ns)

    def take(self, reply: Reply, arrived_ns: int) -> Record | Ignored | DiscardReason:
        """`receive` for a packet that is this session's and well-formed."""
        newest = self._next - 1
        age = (newest - reply.sender_sequence) % _WRAP
        sequence = newest - age
        ours = sequence < self._first or reply.t1_ns >= self.earliest_t1_ns
        if age >= _HALF or sequence < 0 or not ours:
            return self.discard(DiscardReason.UNEXPECTED_SEQUENCE)
        self._begin_write()
        try:
            if arrived_ns >= self._intervals.end_ns:
                self._expire(arrived_ns)
            slot = sequence & self._mask
            forgotten = sequence < self._first or age >= self.window
            fate = UNRESOLVED if forgotten else self._fate[slot]
            if fate == UNDER_WAY and arrived_ns > self._sent_ns[slot] + self._timeout_ns:
                self._expire(arrived_ns)
                fate = LOST
            if fate == UNDER_WAY:
                return self._record(reply, sequence)
            if fate == RECEIVED:
                self._counters.duplicates += 1
                if self._intervals.loss is not None:
                    self._observe_copy(reply, sequence)
                return Ignored.DUPLICATE
            self._counters.late += 1
            return Ignored.LATE
        finally:
            self._end_write()

    def _decoded(self, packet: ReflectorPacket, t4_ns: int, t4_method: TimestampMethod) -> Reply:
        tai_offset_s = self.tai_offset_s
        sender, reflector = packet.sender_error_estimate, packet.error_estimate
        return Reply(
            packet.sender_sequence,
            packet.sequence,
            decode_timestamp(packet.sender_timestamp, sender.fmt, t4_ns, tai_offset_s),
            decode_timestamp(packet.receive_timestamp, reflector.fmt, t4_ns, tai_offset_s),
            decode_timestamp(packet.timestamp, reflector.fmt, t4_ns, tai_offset_s),
            t4_ns,
            t4_method.code,
            packet.sender_ttl,
            (RecordFlag.SENDER_SYNCHRONIZED.value if sender.synchronized else 0)
            | (RecordFlag.REFLECTOR_SYNCHRONIZED.value if reflector.synchronized else 0),
            reflector.encode(),
        )

    def _record(self, reply: Reply, sequence: int) -> Record | Ignored:
        t1_ns, t1_method = reply.t1_ns, _USERSPACE
        if self._refined:
            t1_ns, t1_method = self._refined.pop(sequence, (t1_ns, t1_method))
            self._apart = bool(self._refined or self._copies)
        _, counter, _, t2_ns, t3_ns, t4_ns, t4_method, ttl, flags, estimate = reply
        record = Record(
            sequence, t1_ns, t2_ns, t3_ns, t4_ns, counter, ttl, t1_method, t4_method, flags
        )
        self._records.append(record)
        head, counters = self._head, self._counters
        counters.received += 1
        head.last_received_ns = t4_ns
        head.t1_method = t1_method
        head.t4_method = t4_method
        self._know_reflector(estimate)
        if sequence > self._highest:
            self._highest = sequence
        else:
            counters.reordered += 1
        self._intervals.add(sequence, t2_ns - t1_ns, t4_ns - t3_ns)
        self._fate[sequence & self._mask] = RECEIVED
        if self._intervals.loss is not None:
            number = self._intervals.loss.observe(counter, t3_ns)
            self._number[sequence & self._mask] = number
        if sequence == self._settled:
            self._settle()
        return record

    def _know_reflector(self, estimate: int) -> None:
        """Take in an Error Estimate, a wire value."""
        if estimate != self._reflector_estimate:
            self._reflector_estimate = estimate
            decoded = ErrorEstimate.decode(estimate)
            head = self._head
            head.reflector_synchronization = Synchronization.of(decoded.synchronized).value
            head.reflector_error_ns = min(decoded.error_ns, INT64_MAX)

    def _observe_copy(self, reply: Reply, sequence: int) -> None:
        """A duplicate made on the forward path has a number of its own."""
        assert self._intervals.loss is not None
        if reply.sequence == self._number[sequence & self._mask] % _WRAP:
            return
        copies = self._copies.setdefault(sequence, set())
        self._apart = 1
        if reply.sequence not in copies:
            copies.add(reply.sequence)
            self._intervals.loss.observe(reply.sequence, reply.t3_ns)
