"""The collecting side of the Session-Sender role: a program in the driver.

The userspace engine sends, and takes in what the program hands up. Rules that hold here:

- Sessions run when the program is loaded and attached to every configured interface;
  until it is loaded they are starting, and short of the rest they fail, and `last_error`
  says why.
- What concerns the program belongs to the thread of `loop`, what concerns sessions to
  the userspace engine's.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pyroute2 import NetlinkError

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import update_element
from dataplane.clock import Clock, monotonic_ns
from dataplane.config import Sender, SenderSession
from dataplane.engines.base import Attachment, Report
from dataplane.engines.common.collecting import make_table
from dataplane.engines.common.loop import Loop
from dataplane.engines.driver.doorbell import Doorbell
from dataplane.engines.driver.interfaces import LOOK_NS, Devices, Kernel
from dataplane.engines.driver.loading import load_aside, not_filled_text
from dataplane.engines.xdp.collection import DriverCollector
from dataplane.engines.xdp.collector_layouts import COLLECTOR_INTERFACES, CollectorFlag
from dataplane.engines.xdp.collector_report import DriverReports
from dataplane.engines.xdp.collector_tables import CollectorTables
from dataplane.engines.xdp.driver_expiry import expire_together
from dataplane.engines.xdp.driver_rounds import announce_round, next_looks, stale
from dataplane.engines.xdp.hook import Hook, Share
from dataplane.engines.xdp.session_maps import Commands, Room, make_rooms, take_away
from dataplane.mapped_file import StoreError
from dataplane.stamp.collector import Collector
from dataplane.stamp.sender_rounds import Range, Rows
from dataplane.stamp.session_table import COLUMNS, SessionTable
from dataplane.stamp.timestamp import NS_PER_S
from dataplane.stamp.window import window_of
from dataplane.store import SessionStore

SOURCE = Path(__file__).with_name("collector.c")

RELOAD_NS = 30 * NS_PER_S
"""A program that the kernel has refused is tried again after this long."""

WAIT_S = 1.5
"""How long a configuration waits for the program, which takes some 3 s of processor time;
afterwards its sessions are there without it, and run once it is there. Together with what
the userspace engine waits this is less than the 5 s that sysrepo grants a change."""

RESUME_WAIT_S = 20.0
"""The same where sessions are to be resumed."""

_LOADING = "the XDP program is being loaded"


class CollectorProgram:
    """Compiles for some two seconds when it is made. Raises BpfError and LoadError."""

    def __init__(self) -> None:
        self.module = BpfModule(SOURCE)
        try:
            self.fd = self.module.load("collector")
            self.first = self.module.load("collector_first")
            for name in ("control", "controls"):
                self.module.load(name)
            self.module.free_compiler()
            self.tables = CollectorTables(self.module)
            self.commands = Commands(self.module)
        except Exception:
            self.module.close()
            raise

    def set_next(self, program: int) -> None:
        """What `first` goes on with."""
        key, value = (number.to_bytes(4, sys.byteorder) for number in (0, program))
        update_element(self.module.map_fd("next_programs"), key, value)


class CollectorRole:
    """A `Collecting`; see there for what is called in which thread."""

    def __init__(
        self, loop: Loop, clock: Clock, hook: Hook, emit: Callable[[Report], None]
    ) -> None:
        self._loop = loop
        self._emit = emit
        self._reports = DriverReports()
        self._clock = clock
        self._hook = hook
        self._config: Sender | None = None
        self._program: CollectorProgram | None = None
        self._share: Share | None = None
        self._problem: str | None = _LOADING
        self._settled = threading.Event()
        self._loading = False
        self._loader: threading.Thread | None = None
        self._failed_ns: int | None = None
        self._looked_ns = 0
        self._beyond: set[str] = set()
        """Names of interfaces that have no place in the map of those that are admitted."""

        self._closed = False
        self._table = make_table(COLUMNS)
        self._rooms: dict[int, Room] = {}
        self._kernel = Kernel()
        self._doorbell = Doorbell()
        loop.register(self._doorbell.fileno(), self._rung)

    def configure(self, config: Sender | None) -> None:
        self._config = config
        if self._program is not None:
            self._attend()
        elif config is not None:
            self._load()

    def tick(self) -> None:
        """Once a second: look after what may be missing, or may have come back."""
        self._report()
        if self._config is None:
            return
        now_ns = monotonic_ns()
        if self._program is None:
            if self._failed_ns is None or now_ns - self._failed_ns >= RELOAD_NS:
                self._load()
            return
        if self._problem is not None or now_ns - self._looked_ns >= LOOK_NS:
            self._attend()

    def close(self) -> None:
        """Detach and let go of everything; the sessions have been closed before. A program
        that is being loaded is waited for: what it posts to the loop is the last of it."""
        if self._loader is not None:
            self._loader.join()
        if self._share is not None:
            self._share.close()
            self._report()
        if self._program is not None:
            self._program.module.close()
        self._loop.unregister(self._doorbell.fileno())
        self._doorbell.close()
        self._kernel.close()
        self._closed = True

    def wait(self, resumed: bool) -> None:
        """Until the program is loaded or refused, for a while; not in the thread of the loop."""
        self._settled.wait(RESUME_WAIT_S if resumed else WAIT_S)

    def pending(self) -> str | None:
        return None if self._settled.is_set() else _LOADING

    def problem(self) -> str | None:
        return self._problem

    @property
    def table(self) -> SessionTable | None:
        """Their maps are in its arena as well."""
        return self._table

    def announced(self, rows: Rows, now_ns: int) -> None:
        assert self._table is not None
        announce_round(self._table, rows, now_ns)

    def next_timers(self, rows: Range, now_ns: int) -> npt.NDArray[np.int64]:
        assert self._table is not None
        return next_looks(self._table, rows, now_ns)

    def expire_together(self, rows: Rows, as_of_ns: int) -> None:
        assert self._table is not None
        if self._program is not None:
            expire_together(self._table, rows, self._program.commands, as_of_ns)

    def stale(self, rows: Rows, now_ns: int) -> npt.NDArray[np.bool_]:
        assert self._table is not None
        return stale(self._table, rows, now_ns)

    def set_clock(self, clock: Clock) -> None:
        if self._program is not None:
            _set_clock(self._program, clock)

    def prepare(self, resumed: bool) -> None:
        if resumed:
            self.wait(resumed=True)
        if self._program is None:
            raise StoreError(self._problem or _LOADING)

    @contextmanager
    def rooms(self, sessions: Sequence[SenderSession]) -> Iterator[None]:
        made: dict[int, Room] = {}
        if self._program is not None:
            arena = None if self._table is None else self._table.arena
            windows = {
                config.ssid: window_of(config)
                for config in sessions
                if config.ssid not in self._rooms
            }
            # Where there is no memory for all, each finds out by itself.
            with suppress(OSError):
                made = make_rooms(self._program.module, windows, arena)
        self._rooms |= made
        try:
            yield
        finally:
            for ssid in made:
                room = self._rooms.pop(ssid, None)
                if room is not None:
                    room.close()

    def collector(
        self, config: SenderSession, store: SessionStore, now_ns: int, resumed: bool
    ) -> Collector:
        assert self._program is not None
        try:
            return DriverCollector(
                *(config, store, self._program.module),
                now_ns=now_ns,
                resumed=resumed,
                table=self._table,
                room=self._rooms.pop(config.ssid, None),
            )
        except (MemoryError, OSError) as error:
            text = os.strerror(getattr(error, "errno", None) or errno.ENOMEM)
            raise StoreError(f"no room for session {config.ssid} in the kernel: {text}") from error

    def parting(self, ssids: Sequence[int]) -> None:
        if self._program is not None and self._table is not None:
            there = self._table.collectors
            rooms = [there[ssid].room for ssid in ssids if ssid in there]
            take_away(self._program.module, rooms)

    def opened(self, port: int) -> None:
        if self._program is not None:
            self._program.tables.ports.add(port)

    def closed(self, port: int) -> None:
        if self._program is not None:
            self._program.tables.ports.remove(port)

    def _load(self) -> None:
        """In a thread of its own: nobody else waits for the compiler."""
        if self._loading:
            return
        self._loading = True

        self._loader = load_aside(
            "xdp-collector-load", self._loop, CollectorProgram, self._loaded, self._not_loaded
        )

    def _not_loaded(self, problem: str) -> None:
        self._loading = False
        self._problem = problem
        self._failed_ns = monotonic_ns()
        self._settled.set()

    def _loaded(self, program: CollectorProgram) -> None:
        self._loading = False
        if self._closed:
            program.module.close()
            return
        _set_clock(program, self._clock)
        self._share = self._hook.collector(program.fd, program.first, program.set_next)
        self._program = program
        self._attend()
        self._settled.set()

    def _report(self) -> None:
        if self._program is not None and self._share is not None:
            attachments = tuple(map(self._noted, self._share.attachments))
            report = self._reports.next(attachments, self._program.tables.counts())
            if report is not None:
                self._emit(report)

    def _noted(self, attachment: Attachment) -> Attachment:
        """With what else an operator should know of the interface."""
        if attachment.interface not in self._beyond:
            return attachment
        note = (
            f"the index of {attachment.interface} is not below {COLLECTOR_INTERFACES}: "
            "replies without a VLAN tag are left to user space"
        )
        return replace(attachment, note="; ".join(filter(None, (attachment.note, note))))

    def _rung(self, _events: int) -> bool:
        if self._doorbell.rung() and self._program is not None:
            self._attend()
        return False

    def _attend(self) -> None:
        """Be attached where replies may arrive, or nowhere."""
        program, share, config = self._program, self._share, self._config
        assert program is not None
        assert share is not None
        if config is None or not config.enabled:
            share.refresh(())
            return
        self._looked_ns = monotonic_ns()
        try:
            found = self._kernel.devices(config.interfaces)
            self._beyond = {
                each.name for each in found.interfaces if each.index >= COLLECTOR_INTERFACES
            }
            self._fill(program.tables, found)
        except (OSError, NetlinkError) as error:
            share.refresh(())
            self._problem = not_filled_text(error)
        else:
            self._problem = found.missing or share.refresh(found.interfaces)

    def _fill(self, tables: CollectorTables, found: Devices) -> None:
        """Raises OSError and NetlinkError."""
        tables.set_locals(self._kernel.locals())
        tables.set_interfaces(found.devices)
        partial = any(interface.leaves_checksums for interface in found.interfaces)
        tables.set_flags(CollectorFlag.PARTIAL if partial else CollectorFlag(0))


def _set_clock(program: CollectorProgram, clock: Clock) -> None:
    program.tables.set_clock(clock.status)
    program.tables.set_monotonic_offset(-clock.unix_offset_ns)
