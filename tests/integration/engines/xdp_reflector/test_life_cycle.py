"""How the reflector of the xdp engine comes, changes, fails and goes."""

from __future__ import annotations

import dataclasses
import gc
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from dataplane.config import IPAddress, Node, ReflectorSession, Sender
from dataplane.engines.base import (
    AttachmentMode,
    OperState,
    ReflectorStatusReport,
    reflector_store_path,
)
from dataplane.engines.driver.doorbell import Doorbell
from dataplane.engines.driver.interfaces import Kernel
from dataplane.engines.driver.layouts import LocalFlag
from dataplane.engines.driver.tables import NodeTables
from dataplane.engines.xdp.program import ReflectorProgram
from dataplane.stamp.session_reflector import SessionState
from tests.integration.engines.network import SENDER, Network, eventually, inside, ip, sysctl
from tests.integration.engines.xdp_reflector.running import (
    BASE,
    SERVED,
    SESSION,
    STATEFUL,
    Running,
    ask,
    program_on,
)

pytestmark = pytest.mark.integration


def test_counts_outlive_the_process(
    reflector: Running, run: Callable[[], Running], asking: socket.socket
) -> None:
    for _ in range(3):
        ask(asking, 5, BASE)
    reflector.close()
    assert reflector.counted().sessions[5, SENDER].reflected == 3
    second = run()
    second.serve(SERVED)
    second.becomes(OperState.RUNNING)
    assert struct.unpack_from("!I", ask(asking, 5, BASE))[0] == 3
    eventually(lambda: second.counted().sessions[5, SENDER].reflected == 4, "it counts on")
    eventually(lambda: second.counted().reflected == 4, "and so does the role")


def test_reconfiguration(reflector: Running, asking: socket.socket) -> None:
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


def test_numbers_of_a_session_that_the_program_has_no_more(reflector: Running) -> None:
    role = reflector.engine._reflector
    state = cast(SessionState, SimpleNamespace(take=lambda count: 70 + count))
    assert role._share_state(STATEFUL, state).take(0) == 0
    assert role._share_state(ReflectorSession(7), state).take(2) == 72


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


def test_an_address_that_nobody_tells_of(
    network: Network, run: Callable[[], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel is asked now and then, though it tells of nearly all changes."""
    told: set[IPAddress] = set()
    fill, heard = NodeTables.set_locals, Doorbell.rung

    def set_locals(tables: NodeTables, known: dict[IPAddress, LocalFlag]) -> None:
        told.update(known)
        fill(tables, known)

    def deaf(doorbell: Doorbell) -> bool:
        heard(doorbell)
        return False

    monkeypatch.setattr(NodeTables, "set_locals", set_locals)
    monkeypatch.setattr(Doorbell, "rung", deaf)
    monkeypatch.setattr("dataplane.engines.xdp.reflector.LOOK_NS", 1)
    reflector = run()
    reflector.serve(SERVED)
    reflector.becomes(OperState.RUNNING)
    ip("-n", network.reflector, "address", "add", "fd00:99::1/128", "dev", "lo")
    eventually(lambda: IPv6Address("fd00:99::1") in told, "the program is told of it")


def test_interface_comes_back(network: Network, reflector: Running, asking: socket.socket) -> None:
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


def test_the_fib_answers_while_it_runs(network: Network, reflector: Running) -> None:
    def forwarding(device: str) -> str:
        with inside(network.reflector):
            return Path(f"/proc/sys/net/ipv6/conf/{device}/forwarding").read_text().strip()

    assert (forwarding("lo"), forwarding("all"), forwarding("vb")) == ("1", "0", "0")
    sysctl(network.reflector, "net.ipv6.conf.lo.forwarding", 0)
    eventually(lambda: forwarding("lo") == "1", "it is set again")
    reflector.close()
    assert forwarding("lo") == "0"


def test_another_program_is_left_alone(network: Network, reflector: Running) -> None:
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
            reflector.close()
            second.becomes(OperState.RUNNING)
            assert program_on(network.reflector, "vb") not in (0, theirs)
        finally:
            second.close()


def test_generic_where_the_driver_has_no_xdp(network: Network, run: Callable[[], Running]) -> None:
    reflector = run()
    reflector.serve(dataclasses.replace(SERVED, interfaces=("lo",)))
    attachment = reflector.becomes(OperState.RUNNING).attachments[0]
    assert (attachment.interface, attachment.mode) == ("lo", AttachmentMode.GENERIC)
    assert attachment.note == "no XDP in the driver of lo: Operation not supported"


def test_refused_load(run: Callable[[], Running], monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Path(__file__).parents[2] / "bpf" / "refused.c"
    monkeypatch.setattr("dataplane.engines.xdp.program.SOURCE", refused)
    monkeypatch.setattr("dataplane.engines.xdp.program.FUNCTION", "refused")
    reflector = run()
    reflector.serve(SERVED)
    status = reflector.becomes(OperState.FAILED)
    assert status.last_error == (
        "the kernel refuses the XDP program: R1 offset is outside of the packet"
    )


@pytest.fixture
def let_go(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Programs are not loaded until it is set."""
    event = threading.Event()

    def load() -> ReflectorProgram:
        assert event.wait(30)
        return ReflectorProgram()

    for name in ("collector.CollectorProgram", "reflector.ReflectorProgram"):
        monkeypatch.setattr(f"dataplane.engines.xdp.{name}", load)
    yield event
    event.set()


def test_it_is_starting_until_the_program_is_loaded(
    run: Callable[[], Running], let_go: threading.Event
) -> None:
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


def test_detached_when_it_is_closed(network: Network, reflector: Running) -> None:
    assert program_on(network.reflector, "vb")
    reflector.close()
    assert not program_on(network.reflector, "vb")
    assert not (reflector.folder / "slow-path").exists()


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
    # Of tests before, which would go meanwhile.
    gc.collect()
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
    run: Callable[[], Running], monkeypatch: pytest.MonkeyPatch, let_go: threading.Event
) -> None:
    monkeypatch.setattr("dataplane.engines.xdp.collector.WAIT_S", 0.0)
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
