"""The xdp engine in namespaces: end to end, and its life cycle."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from dataplane.config import Node, Reflector, ReflectorMode, ReflectorSession, Sender, SenderSession
from dataplane.engines.base import (
    AttachmentMode,
    EngineContext,
    OperState,
    ReflectorStatus,
    ReflectorStatusReport,
    Report,
    reflector_store_path,
    session_store_path,
)
from dataplane.engines.driver import interfaces
from dataplane.engines.driver.interfaces import Kernel, Place
from dataplane.engines.driver.layouts import LocalFlag
from dataplane.engines.userspace import engine as userspace
from dataplane.engines.xdp.engine import XdpEngine
from dataplane.engines.xdp.program import ReflectorProgram
from dataplane.measurement import TimestampMethod
from dataplane.reflector_store import HandedUp, ReflectorSnapshot, ReflectorStore
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.session_reflector import SessionState
from dataplane.stamp.timestamp import NS_PER_S
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
    sysctl,
    tagging,
)
from tests.integration.engines.other_end import counting_at

pytestmark = pytest.mark.integration

STATEFUL = ReflectorSession(5, SENDER, segments=(BACK,), mode=ReflectorMode.STATEFUL)
SERVED = Reflector(
    engine="xdp",
    interfaces=("vb",),
    sessions={session.key: session for session in (STATEFUL, ReflectorSession(6))},
)


class Running:
    def __init__(self, namespace: str, folder: Path) -> None:
        self.folder = folder
        self.reports: list[Report] = []
        with inside(namespace):
            self.engine = XdpEngine(EngineContext(folder, self.reports.append))

        self.closed = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.engine.close()

    def serve(self, config: Reflector) -> None:
        self.engine.configure(Node(reflector=config))

    @property
    def status(self) -> ReflectorStatus | None:
        found = [r.status for r in self.reports if isinstance(r, ReflectorStatusReport)]
        return found[-1] if found else None

    def becomes(self, state: OperState) -> ReflectorStatus:
        eventually(
            lambda: self.status is not None and self.status.oper_state is state,
            f"the reflector is {state.value}",
            timeout_s=60,
        )
        assert self.status is not None
        return self.status

    def counted(self) -> ReflectorSnapshot:
        store = ReflectorStore.open(reflector_store_path(self.folder), writable=False)
        try:
            return store.snapshot()
        finally:
            store.close()


@pytest.fixture
def run(network: Network) -> Iterator[Callable[[], Running]]:
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:
        running: list[Running] = []

        def start() -> Running:
            running.append(Running(network.reflector, Path(folder)))
            return running[-1]

        yield start
        for each in running:
            each.close()


@pytest.fixture
def sender(network: Network) -> Iterator[Callable[[SenderSession], SessionStore]]:
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:
        with inside(network.sender):
            engine = userspace.create(EngineContext(Path(folder), lambda _report: None))
        stores: list[SessionStore] = []

        def start(session: SenderSession) -> SessionStore:
            engine.configure(Node(sender=Sender(sessions={session.ssid: session})))
            path = session_store_path(Path(folder), session.ssid)
            stores.append(SessionStore.open(path, writable=False))
            return stores[-1]

        yield start
        for store in stores:
            store.close()
        engine.close()


SESSION = SenderSession(
    5,
    REFLECTOR,
    SENDER,
    segments=(FORTH,),
    interval_us=5_000,
    packet_count=200,
    reflector_mode=ReflectorMode.STATEFUL,
)


def attached(status: ReflectorStatus) -> list[tuple[str, AttachmentMode]]:
    return [(each.interface, each.mode) for each in status.attachments]


def measured(reflector: Running, store: SessionStore) -> None:
    """All 200 packets have been measured, and all are accounted for on both sides."""
    eventually(lambda: store.snapshot().received == 200, "all replies have arrived")
    snapshot = store.snapshot(200)
    assert (snapshot.loss.round_trip, snapshot.duplicates, snapshot.reordered) == (0, 0, 0)
    assert [record.reflector_sequence for record in snapshot.records] == list(range(200))
    for record in snapshot.records:
        assert record.t1_ns < record.t2_ns <= record.t3_ns < record.t4_ns
    eventually(lambda: reflector.counted().sessions[5, SENDER].reflected == 200, "all are counted")
    eventually(
        lambda: reflector.counted().sessions[5, SENDER].next_sequence == 200,
        "the store is ahead of a busy session alone",
    )
    counted = reflector.counted()
    # What finds no neighbour entry goes up, and is answered there.
    assert counted.driver_answered + counted.handed_up[HandedUp.NEXT_HOP] == 200
    assert counted.driver_answered > 150


def test_end_to_end_generic(
    run: Callable[[], Running], sender: Callable[[SenderSession], SessionStore]
) -> None:
    reflector = run()
    reflector.serve(SERVED)
    status = reflector.becomes(OperState.RUNNING)
    assert attached(status) == [("vb", AttachmentMode.GENERIC)]
    assert status.attachments[0].note == (
        "the other end of vb has no XDP program, and would take no frames of one here"
    )
    measured(reflector, sender(SESSION))


def test_end_to_end_native(
    network: Network,
    run: Callable[[], Running],
    sender: Callable[[SenderSession], SessionStore],
) -> None:
    reflector = run()
    with counting_at(network.router, "rb"):
        reflector.serve(SERVED)
        assert attached(reflector.becomes(OperState.RUNNING)) == [("vb", AttachmentMode.NATIVE)]
        measured(reflector, sender(SESSION))

    def generic() -> bool:
        status = reflector.status
        return status is not None and attached(status) == [("vb", AttachmentMode.GENERIC)]

    eventually(generic, "the mode follows the other end")
    states = [
        r.status.oper_state
        for r in reflector.reports
        if isinstance(r, ReflectorStatusReport) and r.status
    ]
    assert OperState.FAILED not in states


def ask(sock: socket.socket, ssid: int, payload: bytes) -> bytes:
    sock.sendto(
        payload[:14] + struct.pack("!H", ssid)[: len(payload) - 14] + payload[16:],
        (str(REFLECTOR), 862),
    )
    return sock.recv(4_096)


@pytest.fixture
def asking(network: Network) -> Iterator[socket.socket]:
    with inside(network.sender):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind((str(SENDER), 50_000))
    sock.settimeout(5)
    yield sock
    sock.close()


BASE = struct.pack("!IQHH28x", 9, 1 << 60, 1, 0)


def test_both_paths_share_one_counter(run: Callable[[], Running], asking: socket.socket) -> None:
    reflector = run()
    reflector.serve(SERVED)
    reflector.becomes(OperState.RUNNING)
    numbers = []
    for payload in (BASE, BASE[:16], BASE, BASE[:20], BASE, BASE + bytes(3_000), BASE):
        reply = ask(asking, 5, payload)
        assert len(reply) == max(44, len(payload))
        numbers.append(struct.unpack_from("!I", reply)[0])
    assert numbers == list(range(7))
    eventually(lambda: reflector.counted().sessions[5, SENDER].reflected == 7, "all are counted")
    counted = reflector.counted()
    assert counted.reflected == counted.received == 7
    eventually(lambda: reflector.counted().sessions[5, SENDER].next_sequence == 7, "seven taken")
    assert counted.handed_up[HandedUp.SHORT] == 2
    assert counted.driver_answered >= 3


def test_methods_are_those_of_the_path_that_the_latest_request_took(
    run: Callable[[], Running], asking: socket.socket
) -> None:
    first = run()
    first.serve(SERVED)
    first.becomes(OperState.RUNNING)

    def methods(running: Running) -> tuple[TimestampMethod, TimestampMethod]:
        session = running.counted().sessions[5, SENDER]
        return session.t2_method, session.t3_method

    def taken(payload: bytes, t3_method: TimestampMethod) -> None:
        ask(asking, 5, payload)
        eventually(lambda: methods(first) == (kernel, t3_method), f"T3 is {t3_method.value}")

    kernel, user = TimestampMethod.KERNEL_SOFTWARE, TimestampMethod.USERSPACE
    assert methods(first) == (TimestampMethod.UNKNOWN, TimestampMethod.UNKNOWN)
    # Before the neighbour is known, requests are for user space.
    ask(asking, 5, BASE)
    for payload, t3_method in (
        (BASE, kernel),
        (BASE[:16], user),
        (BASE, kernel),
        (BASE[:16], user),
    ):
        taken(payload, t3_method)
    first.close()
    second = run()
    second.serve(SERVED)
    second.becomes(OperState.RUNNING)
    assert methods(second) == (kernel, user)


def test_no_number_is_given_twice(run: Callable[[], Running], asking: socket.socket) -> None:
    reflector = run()
    reflector.serve(SERVED)
    reflector.becomes(OperState.RUNNING)
    ask(asking, 5, BASE)
    numbers = []
    for _ in range(20):
        asked = [BASE if number % 3 else BASE[:16] for number in range(30)]
        for payload in asked:
            asking.sendto(payload[:14] + b"\0\5" + payload[16:], (str(REFLECTOR), 862))
        numbers += [struct.unpack_from("!I", asking.recv(4_096))[0] for _ in asked]
    assert sorted(numbers) == list(range(1, 601))


def test_discards_of_both_paths(run: Callable[[], Running], asking: socket.socket) -> None:
    reflector = run()
    reflector.serve(SERVED)
    reflector.becomes(OperState.RUNNING)
    for payload in (BASE, BASE[:10]):
        asking.sendto(payload, (str(REFLECTOR), 862))
    eventually(
        lambda: (
            (
                (found := reflector.counted().discards)[DiscardReason.UNKNOWN_SESSION],
                found[DiscardReason.TRUNCATED],
            )
            == (1, 1)
        ),
        "each path counts its own",
    )


def test_counts_outlive_the_process(run: Callable[[], Running], asking: socket.socket) -> None:
    first = run()
    first.serve(SERVED)
    first.becomes(OperState.RUNNING)
    for _ in range(3):
        ask(asking, 5, BASE)
    first.close()
    assert first.counted().sessions[5, SENDER].reflected == 3
    second = run()
    second.serve(SERVED)
    second.becomes(OperState.RUNNING)
    assert struct.unpack_from("!I", ask(asking, 5, BASE))[0] == 3
    eventually(lambda: second.counted().sessions[5, SENDER].reflected == 4, "it counts on")
    eventually(lambda: second.counted().reflected == 4, "and so does the role")


def test_reconfiguration(run: Callable[[], Running], asking: socket.socket) -> None:
    reflector = run()
    reflector.serve(SERVED)
    reflector.becomes(OperState.RUNNING)
    ask(asking, 5, BASE)
    ask(asking, 6, BASE)
    changed = dataclasses.replace(STATEFUL, segments=())
    reflector.serve(dataclasses.replace(SERVED, sessions=SERVED.sessions | {changed.key: changed}))
    # A session that has changed counts anew, others do not notice.
    assert struct.unpack_from("!I", ask(asking, 5, BASE))[0] == 0
    ask(asking, 6, BASE)
    eventually(lambda: reflector.counted().sessions[6, None].reflected == 2, "6 counts on")
    eventually(lambda: reflector.counted().sessions[5, SENDER].reflected == 1, "5 counts anew")
    eventually(lambda: reflector.counted().reflected == 4, "the role counts all")
    reflector.serve(dataclasses.replace(SERVED, enabled=False))
    assert reflector.becomes(OperState.DISABLED).attachments == ()
    reflector.engine.configure(Node())
    assert reflector.status is None
    assert not reflector_store_path(reflector.folder).exists()


def program_on(namespace: str, device: str) -> int:
    from dataplane.engines.driver.interfaces import Kernel

    with inside(namespace):
        kernel = Kernel()
        found = kernel.devices((device,)).interfaces
        kernel.close()
    return found[0].program_id if found else 0


def test_the_fib_answers_while_it_runs(network: Network, run: Callable[[], Running]) -> None:
    def forwarding(device: str) -> str:
        with inside(network.reflector):
            return Path(f"/proc/sys/net/ipv6/conf/{device}/forwarding").read_text().strip()

    reflector = run()
    reflector.serve(SERVED)
    reflector.becomes(OperState.RUNNING)
    assert (forwarding("lo"), forwarding("all"), forwarding("vb")) == ("1", "0", "0")
    sysctl(network.reflector, "net.ipv6.conf.lo.forwarding", 0)
    eventually(lambda: forwarding("lo") == "1", "it is set again")
    reflector.close()
    assert forwarding("lo") == "0"


def test_no_way_back_is_counted(
    network: Network, run: Callable[[], Running], asking: socket.socket
) -> None:
    reflector = run()
    reflector.serve(SERVED)
    reflector.becomes(OperState.RUNNING)
    ip("-n", network.reflector, "-6", "route", "delete", "default")
    asking.sendto(BASE[:14] + b"\0\6" + BASE[16:], (str(REFLECTOR), 862))
    eventually(
        lambda: reflector.counted().discards[DiscardReason.SEND_FAILED] == 1, "it is counted"
    )
    assert reflector.counted().handed_up[HandedUp.NEXT_HOP] == 1
    assert reflector.counted().driver_answered == 0


def loaders() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.endswith("-load")]


def test_no_program_is_left_by_an_engine_that_is_closed_at_once(
    run: Callable[[], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    def programs() -> int:
        targets = [
            os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()
        ]
        return sum("bpf" in str(target) for target in targets)

    monkeypatch.setattr("dataplane.engines.xdp.collector.WAIT_S", 0.0)
    before = programs()
    reflector = run()
    reflector.engine.configure(
        Node(reflector=SERVED, sender=Sender(interfaces=("vb",), sessions={5: SESSION}))
    )
    assert len(loaders()) == 2
    reflector.close()
    for each in loaders():
        each.join()
    assert programs() == before


def test_to_close_an_engine_does_not_wait_for_the_compiler(
    run: Callable[[], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()

    def load() -> ReflectorProgram:
        assert let_go.wait(30)
        return ReflectorProgram()

    monkeypatch.setattr("dataplane.engines.xdp.collector.WAIT_S", 0.0)
    for name in ("collector.CollectorProgram", "reflector.ReflectorProgram"):
        monkeypatch.setattr(f"dataplane.engines.xdp.{name}", load)
    reflector = run()
    try:
        reflector.engine.configure(
            Node(reflector=SERVED, sender=Sender(interfaces=("vb",), sessions={5: SESSION}))
        )
        closing = threading.Thread(target=reflector.close)
        closing.start()
        closing.join(5)
        assert not closing.is_alive()
    finally:
        let_go.set()
        # The compiler changes the working directory, in which other tests start processes.
        for each in loaders():
            each.join()


def test_it_is_starting_until_the_program_is_loaded(
    run: Callable[[], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()

    def load() -> ReflectorProgram:
        assert let_go.wait(30)
        return ReflectorProgram()

    monkeypatch.setattr("dataplane.engines.xdp.reflector.ReflectorProgram", load)
    reflector = run()
    try:
        reflector.serve(dataclasses.replace(SERVED, enabled=False))
        reflector.becomes(OperState.DISABLED)
        reflector.serve(SERVED)
        status = reflector.becomes(OperState.STARTING)
        assert status.last_error is None
    finally:
        let_go.set()
    status = reflector.becomes(OperState.RUNNING)
    assert status.last_error is None
    seen = [
        report.status and report.status.oper_state
        for report in reflector.reports
        if isinstance(report, ReflectorStatusReport)
    ]
    assert seen == [OperState.DISABLED, OperState.STARTING, OperState.RUNNING]


def test_detached_when_it_is_closed(network: Network, run: Callable[[], Running]) -> None:
    reflector = run()
    reflector.serve(SERVED)
    reflector.becomes(OperState.RUNNING)
    assert program_on(network.reflector, "vb")
    reflector.close()
    assert not program_on(network.reflector, "vb")
    assert not (reflector.folder / "slow-path").exists()


HOLDER = """
import sys, time
from pathlib import Path
from dataplane.config import Node, Reflector
from dataplane.engines.base import EngineContext
from dataplane.engines.xdp.engine import XdpEngine
from dataplane.engines.driver.interfaces import Kernel
from dataplane.engines.driver.layouts import LocalFlag
engine = XdpEngine(EngineContext(Path(sys.argv[1]), lambda report: print(report, flush=True)))
engine.configure(Node(reflector=Reflector(engine="xdp", interfaces=("vb",))))
time.sleep(60)
"""


def test_detached_by_sigkill(network: Network, tmp_path: Path) -> None:
    with inside(network.reflector):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.DEVNULL
        )
    try:
        eventually(lambda: program_on(network.reflector, "vb"), "the program is attached")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        eventually(lambda: not program_on(network.reflector, "vb"), "the program is detached")
    finally:
        process.kill()
        process.wait()


def test_another_program_is_left_alone(network: Network, run: Callable[[], Running]) -> None:
    first = run()
    first.serve(SERVED)
    first.becomes(OperState.RUNNING)
    theirs = program_on(network.reflector, "vb")
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:
        second = Running(network.reflector, Path(folder))
        try:
            second.serve(dataclasses.replace(SERVED, udp_port=863))
            status = second.becomes(OperState.FAILED)
            assert status.last_error == (
                f"interface vb has the XDP program reflector (id {theirs}), which is not replaced"
            )
            assert program_on(network.reflector, "vb") == theirs
            first.close()
            second.becomes(OperState.RUNNING)
            assert program_on(network.reflector, "vb") not in (0, theirs)
        finally:
            second.close()


def test_too_many_addresses_for_a_while(
    run: Callable[[], Running], asking: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is answered, or told that there is no session; then all is as configured."""
    known = Kernel.locals
    more = {IPv6Address(number): LocalFlag.ADDRESS for number in range(2, 4_200)}
    reflector = run()
    with monkeypatch.context() as patch:
        patch.setattr(Kernel, "locals", lambda kernel: more | known(kernel))
        reflector.serve(SERVED)
        problem = "the tables of the XDP program are full"
        assert reflector.becomes(OperState.FAILED).last_error == problem
    reflector.becomes(OperState.RUNNING)
    ask(asking, 6, BASE)
    eventually(lambda: reflector.counted().reflected == 1, "the reply is counted")
    assert not any(reflector.counted().discards.values())


