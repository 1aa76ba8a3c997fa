"""Where the engine receives in the driver, where it does not, and what it says about it."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from dataplane.bpf.syscall import XDP_FLAGS_DRV_MODE, attach_xdp, program_info
from dataplane.config import Node, Reflector, ReflectorMode, ReflectorSession, Sender, SenderSession
from dataplane.engines.base import (
    Attachment,
    AttachmentMode,
    EngineContext,
    OperState,
    ReflectorStatus,
    ReflectorStatusReport,
    Report,
    Role,
    SenderStatusReport,
    SessionStatus,
)
from dataplane.engines.driver.interfaces import Kernel
from dataplane.engines.driver.layouts import LocalFlag
from dataplane.engines.driver.tables import NodeTables
from dataplane.engines.hook_claims import HookClaims, Yield
from dataplane.engines.userspace import demand, driver_receiving
from dataplane.engines.userspace.demand import DEMAND_SETTING
from dataplane.engines.userspace.driver_program import DriverProgram
from dataplane.engines.userspace.driver_receiving import RING_SETTING, ring_size
from dataplane.engines.userspace.driver_socket import DriverSocket
from dataplane.engines.userspace.engine import UserspaceEngine
from dataplane.engines.userspace.receiving import Receiver
from dataplane.host.messages import difference
from dataplane.host.results import Results
from dataplane.host.server import EngineSet
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.timestamp import NS_PER_S
from tests.integration.engines.conformance import wire
from tests.integration.engines.conformance.reflecting import packet
from tests.integration.engines.conformance.stand import MAIN, OTHER, Stand
from tests.integration.engines.network import eventually, inside, ip
from tests.integration.engines.userspace.conftest import ANY

pytestmark = pytest.mark.integration

SERVED = ReflectorSession(5)
REFLECTOR = Reflector(interfaces=(MAIN.device,), sessions={SERVED.key: SERVED})
SESSION = SenderSession(5, MAIN.there, MAIN.here, interval_us=20_000)
SENDER = Sender(interfaces=(MAIN.device,), sessions={5: SESSION})
BY_SOCKETS = "packets are received by UDP sockets, not in the driver: "


class Running:
    """An engine, or several, on the node of a stand."""

    def __init__(self, stand: Stand, folder: Path) -> None:
        self.stand = stand
        self.reports: list[Report] = []
        self.results = Results(folder)
        with inside(stand.node):
            self.engines = EngineSet(EngineContext(folder, self.reports.append))
            self.engine = UserspaceEngine(EngineContext(folder, self.reports.append))

    def apply(self, before: Node, after: Node) -> None:
        """Have the engines of a host process run `after`."""
        with inside(self.stand.node):
            self.engines.apply(difference(before, after), {})

    def reflector(self) -> ReflectorStatus | None:
        known = [each.status for each in self.reports if isinstance(each, ReflectorStatusReport)]
        return known[-1] if known else None

    def sender(self) -> SessionStatus | None:
        known = [each.status for each in self.reports if isinstance(each, SenderStatusReport)]
        return known[-1] if known else None

    def reflects(self, number: int = 1) -> None:
        """Answers what it is sent."""
        self.stand.seen(MAIN)
        for sequence in range(number):
            self.stand.inject(MAIN, packet(wire.request(sequence, 5)))
        found: list[wire.Seen] = []

        def answered() -> bool:
            found.extend(each for each in self.stand.seen(MAIN) if each.ports[0] == 862)
            return len(found) >= number

        eventually(answered, f"{number} replies")
        assert len(found) == number

    def says(self, problem: str) -> None:
        """The Session-Reflector runs, with this as its last error."""

        def said() -> bool:
            status = self.reflector()
            return status is not None and status.last_error == BY_SOCKETS + problem

        eventually(said, problem)
        status = self.reflector()
        assert status is not None
        assert (status.oper_state, status.attachments) == (OperState.RUNNING, ())

    def close(self) -> None:
        self.engine.close()
        self.engines.close()


@pytest.fixture
def run(stand: Stand) -> Iterator[Callable[[], Running]]:
    running: list[Running] = []
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:

        def start() -> Running:
            own = Path(folder) / str(len(running))
            own.mkdir()
            running.append(Running(stand, own))
            return running[-1]

        yield start
        for each in running:
            each.close()
    assert not stand.has_program(MAIN)


@pytest.fixture
def running(run: Callable[[], Running]) -> Running:
    return run()


def udp_received(stand: Stand) -> int:
    """Datagrams that UDP sockets of the node have been given."""
    with inside(stand.node):
        text = Path("/proc/thread-self/net/snmp6").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if "Udp6InDatagrams" in line)


def program_id(stand: Stand) -> int:
    command = ("ip", "-n", stand.node, "-j", "link", "show", MAIN.device)
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(json.loads(shown)[0].get("xdp", {}).get("prog", {}).get("id", 0))


def test_requests_come_through_the_driver(running: Running) -> None:
    running.engine.configure(Node(reflector=REFLECTOR))
    status = running.reflector()
    assert status is not None
    assert status.attachments == (Attachment(MAIN.device, AttachmentMode.NATIVE, None),)
    assert (status.oper_state, status.last_error) == (OperState.RUNNING, None)
    before = udp_received(running.stand)
    running.reflects(50)
    assert udp_received(running.stand) == before
    assert running.stand.has_program(MAIN)
    assert not running.stand.has_program(OTHER)


def test_the_program_comes_with_a_flood_and_goes_afterwards(
    run: Callable[[], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packets are answered once and in order, whichever way they come."""
    monkeypatch.setenv(DEMAND_SETTING, "400")
    monkeypatch.setattr(demand, "CALM_NS", NS_PER_S)
    running = run()
    stand, numbers = running.stand, list[int]()
    stateful = dataclasses.replace(SERVED, mode=ReflectorMode.STATEFUL)
    reflector = dataclasses.replace(REFLECTOR, sessions={stateful.key: stateful})
    running.engine.configure(Node(reflector=reflector, sender=SENDER))
    sent = 0

    def sends(number: int, until: Callable[[], bool]) -> bool:
        nonlocal sent
        for _ in range(number):
            stand.inject(MAIN, packet(wire.request(sent, 5)))
            sent += 1
        replies = (each for each in stand.seen(MAIN) if each.ports[0] == 862)
        numbers.extend(int.from_bytes(each.payload[:4], "big") for each in replies)
        return until()

    def told() -> tuple[tuple[Attachment, ...], str | None]:
        status = running.reflector()
        assert status is not None
        return status.attachments, status.last_error

    time.sleep(1.5)
    assert not sends(20, lambda: stand.has_program(MAIN))
    assert told() == ((), None)
    eventually(lambda: sends(50, lambda: stand.has_program(MAIN)), "the program is attached")
    before = udp_received(stand)
    sends(50, lambda: True)
    assert udp_received(stand) - before < 50
    attached = (Attachment(MAIN.device, AttachmentMode.NATIVE, None),)
    eventually(lambda: told() == (attached, None), "the state says so")
    eventually(lambda: sends(1, lambda: not stand.has_program(MAIN)), "the program has gone")
    sends(20, lambda: True)
    eventually(lambda: sends(0, lambda: len(numbers) >= sent), "every request is answered")
    assert numbers == list(range(sent))
    eventually(lambda: told() == ((), None), "and so is the state")


