"""The computation intervals of one session: when they close, and what is lost in each.

The caller holds the store's version odd around everything here that writes.
Times are of the monotonic clock.
"""

from __future__ import annotations

from dataplane.histogram import bucket_of
from dataplane.loss import LossAttribution
from dataplane.session_state import BACKWARD, FORWARD, INT64_MAX, ROUND_TRIP
from dataplane.statistics import DelayRun
from dataplane.store import SessionStore


class Intervals:
    """The current interval of `store`, and the ones that were closed."""

    def __init__(self, store: SessionStore, length_ns: int, window: int) -> None:
        self.end_ns = INT64_MAX
        """When the current interval is due to close."""
        self.unix_offset_ns = 0
        """Unix time minus the monotonic clock."""
        self.loss = LossAttribution(window) if store.stateful else None
        """None where the Session-Reflector is stateless."""
        self._store = store
        self._head = store.state.head
        self._counters = self._head.counters
        self.length_ns = length_ns
        self._histograms = store.histograms
        self._carried_agreement = 0
        self._closed: list[int] = []
        self._bind()

    def add(self, sequence: int, forward_ns: int, backward_ns: int) -> None:
        """Count the delays of one packet."""
        delays, count, parity = self.delays, self._histograms.add, self._parity
        delays[FORWARD].update(forward_ns, sequence)
        count(parity, FORWARD, bucket_of(forward_ns))
        if self._store.one_way:
            return
        delays[BACKWARD].update(backward_ns, sequence)
        count(parity, BACKWARD, bucket_of(backward_ns))
        round_trip_ns = forward_ns + backward_ns
        delays[ROUND_TRIP].update(round_trip_ns, sequence)
        count(parity, ROUND_TRIP, bucket_of(round_trip_ns))

    def add_run(
        self, last_sequence: int, delays: list[DelayRun], buckets: list[list[tuple[int, int]]]
    ) -> None:
        """Count the delays of many packets, by direction: see `DelayState.extend`;
        `buckets` says how many of them each bucket is to count."""
        for direction in self._store.directions:
            self.delays[direction].extend(delays[direction], last_sequence)
            for bucket, number in buckets[direction]:
                self._histograms.add(self._parity, direction, bucket, number)

    def attribute(self, loss: LossAttribution) -> None:
        """Bring directional counts up to date with `loss`, in the total and the interval.

        Losses of an earlier interval are not counted in this one. Where the
        two cannot be told apart, the losses of this one stay undetermined.
        """
        forward, backward = loss.take()
        if not forward and not backward:
            return
        self._counters.forward_lost += forward
        self._counters.backward_lost += backward
        interval = self.current
        if interval.carried and self._carried_agreement == loss.agreement:
            if not backward:
                forward -= interval.carried
            elif not forward:
                backward -= interval.carried
            else:
                forward = backward = 0
        interval.carried = 0
        interval.forward_lost += forward
        interval.backward_lost += backward

    def roll(self, now_ns: int) -> None:
        """Close all intervals that are over."""
        while now_ns >= self.end_ns:
            over_ns = self.end_ns
            self.close(over_ns, over_ns, over_ns + self.length_ns, suspect=False)

    def close(self, end_ns: int, next_start_ns: int, next_end_ns: int, *, suspect: bool) -> None:
        """Close the current interval at `end_ns`; the next one counts from here."""
        carried = self.current.carried
        if self.loss is not None:
            carried = self.loss.pending
            self._carried_agreement = self.loss.agreement
        number = self._store.close_interval(
            self.unix_offset_ns + end_ns,
            next_start_monotonic_ns=next_start_ns,
            next_end_monotonic_ns=next_end_ns,
            carried=carried,
            suspect=suspect,
        )
        self._closed.append(number)
        self._bind()
        self.end_ns = next_end_ns

    def begin(self, start_ns: int, end_ns: int, *, suspect: bool) -> None:
        """Give the current interval its times and count from here."""
        interval = self.current
        interval.start_ns = self.unix_offset_ns + start_ns
        interval.start_monotonic_ns = start_ns
        interval.end_monotonic_ns = end_ns
        interval.suspect = suspect
        interval.carried = 0
        interval.forward_lost = interval.backward_lost = 0
        interval.at_start.assign(self._counters)
        self.end_ns = end_ns

    def _bind(self) -> None:
        """Take hold of the interval that is current now."""
        parity = self._head.closed % 2
        self.current = self._store.state.interval[parity]
        self.delays = list(self.current.delay)
        self._parity = parity

    def take_up(self, now_ns: int, resumed: bool) -> None:
        """Go on with the open run of an earlier process if `resumed`, else end it."""
        interval = self.current
        self.unix_offset_ns = interval.start_ns - interval.start_monotonic_ns
        end_ns = self.end_ns = interval.end_monotonic_ns
        interval.suspect = 1
        if not resumed:
            self.close(min(now_ns, end_ns), now_ns, INT64_MAX, suspect=True)
            self._head.running = 0
        elif now_ns >= end_ns:
            # Intervals in which nobody measured are left out.
            start_ns = now_ns - (now_ns - end_ns) % self.length_ns
            self.close(end_ns, start_ns, start_ns + self.length_ns, suspect=True)
            self.begin(start_ns, start_ns + self.length_ns, suspect=True)

    def take_closed(self) -> list[int]:
        """Numbers of the intervals closed since the last call."""
        closed, self._closed = self._closed, []
        return closed

    def interrupt(self) -> None:
        """The next packet is not to be compared with those before."""
        for delay in self.delays:
            delay.break_pairs()
        if self.loss is not None:
            self.loss.interrupt()
