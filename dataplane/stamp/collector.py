"""The receiving side of one Session-Sender: replies in, records and statistics out.

Rules that hold here:

- Times named `now_ns` are of the monotonic clock and never go back; T1..T4 and
  `unix_ns` are nanoseconds since 1970 UTC.
- A packet is announced with `sent` before it is handed to the system. One that
  is killed in between leaves a packet whose fate is unknown, never a sequence
  number that is used twice.
- A packet is lost once `loss_timeout_ms` has passed without a reply. A reply
  that comes later is counted as late and has neither record nor statistics;
  in directional loss it is a backward loss, for it was reflected.
- A packet whose fate became unknown (the engine died, the run was stopped) is
  unresolved: neither received nor lost. A reply to it counts as late.
- Duplicates count once each and have no record; the first copy counts.
- The last `window` sequence numbers are remembered: twice as many as can be
  under way within the loss timeout, and some. An older reply counts as late,
  even if it is a duplicate. More packets under way than that become unresolved.
- Nothing here is safe against being called from two threads at once.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.config import IPAddress, SenderSession, SsidZeroAction
from dataplane.measurement import Record, RecordFlag, RecordRing, TimestampMethod
from dataplane.session_state import (
    DISCARD_INDEX,
    INT64_MAX,
    Counters,
    SessionHead,
    Synchronization,
)
from dataplane.stamp.errors import DiscardReason, PacketError
from dataplane.stamp.intervals import Intervals
from dataplane.stamp.packet import ReflectorPacket
from dataplane.stamp.replies import Ignored, Outlook, Reply, Run
from dataplane.stamp.session_table import (
    APART,
    DELAYS,
    ESTIMATE,
    FATES,
    FIRST,
    HIGHEST,
    HISTOGRAMS,
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
    Row,
    SessionTable,
)
from dataplane.stamp.timestamp import ErrorEstimate, decode_timestamp
from dataplane.stamp.window import (
    LOST,
    RECEIVED,
    UNDER_WAY,
    UNRESOLVED,
    UNUSED,
    Window,
    window_of,
)
from dataplane.statistics import DelayRun
from dataplane.store import SessionStore

__all__ = ["RECEIVED", "UNDER_WAY", "Collector", "Ignored", "window_of"]

_WRAP = 1 << 32
_HALF = 1 << 31
_NS_PER_S = 1_000_000_000

_USERSPACE = TimestampMethod.USERSPACE.code


class Collector:
    """One session's results, kept in `store`, of which it is the only writer.

    A store that has been written before is taken up: packets that were under
    way become unresolved. A run that was open goes on if `resumed`, its current
    interval suspect and aligned as before; else it is ended.
    """

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
        cells[STATE, row], cells[RING, row], cells[HISTOGRAMS, row] = places
        cells[SLOTS, row] = self._records.capacity + 1
        cells[STATEFUL, row] = self._store.stateful
        cells[DELAYS, row] = len(self._store.directions)
        cells[FATES, row], cells[TIMES, row] = self._window.place, self._window.times_at
        table.collectors[row] = self

    _next = Cell(NEXT)
    _first = Cell(FIRST)
    _settled = Cell(SETTLED)
    _highest = Cell(HIGHEST)
    _mask = Cell(MASK)
    _timeout_ns = Cell(TIMEOUT_NS)
    _reflector_estimate = Cell(ESTIMATE)
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
    def in_flight(self) -> int:
        """Packets that are neither received nor timed out nor given up."""
        counters = self._counters
        return counters.sent - counters.received - counters.lost - counters.unresolved

    def start(self, now_ns: int, unix_ns: int) -> None:
        """Begin a run, or go on with one that is open: intervals are counted from here."""
        self._intervals.unix_offset_ns = unix_ns - now_ns
        head = self._head
        if head.running:
            return
        self.ssid_zero_seen = False
        self._begin_write()
        head.start_time_ns = unix_ns
        head.discontinuity_ns = head.discontinuity_ns or unix_ns
        self._intervals.interrupt()
        self._intervals.begin(now_ns, now_ns + self._intervals.length_ns, suspect=False)
        head.running = 1
        self._end_write()

    def stop(self, now_ns: int) -> list[int]:
        """End the run. Packets under way become unresolved: wait for `in_flight`
        to become 0 where they should not. Returns the intervals closed since
        `expire`, the partial one, which is suspect, among them."""
        head = self._head
        if not head.running:
            return self._intervals.take_closed()
        self._begin_write()
        self._expire(now_ns)
        self._give_up()
        if now_ns > self._intervals.current.start_monotonic_ns:
            self._intervals.close(now_ns, now_ns, INT64_MAX, suspect=True)
        self._intervals.end_ns = INT64_MAX
        head.running = 0
        self._end_write()
        return self._intervals.take_closed()

    def interrupt(self, now_ns: int) -> None:
        """Measuring was disturbed: what is under way becomes unresolved and the
        current interval suspect; the run goes on."""
        self._begin_write()
        self._expire(now_ns)
        self._give_up()
        self._intervals.current.suspect = 1
        self._end_write()

    def clear(self, now_ns: int) -> None:
        """Forget statistics, counters, closed intervals and records not fetched yet.

        Packets under way are counted as sent anew. The current interval goes
        on to its end, suspect. Sequence and interval numbers go on.
        """
        self._begin_write()
        self._expire(now_ns)
        in_flight = self.in_flight
        self._store.clear()
        self._begin_write()
        self._counters.sent = in_flight
        self._head.discontinuity_ns = self._intervals.unix_offset_ns + now_ns
        if self._intervals.loss is not None:
            self._intervals.loss.reset()
        if self._head.running:
            self._intervals.begin(now_ns, self._intervals.end_ns, suspect=True)
        self._end_write()

    def sent(
        self,
        sequence: int,
        t1_ns: int,
        now_ns: int,
        t1_method: TimestampMethod = TimestampMethod.USERSPACE,
    ) -> None:
        """Packet `sequence` is about to leave; ValueError unless it is the next one."""
        if sequence != self._next:
            raise ValueError(f"sequence {sequence} is not the next one, {self._next}")
        self._intervals.unix_offset_ns = t1_ns - now_ns
        self._begin_write()
        if now_ns >= self._intervals.end_ns:
            self._expire(now_ns)
        if sequence - self._settled >= self.window:
            self._make_room(now_ns)
        slot = sequence & self._mask
        if self._apart:
            self._refined.pop(sequence - self.window, None)
            self._copies.pop(sequence - self.window, None)
            self._apart = bool(self._refined or self._copies)
        self._fate[slot] = UNDER_WAY
        self._sent_ns[slot] = now_ns
        self._next = sequence + 1
        head = self._head
        head.next_sequence = sequence + 1
        self._counters.sent += 1
        head.last_sent_ns = t1_ns
        head.t1_method = t1_method.code
        self._end_write()

    def announce(
        self,
        packets: int,
        t1_ns: int,
        now_ns: int,
        t1_method: TimestampMethod = TimestampMethod.USERSPACE,
    ) -> None:
        """What `sent` does for each of the next `packets` packets, which leave at once."""
        self._intervals.unix_offset_ns = t1_ns - now_ns
        self._begin_write()
        if now_ns >= self._intervals.end_ns:
            self._expire(now_ns)
        self._end_write()
        room = min(packets, self.window - (self._next - self._settled))
        if room and not self._refined and not self._copies:
            self._begin_write()
            fates, sent_ns = self._as_arrays()
            slots = np.arange(self._next, self._next + room) & self._mask
            fates[slots] = UNDER_WAY
            sent_ns[slots] = now_ns
            self._next += room
            self._head.next_sequence = self._next
            self._counters.sent += room
            self._head.last_sent_ns = t1_ns
            self._head.t1_method = t1_method.code
            self._end_write()
            packets -= room
        for _ in range(packets):
            self.sent(self._next, t1_ns, now_ns, t1_method)

    def send_failed(self, sequence: int) -> None:
        """The packet sent last could not leave: its number is free again.

        Of a batch, take back from the end. ValueError unless it is the last one
        and under way.
        """
        slot = sequence & self._mask
        if sequence != self._next - 1 or self._fate[slot] != UNDER_WAY:
            raise ValueError(f"sequence {sequence} is not the last one sent")
        self._begin_write()
        self._fate[slot] = UNUSED
        self._refined.pop(sequence, None)
        self._next = self._head.next_sequence = sequence
        self._counters.sent -= 1
        self._counters.send_errors += 1
        self._end_write()

    def skipped(self, slots: int) -> None:
        """That many times to send passed unused."""
        self._begin_write()
        self._counters.skipped += slots
        self._end_write()

    def refine_t1(
        self,
        sequence: int,
        t1_ns: int,
        t1_method: TimestampMethod = TimestampMethod.KERNEL_SOFTWARE,
    ) -> bool:
        """A better T1 for a packet under way, to be used instead of the echoed one.

        False if its reply has been processed already, or it is not under way.
        """
        if not self._first <= sequence < self._next or sequence < self._next - self.window:
            return False
        if self._fate[sequence & self._mask] != UNDER_WAY:
            return False
        self._refined[sequence] = t1_ns, t1_method.code
        self._apart = 1
        return True

    def set_local_clock(self, synchronized: bool, error_ns: int) -> None:
        """What is known about the clock that T1 and T4 are read from."""
        self._begin_write()
        self._head.local_synchronization = Synchronization.of(synchronized).value
        self._head.local_error_ns = min(error_ns, INT64_MAX)
        self._end_write()

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
        if age >= _HALF or sequence < 0:
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

    def outlook(self) -> Outlook:
        """What decides whether the next replies make a run."""
        loss = self._intervals.loss
        return Outlook(
            self._next - 1,
            self._first,
            min(self.window, _HALF),
            self._mask,
            self._highest,
            self._intervals.end_ns,
            self._timeout_ns,
            loss is not None,
            0 if loss is None else loss.latest,
            self.window if loss is None else loss.room,
        )

    def packets(
        self, slots: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Whether packets are under way, and when they were sent; `slots` are sequence
        numbers under `Outlook.mask`."""
        fates, sent_ns = self._as_arrays()
        return fates[slots] == UNDER_WAY, sent_ns[slots]

    def refine_records(self, run: Run, records: npt.NDArray[Any]) -> None:
        """Put a better T1 into the `records` of a run, where there is one."""
        if not self._refined:
            return
        for row, sequence in enumerate(run.sequences.tolist()):
            refined = self._refined.pop(sequence, None)
            if refined is not None:
                records["t1_ns"][row], records["t1_method"][row] = refined

    def origin_ns(self, direction: int, first_ns: int) -> int:
        """What the mean of a `DelayRun` is to be about, if its first sample is `first_ns`."""
        delay = self._intervals.delays[direction]
        return delay.origin_ns if delay.samples else first_ns

    def receive_run(
        self,
        run: Run,
        records: npt.NDArray[Any],
        delays: list[DelayRun],
        buckets: list[list[tuple[int, int]]],
        *,
        estimate: int,
    ) -> None:
        """What `receive` does for each of the replies of a `run`, which is in keeping
        with the `outlook`.

        `records` are theirs, refined; `delays` and `buckets` as `Intervals.add_run`
        wants them; `estimate` is the Error Estimate of the last reply.
        """
        sequences = run.sequences
        first, last, count = int(sequences[0]), int(sequences[-1]), len(sequences)
        self._begin_write()
        self._records.extend(records)
        head = self._head
        self._counters.received += count
        head.last_received_ns = int(records["t4_ns"][-1])
        head.t1_method = int(records["t1_method"][-1])
        head.t4_method = int(records["t4_method"][-1])
        self._know_reflector(estimate)
        self._highest = last
        self._intervals.add_run(last, delays, buckets)
        fates, _ = self._as_arrays()
        slots = sequences & self._mask
        fates[slots] = RECEIVED
        t3_ns = int(records["t3_ns"][-1])
        consecutive = first == self._settled and last - first + 1 == count
        if run.numbers is None:
            if consecutive:
                self._settled = last + 1
        else:
            self._number_run(slots, run.numbers, t3_ns, consecutive, last)
        if self._settled in (first, last + 1):
            self._settle()
        self._end_write()

    def _number_run(
        self,
        slots: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.int64],
        t3_ns: int,
        consecutive: bool,
        last: int,
    ) -> None:
        loss = self._intervals.loss
        assert loss is not None
        np.frombuffer(self._number, np.int64)[slots] = numbers
        count, first = len(numbers), int(numbers[0])
        if consecutive and int(numbers[-1]) - first + 1 == count:
            agreed = loss.settle_run(first, count, t3_ns)
            if agreed is not None:
                if agreed:
                    self._intervals.attribute(loss)
                self._settled = last + 1
                return
        loss.observe_run(numbers.tolist(), t3_ns)

    def _as_arrays(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Fates and times of sending, by slot. Sessions that never have runs go without."""
        return self._window.arrays

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

    def close(self) -> None:
        """Let go of what is not in the store."""
        if self.row.table is not None:
            self.row.table.collectors.pop(self.row.index, None)
        self._window.close()

    def next_timer_ns(self) -> int | None:
        """When `expire` has something to do next; None for never."""
        due = self._intervals.end_ns
        if self._settled < self._next:
            due = min(due, self._sent_ns[self._settled & self._mask] + self._timeout_ns + 1)
        return None if due == INT64_MAX else due

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

    @property
    def _last_sent(self) -> int:
        """Sequence number of the newest packet when the reply being looked at arrived."""
        return self._next - 1

    def settle(self) -> None:
        """A round of replies has reached packets whose fate is known."""
        self._begin_write()
        self._settle()
        self._end_write()

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

    def _expire(self, now_ns: int) -> None:
        timeout_ns = self._timeout_ns
        while self._settled < self._next:
            slot = self._settled & self._mask
            due_ns = self._sent_ns[slot] + timeout_ns
            if now_ns <= due_ns:
                break
            if due_ns >= self._intervals.end_ns:
                self._intervals.roll(due_ns)
            self._fate[slot] = LOST
            self._counters.lost += 1
            if self._intervals.loss is not None:
                self._intervals.loss.settle_lost()
            self._settled += 1
            self._settle()
        if now_ns >= self._intervals.end_ns:
            self._intervals.roll(now_ns)

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

    def _begin_write(self) -> None:
        self._head.version |= 1

    def _end_write(self) -> None:
        self._head.version += 1
