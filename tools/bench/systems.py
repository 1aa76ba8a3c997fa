"""Systems under test: what is put into the bed's second namespace and measured.

A system is started for one role and stopped again; in between, the bed offers
packets, and `delivered` says how many of them came to what end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Protocol

from dataplane.clock import monotonic_ns
from dataplane.config import STAMP_PORT
from dataplane.engines import registry
from dataplane.engines.base import session_store_path
from dataplane.store import SessionStore
from tools.bench import topology
from tools.bench.bed import Bed
from tools.bench.cell import NO_SYSTEM, CellKey, Role
from tools.bench.errors import BenchError
from tools.bench.namespace import NICE, inside, scheduled
from tools.bench.shape import Shape
from tools.bench.system_process import CAPACITY
from tools.lab.kernel import in_namespace

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
LISTEN_TIMEOUT_S = 5.0
"""How long a command is waited for that is to bind STAMP's UDP port; one that receives
by other means is measured then."""

BARE_PROGRAMS = {"xdp-tx": "bare_tx", "xdp-drop": "bare_drop", "xdp-pass": "pass_on"}
"""Names of systems, and of functions of sink.c."""

WARM_UP_S = {"userspace": 4.0}
"""Engines that receive in another way once packets come fast, and how long that may take: the
compiler shares their core."""

_LOG = "log"
_FIRST_PACKETS_S = 1.5
"""Sessions spread their first packet over a second."""


class System(Protocol):
    """One thing to be measured, in one role."""

    @property
    def name(self) -> str: ...

    @property
    def warm_up_s(self) -> float:
        """For how long packets come before it is as it is to be measured."""

    def start(self, bed: Bed, role: Role) -> None:
        """Raises BenchError where it cannot run here."""

    def stop(self) -> None: ...

    def capacity(self) -> int | None:
        """STAMP packets that one trial may offer; None for any number."""

    def expect(self, packets: int) -> int:
        """Some `packets` STAMP packets are about to be offered; the first sequence
        number that they must have."""

    def collected(self) -> int:
        """STAMP packets that have ended in the system as they should, so far."""

    def ran_ns(self) -> int:
        """For how long its processes have run so far."""

    def paused(self) -> AbstractContextManager[None]:
        """Its processes, if it has any, do not run meanwhile."""


class Idle:
    """Nothing runs: the kernel forwards data, and that is all."""

    def __init__(self, name: str = "none") -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def warm_up_s(self) -> float:
        return 0.0

    def start(self, bed: Bed, role: Role) -> None:
        pass

    def stop(self) -> None:
        pass

    def capacity(self) -> int | None:
        return None

    def expect(self, packets: int) -> int:
        return 0

    def collected(self) -> int:
        return 0

    def ran_ns(self) -> int:
        return 0

    def paused(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


class BareProgram(Idle):
    """An XDP program that does nothing else than its action: what an engine can come near to."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._program = BARE_PROGRAMS[name]
        self._bed: Bed | None = None

    def start(self, bed: Bed, role: Role) -> None:
        bed.sinks.attach(self._program, bed.system_namespace, topology.NEAR)
        self._bed = bed

    def stop(self) -> None:
        if self._bed is not None:
            self._bed.sinks.detach(self._bed.system_namespace, topology.NEAR)
            self._bed = None

    def collected(self) -> int:
        assert self._bed is not None
        counts = self._bed.sinks.counts("bare_drop")
        return counts.reflected if self._program == "bare_drop" else 0


