"""The xdp engine's collector in namespaces, against the userspace engine's reflector."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_FLAGS_DRV_MODE, LoadError, attach_xdp
from dataplane.config import (
    SENDER_PORT,
    STAMP_PORT,
    DelayMode,
    Node,
    Reflector,
    ReflectorMode,
    ReflectorSession,
    Sender,
    SenderSession,
)
from dataplane.engines.base import (
    AttachmentMode,
    Engine,
    EngineContext,
    EngineError,
    OperState,
    ReflectorStatusReport,
    Report,
    Resume,
    SenderDriver,
    SenderStatusReport,
    session_store_path,
)
from dataplane.engines.driver.interfaces import Kernel
from dataplane.engines.driver.layouts import LocalFlag
from dataplane.engines.userspace import engine as userspace
from dataplane.engines.xdp.collector import CollectorProgram
from dataplane.engines.xdp.engine import XdpEngine
from dataplane.measurement import TimestampMethod
from dataplane.stamp.timestamp import TimestampFormat
from dataplane.statistics import LossSummary
from dataplane.store import SessionStore
from tests.integration.engines.network import (
    BACK,
    FORTH,
    REFLECTOR,
    SENDER,
    Network,
    eventually,
    inside,
    ip,
)
from tests.integration.engines.other_end import counting_at

pytestmark = pytest.mark.integration

SESSION = SenderSession(
    5, REFLECTOR, SENDER, segments=(FORTH,), interval_us=5_000, packet_count=200,
    reflector_mode=ReflectorMode.STATEFUL,
)  # fmt: skip
SERVED = ReflectorSession(5, SENDER, segments=(BACK,), mode=ReflectorMode.STATEFUL)
INTERFACES = ("va",)
KERNEL = TimestampMethod.KERNEL_SOFTWARE.code


class Running:
    """The xdp engine of the sender's node."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.reports: list[Report] = []
        self._stores: list[SessionStore] = []
        with inside(network.sender):
            self.engine = XdpEngine(EngineContext(folder, self.reports.append))

    def send(self, *sessions: SenderSession, resume: dict[int, Resume] | None = None) -> None:
        sender = Sender(
            engine="xdp", interfaces=INTERFACES, sessions={each.ssid: each for each in sessions}
        )
        self.engine.configure(Node(sender=sender), resume)

    def store(self, ssid: int = 5) -> SessionStore:
        path = session_store_path(self.folder, ssid)
        self._stores.append(SessionStore.open(path, writable=False))
        return self._stores[-1]

    def states(self, ssid: int = 5) -> list[OperState | None]:
        """All that the session has gone through; None where it was gone."""
        return [
            report.status and report.status.oper_state
            for report in self.reports
            if isinstance(report, SenderStatusReport) and report.ssid == ssid
        ]

    def state(self, ssid: int = 5) -> OperState | None:
        return next(reversed(self.states(ssid)), None)

    def reflects(self) -> bool:
        found = [r.status for r in self.reports if isinstance(r, ReflectorStatusReport)]
        return bool(found) and found[-1] is not None and found[-1].oper_state is OperState.RUNNING

    def last_error(self) -> str | None:
        found = [r.status for r in self.reports if isinstance(r, SenderStatusReport)]
        return found[-1].last_error if found[-1] is not None else None

    def counts(self) -> dict[str, int]:
        """What the program has done, by what became of packets."""
        program = self.engine._collector._program
        assert program is not None
        counts = program.tables.counts()
        up = {reason.name: count for reason, count in counts.handed_up.items() if count}
        return {"collected": counts.collected} | up

    def close(self) -> None:
        for store in self._stores:
            store.close()
        self.engine.close()


@pytest.fixture
def running(network: Network) -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:
        running = Running(network, Path(folder))
        yield running
        running.close()


@pytest.fixture
def reflector(network: Network) -> Iterator[Callable[[Reflector], None]]:
    engines: list[Engine] = []
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:

        def start(config: Reflector) -> None:
            with inside(network.reflector):
                engines.append(userspace.create(EngineContext(Path(folder), lambda _report: None)))
            engines[-1].configure(Node(reflector=config))

        yield start
        for engine in engines:
            engine.close()


def serving(*sessions: ReflectorSession) -> Reflector:
    return Reflector(sessions={session.key: session for session in sessions})


