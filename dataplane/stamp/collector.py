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
- A packet whose fate became unknown (the engine died, the run was stopped, the
  clock was set) is unresolved: neither received nor lost. A reply to it counts as late.
- Duplicates count once each and have no record; the first copy counts.
- A session that is configured anew begins anew, with sequence number 0 (RFC 8762
  §4.2.1), while replies to its former packets may still come. Those are known by the T1
  they echo, which is before that of any packet sent here. There is no slack in that: T1
  is read after the time that `sent` is told, and decodes to the same nanosecond.
- The last `window` sequence numbers are remembered: twice as many as can be
  under way within the loss timeout, and some. An older reply counts as late,
  even if it is a duplicate. More packets under way than that become unresolved.
- Nothing here is safe against being called from two threads at once.
"""

from __future__ import annotations

import numpy as np

from dataplane.measurement import TimestampMethod
from dataplane.session_state import (
    Synchronization,
)
from dataplane.stamp.replies import Ignored
from dataplane.stamp.run_taking import RunTaking
from dataplane.stamp.window import (
    RECEIVED,
    UNDER_WAY,
    UNUSED,
    window_of,
)
from dataplane.statistics import INT64_MAX

__all__ = ["RECEIVED", "UNDER_WAY", "Collector", "Ignored", "window_of"]


class Collector(RunTaking):
    """One session's results, kept in `store`, of which it is the only writer.

    A store that has been written before is taken up: packets that were under
    way become unresolved. A run that was open goes on if `resumed`, its current
    interval suspect and aligned as before; else it is ended.
    """

    __slots__ = ()

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
        self._intervals.held = 0
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
        early_ns: int = 0,
    ) -> None:
        """Packet `sequence` is about to leave; ValueError unless it is the next one.

        Its T1 is `t1_ns`, or is read later, or up to `early_ns` before it.
        """
        if sequence != self._next:
            raise ValueError(f"sequence {sequence} is not the next one, {self._next}")
        self._intervals.unix_offset_ns = t1_ns - now_ns
        if t1_ns - early_ns < self.earliest_t1_ns:
            self.know_earliest_t1(t1_ns - early_ns)
        self._begin_write()
        if now_ns >= self._intervals.end_ns:
            self._expire(now_ns)
        if sequence - self._settled >= self.window:
            self._make_room(now_ns)
        slot = sequence & self._mask
        if self._apart:
            self.forget(sequence - self.window)
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
        if t1_ns < self.earliest_t1_ns:
            self.know_earliest_t1(t1_ns)
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

    def hold(self, held: bool) -> None:
        """Nothing is sent from here on, or everything again: the current interval is suspect,
        and so are those that end in between."""
        self._begin_write()
        self._intervals.held = held
        self._intervals.current.suspect = 1
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