def test_frames_that_may_have_lost_their_vlan_tag(
    network: Network,
    run: Callable[[], Running],
    asking: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a VLAN on the interface, which not every kernel can have, the kernel alone
    knows whose they are: a veth's program sees no tag that is beside the frame."""
    with inside(network.reflector):
        index = socket.if_nametoindex("vb")
    reflector = run()
    reflector.serve(SERVED)
    before = reflector.becomes(OperState.RUNNING).attachments[0].note
    monkeypatch.setattr(interfaces, "_shared_places", lambda _links: {Place(index)})
    # Whatever is told of an interface has all of them looked at.
    ip("-n", network.reflector, "link", "set", "vb", "alias", "has a VLAN")
    note = (
        f"{before}; VLAN tags may be taken off frames of vb before the program sees them: "
        "what may have lost one is left to user space"
    )
    eventually(
        lambda: (status := reflector.status) and status.attachments[0].note == note,
        "the note says so",
    )
    ask(asking, 6, BASE)
    asking.settimeout(0.5)
    with tagging(network.router, "rb", 7), pytest.raises(TimeoutError):
        ask(asking, 6, BASE)
    eventually(lambda: reflector.counted().reflected == 1, "the reply is counted")
    assert reflector.counted().driver_answered == 0


def test_numbers_of_a_session_that_the_program_has_no_more(run: Callable[[], Running]) -> None:
    reflector = run()
    reflector.serve(SERVED)
    reflector.becomes(OperState.RUNNING)
    role = reflector.engine._reflector
    state = cast(SessionState, SimpleNamespace(take=lambda count: 70 + count))
    assert role._share_state(STATEFUL, state).take(0) == 0
    assert role._share_state(ReflectorSession(7), state).take(2) == 72


def test_interface_comes_back(
    network: Network, run: Callable[[], Running], asking: socket.socket
) -> None:
    reflector = run()
    reflector.serve(SERVED)
    reflector.becomes(OperState.RUNNING)
    ask(asking, 6, BASE)
    ip("-n", network.reflector, "link", "delete", "vb")
    eventually(
        lambda: reflector.becomes(OperState.FAILED).last_error == "interface vb does not exist",
        "it is missed",
    )
    network.join_reflector()
    reflector.becomes(OperState.RUNNING)
    ask(asking, 6, BASE)
    eventually(lambda: reflector.counted().reflected == 2, "it goes on counting")


def test_a_neighbour_that_has_another_address(
    network: Network,
    run: Callable[[], Running],
    asking: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel is made to ask, for replies of a program do not make it."""
    monkeypatch.setattr("dataplane.engines.xdp.reflector.LOOK_NS", NS_PER_S)
    for name, value in (("base_reachable_time_ms", 3_000), ("delay_first_probe_time", 1)):
        sysctl(network.reflector, f"net.ipv6.neigh.vb.{name}", value)
    reflector = run()
    reflector.serve(SERVED)
    reflector.becomes(OperState.RUNNING)
    ask(asking, 6, BASE)
    ask(asking, 6, BASE)
    look = ("ip", "-n", network.reflector, "-6", "neighbor", "show", "fd00:b::ff", "nud", "stale")
    eventually(lambda: subprocess.run(look, check=True, capture_output=True).stdout, "it is stale")
    before = reflector.counted().driver_answered
    ip("-n", network.router, "link", "set", "rb", "address", "02:00:00:00:77:77")
    asking.settimeout(0.1)

    def answered() -> bool:
        try:
            ask(asking, 6, BASE)
        except TimeoutError:
            return False
        return True

    eventually(answered, "the first reply by the new address", timeout_s=30)
    asking.settimeout(5)
    for _ in range(5):
        ask(asking, 6, BASE)
    eventually(lambda: reflector.counted().driver_answered >= before + 5, "all by the program")


def test_generic_where_the_driver_has_no_xdp(network: Network, run: Callable[[], Running]) -> None:
    reflector = run()
    reflector.serve(dataclasses.replace(SERVED, interfaces=("lo",)))
    attachment = reflector.becomes(OperState.RUNNING).attachments[0]
    assert (attachment.interface, attachment.mode) == ("lo", AttachmentMode.GENERIC)
    assert attachment.note == "no XDP in the driver of lo: Operation not supported"


def test_refused_load(run: Callable[[], Running], monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Path(__file__).parents[1] / "bpf" / "refused.c"
    monkeypatch.setattr("dataplane.engines.xdp.program.SOURCE", refused)
    monkeypatch.setattr("dataplane.engines.xdp.program.FUNCTION", "refused")
    reflector = run()
    reflector.serve(SERVED)
    status = reflector.becomes(OperState.FAILED)
    assert status.last_error == (
        "the kernel refuses the XDP program: R1 offset is outside of the packet"
    )
