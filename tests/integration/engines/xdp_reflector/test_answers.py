"""What the reflector of the xdp engine answers, by its program or in user space behind it."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Callable

import pytest

from dataplane.engines.base import OperState
from dataplane.engines.driver import interfaces
from dataplane.engines.driver.interfaces import Place
from dataplane.measurement import TimestampMethod
from dataplane.reflector_store import HandedUp
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.timestamp import NS_PER_S
from tests.integration.engines.network import (
    REFLECTOR,
    SENDER,
    Network,
    eventually,
    inside,
    ip,
    sysctl,
    tagging,
)
from tests.integration.engines.xdp_reflector.running import BASE, SERVED, Running, ask

pytestmark = pytest.mark.integration


def test_both_paths_share_one_counter(reflector: Running, asking: socket.socket) -> None:
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
    reflector: Running, run: Callable[[], Running], asking: socket.socket
) -> None:

    def methods(running: Running) -> tuple[TimestampMethod, TimestampMethod]:
        session = running.counted().sessions[5, SENDER]
        return session.t2_method, session.t3_method

    def taken(payload: bytes, t3_method: TimestampMethod) -> None:
        ask(asking, 5, payload)
        eventually(lambda: methods(reflector) == (kernel, t3_method), f"T3 is {t3_method.value}")

    kernel, user = TimestampMethod.KERNEL_SOFTWARE, TimestampMethod.USERSPACE
    assert methods(reflector) == (TimestampMethod.UNKNOWN, TimestampMethod.UNKNOWN)
    # Before the neighbour is known, requests are for user space.
    ask(asking, 5, BASE)
    for payload, t3_method in (
        (BASE, kernel),
        (BASE[:16], user),
        (BASE, kernel),
        (BASE[:16], user),
    ):
        taken(payload, t3_method)
    reflector.close()
    second = run()
    second.serve(SERVED)
    second.becomes(OperState.RUNNING)
    assert methods(second) == (kernel, user)


def test_no_number_is_given_twice(reflector: Running, asking: socket.socket) -> None:
    ask(asking, 5, BASE)
    numbers = []
    for _ in range(20):
        asked = [BASE if number % 3 else BASE[:16] for number in range(30)]
        for payload in asked:
            asking.sendto(payload[:14] + b"\0\5" + payload[16:], (str(REFLECTOR), 862))
        numbers += [struct.unpack_from("!I", asking.recv(4_096))[0] for _ in asked]
    assert sorted(numbers) == list(range(1, 601))


def test_discards_of_both_paths(reflector: Running, asking: socket.socket) -> None:
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


def test_no_way_back_is_counted(
    network: Network, reflector: Running, asking: socket.socket
) -> None:
    ip("-n", network.reflector, "-6", "route", "delete", "default")
    asking.sendto(BASE[:14] + b"\0\6" + BASE[16:], (str(REFLECTOR), 862))
    eventually(
        lambda: reflector.counted().discards[DiscardReason.SEND_FAILED] == 1, "it is counted"
    )
    assert reflector.counted().handed_up[HandedUp.NEXT_HOP] == 1
    assert reflector.counted().driver_answered == 0


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