@pytest.mark.parametrize("fmt", TimestampFormat, ids=str)
@pytest.mark.parametrize("mode", DelayMode, ids=str)
def test_a_run_is_collected_in_the_driver(
    running: Running,
    reflector: Callable[[Reflector], None],
    fmt: TimestampFormat,
    mode: DelayMode,
) -> None:
    reflector(serving(SERVED))
    running.send(dataclasses.replace(SESSION, timestamp_format=fmt, delay_mode=mode))
    eventually(lambda: running.state() is OperState.COMPLETED, "the run is complete")
    snapshot = running.store().snapshot(1_000)
    assert (snapshot.sent, snapshot.received, snapshot.duplicates) == (200, 200, 0)
    assert snapshot.loss == LossSummary(0, 0, 0, 0)
    assert [record.sequence for record in snapshot.records] == list(range(200))
    assert {record.t4_method for record in snapshot.records} == {KERNEL}
    assert {record.sender_ttl for record in snapshot.records} <= {253, 254}
    for record in snapshot.records:
        assert record.t1_ns < record.t2_ns <= record.t3_ns < record.t4_ns
    assert snapshot.forward.samples == 200
    assert (snapshot.backward is None) == (mode is DelayMode.ONE_WAY)
    # Neighbour discovery may cost the first reply its time, but no reply its path.
    assert running.counts() == {"collected": 200}


def test_a_peer_without_ssids_is_served_by_user_space(running: Running) -> None:
    """Each reply waits for the one before: two ways have no order between them."""

    def in_driver(counts: dict[str, int]) -> int:
        # While user space has the session's lock, a reply goes up.
        return counts["collected"] + counts.get("BUSY", 0)

    def all_taken(store: SessionStore, number: int) -> bool:
        if number % 2:
            return store.snapshot().received == number
        return in_driver(running.counts()) == number // 2

    with inside(running.network.reflector):
        peer = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with peer:
        peer.bind((str(REFLECTOR), 862))
        peer.settimeout(10)
        running.send(dataclasses.replace(SESSION, reflector_mode=ReflectorMode.STATELESS))
        for number in range(6):
            request, address = peer.recvfrom(100)
            sequence, t1, error, ssid = struct.unpack_from("!IQHH", request)
            reply = struct.pack(
                "!IQHHQIQH2xB3x",
                *(sequence, t1, error, ssid if number % 2 else 0),
                *(t1, sequence, t1, error, 255),
            )
            peer.sendto(reply, address)
            store = running.store()
            eventually(partial(all_taken, store, number + 1), "the reply is taken in")
        counts = running.counts()
        assert counts.pop("SESSION") == 3
        assert in_driver(counts) == sum(counts.values()) == 3
        eventually(lambda: store.snapshot().received == 6, "six replies are used")
        assert [record.sequence for record in store.snapshot(10).records] == list(range(6))


def test_collecting_needs_nobody_to_take_frames(
    running: Running, reflector: Callable[[Reflector], None]
) -> None:
    """The other end of the link has no XDP program, and is sent nothing by one."""
    reflector(serving(SERVED))
    running.send(SESSION)

    def attachments() -> list[tuple[str, AttachmentMode]]:
        reports = [each for each in running.reports if isinstance(each, SenderDriver)]
        return [(each.interface, each.mode) for each in reports[-1].attachments] if reports else []

    eventually(lambda: attachments() == [("va", AttachmentMode.NATIVE)], "it is in the driver")


def test_an_interface_that_the_program_has_no_place_for_is_noted(
    network: Network, running: Running
) -> None:
    for name, index in (("vy", 4_095), ("vz", 4_096)):
        veth = (name, "index", str(index), "type", "veth", "peer", "name", f"{name}-peer")
        ip("-n", network.sender, "link", "add", *veth)
    sender = Sender(engine="xdp", interfaces=("vy", "vz"), sessions={5: SESSION})
    running.engine.configure(Node(sender=sender))

    def notes() -> list[str | None]:
        reports = [each for each in running.reports if isinstance(each, SenderDriver)]
        return [each.note for each in reports[-1].attachments] if reports else []

    note = "the index of vz is not below 4096: replies without a VLAN tag are left to user space"
    eventually(lambda: notes() == [None, note], "it is told")


def test_replies_of_this_machine_are_collected_on_its_loopback_interface(
    running: Running,
) -> None:
    """Their checksums are left to an interface that there is not."""
    session = SenderSession(5, SENDER, SENDER, interval_us=5_000, packet_count=50)
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:
        with inside(running.network.sender):
            other = userspace.create(EngineContext(Path(folder), lambda _report: None))
        try:
            other.configure(Node(reflector=serving(ReflectorSession(5))))
            sender = Sender(engine="xdp", interfaces=("lo",), sessions={5: session})
            running.engine.configure(Node(sender=sender))
            eventually(lambda: running.state() is OperState.COMPLETED, "the run is complete")
            assert running.store().snapshot().received == 50
            assert running.counts() == {"collected": 50}
        finally:
            other.close()