class Listener(Idle):
    """Anything that listens: a command that answers STAMP at the bed's address."""

    def __init__(self, label: str, command: str) -> None:
        """`command` runs in the system's namespace, on its core; it should listen on
        [fd00:a::2]:862 and answer any SSID."""
        super().__init__(label)
        self._command = shlex.split(command)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, bed: Bed, role: Role) -> None:
        if role is not Role.REFLECTOR:
            raise BenchError(f"{self.name} can only be measured as a reflector")
        core = bed.settings.system_core
        self._process = subprocess.Popen(
            in_namespace(
                bed.system_namespace,
                ["nice", "-n", str(NICE), "taskset", "-c", str(core), *self._command],
            ),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline_ns = monotonic_ns() + int(LISTEN_TIMEOUT_S * 1e9)
        while not _listens(bed) and self._process.poll() is None and monotonic_ns() < deadline_ns:
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            _end(self._process)
            self._process = None

    def ran_ns(self) -> int:
        return 0 if self._process is None else scheduled(self._process.pid)[0]


class EngineSystem:
    """One of our engines, in a process of its own on the system's core."""

    def __init__(self, engine: str, sessions: int, sids: int) -> None:
        self._engine = engine
        self._sessions = sessions
        self._sids = sids
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._stores: list[SessionStore] = []

    @property
    def name(self) -> str:
        return self._engine

    @property
    def warm_up_s(self) -> float:
        return WARM_UP_S.get(self._engine, 0.0)

    def start(self, bed: Bed, role: Role) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="stamp-bench-", dir="/dev/shm")
        command = [
            *(sys.executable, "-m", "tools.bench.system_process"),
            f"--engine={self._engine}",
            f"--state-dir={self._folder.name}",
            f"--core={bed.settings.system_core}",
        ]
        self._process = subprocess.Popen(
            in_namespace(bed.system_namespace, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(Path(self._folder.name) / _LOG).open("wb"),
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            self._ask(do="configure", role=role.value, sessions=self._sessions, sids=self._sids)
            self._await_running()
            if role is Role.COLLECTOR:
                time.sleep(_FIRST_PACKETS_S)
                self._stores = [
                    SessionStore.open(
                        session_store_path(Path(self._folder.name), ssid), writable=False
                    )
                    for ssid in range(1, self._sessions + 1)
                ]
        except BaseException:
            self.stop()
            raise

    def _await_running(self) -> None:
        deadline_ns = monotonic_ns() + int(READY_TIMEOUT_S * 1e9)
        while True:
            found = self._ask(do="state")
            if found["states"] == ["running"]:
                return
            if monotonic_ns() > deadline_ns or "failed" in found["states"]:
                raise BenchError(
                    f"engine {self._engine} is {', '.join(found['states']) or 'silent'}: "
                    f"{'; '.join(found['errors'])}"
                )
            time.sleep(0.02)

    def stop(self) -> None:
        for store in self._stores:
            store.close()
        self._stores = []
        if self._process is not None:
            _end(self._process)
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def capacity(self) -> int | None:
        return self._sessions * CAPACITY // 2 if self._stores else None

    def expect(self, packets: int) -> int:
        if not self._stores:
            return 0
        each = -(-packets // self._sessions) + 1
        firsts = self._ask(do="announce", sessions=self._sessions, packets=each)["firsts"]
        if len(firsts) != 1:
            raise BenchError(f"sessions of engine {self._engine} are out of step: {firsts}")
        return int(firsts[0])

    def collected(self) -> int:
        # An engine that collects in the driver brings its stores up to date when asked.
        self._ask(do="freshen")
        return sum(store.state.head.counters.received for store in self._stores)

    def ran_ns(self) -> int:
        return 0 if self._process is None else scheduled(self._process.pid)[0]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def usage(self) -> tuple[int, int]:
        """Processor time so far in nanoseconds, and the most memory so far in bytes."""
        used = self._ask(do="usage")
        return used["cpu_ns"], used["rss_bytes"]

    def _last_words(self) -> str:
        assert self._folder is not None
        lines = (Path(self._folder.name) / _LOG).read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process is not None
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        line = _exchange(to, back, json.dumps(request))
        if line is None:
            raise BenchError(f"the process of engine {self._engine} has died: {self._last_words()}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise BenchError(f"engine {self._engine}: {found['error']}")
        return found


def _exchange(to: IO[bytes], back: IO[bytes], request: str) -> bytes | None:
    try:
        to.write(request.encode() + b"\n")
        to.flush()
    except BrokenPipeError:
        return None
    return back.readline() or None


def _listens(bed: Bed) -> bool:
    """Whether a UDP socket has STAMP's port."""
    with inside(bed.system_namespace):
        text = Path("/proc/thread-self/net/udp6").read_text()
    return any(line.split()[1].endswith(f":{STAMP_PORT:04X}") for line in text.splitlines()[1:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process and its children to end, and see to it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            process.wait()
        break
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def catalogue(shape: Shape, listeners: Mapping[str, str]) -> Callable[[CellKey], System]:
    """What makes the system of a cell; `listeners` are commands by label."""

    def make(key: CellKey) -> System:
        if key.system == NO_SYSTEM:
            return Idle()
        if key.system in BARE_PROGRAMS:
            return BareProgram(key.system)
        if key.system in listeners:
            return Listener(key.system, listeners[key.system])
        if key.system in registry.ENGINES:
            return EngineSystem(key.system, shape.sessions, shape.sids)
        raise BenchError(f"there is no engine {key.system} in this version")

    return make
