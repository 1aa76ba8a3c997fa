"""The Session-Reflector role: a program in the driver, the userspace engine behind it.

Rules that hold here:

- The role runs when the program is attached to every interface and the userspace
  engine listens; short of that nothing is answered, and `last_error` says why.
- Every stateful session has one counter, in the program's map: the userspace engine
  takes its numbers from there.
- Counters of both are folded into one store, `FOLD_NS` apart while packets come.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from pyroute2 import NetlinkError

from dataplane.clock import Clock, monotonic_ns, wall_ns
from dataplane.config import Node, Reflector, ReflectorSession
from dataplane.engines.base import (
    Engine,
    EngineContext,
    OperState,
    ReflectorStatus,
    ReflectorStatusReport,
    Report,
    reflector_store_path,
)
from dataplane.engines.common.loop import EASY_NS, Loop
from dataplane.engines.driver.doorbell import Doorbell
from dataplane.engines.driver.interfaces import LOOK_NS, Devices, Kernel
from dataplane.engines.driver.loading import Load, not_filled_text
from dataplane.engines.userspace import engine as userspace
from dataplane.engines.xdp.fib import FibAccess
from dataplane.engines.xdp.hook import Hook, Share
from dataplane.engines.xdp.ledger import Ledger
from dataplane.engines.xdp.program import ReflectorProgram
from dataplane.engines.xdp.reflector_layouts import ReflectorFlag
from dataplane.engines.xdp.shared_state import SharedState
from dataplane.stamp.session_reflector import SessionState
from dataplane.stamp.timestamp import NS_PER_S

FOLD_NS = NS_PER_S // 20
"""How old what the store says about packets may be while they come."""

IDLE_FOLD_NS = NS_PER_S // 4
"""The same for the first packets after a pause: data traffic has the same core."""

RELOAD_NS = 30 * NS_PER_S
"""A program that the kernel has refused is tried again after this long."""

SLOW_PATH = "slow-path"
"""Folder, below the state folder, of the userspace engine behind the program."""

FIB_NOTE = "loopback-forwarding"
"""File in the state folder: see `FibAccess`."""

_LOADING = "the XDP program is being loaded"
_DISABLED = "the Session-Reflector is disabled"


class ReflectorRole:
    """Belongs to the thread of its loop."""

    def __init__(
        self, name: str, loop: Loop, clock: Clock, context: EngineContext, hook: Hook
    ) -> None:
        self._hook = hook
        self._name = name
        self._loop = loop
        self._clock = clock
        self._emit = context.emit
        self._path = reflector_store_path(context.state_dir)
        self._slow_dir = context.state_dir / SLOW_PATH
        self._fib_note = context.state_dir / FIB_NOTE
        self._config: Reflector | None = None
        self._status: ReflectorStatus | None = None
        self._program: ReflectorProgram | None = None
        self._attachments: Share | None = None
        self._ledger: Ledger | None = None
        self._slow: Engine | None = None
        self._fib: FibAccess | None = None
        self._slow_config: Reflector | None = None
        self._slow_status: ReflectorStatus | None = None
        self._looked_ns = 0
        self._kernel = Kernel()
        self._doorbell = Doorbell()
        self._loading: Load[ReflectorProgram] | None = None
        self._load_problem: tuple[str, int] | None = None
        self._locals_due = self._sessions_due = False
        """What the tables of the program are to be told yet."""

        self._folder = loop.timer(self._fold)
        loop.register(self._doorbell.fileno(), self._rung)

    def configure(self, config: Reflector | None) -> None:
        """Raises StoreError where the counters have no room."""
        if config is None:
            self._remove()
            return
        self._config = config
        if self._ledger is None:
            self._start()
        assert self._ledger is not None
        if self._program is not None:
            self._ledger.fold(self._program.tables)
        self._ledger.serve(config)
        if self._program is None:
            self._load()
        else:
            self._serve("configured")

    def tick(self) -> None:
        """Once a second: look after what may be missing, or may have come back."""
        if self._config is None:
            return
        if self._program is None:
            self._load()
            return
        if self._fib is not None:
            self._fib.refresh()
        self._program.tables.set_clock(self._clock.status)
        status = self._status
        failed = status is not None and status.oper_state is OperState.FAILED
        if monotonic_ns() - self._looked_ns >= LOOK_NS:
            self._locals_due = True
        if failed or self._locals_due:
            self._attend("recovered")

    def close(self) -> None:
        """Detach and let go of everything; the counters stay on disk."""
        if self._loading is not None:
            self._loading.abandon()
        self._let_go()
        self._config = None
        self._loop.unregister(self._doorbell.fileno())
        self._doorbell.close()
        self._kernel.close()

    def _start(self) -> None:
        self._fib = FibAccess(self._fib_note)
        self._slow_dir.mkdir(exist_ok=True)
        slow_path = reflector_store_path(self._slow_dir)
        # What an earlier process has left there is in the ledger already.
        slow_path.unlink(missing_ok=True)
        self._ledger = Ledger(self._path, slow_path)
        self._slow = userspace.create_behind(
            EngineContext(self._slow_dir, self._heard_from_slow, self._share_state)
        )

    def _remove(self) -> None:
        if self._config is None:
            return
        self._let_go()
        self._path.unlink(missing_ok=True)
        self._config = self._status = None
        self._emit(ReflectorStatusReport(None, "not configured"))

    def _let_go(self) -> None:
        self._folder.at(None)
        if self._attachments is not None:
            self._attachments.close()
        if self._fib is not None:
            self._fib.close()
        if self._slow is not None:
            self._slow.close()
        if self._ledger is not None:
            if self._program is not None:
                self._ledger.fold(self._program.tables)
            self._ledger.close()
            reflector_store_path(self._slow_dir).unlink(missing_ok=True)
            _remove_folder(self._slow_dir)
        if self._program is not None:
            self._program.close()
        self._attachments = self._slow = self._ledger = self._program = self._fib = None
        self._slow_config = self._slow_status = None
        self._load_problem = None

    def _load(self) -> None:
        """In a thread of its own: packets and requests do not wait for the compiler."""
        assert self._config is not None
        if self._load_problem is not None:
            text, since_ns = self._load_problem
            if monotonic_ns() - since_ns < RELOAD_NS:
                self._enter(OperState.FAILED, text, text)
                return
        elif self._config.enabled:
            self._enter(OperState.STARTING, _LOADING)
        else:
            self._enter(OperState.DISABLED, _DISABLED)
        if self._loading is None:
            self._loading = Load(
                "xdp-load", self._loop, ReflectorProgram, self._loaded, self._not_loaded
            )

    def _not_loaded(self, problem: str) -> None:
        self._loading = None
        self._load_problem = problem, monotonic_ns()
        if self._config is not None:
            self._enter(OperState.FAILED, problem, problem)

    def _loaded(self, program: ReflectorProgram) -> None:
        self._loading = None
        self._load_problem = None
        if self._config is None:
            program.close()
            return
        self._program = program
        self._attachments = self._hook.reflector(program.fd)
        self._folder.at(monotonic_ns() + FOLD_NS, EASY_NS)
        self._serve("the XDP program is loaded")

    def _serve(self, reason: str) -> None:
        assert self._program is not None
        self._program.tables.set_clock(self._clock.status)
        self._locals_due = self._sessions_due = True
        self._attend(reason)

    def _rung(self, _events: int) -> bool:
        if self._doorbell.rung() and self._program is not None and self._config is not None:
            self._locals_due = True
            self._attend("recovered")
        return False

    def _attend(self, reason: str) -> None:
        """Be attached, listen, answer; or fail for a reason."""
        program, config = self._program, self._config
        assert program is not None
        assert config is not None
        try:
            self._fill_tables()
            self._answer(reason)
        except (OSError, NetlinkError) as error:
            program.tables.disable()
            self._configure_slow(_disabled(config))
            problem = not_filled_text(error)
            self._enter(OperState.FAILED, problem, problem)

    def _fill_tables(self) -> None:
        """What is due, be it since an attempt that failed. Raises OSError and NetlinkError."""
        program, ledger, config = self._program, self._ledger, self._config
        assert program is not None
        assert ledger is not None
        assert config is not None
        if self._locals_due:
            program.tables.set_locals(self._kernel.locals())
            self._locals_due = False
        if self._sessions_due:
            program.tables.set_sessions(config.sessions, ledger.resumed)
            self._sessions_due = False

    def _answer(self, reason: str) -> None:
        """Raises OSError and NetlinkError."""
        program, attachments, config = self._program, self._attachments, self._config
        assert program is not None
        assert attachments is not None
        assert config is not None
        self._looked_ns = monotonic_ns()
        found = self._kernel.devices(config.interfaces)
        if not config.enabled:
            attachments.refresh(())
            self._configure_slow(config)
            program.tables.disable()
            self._enter(OperState.DISABLED, _DISABLED)
            return
        problem = attachments.refresh(found.interfaces)
        problem = found.missing or problem
        program.tables.set_interfaces(found.devices, attachments.generic)
        self._configure_slow(config if problem is None else _disabled(config))
        slow = self._slow_status
        if problem is None and slow is not None and slow.oper_state is not OperState.RUNNING:
            problem = slow.last_error
        if problem is not None:
            program.tables.disable()
            self._enter(OperState.FAILED, problem, problem)
            return
        program.tables.set_config(config, self._flags(found))
        self._probe_neighbours(found)
        self._enter(OperState.RUNNING, reason, slow.last_error if slow is not None else None)

    def _probe_neighbours(self, found: Devices) -> None:
        """The kernel notices that a neighbour has moved, or gone, when it sends it packets
        of its own: what a program sends does not make it ask. Raises NetlinkError."""
        assert self._program is not None
        stale = self._kernel.stale_neighbours({device.index for device in found.devices.values()})
        if not stale:
            return
        used = self._program.tables.next_hop_macs()
        for neighbour in stale:
            if neighbour.mac in used:
                self._kernel.probe(neighbour)

    def _flags(self, found: Devices) -> ReflectorFlag:
        assert self._slow is not None
        flags = ReflectorFlag(0)
        if not self._slow.capabilities.tlvs:
            flags |= ReflectorFlag.TRAILERS
        if any(interface.leaves_checksums for interface in found.interfaces):
            flags |= ReflectorFlag.PARTIAL
        return flags

    def _configure_slow(self, config: Reflector) -> None:
        """The engine behind the program has reported its state when this returns."""
        assert self._slow is not None
        wanted = dataclasses.replace(config, engine=userspace.NAME)
        if wanted != self._slow_config:
            self._slow_config = wanted
            self._slow.configure(Node(reflector=wanted))

    def _heard_from_slow(self, report: Report) -> None:
        """In the userspace engine's thread."""
        if isinstance(report, ReflectorStatusReport):
            before, self._slow_status = self._slow_status, report.status
            if before != report.status:
                self._loop.post(self._slow_changed)

    def _slow_changed(self) -> None:
        if self._program is not None and self._config is not None:
            self._attend("recovered")

    def _share_state(self, session: ReflectorSession, state: SessionState) -> SessionState:
        def take(count: int) -> int:
            program = self._program
            if program is not None:
                with contextlib.suppress(KeyError):
                    return program.take_numbers(session.key, count)
            # The program serves the session no more, or not yet.
            return state.take(count)

        return SharedState(state, take)

    def _fold(self, now_ns: int) -> None:
        self._folder.at(now_ns + IDLE_FOLD_NS, EASY_NS)
        ledger, program = self._ledger, self._program
        if ledger is not None and program is not None and ledger.fold(program.tables):
            self._folder.at(now_ns + FOLD_NS, EASY_NS)

    def _enter(self, state: OperState, reason: str, error: str | None = None) -> None:
        old = self._status
        attached = self._attachments.attachments if self._attachments is not None else ()
        since_ns = old.since_ns if old is not None and old.oper_state is state else wall_ns()
        last = error or (old.last_error if old is not None else None)
        new = ReflectorStatus(state, self._name, since_ns, last, attached)
        if new != old:
            self._status = new
            self._emit(ReflectorStatusReport(new, reason))


def _disabled(config: Reflector) -> Reflector:
    return dataclasses.replace(config, enabled=False)


def _remove_folder(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        # Something of somebody else is in it.
        return
