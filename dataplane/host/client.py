"""The supervisor of the host process: what the rest of the system calls.

Rules that hold here:

- Reading status or results asks no other process: status is kept up to date
  by reports, results are read from the memory-mapped stores.
- The last accepted configuration outlives the host process. When the process
  dies or hangs it is replaced, and every session goes on as it was: running
  ones with their next sequence number and the rest of their duration, stopped
  ones stopped.
- Events are delivered one after another by a thread of their own, which may
  call back into this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dataplane.clock import wall_ns
from dataplane.config import Node
from dataplane.engines.base import (
    WANT_TO_RUN,
    EngineError,
    Event,
    HostRestarted,
    IntervalClosed,
    OperState,
    ReflectorStatus,
    Report,
    Resume,
    Role,
    SenderDiscards,
    SenderDriver,
    SenderStatusReport,
    SessionStateChanged,
    SessionStatus,
)
from dataplane.host.limits import raise_descriptor_limit
from dataplane.host.messages import (
    Apply,
    ChannelError,
    Clear,
    Freshen,
    Ping,
    Request,
    Shutdown,
    Start,
    Stop,
    difference,
)
from dataplane.host.process import HostDied, HostProcess
from dataplane.host.results import Results
from dataplane.stamp.errors import DiscardReason

APPLY_TIMEOUT_S = 60.0
"""A host that needs longer for a configuration is taken to hang, and replaced.
Sessions that run are served meanwhile."""

ACTION_TIMEOUT_S = 1.5
"""Less than the 2 s that sysrepo grants an action callback."""

PING_INTERVAL_S = 2.0
PING_TIMEOUT_S = 5.0
"""A host whose engines do not answer for so long is replaced."""

FRESHEN_TIMEOUT_S = 5.0

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
BACKOFF_RESET_S = 10.0
"""A host that lived this long died of something new."""

RESUME_TIMEOUT_S = 30.0
CLOSE_GRACE_S = 3.0

log = logging.getLogger(__name__)


class EngineHost:
    """Starts a host process and keeps one running until `close`.

    `state_dir` is created where it is missing and belongs to this object
    alone; a folder below /run or /dev/shm keeps results off the disk.
    `on_event` is called from a thread of its own. All methods may be called
    from any thread. Raises EngineError where the folder is in use.
    """

    def __init__(self, state_dir: Path, on_event: Callable[[Event], None]) -> None:
        raise_descriptor_limit()
        self._results = Results(state_dir)
        self._state_dir = state_dir
        self._created_dir = not state_dir.exists()
        state_dir.mkdir(parents=True, exist_ok=True)
        self._lock_fd = _lock_folder(state_dir)
        self._results.remove_all()
        self._on_event = on_event
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._requests = itertools.count(1)
        self._apply_lock = threading.Lock()
        self._lock = threading.Lock()
        self._node = Node()
        self._sessions: dict[int, SessionStatus] = {}
        self._sender_discards: Counter[DiscardReason] = Counter()
        self._sender_driver = SenderDriver()
        self._reflector: ReflectorStatus | None = None
        self._resume: dict[int, Resume] = {}
        self._host: HostProcess | None = None
        self._ready = threading.Event()
        self._closing = False
        self._restarts = 0
        self._hung: str | None = None
        self._applying = False
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._dispatcher = threading.Thread(target=self._dispatch, name="host-events", daemon=True)
        self._supervisor = threading.Thread(
            target=self._supervise, name="host-supervisor", daemon=True
        )
        self._dispatcher.start()
        self._supervisor.start()

    @property
    def restarts(self) -> int:
        """How often the host process was replaced."""
        return self._restarts

    @property
    def pid(self) -> int | None:
        """Of the host process; None between two."""
        host = self._host
        return None if host is None or not self._ready.is_set() else host.pid

    def apply(self, node: Node) -> None:
        """Run exactly `node` from now on. Raises EngineError: nothing has changed then."""
        with self._apply_lock:
            delta = difference(self._node, node)
            self._applying = True
            try:
                self._request(
                    Apply(next(self._requests), delta), APPLY_TIMEOUT_S, replace_hung=True
                )
            finally:
                self._applying = False
            with self._lock:
                self._node = node
            kept = {} if node.sender is None else node.sender.sessions
            self._results.forget(ssid for ssid in self._results.open_ssids() if ssid not in kept)

    def start(self, ssid: int, duration_s: int | None = None) -> None:
        """Begin a run; `duration_s` overrides the configured one. Raises EngineError."""
        self._request(Start(next(self._requests), ssid, duration_s), ACTION_TIMEOUT_S)

    def stop(self, ssid: int) -> None:
        """End a run. Raises EngineError."""
        self._request(Stop(next(self._requests), ssid), ACTION_TIMEOUT_S)

    def clear(self, ssid: int) -> None:
        """Forget the results of a session. Raises EngineError."""
        self._request(Clear(next(self._requests), ssid), ACTION_TIMEOUT_S)

    def freshen(self) -> None:
        """Have the stores brought up to date, which may be a second old, or some seconds
        where there are thousands. Raises EngineError."""
        self._request(Freshen(next(self._requests)), FRESHEN_TIMEOUT_S)

    def status(self) -> dict[int, SessionStatus]:
        """Of every sender session, by SSID."""
        with self._lock:
            return dict(self._sessions)

    def reflector_status(self) -> ReflectorStatus | None:
        """None where the node has no Session-Reflector."""
        with self._lock:
            return self._reflector

    def sender_discards(self) -> dict[DiscardReason, int]:
        """Packets on the Session-Sender's ports that belong to no session."""
        with self._lock:
            return dict(self._sender_discards)

    def sender_driver(self) -> SenderDriver:
        """What was collected in the driver since the supervisor was created, and where
        that is done now; up to a second old."""
        with self._lock:
            return self._sender_driver

    @property
    def results(self) -> Results:
        """What the sessions have measured."""
        return self._results

    def close(self) -> None:
        """Stop the host and remove what it kept. Idempotent."""
        with self._apply_lock:
            if self._closing:
                return
            self._closing = True
        os.eventfd_write(self._wakeup, 1)
        self._supervisor.join()
        self._events.put(None)
        if threading.current_thread() is not self._dispatcher:
            self._dispatcher.join()
        self._results.remove_all()
        os.close(self._wakeup)
        (self._state_dir / _LOCK_NAME).unlink(missing_ok=True)
        os.close(self._lock_fd)
        if self._created_dir:
            with contextlib.suppress(OSError):
                self._state_dir.rmdir()

    def _request(self, message: Request, timeout_s: float, *, replace_hung: bool = False) -> None:
        """Raises EngineError. Being slow is no reason to replace the host, and the
        sessions of others with it: unless `replace_hung`, that is left to pings."""
        deadline_s = time.monotonic() + timeout_s
        if not self._ready.wait(timeout_s):
            raise EngineError("the data-plane host is not running")
        host = self._host
        if self._closing or host is None:
            raise EngineError("the data-plane host is not running")
        try:
            host.request(message, max(0.1, deadline_s - time.monotonic()))
        except TimeoutError:
            text = f"the data-plane host did not answer in {timeout_s:g} s"
            if not replace_hung:
                raise EngineError(text) from None
            self._hung = text
            with self._lock:
                if self._host is host:
                    self._ready.clear()
            host.kill()
            raise EngineError(text) from None

    def _supervise(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        reason = ""
        while not self._closing:
            began_s = time.monotonic()
            how = self._live(reason)
            if self._closing:
                break
            reason = self._hung or how
            self._hung = None
            log.error("the data-plane host ended: %s", reason)
            self._mourn(reason)
            if time.monotonic() - began_s >= BACKOFF_RESET_S:
                backoff_s = BACKOFF_FIRST_S
            self._pause(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    def _live(self, reason: str) -> str:
        """One host process from its start to its end, and how it ended."""
        try:
            host = HostProcess(self._state_dir, ACTION_TIMEOUT_S)
        except OSError as error:
            return f"it cannot be started: {error}"
        self._host = host
        try:
            self._watch(host, reason)
        except (ChannelError, HostDied, TimeoutError) as error:
            self._hung = self._hung or str(error)
            host.kill()
        finally:
            with self._lock:
                self._ready.clear()
                self._host = None
            how = host.bury(CLOSE_GRACE_S)
        return how

    def _watch(self, host: HostProcess, reason: str) -> None:
        """Serve the channel until it ends. Raises TimeoutError where the host hangs."""
        resumed = host.submit(
            Apply(next(self._requests), difference(Node(), self._node), self._resume)
        )
        resume_deadline_s = time.monotonic() + RESUME_TIMEOUT_S
        ping = None
        ping_s = 0.0
        ending = None
        while True:
            now_s = time.monotonic()
            if self._closing and ending is None:
                ending = host.submit(Shutdown(next(self._requests)))
                end_deadline_s = now_s + CLOSE_GRACE_S
            if ending is not None and now_s > end_deadline_s:
                raise TimeoutError("the data-plane host did not stop")
            if not self._ready.is_set():
                if resumed.done():
                    self._resumed(resumed.exception(), reason)
                    ping_s = now_s + PING_INTERVAL_S
                elif now_s > resume_deadline_s:
                    raise TimeoutError("the data-plane host did not resume its sessions")
            elif ping is not None:
                if ping.done():
                    ping, ping_s = None, now_s + PING_INTERVAL_S
                elif self._applying:
                    # Requests are carried out one after another: the ping waits.
                    ping_s = now_s
                elif now_s - ping_s > PING_TIMEOUT_S:
                    raise TimeoutError(f"the data-plane host hung for {PING_TIMEOUT_S:g} s")
            elif now_s >= ping_s and ending is None:
                ping, ping_s = host.submit(Ping(next(self._requests))), now_s
            wait_s = min(0.5, max(0.0, ping_s - now_s)) if ping is None else 0.5
            wait_s = wait_s if self._ready.is_set() else 0.5
            if host.readable(wait_s, self._wakeup):
                if not host.receive(self._take_report):
                    return
            else:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wakeup)

    def _resumed(self, error: BaseException | None, reason: str) -> None:
        if error is not None:
            raise ChannelError(f"the data-plane host refused to resume: {error}")
        self._resume = {}
        self._ready.set()
        if reason:
            self._restarts += 1
            self._events.put(HostRestarted(self._restarts, reason))

    def _mourn(self, reason: str) -> None:
        """Remember how the sessions stood, and say that they do not run."""
        text = f"the data-plane host ended: {reason}"
        with self._lock:
            if not self._resume:
                self._resume = {
                    ssid: Resume(
                        status.oper_state,
                        status.run_started_ns,
                        status.run_first_sequence,
                        status.duration_s,
                    )
                    for ssid, status in self._sessions.items()
                }
            sessions, reflector = dict(self._sessions), self._reflector
            self._sender_driver = dataclasses.replace(self._sender_driver, attachments=())
        for ssid, status in sessions.items():
            if status.oper_state in WANT_TO_RUN:
                failed = SessionStatus(OperState.FAILED, status.engine, wall_ns(), text)
                self._take_report(SenderStatusReport(ssid, failed, text))
        if reflector is not None and reflector.oper_state in WANT_TO_RUN:
            self._take_reflector(
                ReflectorStatus(OperState.FAILED, reflector.engine, wall_ns(), text), text
            )

    def _pause(self, seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        while not self._closing and time.monotonic() < deadline_s:
            time.sleep(min(0.05, seconds))

    def _take_report(self, report: Report) -> None:
        if isinstance(report, IntervalClosed):
            self._events.put(report)
        elif isinstance(report, SenderDiscards):
            with self._lock:
                self._sender_discards.update(report.packets)
        elif isinstance(report, SenderDriver):
            with self._lock:
                self._sender_driver = _added(self._sender_driver, report)
        elif isinstance(report, SenderStatusReport):
            self._take_session(report.ssid, report.status, report.reason)
        else:
            self._take_reflector(report.status, report.reason)

    def _take_session(self, ssid: int, status: SessionStatus | None, reason: str) -> None:
        with self._lock:
            old = self._sessions.get(ssid)
            if status is None:
                self._sessions.pop(ssid, None)
            else:
                self._sessions[ssid] = status
        if status is not None and (old is None or old.oper_state is not status.oper_state):
            self._changed(ssid, Role.SENDER, old, status, reason)

    def _take_reflector(self, status: ReflectorStatus | None, reason: str) -> None:
        with self._lock:
            old, self._reflector = self._reflector, status
        if status is not None and (old is None or old.oper_state is not status.oper_state):
            self._changed(None, Role.REFLECTOR, old, status, reason)

    def _changed(
        self,
        ssid: int | None,
        role: Role,
        old: SessionStatus | ReflectorStatus | None,
        new: SessionStatus | ReflectorStatus,
        reason: str,
    ) -> None:
        self._events.put(
            SessionStateChanged(
                ssid, role, None if old is None else old.oper_state, new.oper_state, reason
            )
        )

    def _dispatch(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self._on_event(event)
            except Exception:
                log.exception("the receiver of an event failed")


def _added(total: SenderDriver, report: SenderDriver) -> SenderDriver:
    return SenderDriver(
        report.attachments,
        total.collected + report.collected,
        total.duplicates + report.duplicates,
        total.late + report.late,
        dict(Counter(total.handed_up) + Counter(report.handed_up)),
    )


_LOCK_NAME = "lock"


def _lock_folder(folder: Path) -> int:
    """Two supervisors on one folder would remove each other's results."""
    fd = os.open(folder / _LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise EngineError(f"state folder {folder} is in use by another process") from None
    return fd
