"""One sender session: when it runs, and what its timers and its port have it do.

A session that should run is RUNNING, STARTING while its engine becomes ready, or
FAILED while something that it needs is missing; the schedule of a run that fails
half-way goes on, so that it recovers in step and the slots it missed are counted as
skipped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os

from dataplane.addresses import endpoint
from dataplane.clock import Clock, monotonic_ns, wall_ns
from dataplane.config import IPAddress, ReflectorMode, SenderSession, SsidZeroAction
from dataplane.engines.base import (
    WANT_TO_RUN,
    EngineContext,
    EngineError,
    OperState,
    Resume,
    SessionStatus,
)
from dataplane.engines.common.collecting import Collecting
from dataplane.engines.common.lane import rthdr_towards
from dataplane.engines.common.loop import Loop
from dataplane.engines.common.plan import EARLY_NS, Plan, phase_ns_of
from dataplane.engines.common.session_reports import SessionReports
from dataplane.engines.common.session_results import SessionResults
from dataplane.engines.common.transmitter import Transmitter
from dataplane.engines.common.transport import Datagram
from dataplane.stamp.collector import Collector
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.session_sender import SessionSender
from dataplane.store import StoreError

_NS_PER_US = 1_000

_WAITING = (OperState.STARTING, OperState.FAILED)

text_of = functools.lru_cache(maxsize=4096)(str)
"""Of an address, with a memory: thousands of sessions have few Session-Reflectors."""


class SenderRun:
    """Belongs to the thread of its loop."""

    __slots__ = (
        "__weakref__",
        "_clock",
        "_collecting",
        "_duration_s",
        "_first_start_ns",
        "_plan",
        "_reports",
        "_results",
        "_sender",
        "_skipped",
        "config",
        "destination",
        "port",
        "rthdr",
        "traffic_class",
    )

    def __init__(
        self,
        config: SenderSession,
        engine: str,
        loop: Loop,
        clock: Clock,
        context: EngineContext,
        port: Transmitter,
        collecting: Collecting,
    ) -> None:
        self.config = config
        self._collecting = collecting
        self.port = port
        self.rthdr = rthdr_towards(config.segments, config.reflector_address)
        self.destination = text_of(config.reflector_address)
        self.traffic_class = config.dscp << 2
        self._reports = SessionReports(config.ssid, engine, context)
        self._results = SessionResults(config.ssid, context.state_dir, collecting, self._reports)
        self._clock = clock
        self._sender: SessionSender | None = None
        self._duration_s: int | None = None
        self._first_start_ns: int | None = None
        self._skipped = 0
        self._plan = Plan(loop)

    @property
    def status(self) -> SessionStatus:
        return self._reports.status

    @property
    def wants_to_run(self) -> bool:
        return self.status.oper_state in WANT_TO_RUN

    @property
    def running(self) -> bool:
        """Not so where the session has failed after its timer had fired."""
        return self._reports.status.oper_state is OperState.RUNNING

    @property
    def collector(self) -> Collector | None:
        """What receives replies; None where the session has no store."""
        return self._results.collector

    def create(self, enabled: bool, now_ns: int) -> bool:
        """Begin the life of a session that has just been configured, with an empty store.

        Whether it is to run: `start_by_itself` is to be called then.
        """
        state, reason, error = OperState.STOPPED, "configured", None
        if self._collecting.pending() is None:
            try:
                self._open_store(None, now_ns)
            except StoreError as failure:
                reason = error = str(failure)
        if not enabled:
            state = OperState.DISABLED
            reason = error or "the Session-Sender is disabled"
        elif self.config.autostart:
            if error is None:
                return True
            state = OperState.FAILED
        self._reports.enter(state, reason, error)
        return False

    def start_by_itself(
        self, now_ns: int, reason: str = "configured", *, first_ns: int = 0
    ) -> None:
        """As sessions do that nobody starts: not all at the same moment, and none before
        `first_ns`."""
        self.begin(now_ns, max(now_ns, first_ns) + phase_ns_of(self.config), reason)

    def resume(self, resume: Resume, now_ns: int) -> None:
        """Take up the life of a session whose host process died."""
        try:
            self._open_store(resume, now_ns)
        except StoreError as error:
            self._reports.enter(OperState.FAILED, str(error), str(error))
            return
        reason = "resumed after the data-plane host was replaced"
        if resume.oper_state not in WANT_TO_RUN:
            self._reports.enter(resume.oper_state, reason)
        elif resume.run_started_ns is None:
            self._duration_s = resume.duration_s
            self.begin(now_ns, now_ns, reason)
        else:
            self._duration_s = resume.duration_s
            self._start_sender(resume.run_started_ns, resume.run_first_sequence, now_ns)
            self.attempt(now_ns, reason)

    def begin(self, now_ns: int, start_ns: int, reason: str) -> None:
        """Begin a run whose first packet is due at `start_ns`."""
        self._first_start_ns = start_ns
        self.attempt(now_ns, reason)

    def start(self, duration_s: int | None, now_ns: int) -> None:
        """The start action. Raises EngineError."""
        state = self.status.oper_state
        if state is OperState.DISABLED:
            raise EngineError("the Session-Sender is disabled")
        if state is OperState.RUNNING:
            raise EngineError(f"session {self.config.ssid} is already running")
        self._sender = None
        self._duration_s = duration_s
        self.begin(now_ns, now_ns, "started by action")

    def enable(self, now_ns: int) -> None:
        """The role has been enabled."""
        if self.config.autostart:
            self.start_by_itself(now_ns, "the Session-Sender is enabled")
        else:
            self._reports.enter(OperState.STOPPED, "the Session-Sender is enabled")

    def attempt(self, now_ns: int, reason: str) -> None:
        """Run, wait for the engine, or fail for a reason; to be repeated while STARTING or
        FAILED, and while RUNNING to find out whether something has gone missing."""
        pending = self._collecting.pending()
        if pending is not None:
            self._reports.enter(OperState.STARTING, pending)
            return
        problem = self.port.problem()
        if problem is None and self._results.collector is None:
            try:
                self._open_store(None, now_ns)
            except StoreError as error:
                problem = str(error)
        if problem is not None:
            self._plan.packet_at(self, None)
            if self.running:
                self._results.hold(True)
                self._rest()
            self._reports.enter(OperState.FAILED, problem, problem)
            return
        if self.running and self._sender is not None:
            return
        collector = self._results.collector
        assert collector is not None
        if self._sender is None:
            start_ns = max(now_ns, self._first_start_ns or 0)
            self._start_sender(start_ns, collector.next_sequence, now_ns)
        else:
            self._results.hold(False)
        assert self._sender is not None
        self._reports.enter(OperState.RUNNING, reason)
        self.plan()
        self.complete(now_ns)
        self._rest()

    @property
    def unwell(self) -> bool:
        """Whether it lacks something: `provide` and `recover` are to be called then."""
        return self._results.collector is None or self.status.oper_state in _WAITING

    def provide(self, now_ns: int) -> None:
        """Make the store that could not be made before, if it can be by now."""
        if self._results.collector is None:
            # A session that is to run says why it cannot.
            with contextlib.suppress(StoreError):
                self._open_store(None, now_ns)

    def recover(self, now_ns: int, first_ns: int = 0) -> None:
        """Run, if that is what the session should do, and can do by now; a run that begins
        does so as `start_by_itself` says."""
        state = self.status.oper_state
        if state not in _WAITING:
            return
        reason = "recovered" if state is OperState.FAILED else "its engine is ready"
        if self._sender is None:
            self.start_by_itself(now_ns, reason, first_ns=first_ns)
        else:
            self.attempt(now_ns, reason)

    def stop(self, now_ns: int, reason: str, state: OperState = OperState.STOPPED) -> None:
        """End the run, if there is one; packets under way become unresolved."""
        self._plan.nothing(self)
        self._sender = None
        self._first_start_ns = None
        self._duration_s = None
        self._results.stop(now_ns)
        self._reports.enter(state, reason)

    def complete(self, now_ns: int) -> None:
        """End the run if the fate of its last packet is known."""
        sender, collector = self._sender, self._results.collector
        if sender is None or collector is None or not sender.complete or collector.in_flight:
            return
        if self.running:
            self.stop(now_ns, "the run is complete", OperState.COMPLETED)

    def close(self) -> None:
        """Let go of everything; the store stays on disk as it is."""
        self._plan.nothing(self)
        self._sender = None
        self._results.close()

    def remove(self) -> None:
        """The session is gone, and so is what it collected."""
        self.close()
        self._results.remove()

    def _open_store(self, resume: Resume | None, now_ns: int) -> None:
        """Raises StoreError."""
        self._results.open(self.config, self.port.lane_of(self.config), resume, now_ns)
        self.port.changed(self.config.ssid)
        self._results.expire(now_ns)
        assert self._results.collector is not None
        self._results.collector.rest()

    def _start_sender(self, start_ns: int, first_sequence: int, now_ns: int) -> None:
        collector = self._results.collector
        assert collector is not None
        config = self.config
        if self._duration_s is not None:
            config = dataclasses.replace(config, duration_s=self._duration_s, packet_count=None)
        resumed = collector.next_sequence > first_sequence
        self._sender = SessionSender(
            config,
            start_ns=start_ns,
            first_sequence=first_sequence,
            first_slot=self._slots_used(start_ns, now_ns) if resumed else 0,
            row=collector.row,
        )
        self._sender.sequence = collector.next_sequence
        self._first_start_ns = None
        self.know_clock()
        collector.start(now_ns, wall_ns())
        self._reports.begin_run(start_ns, first_sequence, self._duration_s)

    def _slots_used(self, start_ns: int, now_ns: int) -> int:
        """Slots of a resumed run up to that of the last packet before the interruption."""
        since_ns = self._results.last_sent_ns(now_ns) - start_ns
        return max(0, since_ns // (self.config.interval_us * _NS_PER_US) + 1)

    def clear(self, now_ns: int) -> None:
        """Forget results. Raises EngineError where there is no store."""
        if self._results.collector is None:
            reason = self._collecting.pending() or self.status.last_error
            raise EngineError(f"session {self.config.ssid} has no store: {reason}")
        self.port.drain()
        self._results.collector.clear(now_ns)
        self._plan_collecting()
        self.complete(now_ns)

    def announce(self, packets: int, now_ns: int) -> int:
        """See `Engine.announce`. Raises EngineError."""
        self.port.drain()
        sender, collector = self._sender, self._results.collector
        if sender is None or collector is None:
            raise EngineError(f"session {self.config.ssid} is not running")
        first = sender.sequence
        collector.announce(packets, wall_ns(), now_ns, self.port.t1_method)
        sender.sequence = first + packets
        self._plan_collecting()
        return first

    def know_clock(self) -> None:
        """The clock status is another one."""
        status = self._clock.status
        self._results.know_clock(status)
        if self._sender is not None:
            self._sender.tai_offset_s = status.tai_offset_s

    def interrupt(self) -> None:
        """Timestamps of before are not to be compared with those that follow. Replies that
        wait to be taken in are late: nobody knows on which side of it they arrived."""
        collector = self._results.collector
        if collector is None or not collector.running:
            return
        collector.interrupt(self.port.emptied_ns)
        self._results.tell_closed()
        if self._sender is not None and self._sender.complete:
            self.port.ending(self)
        self._rest()

    def note_error(self, text: str) -> None:
        """Something went wrong that does not end the run."""
        self._reports.note_error(text)

    @property
    def due_ns(self) -> int | None:
        """When the next packet is due; None where none is."""
        return None if self._sender is None else self._sender.next_send_ns()

    @property
    def tai_offset_s(self) -> int:
        """TAI minus UTC, as it is put into packets."""
        return 0 if self._sender is None else self._sender.tai_offset_s

    def send(self, now_ns: int) -> None:
        """Send the packet that is due, or is about to be, by itself; nothing where the session
        has failed. One that is begun early is counted as if it were due already."""
        early_ns = self._early_ns(now_ns)
        if self.end_interval(now_ns + early_ns):
            now_ns = monotonic_ns()
            early_ns = self._early_ns(now_ns)
        sender, collector, port = self._sender, self._results.collector, self.port
        if sender is None or collector is None or not self.running:
            return
        now_ns += early_ns
        sequence, self._skipped = sender.sequence, sender.skipped
        collector.sent(sequence, wall_ns() + early_ns, now_ns, port.t1_method, early_ns)
        failure = port.dress(self)
        error = self._clock.error_estimate(self.config.timestamp_format)
        if early_ns:
            port.hold(now_ns)
        t1_ns = wall_ns()
        payload = sender.send(now_ns, t1_ns, error)
        if failure is None:
            failure = port.transmit(self, sequence, payload, t1_ns)
        self.sent(failure)

    def prepare(self, buffer: memoryview, offset: int, now_ns: int, t1_ns: int) -> bool:
        """Put the packet that is due into its place in a burst; False if none is.

        `sent` is to be called then. `t1_ns` is for the time being.
        """
        self.end_interval(now_ns)
        sender, collector = self._sender, self._results.collector
        if sender is None or collector is None or not self.running:
            return False
        self._skipped = sender.skipped
        collector.sent(sender.sequence, t1_ns, now_ns)
        error = self._clock.error_estimate(self.config.timestamp_format)
        sender.send_into(buffer, offset, now_ns, t1_ns, error)
        return True

    def sent(self, failure: OSError | None) -> None:
        """The packet has left, or has failed to."""
        sender, collector = self._sender, self._results.collector
        if failure is not None:
            self.send_failed(failure)
        if sender is None or collector is None:
            return
        skipped = sender.skipped - self._skipped
        if skipped > 0:
            collector.skipped(skipped)
        self.plan()
        self._rest()

    def send_failed(self, failure: OSError) -> None:
        """The sequence number stays used up: what cannot be sent, because the
        network is unreachable for instance, is to be seen as loss."""
        self._results.count_send_error()
        peer = endpoint(self.destination, self.config.reflector_udp_port)
        self.note_error(f"cannot send to {peer}: {os.strerror(failure.errno or 0)}")

    def _early_ns(self, now_ns: int) -> int:
        due_ns = self.due_ns
        return 0 if due_ns is None else min(max(0, due_ns - now_ns), EARLY_NS)

    def end_interval(self, now_ns: int) -> bool:
        """Close the current interval before a packet is sent after its end: what has arrived
        until then is read before. Whether it was over."""
        collector, over = self._results.collector, False
        while collector is not None and now_ns >= collector.interval_end_ns:
            self.collect(now_ns)
            over = True
        return over

    def receive(self, datagram: Datagram, source: IPAddress, now_ns: int, arrived_ns: int) -> None:
        """A reply that carries this session's SSID. `arrived_ns` is T4 by the
        monotonic clock."""
        collector = self._results.collector
        if collector is None:
            return
        collector.receive(
            datagram.data,
            source=source,
            source_port=datagram.source_port,
            t4_ns=datagram.received_ns,
            now_ns=now_ns,
            arrived_ns=arrived_ns,
            t4_method=datagram.received_method,
        )
        self._received(now_ns)

    def received_run(self, now_ns: int) -> None:
        """The collector has received many replies at once."""
        if self._results.collector is not None:
            self._received(now_ns)

    def _received(self, now_ns: int) -> None:
        collector = self._results.collector
        assert collector is not None
        if collector.ssid_zero_seen and self.config.on_ssid_zero is SsidZeroAction.STOP:
            if self.running:
                text = "the Session-Reflector answers with SSID 0"
                self.stop(now_ns, text)
                self.note_error(text)
        elif self._sender is not None and self._sender.complete:
            self.port.ending(self)
        if self.config.reflector_mode is ReflectorMode.STATELESS:
            # Others are looked into with each reply.
            self._rest()

    def discard(self, reason: DiscardReason) -> None:
        if self._results.collector is not None:
            self._results.collector.discard(reason)

    def refine_t1(self, sequence: int, t1_ns: int) -> None:
        if self._results.collector is not None:
            self._results.collector.refine_t1(sequence, t1_ns)

    def plan(self) -> None:
        """Have the next packet sent when it is due, and losses and ends of intervals noticed."""
        due_ns = None
        if self._sender is not None and self.running:
            due_ns = self._sender.next_send_ns()
        self._plan.packet_at(self, due_ns)
        self._plan_collecting()

    def _plan_collecting(self) -> None:
        collector = self._results.collector
        self._plan.expiry_at(self, None if collector is None else collector.next_timer_ns())

    def collect(self, now_ns: int) -> None:
        """Time out what is due, and close intervals."""
        collector = self._results.collector
        if collector is None:
            return
        due_ns, as_of_ns = collector.next_timer_ns(), self.port.emptied_ns
        if due_ns is None or as_of_ns < due_ns:
            self.port.drain()
            as_of_ns = now_ns
        self._results.expire(as_of_ns)
        self._plan_collecting()
        self.complete(now_ns)
        self._rest()

    def freshen(self, now_ns: int) -> None:
        """Bring the store up to date."""
        collector = self._results.collector
        if collector is None:
            return
        due_ns = collector.next_timer_ns()
        if due_ns is not None and due_ns <= now_ns:
            self.collect(now_ns)
        else:
            self._results.expire(now_ns)

    def tell_closed(self) -> None:
        """Intervals have been closed together with others'."""
        self._results.tell_closed()
        self._rest()

    def _rest(self) -> None:
        """Let go of what was made to look into the session by itself: for thousands it would
        take more memory than all else of them."""
        if self._plan.shared and self._results.collector is not None:
            self._results.collector.rest()