def test_interface_comes_back(
    running: Running, reflector: Callable[[Reflector], None], network: Network
) -> None:
    reflector(serving(SERVED))
    running.send(dataclasses.replace(SESSION, packet_count=None))
    eventually(lambda: running.counts()["collected"] > 20, "replies are collected")
    ip("-n", network.sender, "link", "delete", "va")
    eventually(lambda: running.state() is OperState.FAILED, "it is missed")
    network.join_sender()
    before = running.counts()["collected"]
    eventually(lambda: running.counts()["collected"] > before + 20, "it goes on", timeout_s=30)
    snapshot = running.store().snapshot()
    assert snapshot.duplicates == 0
    assert snapshot.sent >= snapshot.received + snapshot.loss.round_trip


@pytest.mark.parametrize("port", [SENDER_PORT, STAMP_PORT])
def test_both_roles_on_one_interface(
    running: Running, reflector: Callable[[Reflector], None], port: int
) -> None:
    """The node measures, and is measured, through the same interface, and at the same
    port of two addresses."""
    other_address = IPv6Address("fd00:a::77")
    ip("-n", running.network.sender, "address", "add", f"{other_address}/64", "dev", "va", "nodad")
    # Requests from its own port are answered to those alone that are expected from there.
    reflector(serving(dataclasses.replace(SERVED, sender_udp_port=port)))
    session = dataclasses.replace(SESSION, sender_udp_port=port)
    sender = Sender(engine="xdp", interfaces=INTERFACES, sessions={5: session})
    served = ReflectorSession(7, REFLECTOR)
    own = dataclasses.replace(
        serving(served), engine="xdp", interfaces=INTERFACES, source_address=other_address
    )
    with (
        counting_at(running.network.router, "ra"),
        tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder,
    ):
        with inside(running.network.reflector):
            other = userspace.create(EngineContext(Path(folder), lambda _report: None))
        try:
            running.engine.configure(Node(sender=sender, reflector=own))
            eventually(running.reflects, "the own reflector runs")
            back = SenderSession(7, other_address, REFLECTOR, interval_us=5_000, packet_count=100)
            other.configure(Node(sender=Sender(sessions={7: back})))
            store = SessionStore.open(session_store_path(Path(folder), 7), writable=False)
            eventually(lambda: running.state() is OperState.COMPLETED, "the own run is complete")
            eventually(lambda: store.snapshot().received == 100, "all requests are answered")
            assert running.store().snapshot().received == 200
            # One program takes the place of another without a packet in between.
            strangers = {"SESSION": 100} if port == STAMP_PORT else {}
            assert running.counts() == {"collected": 200} | strangers
            reflecting = running.engine._reflector._program
            assert reflecting is not None
            assert reflecting.tables.counts().answered == 100
            running.engine.configure(Node(sender=sender))
            running.engine.configure(Node(reflector=own))
            store.close()
        finally:
            other.close()


def test_another_program_is_not_replaced(running: Running, tmp_path: Path) -> None:
    source = tmp_path / "other.c"
    source.write_text("int other(struct xdp_md *ctx) { return XDP_PASS; }\n")
    module = BpfModule(source)
    try:
        with inside(running.network.sender):
            link = attach_xdp(module.load("other"), socket.if_nametoindex("va"), XDP_FLAGS_DRV_MODE)
        running.send(SESSION)
        eventually(lambda: running.state() is OperState.FAILED, "the session fails")
        text = running.last_error()
        assert text is not None
        assert text.startswith("interface va has the XDP program other (id ")
        os.close(link)
        eventually(lambda: running.state() is OperState.RUNNING, "the session recovers")
    finally:
        module.close()


def test_what_was_collected_before_a_restart_is_kept(
    network: Network, reflector: Callable[[Reflector], None]
) -> None:
    reflector(serving(SERVED))
    session = dataclasses.replace(SESSION, packet_count=None)
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:
        first = Running(network, Path(folder))
        first.send(session)
        eventually(lambda: first.store().snapshot().received > 50, "replies are collected")
        status = next(
            report.status
            for report in reversed(first.reports)
            if isinstance(report, SenderStatusReport)
        )
        assert status is not None
        first.close()
        store = SessionStore.open(session_store_path(Path(folder), 5), writable=False)
        before = store.snapshot()
        store.close()
        second = Running(network, Path(folder))
        try:
            resume = Resume(status.oper_state, status.run_started_ns, status.run_first_sequence)
            second.send(session, resume={5: resume})
            eventually(
                lambda: second.store().snapshot().received > before.received + 50,
                "the run goes on",
            )
            after = second.store().snapshot()
            assert after.forward.samples == after.received
            assert sum(interval.received for interval in after.intervals) <= after.received
            assert after.forward.min_ns is not None
            assert before.forward.min_ns is not None
            assert after.forward.min_ns <= before.forward.min_ns
        finally:
            second.close()


