"""Two network elements and a wire: what engines are measured on when no load is offered.

    sender's namespace                    reflector's namespace
      wire fd00:a::1 ◄──────────────────► wire fd00:a::2

Engines run as they do in operation, in a host process each. What belongs to the
system under test runs on its core, everything else on the other; the kernel's part
of an interface is what its NAPI thread does, on the core of its end.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import TypeVar

from dataplane.config import Node, Reflector
from dataplane.engines import registry
from dataplane.engines.base import (
    EngineError,
    OperState,
    ReflectorStatus,
    SessionStatus,
    session_store_path,
)
from dataplane.host.client import EngineHost
from dataplane.session_state import Counters
from dataplane.store import SessionStore, StoreError
from tools.bench.bed import Settings as BedSettings
from tools.bench.errors import BenchError
from tools.bench.namespace import inside, on_core, place_napi, place_process
from tools.lab.errors import LabError
from tools.lab.kernel import delete_namespace, in_namespace, ip_batch, run, set_sysctls

DEVICE = "wire"
REFERENCE_ENGINE = "userspace"
"""The other end, where one engine's role is measured: it runs anywhere."""

READY_TIMEOUT_S = 30.0
POLL_S = 0.02

_STARTED = (OperState.RUNNING, OperState.COMPLETED)
_SYSCTLS = ("accept_dad=0", "dad_transmits=0", "accept_ra=0", "addr_gen_mode=1")
_count = itertools.count()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class End:
    """One of the two namespaces."""

    namespace: str
    address: IPv6Address
    mac: str
    core: int


def possible_interval_us(engine: str, wanted_us: int) -> int:
    """What comes nearest to an interval that one wants. Raises BenchError: the engine
    cannot be used here."""
    try:
        return max(wanted_us, registry.capabilities(engine).min_interval_us)
    except EngineError as error:
        raise BenchError(str(error)) from error


