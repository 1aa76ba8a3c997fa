"""The computation intervals of one session: when they close, and what is lost in each.

The caller holds the store's version odd around everything here that writes.
Times are of the monotonic clock.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dataplane.histogram import bucket_of, distance
from dataplane.loss import LossAttribution
from dataplane.session_state import (
    Counters,
    IntervalState,
    SessionHead,
)
from dataplane.stamp.session_table import (
    END_NS,
    HELD,
    LENGTH_NS,
    UNIX_OFFSET_NS,
    Cell,
    Row,
    due_ns_of,
)
from dataplane.statistics import INT64_MAX, DelayRun, DelayState
from dataplane.store import SessionStore


class _Overlays:
    """What is looked at through ctypes."""

    __slots__ = ("counters", "current", "delays", "head", "histograms", "parity")

    def __init__(self, store: SessionStore) -> None:
        state = store.state
        self.head = state.head
        self.counters = self.head.counters
        self.parity = self.head.closed % 2
        self.current = state.interval[self.parity]
        self.delays = list(self.current.delay)
        self.histograms = store.histograms


class Intervals:
    """The current interval of `store`, and the ones that were closed."""

    __slots__ = (
        "_carried_agreement",
        "_closed",
        "_overlays",
        "_store",
        "loss",
        "row",
    )

    end_ns = Cell(END_NS)
    """When the current interval is due to close."""

    unix_offset_ns = Cell(UNIX_OFFSET_NS)
    """Unix time minus the monotonic clock."""

    held = Cell(HELD)
    """Whether nothing is sent: all intervals are suspect meanwhile."""

    length_ns = Cell(LENGTH_NS)

    def __init__(
        self, store: SessionStore, length_ns: int, window: int, row: Row | None = None
    ) -> None:
        self.row = row or Row.alone()
        self.end_ns = INT64_MAX
        self.loss = LossAttribution(window) if store.stateful else None
        """None where the Session-Reflector is stateless."""
        self._store = store
        self.length_ns = length_ns
        self._carried_agreement = 0
        self._closed: tuple[int, ...] = ()
        self._overlays: _Overlays | None = None

    @property
    def _views(self) -> _Overlays:
        if self._overlays is None:
            self._overlays = _Overlays(self._store)
        return self._overlays

    @property
    def head(self) -> SessionHead:
        return self._views.head

    @property
    def counters(self) -> Counters:
        return self._views.counters

    @property
    def current(self) -> IntervalState:
        return self._views.current

    @property
    def delays(self) -> list[DelayState]:
        """Of the current interval, by direction."""
        return self._views.delays

    def rest(self) -> None:
        """Let go of what can be made again."""
        self._overlays = None

    def add(self, sequence: int, forward_ns: int, backward_ns: int) -> None:
        """Count the delays of one packet."""
        views = self._views
        values_ns = (forward_ns, backward_ns, forward_ns + backward_ns)
        for direction in self._store.directions:
            delay, value_ns = views.delays[direction], values_ns[direction]
            delay.update(value_ns, sequence)
            bucket = bucket_of(distance(value_ns, delay.origin_ns))
            views.histograms.add(views.parity, direction, bucket)

    def add_run(
        self, last_sequence: int, delays: list[DelayRun], buckets: npt.NDArray[np.int64]
    ) -> None:
        """Count the delays of many packets, by direction: see `DelayState.extend`.
        `buckets` has a row of theirs for each direction, as `HistogramStore.add_each`
        wants them."""
        views = self._views
        directions = self._store.directions
        for direction in directions:
            views.delays[direction].extend(delays[direction], last_sequence)
        views.histograms.add_each(views.parity, buckets[: len(directions)].ravel())

    def attribute(self, loss: LossAttribution) -> None:
        """Bring directional counts up to date with `loss`, in the total and the interval.

        Losses of an earlier interval are not counted in this one. Where the
        two cannot be told apart, the losses of this one stay undetermined.
        """
        forward, backward = loss.take()
        if not forward and not backward:
            return
        self.counters.forward_lost += forward
        self.counters.backward_lost += backward
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

    def roll(self, as_of_ns: int, now_ns: int) -> None:
        """Close all intervals that were over as of then."""
        while as_of_ns >= self.end_ns:
            over_ns, held_up = self.end_ns, self._held_up(now_ns)
            self.close(over_ns, over_ns, over_ns + self.length_ns, suspect=held_up)
            # The schedule's slots at the beginning of this one have passed unused as well.
            self.current.suspect = held_up

    def _held_up(self, now_ns: int) -> bool:
        """Whether nothing is sent, or a packet that was due in the current interval has not
        been for as long as a whole one takes."""
        if self.held:
            return True
        due_ns = due_ns_of(self.row)
        return due_ns < self.end_ns and now_ns - due_ns >= self.length_ns

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
        self.was_closed(number)
        self.end_ns = next_end_ns

    def was_closed(self, number: int) -> None:
        """The store has another current interval."""
        self._closed += (number,)
        if self.row.table is not None:
            self.row.table.untold.add(self.row.index)
        self.rest()

    def begin(self, start_ns: int, end_ns: int, *, suspect: bool) -> None:
        """Give the current interval its times and count from here."""
        interval = self.current
        interval.start_ns = self.unix_offset_ns + start_ns
        interval.start_monotonic_ns = start_ns
        interval.end_monotonic_ns = end_ns
        interval.suspect = suspect
        interval.carried = 0
        interval.forward_lost = interval.backward_lost = 0
        interval.at_start.assign(self.counters)
        self.end_ns = end_ns

    def take_up(self, now_ns: int, resumed: bool) -> None:
        """Go on with the open run of an earlier process if `resumed`, else end it."""
        interval = self.current
        self.unix_offset_ns = interval.start_ns - interval.start_monotonic_ns
        end_ns = self.end_ns = interval.end_monotonic_ns
        interval.suspect = 1
        if not resumed:
            self.close(min(now_ns, end_ns), now_ns, INT64_MAX, suspect=True)
            self.head.running = 0
        elif now_ns >= end_ns:
            # Intervals in which nobody measured are left out.
            start_ns = now_ns - (now_ns - end_ns) % self.length_ns
            self.close(end_ns, start_ns, start_ns + self.length_ns, suspect=True)
            self.begin(start_ns, start_ns + self.length_ns, suspect=True)

    def take_closed(self) -> list[int]:
        """Numbers of the intervals closed since the last call."""
        if not self._closed:
            return []
        closed, self._closed = list(self._closed), ()
        if self.row.table is not None:
            self.row.table.untold.discard(self.row.index)
        return closed

    def interrupt(self) -> None:
        """The next packet is not to be compared with those before."""
        for delay in self.delays:
            delay.break_pairs()
        if self.loss is not None:
            self.loss.interrupt()