class SlowLoader:
    """Loads when it is let go, whatever `make` makes."""

    def __init__(self, make: Callable[[], CollectorProgram]) -> None:
        self._make = make
        self.let_go = threading.Event()

    def __call__(self) -> CollectorProgram:
        assert self.let_go.wait(30)
        return self._make()


@pytest.fixture
def slow_loader(running: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowLoader]:
    """A configuration does not wait for it long."""
    loader = SlowLoader(CollectorProgram)
    monkeypatch.setattr("dataplane.engines.xdp.collector.WAIT_S", 0.2)
    monkeypatch.setattr("dataplane.engines.xdp.collector.CollectorProgram", loader)
    yield loader
    loader.let_go.set()


def test_sessions_are_starting_until_the_program_is_loaded(
    running: Running, reflector: Callable[[Reflector], None], slow_loader: SlowLoader
) -> None:
    reflector(serving(SERVED))
    begun_s = time.monotonic()
    running.send(SESSION)
    assert time.monotonic() - begun_s < 3
    # The role looks after its sessions once a second.
    time.sleep(1.5)
    assert (running.states(), running.last_error()) == ([OperState.STARTING], None)
    slow_loader.let_go.set()
    eventually(lambda: running.state() is OperState.COMPLETED, "the run is complete", timeout_s=30)
    assert running.states() == [OperState.STARTING, OperState.RUNNING, OperState.COMPLETED]
    assert running.last_error() is None
    assert running.store().snapshot().received == 200
    assert running.counts()["collected"] == 200


def test_sessions_fail_when_the_program_is_refused(
    running: Running, slow_loader: SlowLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> CollectorProgram:
        raise LoadError(errno.EACCES, "collector", "R1 offset is outside of the packet\n")

    monkeypatch.setattr(slow_loader, "_make", refused)
    running.send(SESSION)
    assert running.states() == [OperState.STARTING]
    slow_loader.let_go.set()
    eventually(lambda: running.state() is OperState.FAILED, "the session fails")
    assert running.states() == [OperState.STARTING, OperState.FAILED]
    assert running.last_error() == (
        "the kernel refuses the XDP program: R1 offset is outside of the packet"
    )
    # It is not starting again while the program is tried again.
    monkeypatch.setattr("dataplane.engines.xdp.collector.RELOAD_NS", 0)
    time.sleep(2)
    assert running.states() == [OperState.STARTING, OperState.FAILED]


def test_actions_while_sessions_are_starting(
    running: Running, reflector: Callable[[Reflector], None], slow_loader: SlowLoader
) -> None:
    reflector(serving(SERVED))
    waiting = dataclasses.replace(SESSION, ssid=6, autostart=False)
    running.send(SESSION, waiting)
    assert running.states(6) == [OperState.STOPPED]
    with pytest.raises(EngineError, match=r"^session 5 has no store: the XDP program is being lo"):
        running.engine.clear(5)
    running.engine.stop(5)
    running.engine.start(6, 1)
    running.engine.start(5, None)
    assert running.states(5) == [OperState.STARTING, OperState.STOPPED, OperState.STARTING]
    assert running.states(6) == [OperState.STOPPED, OperState.STARTING]
    slow_loader.let_go.set()
    for ssid in (5, 6):
        eventually(
            lambda ssid=ssid: running.state(ssid) is OperState.COMPLETED, "they complete", 30
        )
        assert running.states(ssid)[-3:] == [
            OperState.STARTING,
            OperState.RUNNING,
            OperState.COMPLETED,
        ]
    assert running.store().snapshot().received == 200


def test_too_many_addresses_for_a_while(
    running: Running, reflector: Callable[[Reflector], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Kernel.locals
    more = {IPv6Address(number): LocalFlag.ADDRESS for number in range(2, 4_200)}
    reflector(serving(SERVED))
    with monkeypatch.context() as patch:
        patch.setattr(Kernel, "locals", lambda kernel: more | known(kernel))
        running.send(SESSION)
        eventually(lambda: running.state() is OperState.FAILED, "the session fails")
        assert running.last_error() == "the tables of the XDP program are full"
    eventually(lambda: running.state() is OperState.COMPLETED, "the run is complete")
    assert running.counts()["collected"] == 200


def test_a_ping_brings_the_store_up_to_date(
    running: Running, reflector: Callable[[Reflector], None]
) -> None:
    reflector(serving(SERVED))
    running.send(dataclasses.replace(SESSION, packet_count=100_000))
    eventually(
        lambda: running.state() is OperState.RUNNING and running.counts()["collected"] > 2,
        "replies come",
    )
    store = running.store()
    for _ in range(20):
        before = running.counts()["collected"]
        running.engine.freshen()
        assert store.state.head.counters.received >= before
        time.sleep(0.02)