class HostEnd:
    """An engine's host process at one end."""

    def __init__(self, end: End, folder: Path, engine: str, observer_core: int) -> None:
        self.engine = engine
        self.folder = folder
        self._end = end
        # Its threads in this process observe; they start no other process in between.
        with inside(end.namespace), on_core(observer_core):
            self.host = EngineHost(folder, lambda _event: None)
        try:
            self.pid = self._await_pid()
            place_process(self.pid, end.core)
        except BaseException:
            self.host.close()
            raise

    def _await_pid(self) -> int:
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while (pid := self.host.pid) is None:
            if time.monotonic() > deadline_s:
                raise BenchError("the data-plane host does not start")
            time.sleep(POLL_S)
        return pid

    def apply(self, node: Node) -> None:
        """Run `node`. Raises BenchError where the engine cannot, with its reason."""
        try:
            self.host.apply(node)
        except EngineError as error:
            raise BenchError(str(error)) from error

    def await_reflector(self) -> None:
        """Return once the Session-Reflector runs. Raises BenchError."""

        def running() -> bool:
            status = self.host.reflector_status()
            if status is not None:
                self._check(status)
            return status is not None and status.oper_state is OperState.RUNNING

        self.wait(running, "the Session-Reflector does not start", READY_TIMEOUT_S)

    def await_sessions(self, count: int) -> None:
        """Return once `count` sessions run, or have run. Raises BenchError."""

        def running() -> bool:
            found = self.statuses()
            return sum(status.oper_state in _STARTED for status in found.values()) == count

        self.wait(running, f"not all of {count} sessions start", READY_TIMEOUT_S)

    def await_completion(self, timeout_s: float) -> None:
        """Return once all sessions have completed their runs. Raises BenchError."""

        def completed() -> bool:
            states = {status.oper_state for status in self.statuses().values()}
            return states == {OperState.COMPLETED}

        self.wait(completed, "not all sessions complete their runs", timeout_s)

    def statuses(self) -> dict[int, SessionStatus]:
        """Of all sessions. Raises BenchError where one has failed or the process has died."""
        found = self.host.status()
        for status in found.values():
            self._check(status)
        return found

    def _check(self, status: SessionStatus | ReflectorStatus) -> None:
        if self.host.pid != self.pid:
            raise BenchError(f"the process of engine {self.engine} has died")
        if status.oper_state is OperState.FAILED:
            raise BenchError(f"engine {self.engine} has failed: {status.last_error}")

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Poll until it holds. Raises BenchError after `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise BenchError(f"engine {self.engine}: {what} (waited {timeout_s:.0f} s)")
            time.sleep(POLL_S)

    def counters(self, ssids: Iterable[int]) -> dict[int, Counters]:
        """Packet counters of sessions as they stand, for which the engine has to bring its
        stores up to date. Raises BenchError.

        Each store is open for a moment only: there may be ten thousand.
        """
        try:
            self.host.freshen()
        except EngineError as error:
            raise BenchError(str(error)) from error
        return {ssid: self._look(ssid) for ssid in ssids}

    def _look(self, ssid: int) -> Counters:
        try:
            store = SessionStore.open(session_store_path(self.folder, ssid), writable=False)
        except StoreError as error:
            raise BenchError(str(error)) from error
        try:
            return Counters.from_buffer_copy(store.state.head.counters)
        finally:
            store.close()

    def store_bytes(self) -> int:
        """Of all files in the state folder, as far as memory is allocated to them."""
        return sum(entry.stat().st_blocks * 512 for entry in self.folder.iterdir())


class Pair:
    """Built by entering it, gone when it is left."""

    def __init__(self, settings: BedSettings | None = None) -> None:
        self.settings = settings or BedSettings()
        tag = f"stamp-{self.settings.tag}-{os.getpid()}-{next(_count)}"
        self.sender = End(
            f"{tag}-sender",
            IPv6Address("fd00:a::1"),
            "02:00:00:00:aa:01",
            self.settings.system_core,
        )
        self.reflector = End(
            f"{tag}-reflector",
            IPv6Address("fd00:a::2"),
            "02:00:00:00:bb:01",
            self.settings.generator_core,
        )
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Pair:
        if os.cpu_count() == 1:
            raise BenchError("two cores are needed: one is measured, one observes")
        try:
            self._build()
        except LabError as error:
            self._stack.close()
            raise BenchError(str(error)) from error
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, end: End, engine: str) -> HostEnd:
        """A host process at one end, gone with the pair. Raises BenchError."""
        folder = Path(tempfile.mkdtemp(prefix=f"stamp-bench-{os.getpid()}-", dir="/dev/shm"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        host = HostEnd(end, folder, engine, self.settings.generator_core)
        self._stack.callback(host.host.close)
        return host

    def reflect_any(self) -> HostEnd:
        """The reference engine's Session-Reflector, which answers whatever session."""
        host = self.run(self.reflector, REFERENCE_ENGINE)
        host.apply(
            Node(
                reflector=Reflector(
                    engine=REFERENCE_ENGINE,
                    interfaces=(DEVICE,),
                    source_address=self.reflector.address,
                    require_configured_session=False,
                )
            )
        )
        host.await_reflector()
        return host

    def keep(self, resource: contextlib.AbstractContextManager[T]) -> T:
        """Enter something that is to be left before the namespaces go."""
        return self._stack.enter_context(resource)

    def _build(self) -> None:
        ends = (self.sender, self.reflector)
        for end in ends:
            self._stack.callback(delete_namespace, end.namespace)
            run(["ip", "netns", "add", end.namespace])
            set_sysctls(
                end.namespace,
                [f"net/ipv6/conf/{scope}/{s}" for scope in ("all", "default") for s in _SYSCTLS],
            )
        near, far = (f"{DEVICE} netns {end.namespace}" for end in ends)
        ip_batch(None, [f"link add name {near} type veth peer name {far}"])
        for end, peer in (ends, ends[::-1]):
            ip_batch(
                end.namespace,
                [
                    "link set lo up",
                    f"link set {DEVICE} address {end.mac} up",
                    f"address add {end.address}/64 dev {DEVICE} nodad",
                    f"neighbour replace {peer.address} lladdr {peer.mac} dev {DEVICE} "
                    "nud permanent",
                ],
            )
            # NAPI, which XDP on the peer needs, and whole checksums, which it changes.
            switches = ["gro", "on", "tx", "off"]
            run(in_namespace(end.namespace, ["ethtool", "-K", DEVICE, *switches]))
        for end in ends:
            place_napi(end.namespace, DEVICE, end.core)
