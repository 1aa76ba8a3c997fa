"""One sender session whose replies are collected in the driver.

The program in the driver decides about replies and keeps their statistics; this side
announces packets, times them out, tells forward loss from backward loss, closes
intervals, and is the one writer of the session's store. The two share the session's
maps, see collection.h.

Rules that hold here:

- Everything is as in `Collector`, which this is: a reply that the program has counted
  is counted here when the session is drained, at the latest when anything depends on it.
- Before packets are timed out or given up the program is told, under the session's
  lock: it takes none of them in afterwards. So every packet has one fate.
- No record is overwritten before it is drained: its place is that of its sequence
  number, which is used again once the packet's fate is settled here.
- A reply that comes by a socket is judged here, and taken in by the program.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.bpf.program import BpfModule
from dataplane.config import SenderSession
from dataplane.engines.xdp.collector_layouts import ORDER_MAX, Command, Outcome, SlotFlag
from dataplane.engines.xdp.driver_intervals import DriverIntervals
from dataplane.engines.xdp.driver_rounds import (
    BREAKS_SEEN,
    CALM,
    COLLECTION_AT,
    DRAINED,
    FIT,
    FRESH_NS,
    NEWEST,
    NEWEST_NUMBER,
    SLOTS_AT,
    TURNS_SEEN,
    age_ns,
)
from dataplane.engines.xdp.session_maps import Room, SessionMaps, make_rooms
from dataplane.engines.xdp.slots import records_of
from dataplane.engines.xdp.sums import Running
from dataplane.loss import LossAttribution
from dataplane.measurement import Record, TimestampMethod
from dataplane.stamp.collector import Collector, window_of
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.intervals import Intervals
from dataplane.stamp.replies import Ignored, Reply
from dataplane.stamp.session_table import STATEFUL, Cell, SessionTable
from dataplane.stamp.window import RECEIVED, UNDER_WAY, UNRESOLVED
from dataplane.statistics import INT64_MAX
from dataplane.store import SessionStore

ONE_BY_ONE = 64
"""Records that are looked at one by one; more at once are first tried as a whole."""

_ONE = np.uint64(1)
_WRAP = 1 << 32
_Slots = npt.NDArray[Any]


class DriverCollector(Collector):
    """A `Collector` of which the program is a part. Raises OSError where the kernel has
    no memory for the session; belongs to one thread."""

    def __init__(
        self,
        config: SenderSession,
        store: SessionStore,
        module: BpfModule,
        *,
        now_ns: int,
        resumed: bool = False,
        tai_offset_s: int = 0,
        table: SessionTable | None = None,
        room: Room | None = None,
    ) -> None:
        """Its maps are in the `room`, or else made by itself."""
        head = store.state.head
        parity = head.closed % 2
        origins_ns = [delay.origin_ns for delay in store.state.interval[parity].delay]
        if room is None:
            arena = None if table is None else table.arena
            room = make_rooms(module, {config.ssid: window_of(config)}, arena)[config.ssid]
        self._maps = SessionMaps(module, room, config, head.next_sequence, parity, origins_ns)
        self._reordered_seen = 0
        self._unobserved = False
        self._newest_then: int | None = None
        self._arrived_ns = 0
        super().__init__(
            *(config, store),
            now_ns=now_ns,
            resumed=resumed,
            tai_offset_s=tai_offset_s,
            table=table,
        )
        self._fresh_ns = now_ns

    _fresh_ns = Cell(FRESH_NS)
    _drained = Cell(DRAINED)
    _calm = Cell(CALM)
    _fit = Cell(FIT)
    _newest = Cell(NEWEST)
    _newest_number = Cell(NEWEST_NUMBER)
    _breaks_seen = Cell(BREAKS_SEEN)
    _turns_seen = Cell(TURNS_SEEN)

    def _join(self, table: SessionTable) -> None:
        super()._join(table)
        cells, row = table.cells, self.row.index
        cells[SLOTS_AT, row], cells[COLLECTION_AT, row] = self._maps.places
        # What comes by the socket is taken in one by one, as of stateful sessions.
        cells[STATEFUL, row] = 1
        self._fit = self._driven.regular and self._has_no_losses_open

    def _make_intervals(self) -> Intervals:
        self._newest = -1
        length_ns = self.config.computation_interval_s * 1_000_000_000
        self._driven = DriverIntervals(self._store, length_ns, self.window, self._maps, self.row)
        return self._driven

    @property
    def room(self) -> Room:
        """Where its maps are."""
        return self._maps.room

    @property
    def fresh(self) -> bool:
        """Whether the program has taken in nothing that has not been drained."""
        return self._maps.received == self._drained

    def drain(self, now_ns: int) -> None:
        """Bring the store up to date with what the program has done."""
        self._begin_write()
        self._expire(now_ns)
        self._end_write()

    def close(self) -> None:
        """Take the session from the program; replies go up to the socket from here on."""
        self._maps.close()
        self._driven.let_go()
        super().close()

    def clear(self, now_ns: int) -> None:
        self._begin_write()
        self._expire(now_ns)
        self._driven.reset()
        self._absorb(None)
        self._driven.hold = True
        self._fit = 0
        super().clear(now_ns)
        self._driven.hold = False

    def know_earliest_t1(self, t1_ns: int) -> None:
        super().know_earliest_t1(t1_ns)
        self._maps.know_earliest_t1(t1_ns)

    def sent(
        self,
        sequence: int,
        t1_ns: int,
        now_ns: int,
        t1_method: TimestampMethod = TimestampMethod.USERSPACE,
        early_ns: int = 0,
    ) -> None:
        if self._settled == sequence:
            self._fresh_ns = now_ns
        super().sent(sequence, t1_ns, now_ns, t1_method, early_ns)
        self._maps.sent(sequence, now_ns)

    def announce(
        self,
        packets: int,
        t1_ns: int,
        now_ns: int,
        t1_method: TimestampMethod = TimestampMethod.USERSPACE,
    ) -> None:
        first = self._next
        self._begin_write()
        self._expire(now_ns)
        self._end_write()
        self._intervals.unix_offset_ns = t1_ns - now_ns
        if not packets:
            return
        if t1_ns < self.earliest_t1_ns:
            self.know_earliest_t1(t1_ns)
        if packets > self.window:
            for sequence in range(first, first + packets):
                self.sent(sequence, t1_ns, now_ns, t1_method)
            return
        self._begin_write()
        self._make_room_for(packets)
        for sequence in [old for old in self._copies if old < first + packets - self.window]:
            del self._copies[sequence]
        fates, sent_ns = self._as_arrays()
        for part in self._pieces(first, first + packets):
            fates[part] = UNDER_WAY
            sent_ns[part] = now_ns
        self._maps.sent_many(first, packets, now_ns)
        self._next = self._head.next_sequence = first + packets
        self._counters.sent += packets
        self._head.last_sent_ns = t1_ns
        self._head.t1_method = t1_method.code
        self._end_write()

    def send_failed(self, sequence: int) -> None:
        super().send_failed(sequence)
        self._maps.take_back(sequence)

    def refine_t1(
        self,
        sequence: int,
        t1_ns: int,
        t1_method: TimestampMethod = TimestampMethod.KERNEL_SOFTWARE,
    ) -> bool:
        """As in `Collector`, but that the method is always the kernel's."""
        if not self._first <= sequence < self._next or sequence < self._next - self.window:
            return False
        return self._maps.refine_t1(sequence, t1_ns)

    def take(self, reply: Reply, arrived_ns: int) -> Record | Ignored | DiscardReason:
        self._arrived_ns = arrived_ns
        self._begin_write()
        self._expire(arrived_ns)
        self._end_write()
        return super().take(reply, arrived_ns)

    def count_octave(
        self, parity: int, direction: int, first: int, counts: npt.NDArray[np.uint32]
    ) -> None:
        """A round has found that delays are counted in an octave that had none so far."""
        self._store.histograms.add_stretch(parity, direction, first, counts)

    def packets(
        self, slots: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """None that could make a run: what comes by the socket is taken in one by one."""
        return np.zeros(len(slots), np.bool_), np.zeros(len(slots), np.int64)

    def rest(self) -> None:
        """What can be made anew is wanted again within a second, and next to nothing beside
        what the program has of the session."""

    def expire(self, now_ns: int) -> list[int]:
        if not self.fresh:
            self.drain(now_ns)
        self._fresh_ns = now_ns
        return super().expire(now_ns)

    def next_timer_ns(self) -> int | None:
        due, settled, following = self._intervals.end_ns, self._settled, self._next
        awaited = max(settled, self._maps.received_before(self._calm))
        if awaited < following:
            due = min(due, self._sent_ns[awaited & self._mask] + self._timeout_ns + 1)
        if settled < following or not self.fresh:
            due = min(due, self._fresh_ns + age_ns(self.row.table))
        return None if due == INT64_MAX else due

    def _record(self, reply: Reply, sequence: int) -> Record | Ignored:
        by_user = reply.t4_method != TimestampMethod.KERNEL_SOFTWARE.code
        outcome = self._maps.command(
            Command.RECORD,
            now_ns=self._arrived_ns,
            sequence=sequence,
            t1_ns=reply.t1_ns,
            t2_ns=reply.t2_ns,
            t3_ns=reply.t3_ns,
            t4_ns=reply.t4_ns,
            reflector_sequence=reply.sequence,
            error_estimate=reply.estimate,
            sender_ttl=reply.sender_ttl,
            record_flags=reply.flags | (SlotFlag.T4_USER if by_user else 0),
        )
        self._expire(self._arrived_ns)
        if outcome is Outcome.RECORDED:
            found = self._maps.slots[sequence & self._mask : (sequence & self._mask) + 1]
            return Record._make(records_of(found)[0].item())
        if outcome is Outcome.COPY:
            self._counters.duplicates += 1
            self._observe_copy(reply, sequence)
        return Ignored.LATE if outcome is Outcome.LATE else Ignored.DUPLICATE

    def _expire(self, as_of_ns: int, now_ns: int | None = None) -> None:
        intervals, now_ns = self._driven, now_ns or as_of_ns
        if intervals.hold:
            super()._expire(now_ns)
            return
        self._maps.command(Command.COPY, now_ns=now_ns)
        intervals.fold()
        over = now_ns >= intervals.end_ns
        if over:
            self._absorb(self._head.closed % 2)
            super()._expire(intervals.end_ns, now_ns)
        self._absorb(None)
        super()._expire(now_ns)
        if over:
            intervals.fold()
        self._calm = self._breaks_seen if self._settled > self._newest else -1
        self._fit = self._driven.regular and not self._apart and self._has_no_losses_open

    def _make_room(self, now_ns: int) -> None:
        self._expire(now_ns)
        self._make_room_for(1)

    def _make_room_for(self, packets: int) -> None:
        """As `_make_room`, of as many packets as the window holds at most."""
        first = self._next + packets - self.window
        if first <= self._settled:
            return
        self._maps.command(Command.COPY, settled=first)
        self._driven.fold()
        self._absorb(None)
        if self._intervals.loss is None or self._unobserved:
            self._pass_over(first)
        while self._settled < first:
            self._fate[self._settled & self._mask] = UNRESOLVED
            self._counters.unresolved += 1
            if self._intervals.loss is not None:
                self._intervals.loss.interrupt()
            self._settled += 1
            self._settle()

    def _pass_over(self, first: int) -> None:
        """Packets under way before `first` become unresolved, all at once: of those between
        them nothing can be told that would still matter."""
        fates, loss = self._fates, self._intervals.loss
        passed = self._settled
        for part in self._pieces(self._settled, first):
            under_way = np.flatnonzero(fates[part] == UNDER_WAY)
            if len(under_way):
                fates[part][under_way] = UNRESOLVED
                self._counters.unresolved += len(under_way)
                passed = self._sequence_at(part.start + int(under_way[-1])) + 1
        if passed == self._settled:
            return
        if loss is not None:
            loss.interrupt()
        self._settled = passed
        self._settle()

    def _sequence_at(self, place: int) -> int:
        """The first sequence number from the settled ones on that has this place."""
        return self._settled + ((place - self._settled) & self._mask)

    def _give_up(self) -> None:
        self._maps.command(Command.COPY, settled=self._next)
        self._driven.fold()
        self._absorb(None)
        if self._unobserved:
            # Of those that wait nothing can be told any more, but which number is the latest.
            self._unobserved = False
            slot, loss = self._maps.slots[self._newest & self._mask], self._intervals.loss
            assert loss is not None
            loss.observe(self._newest_number, int(slot["t3_ns"]))
        self._fit = 0
        super()._give_up()

    def _absorb(self, parity: int | None) -> None:
        """Take in the records that the program had made when it was last asked: those
        that count in the interval of this parity, or all."""
        running = self._maps.copied.running
        if running.received == self._drained:
            return
        if running.turns == self._turns_seen and self._absorb_run(running, parity):
            return
        found = self._found(running, parity)
        if not len(found):
            return
        self._drained += len(found)
        self._keep(found)
        sequences = found["tag"] >> _ONE
        if self._intervals.loss is None:
            self._fates[sequences & np.uint64(self._mask)] = RECEIVED
            self._settle()
        else:
            self._observe(found, sequences)
        newest = int(np.argmax(sequences))
        if int(sequences[newest]) > self._newest:
            self._newest = int(sequences[newest])
            self._newest_number = int(found["reflector_sequence"][newest])
        if parity is None:
            self._breaks_seen, self._turns_seen = running.breaks, running.turns

    def _absorb_run(self, running: Running, parity: int | None) -> bool:
        """As `_absorb` where nothing but losses lies between the records: what that takes
        hardly depends on how many there are. False where it is not so simple."""
        loss = self._intervals.loss
        waiting = count = running.received - self._drained
        if parity is not None:
            # Where some of these have been drained before, all that wait are of that one.
            count -= self._maps.copied.intervals[1 - parity].samples
        if count <= 0:
            return True
        sequence, number = self._newest, self._newest_number
        places = None
        if running.breaks == self._breaks_seen:
            newest = sequence + count, (number + count) % _WRAP
        else:
            newest = running.highest - 1, (running.next_number - 1) % _WRAP
            places = self._received(max(sequence + 1, self._settled), running.highest)
            if count < waiting or len(places) != count:
                return False
        if loss is not None and not self._can_wait(loss):
            return False
        self._drained += count
        self._newest, self._newest_number = newest
        self._take_run(sequence + 1, count, places)
        if count == waiting:
            self._breaks_seen, self._turns_seen = running.breaks, running.turns
        return True

    def _received(self, first: int, end: int) -> npt.NDArray[np.intp]:
        """Where the packets from `first` to before `end` are whose reply was received."""
        tags, places = self._maps.slots["tag"], []
        for part in self._pieces(first, end):
            places.append(np.flatnonzero(tags[part] & _ONE) + part.start)
        return np.concatenate(places)

    def _take_run(self, first: int, count: int, places: npt.NDArray[np.intp] | None) -> None:
        """Records in the order of their numbers: at `places`, or as many as there are
        packets from `first` on."""
        kept, fates, slots = min(count, self._records.capacity), self._fates, self._maps.slots
        if places is not None:
            fates[places] = RECEIVED
            found = slots[places[-kept:]]
        else:
            for part in self._pieces(first, first + count):
                fates[part] = RECEIVED
            pieces = [slots[part] for part in self._pieces(first + count - kept, first + count)]
            found = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        self._append(found, count - kept)
        self._settle()

    @property
    def _fates(self) -> npt.NDArray[np.uint8]:
        return self._as_arrays()[0]

    @property
    def _has_no_losses_open(self) -> bool:
        """Whether replies in order lead to nothing but that `LossAttribution` is told of them."""
        loss = self._intervals.loss
        return loss is None or (self._unobserved and loss.based and not loss.pending)

    def _can_wait(self, loss: LossAttribution) -> bool:
        """Whether packets may be settled in runs; from here on they are, if so."""
        self._unobserved = self._unobserved or (
            loss.clean
            and loss.latest_counter in (None, self._newest_number)
            and self._settled > self._newest
            and not self._copies
        )
        return self._unobserved

    def _found(self, running: Running, parity: int | None) -> _Slots:
        received, found = running.received, None
        if received - self._drained < ORDER_MAX // 2:
            found = self._found_by_order(received)
        if found is None:
            found = self._found_by_place(running)
        if parity is not None:
            found = found[(found["flags"] & SlotFlag.PARITY != 0) == bool(parity)]
        return found

    def _found_by_order(self, received: int) -> _Slots | None:
        """Records from the last one drained on, of which there are not many; None where so
        many more have come meanwhile that their places in the order have others."""
        indices = np.arange(self._drained, received, dtype=np.uint64)
        low = self._maps.state["order"][indices & np.uint64(ORDER_MAX - 1)]
        found: _Slots = self._maps.slots[low & np.uint32(self._mask)]
        return found if np.array_equal(found["index"], indices) else None

    def _found_by_place(self, running: Running) -> _Slots:
        """The same, among all packets whose reply may have come since."""
        received, highest, first = running.received, running.highest, self._settled
        if running.reordered == self._reordered_seen:
            first = max(first, self._newest + 1)
        self._reordered_seen = running.reordered
        slots = self._maps.slots
        found = np.concatenate([slots[part] for part in self._pieces(first, highest)])
        indices = found["index"]
        new = (found["tag"] & _ONE != 0) & (indices >= self._drained) & (indices < received)
        found = found[new]
        ordered: _Slots = found[np.argsort(found["index"], kind="stable")]
        return ordered

    def _pieces(self, first: int, end: int) -> list[slice]:
        """Places of the sequence numbers from `first` to before `end`."""
        start, stop = first & self._mask, end & self._mask
        if first >= end:
            return [slice(0, 0)]
        if start < stop:
            return [slice(start, stop)]
        return [slice(start, self.window), slice(0, stop)]

    def _keep(self, found: _Slots) -> None:
        kept = found[-self._records.capacity :]
        self._append(kept, len(found) - len(kept))

    def _append(self, found: _Slots, before: int) -> None:
        """The newest records, in order; `before` more came before them."""
        records = records_of(found)
        self._records.extend(records, before)
        head, last = self._head, records[-1]
        head.last_received_ns = int(last["t4_ns"])
        head.t1_method = int(last["t1_method"])
        head.t4_method = int(last["t4_method"])
        self._know_reflector(int(found[-1]["error_estimate"]))

    def _observe(self, found: _Slots, sequences: npt.NDArray[np.uint64]) -> None:
        """Feed what tells forward from backward loss.

        As long as no packet overtakes another, whole runs are settled at once, from
        the records themselves; what waits for an earlier packet is `_unobserved`.
        """
        loss = self._intervals.loss
        assert loss is not None
        runs = self._can_wait(loss) if len(found) > ONE_BY_ONE else self._unobserved
        if runs and self._is_regular(found, sequences):
            self._fates[sequences & np.uint64(self._mask)] = RECEIVED
            self._settle()
            return
        self._observe_waiting()
        self._observe_each(found, sequences)

    def _is_regular(self, found: _Slots, sequences: npt.NDArray[np.uint64]) -> bool:
        """Whether the packets follow those before in order, and their numbers grow as
        they do where some packets are lost and nothing else happens."""
        sequence, counter = self._newest, self._newest_number
        passed = np.diff(sequences.astype(np.int64), prepend=sequence)
        counters = found["reflector_sequence"]
        counted = np.diff(counters, prepend=np.uint32(counter)).astype(np.int64)
        return bool(np.all((counted >= 1) & (counted <= passed)))

    def _observe_each(self, found: _Slots, sequences: npt.NDArray[np.uint64]) -> None:
        loss, mask = self._intervals.loss, self._mask
        assert loss is not None
        counters, times = found["reflector_sequence"].tolist(), found["t3_ns"].tolist()
        newest = self._newest_at(found["t4_ns"]).tolist()
        for sequence, counter, t3_ns, self._newest_then in zip(
            sequences.tolist(), counters, times, newest, strict=True
        ):
            self._fate[sequence & mask] = RECEIVED
            self._number[sequence & mask] = loss.observe(counter, t3_ns)
            if sequence == self._settled:
                self._settle()
        self._newest_then = None

    def _newest_at(self, t4_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Sequence number of the newest packet that had been sent at each of these times."""
        sent_ns = self._as_arrays()[1]
        first = self._settled
        known = np.concatenate([sent_ns[part] for part in self._pieces(first, self._next)])
        arrived_ns = t4_ns - self._intervals.unix_offset_ns
        return first - 1 + np.searchsorted(known, arrived_ns, side="right")

    @property
    def _last_sent(self) -> int:
        return super()._last_sent if self._newest_then is None else self._newest_then

    def _observe_waiting(self) -> None:
        """From here on packets are observed as they come."""
        if not self._unobserved:
            return
        self._unobserved = False
        self._fit = 0
        for part in self._pieces(self._settled, self._next):
            received = self._fates[part] == RECEIVED
            found = self._maps.slots[part][received]
            self._observe_each(found, found["tag"] >> _ONE)

    def _observe_copy(self, reply: Reply, sequence: int) -> None:
        self._observe_waiting()
        counter = int(self._maps.slots[sequence & self._mask]["reflector_sequence"])
        if self._number[sequence & self._mask] % _WRAP != counter:
            # It was settled in a run, without having been observed by itself.
            self._number[sequence & self._mask] = counter
        super()._observe_copy(reply, sequence)

    def _settle(self) -> None:
        loss = self._intervals.loss
        if loss is not None and not self._unobserved:
            super()._settle()
            return
        end = self._first_under_way()
        if loss is not None and end > self._settled:
            self._settle_run(loss, end)
        self._settled = end

    def _settle_run(self, loss: LossAttribution, end: int) -> None:
        """Packets that were all received, up to `end`, in the order of their numbers."""
        first, slots, mask = self._settled, self._maps.slots, self._mask
        if not loss.based:
            slot = slots[first & mask]
            number = loss.observe(int(slot["reflector_sequence"]), int(slot["t3_ns"]))
            loss.settle_received(number, first, self._last_sent)
            first += 1
        if first < end:
            slot = slots[(end - 1) & mask]
            loss.settle_in_order(int(slot["reflector_sequence"]), int(slot["t3_ns"]), end - first)
            self._intervals.attribute(loss)

    def _first_under_way(self) -> int:
        """The sequence number, from the settled ones on; the next one if there is none."""
        at, fates = self._settled, self._fate
        for part in self._pieces(at, self._next):
            start: int = part.start
            found = bytes(fates[start : part.stop]).find(UNDER_WAY)
            if found >= 0:
                return at + found
            at += part.stop - start
        return at
