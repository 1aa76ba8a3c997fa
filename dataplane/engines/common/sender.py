"""The Session-Sender role: sessions, and the ports that they share.

All sessions with the same source address and UDP port share one.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from dataplane.clock import Clock, ClockStatus, monotonic_ns
from dataplane.config import IPAddress, Sender, SenderSession
from dataplane.engines.base import (
    Attachment,
    EngineContext,
    EngineError,
    OperState,
    Resume,
    SenderDiscards,
    SenderDriver,
    SenderStatusReport,
)
from dataplane.engines.common.collecting import Collecting
from dataplane.engines.common.interfaces import InterfaceFilter
from dataplane.engines.common.loop import Loop
from dataplane.engines.common.run import SenderRun
from dataplane.engines.common.sender_port import SenderPort
from dataplane.engines.common.transport import (
    OpenTransport,
)
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.interval_rounds import set_local_clock

TOGETHER = 64
"""Sessions for which room is made, or given up, at once; packets have to wait meanwhile."""

START_NS = 60_000
"""Processor time that it takes to start a session: those that come together send their first
packets when all have been started, or they would skip slots meanwhile."""

FRESHENED = 256
"""Sessions that are brought up to date together before packets get their turn."""


class SenderRole:
    """Belongs to the thread of its loop."""

    def __init__(
        self,
        name: str,
        loop: Loop,
        clock: Clock,
        context: EngineContext,
        open_transport: OpenTransport,
        collecting: Collecting,
    ) -> None:
        self._name = name
        self._loop = loop
        self._open = open_transport
        self._collecting = collecting
        self._clock = clock
        self._context = context
        self._config = Sender(enabled=False)
        self._filter = InterfaceFilter(())
        self._ports: dict[tuple[IPAddress, int], SenderPort] = {}
        self._runs: dict[int, SenderRun] = {}
        self._discards: Counter[DiscardReason] = Counter()
        self._attachments: tuple[Attachment, ...] = ()
        self._mending = False
        self._known: ClockStatus | None = None
        """What sessions that run know of the clock."""
        clock.watch(self._interrupt)

    def configure(self, config: Sender | None, resume: Mapping[int, Resume]) -> Iterator[None]:
        """Run exactly `config`, session by session: packets may be served between the steps.

        New sessions begin once all of them are there, for what is slow is to make them;
        one that changes is replaced at a stroke.
        """
        config = config or Sender(enabled=False)
        old, self._config = self._config, config
        if config.interfaces != old.interfaces:
            self._filter = InterfaceFilter(config.interfaces)
            for port in self._ports.values():
                port.filter = self._filter
        gone = [ssid for ssid in self._runs if ssid not in config.sessions]
        for first in range(0, len(gone), TOGETHER):
            self._collecting.parting(gone[first : first + TOGETHER])
            for ssid in gone[first : first + TOGETHER]:
                self._remove(self._runs[ssid])
                self._context.emit(SenderStatusReport(ssid, None, "not configured"))
                yield
        new = [session for ssid, session in config.sessions.items() if ssid not in self._runs]
        for ssid, run in list(self._runs.items()):
            session = config.sessions[ssid]
            if _same_but_autostart(run.config, session):
                self._adapt(run, session)
            else:
                self._remove(run)
                for run in self._create(session, None):
                    run.start_by_itself(monotonic_ns())
            yield
        ready: list[SenderRun] = []
        for first in range(0, len(new), TOGETHER):
            together = new[first : first + TOGETHER]
            with self._collecting.rooms(together):
                for session in together:
                    ready += self._create(session, resume.get(session.ssid))
                    yield
        first_ns = _first_ns(ready)
        for run in ready:
            run.start_by_itself(monotonic_ns(), first_ns=first_ns)
            yield
        self._close_idle_ports()

    def start(self, ssid: int, duration_s: int | None) -> None:
        self._run(ssid).start(duration_s, monotonic_ns())

    def stop(self, ssid: int) -> None:
        run = self._run(ssid)
        if not run.wants_to_run:
            state = run.status.oper_state.value
            raise EngineError(f"session {ssid} is not running: it is {state}")
        _stop(run, "stopped by action")
        self._close_idle_ports()

    def clear(self, ssid: int) -> None:
        self._run(ssid).clear(monotonic_ns())

    def announce(self, ssid: int, packets: int) -> int:
        return self._run(ssid).announce(packets, monotonic_ns())

    def freshen(self) -> Iterator[None]:
        """Bring all stores up to date, session by session, as of now: replies that come
        meanwhile may wait to be taken in."""
        now_ns = monotonic_ns()
        for port in self._ports.values():
            port.drain()
        table = self._collecting.table
        together = {} if table is None else table.collectors
        expiring: set[int] = set()
        if table is not None and together:
            rows = np.fromiter(together, np.intp, len(together))
            rows = rows[self._collecting.stale(rows, now_ns)]
            for first in range(0, len(rows), FRESHENED):
                self._collecting.expire_together(rows[first : first + FRESHENED], now_ns)
                yield
            rows = np.fromiter(together, np.intp, len(together))
            expiring.update(rows[self._collecting.stale(rows, now_ns)].tolist(), table.untold)
        for run in [
            run for ssid, run in self._runs.items() if ssid not in together or ssid in expiring
        ]:
            run.freshen(now_ns)
            yield

    def tick(self, now_ns: int) -> None:
        """Once a second: look after what may be missing, or may have come back."""
        self._collecting.set_clock(self._clock)
        self._tell_clock()
        lost = {
            run for port in self._ports.values() if port.look_after() for run in port.runs.values()
        }
        if self._discards:
            self._context.emit(SenderDiscards(dict(self._discards)))
            self._discards.clear()
        self._tell_attachments()
        missing = self._filter.refresh()
        for run in self._runs.values():
            unfit = missing is not None or run in lost
            if run.status.oper_state is OperState.RUNNING and unfit:
                run.attempt(now_ns, "recovered")
        unwell = [run for run in self._runs.values() if run.unwell]
        if unwell and not self._mending:
            self._loop.begin(self._mend(unwell))

    def _interrupt(self) -> None:
        """What is under way has timestamps that are not to be compared with later ones."""
        for run in self._runs.values():
            run.interrupt()
        self._collecting.set_clock(self._clock)
        self._tell_clock()

    def _tell_clock(self) -> None:
        status, table = self._clock.status, self._collecting.table
        if status == self._known:
            return
        self._known = status
        if table is not None:
            rows = np.fromiter(table.collectors, np.intp, len(table.collectors))
            set_local_clock(table, rows, status)
            return
        for run in self._runs.values():
            run.know_clock()

    def close(self) -> None:
        self._collecting.parting(list(self._runs))
        for run in self._runs.values():
            run.close()
        for port in self._ports.values():
            port.close()
        self._tell_attachments()
        # Steps that are still to be taken are not to wake them up again.
        self._runs.clear()

    def _tell_attachments(self) -> None:
        found = {each.interface: each for port in self._ports.values() for each in port.attachments}
        attachments = tuple(found[name] for name in sorted(found))
        if attachments != self._attachments:
            self._attachments = attachments
            self._context.emit(SenderDriver(attachments))

    def _run(self, ssid: int) -> SenderRun:
        run = self._runs.get(ssid)
        if run is None:
            raise EngineError(f"session {ssid} does not exist")
        return run

    def _create(self, session: SenderSession, resume: Resume | None) -> list[SenderRun]:
        """The run that is still to be started; none where there is nothing left to do."""
        key = _port_of(session)
        port = self._ports.get(key)
        if port is None:
            port = self._ports[key] = SenderPort(
                *key, self._loop, self._clock, self._open, self._discards, self._collecting
            )
            port.filter = self._filter
        run = SenderRun(
            *(session, self._name, self._loop, self._clock, self._context, port),
            self._collecting,
        )
        self._runs[session.ssid] = run
        port.add(run)
        enabled, now_ns = self._config.enabled, monotonic_ns()
        if resume is None:
            return [run] if run.create(enabled, now_ns) else []
        # Results are kept while the role is disabled.
        disabled = dataclasses.replace(resume, oper_state=OperState.DISABLED)
        run.resume(resume if enabled else disabled, now_ns)
        return []

    def _mend(self, unwell: list[SenderRun]) -> Iterator[None]:
        """As `configure` for sessions that lack something: others come and go meanwhile."""

        def is_there(run: SenderRun) -> bool:
            return self._runs.get(run.config.ssid) is run

        self._mending = True
        try:
            bare = [run for run in unwell if run.collector is None]
            for first in range(0, len(bare), TOGETHER):
                together = [run for run in bare[first : first + TOGETHER] if is_there(run)]
                with self._collecting.rooms([run.config for run in together]):
                    for run in together:
                        if is_there(run):
                            run.provide(monotonic_ns())
                            yield
            first_ns = _first_ns(unwell)
            for run in unwell:
                if is_there(run):
                    run.recover(monotonic_ns(), first_ns)
                    yield
        finally:
            self._mending = False

    def _adapt(self, run: SenderRun, session: SenderSession) -> None:
        """What may change without a new session: `autostart`, and whether the role is enabled."""
        before, run.config = run.config, session
        disabled = run.status.oper_state is OperState.DISABLED
        if not self._config.enabled:
            if not disabled:
                _stop(run, "the Session-Sender is disabled", OperState.DISABLED)
        elif disabled:
            run.enable(monotonic_ns())
        elif session.autostart != before.autostart:
            if session.autostart and not run.wants_to_run:
                run.start(None, monotonic_ns())
            elif not session.autostart and run.wants_to_run:
                _stop(run, "stopped by configuration")

    def _remove(self, run: SenderRun) -> None:
        run.remove()
        del self._runs[run.config.ssid]
        self._ports[_port_of(run.config)].remove(run)

    def _close_idle_ports(self) -> None:
        for key, port in list(self._ports.items()):
            if not any(run.wants_to_run for run in port.runs.values()):
                port.close()
            if not port.runs:
                del self._ports[key]


def _first_ns(starting: list[SenderRun]) -> int:
    """When the first packets of sessions that are started together may leave."""
    return monotonic_ns() + len(starting) * START_NS


def _port_of(session: SenderSession) -> tuple[IPAddress, int]:
    return session.source_address, session.sender_udp_port


def _stop(run: SenderRun, reason: str, state: OperState = OperState.STOPPED) -> None:
    """Replies that have arrived, and wait to be taken in, are still the run's."""
    run.port.drain()
    run.stop(monotonic_ns(), reason, state)


def _same_but_autostart(old: SenderSession, new: SenderSession) -> bool:
    return old is new or dataclasses.replace(old, autostart=new.autostart) == new