def test_no_edit_waits_for_the_compiler(
    run: Callable[[], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEMAND_SETTING, "60")
    compiling, go_on = threading.Event(), threading.Event()

    def compile_long() -> DriverProgram:
        compiling.set()
        go_on.wait(10)
        return DriverProgram()

    monkeypatch.setattr(driver_receiving, "DriverProgram", compile_long)
    running = run()
    running.engine.configure(Node(reflector=REFLECTOR))
    try:
        for _ in range(100):
            running.stand.inject(MAIN, packet(wire.request(0, 5)))
        assert compiling.wait(10)
        before_s = time.monotonic()
        running.engine.configure(Node(reflector=REFLECTOR, sender=SENDER))
        assert time.monotonic() - before_s < 5
    finally:
        go_on.set()


def test_what_is_in_the_way_is_told_when_it_matters(
    run: Callable[[], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEMAND_SETTING, "400")
    monkeypatch.setattr("platform.machine", lambda: "sparc64")
    running = run()
    running.engine.configure(Node(reflector=REFLECTOR))

    def told(requests: int) -> str | None:
        for number in range(requests):
            running.stand.inject(MAIN, packet(wire.request(number, 5)))
        status = running.reflector()
        assert status is not None
        assert (status.oper_state, status.attachments) == (OperState.RUNNING, ())
        return status.last_error

    time.sleep(1.5)
    assert told(20) is None
    problem = BY_SOCKETS + "no AF_XDP rings on sparc64"
    eventually(lambda: told(50) == problem, "it is told in a flood")


def test_sessions_that_send_fast_begin_with_the_program(
    run: Callable[[], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEMAND_SETTING, "50")
    running = run()
    stand, later = running.stand, dataclasses.replace(SESSION, ssid=6, autostart=False)
    slow = dataclasses.replace(SESSION, interval_us=20_001)
    running.engine.configure(Node(sender=dataclasses.replace(SENDER, sessions={5: slow, 6: later})))
    assert not stand.has_program(MAIN)
    running.engine.configure(Node(sender=SENDER))
    assert stand.has_program(MAIN)
    off = dataclasses.replace(SENDER, sessions={})
    running.engine.configure(Node(sender=off))
    assert not stand.has_program(MAIN)


def test_replies_come_through_the_driver(running: Running) -> None:
    running.engine.configure(Node(sender=SENDER))
    before = udp_received(running.stand)

    def answered() -> bool:
        for asked in running.stand.seen(MAIN):
            sequence, t1 = asked.payload[:4], asked.payload[4:12]
            answer = wire.reply(
                *(0, 5, int.from_bytes(sequence, "big"), int.from_bytes(t1, "big")),
                t2=int.from_bytes(t1, "big"),
                t3=int.from_bytes(t1, "big"),
            )
            running.stand.inject(MAIN, packet(answer, ports=(862, 49_862)))
        return running.results.snapshot(5).received >= 20

    eventually(answered, "replies are collected")
    assert udp_received(running.stand) == before


def test_attached_where_and_while_a_role_is_enabled(running: Running) -> None:
    stand = running.stand
    running.engine.configure(Node(reflector=dataclasses.replace(REFLECTOR, interfaces=())))
    assert not stand.has_program(MAIN)
    running.engine.configure(Node(reflector=REFLECTOR, sender=SENDER))
    assert stand.has_program(MAIN)
    running.engine.configure(Node(sender=SENDER))
    assert stand.has_program(MAIN)
    moved = dataclasses.replace(SENDER, interfaces=(OTHER.device,))
    running.engine.configure(Node(sender=moved))
    assert (stand.has_program(MAIN), stand.has_program(OTHER)) == (False, True)
    running.engine.configure(Node(sender=dataclasses.replace(moved, enabled=False)))
    assert not stand.has_program(OTHER)


def test_switched_off_and_on(running: Running) -> None:
    """The queue is to be had again, though the kernel takes a moment to let go of it."""
    on = Node(reflector=REFLECTOR)
    off = Node(reflector=dataclasses.replace(REFLECTOR, enabled=False))
    for _ in range(5):
        running.engine.configure(on)
        running.engine.configure(off)
    running.engine.configure(on)
    eventually(lambda: (status := running.reflector()) and status.attachments, "ours is attached")
    running.reflects(20)


def test_the_interface_comes_back(running: Running) -> None:
    running.engine.configure(Node(reflector=REFLECTOR))
    running.reflects()
    ip("-n", running.stand.node, "link", "set", MAIN.device, "down")
    ip("-n", running.stand.node, "link", "set", MAIN.device, "up")
    running.stand.restore(MAIN)
    eventually(lambda: running.stand.has_program(MAIN), "the program is attached")
    running.reflects()


def test_another_program_is_left_alone(running: Running) -> None:
    with inside(running.stand.node):
        theirs = DriverProgram()
        link = attach_xdp(theirs.fd, socket.if_nametoindex(MAIN.device), XDP_FLAGS_DRV_MODE)
    identifier = program_info(theirs.fd).identifier
    running.engine.configure(Node(reflector=REFLECTOR, sender=SENDER))
    problem = (
        f"interface {MAIN.device} has the XDP program receiver (id {identifier}), "
        "which is not replaced"
    )
    running.says(problem)
    running.reflects(20)
    eventually(
        lambda: (status := running.sender()) and status.last_error == BY_SOCKETS + problem,
        "the session says so",
    )
    assert program_id(running.stand) == identifier
    os.close(link)
    theirs.close()
    eventually(lambda: (status := running.reflector()) and status.attachments, "ours is attached")
    assert program_id(running.stand) not in (0, identifier)
    before = udp_received(running.stand)
    running.reflects(20)
    assert udp_received(running.stand) == before


def test_no_xdp_in_the_driver(running: Running) -> None:
    names = ("lo", MAIN.device)
    running.engine.configure(Node(reflector=dataclasses.replace(REFLECTOR, interfaces=names)))
    problem = "no XDP in the driver of lo: Operation not supported"
    eventually(
        lambda: (status := running.reflector()) and status.last_error == BY_SOCKETS + problem,
        problem,
    )
    status = running.reflector()
    assert status is not None
    assert [each.interface for each in status.attachments] == [MAIN.device]
    running.reflects(20)


def test_no_memory_for_the_rings(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RING_SETTING, "1000")
    running.engine.configure(Node(reflector=REFLECTOR))
    running.says(
        f"no AF_XDP on interface {MAIN.device}: STAMP_XDP_RING is '1000', which is no power of two"
    )
    running.reflects(20)
    assert not running.stand.has_program(MAIN)


@pytest.mark.parametrize("text", ["0", "", "-4", "1e3", "3"])
def test_a_ring_size_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RING_SETTING, text)
    with pytest.raises(ValueError, match=r"STAMP_XDP_RING is .* which is no power of two"):
        ring_size()


def test_a_program_that_is_refused(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Path(__file__).parents[2] / "bpf" / "refused.c"
    monkeypatch.setattr("dataplane.engines.userspace.driver_program.SOURCE", refused)
    monkeypatch.setattr("dataplane.engines.userspace.driver_program.FUNCTION", "refused")
    running.engine.configure(Node(reflector=REFLECTOR))
    running.says("the kernel refuses the XDP program: R1 offset is outside of the packet")
    running.reflects(20)


def test_another_machine(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "sparc64")
    running.engine.configure(Node(reflector=REFLECTOR))
    running.says("no AF_XDP rings on sparc64")
    running.reflects(20)


def test_no_privilege() -> None:
    code = "from dataplane.engines.userspace.driver_receiving import unfit; print(unfit())"
    dropped = "-bpf,-perfmon,-net_admin,-sys_admin"
    found = subprocess.run(
        ["setpriv", f"--bounding-set={dropped}", sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == "no privilege: CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF missing"
    assert driver_receiving.unfit() is None


def test_what_did_not_fit_is_counted(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RING_SETTING, "64")
    running.engine.configure(Node(reflector=REFLECTOR))
    running.reflects()
    burst = [packet(wire.request(number, 5)) for number in range(200)]
    nobody_reads, injected = threading.Event(), threading.Event()

    def hold_up() -> None:
        nobody_reads.set()
        injected.wait(20)

    running.engine._loop.post(hold_up)
    assert nobody_reads.wait(20)
    for request in burst:
        running.stand.inject(MAIN, request)
    injected.set()

    def balanced() -> bool:
        found = running.results.reflector()
        assert found is not None
        dropped = found.discards.get(DiscardReason.BUFFER_FULL, 0)
        return dropped == len(burst) - 64 and found.reflected == 64 + 1

    eventually(balanced, "every request was answered or counted as dropped")


def test_a_socket_that_the_driver_cannot_serve_is_the_kernel_s(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.engine.configure(Node(reflector=REFLECTOR))

    def fill(*_: object) -> None:
        raise OSError(errno.E2BIG, "full")

    def listen() -> DriverSocket:
        receiver = Receiver(1)
        return running.engine._driver.open(Role.REFLECTOR, ANY, 863, receiver)

    loop = running.engine._loop
    with monkeypatch.context() as patch:
        patch.setattr(NodeTables, "set_locals", fill)
        sock = loop.call(listen)
    assert sock.served == ()
    assert sock.shortcoming == BY_SOCKETS + "the tables of the XDP program are full"
    loop.call(sock.close)
    running.reflects(20)


def test_the_hook_is_left_to_an_engine_that_needs_it(running: Running) -> None:
    """The reflector of the engine xdp comes to the interface of a userspace sender."""
    alone = Node(sender=SENDER)
    both = Node(sender=SENDER, reflector=dataclasses.replace(REFLECTOR, engine="xdp"))
    running.apply(Node(), alone)
    assert running.stand.has_program(MAIN)
    running.apply(alone, both)
    eventually(
        lambda: (status := running.reflector()) and status.oper_state is OperState.RUNNING,
        "the Session-Reflector runs",
    )
    states = {
        each.status.oper_state
        for each in running.reports
        if isinstance(each, ReflectorStatusReport) and each.status is not None
    }
    assert OperState.FAILED not in states
    running.reflects(20)
    problem = f"{BY_SOCKETS}interface {MAIN.device} has the program of another engine"
    eventually(
        lambda: (status := running.sender()) and status.last_error == problem,
        "the session says so",
    )
    reflectors = program_id(running.stand)
    running.apply(both, alone)
    eventually(lambda: program_id(running.stand) not in (0, reflectors), "the hook is used again")


def test_an_engine_that_has_just_been_closed_holds_no_hook(stand: Stand, tmp_path: Path) -> None:
    """It may be closed while another one claims its hook."""
    claims = HookClaims()
    yielding: list[Yield] = []
    attend = claims.attend

    def note(owner: object, let_go: Yield) -> None:
        yielding.append(let_go)
        attend(owner, let_go)

    claims.attend = note  # type: ignore[method-assign]
    with inside(stand.node):
        engine = UserspaceEngine(EngineContext(tmp_path, lambda _report: None, hook_claims=claims))
    engine.configure(Node(reflector=REFLECTOR))
    engine.close()
    (let_go,) = yielding
    assert let_go(frozenset({MAIN.device})) == frozenset()


HOLDER = """
import sys, time
from pathlib import Path
from dataplane.config import Node, Reflector
from dataplane.engines.base import EngineContext
from dataplane.engines.userspace.engine import create
engine = create(EngineContext(Path(sys.argv[1]), lambda report: None))
engine.configure(Node(reflector=Reflector(interfaces=("n0",))))
time.sleep(60)
"""


def test_detached_by_sigkill(stand: Stand, tmp_path: Path) -> None:
    with inside(stand.node):
        process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)])
    try:
        eventually(lambda: stand.has_program(MAIN), "the program is attached")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        eventually(lambda: not stand.has_program(MAIN), "the program is detached")
    finally:
        process.kill()
        process.wait()


def test_too_many_addresses_for_a_while(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Kernel.locals
    more = {IPv6Address(number): LocalFlag.ADDRESS for number in range(2, 4_200)}
    with monkeypatch.context() as patch:
        patch.setattr(Kernel, "locals", lambda kernel: more | known(kernel))
        running.engine.configure(Node(reflector=REFLECTOR))
        running.says("the tables of the XDP program are full")
        running.reflects(20)
    running.engine.configure(Node(reflector=REFLECTOR))
    eventually(lambda: (status := running.reflector()) and status.attachments, "it is attached")
    before = udp_received(running.stand)
    running.reflects(20)
    assert udp_received(running.stand) == before
