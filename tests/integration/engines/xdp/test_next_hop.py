"""Where replies go on a node that forwards, by its own FIB.

b0  fd00:b::1/64   requests arrive here
c0  fd00:c::1/64   the way back is through here, or not
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_PASS, XDP_REDIRECT, XDP_TX, Run, run_program, xdp_context
from dataplane.clock import wall_ns
from dataplane.config import Reflector, ReflectorSession
from dataplane.engines.xdp.interfaces import Kernel
from dataplane.engines.xdp.layouts import ReflectorFlag
from dataplane.engines.xdp.tables import ReflectorTables
from dataplane.frames import Datagram, Frame
from dataplane.reflector_store import HandedUp
from dataplane.stamp.packet import SenderPacket
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat
from tests.integration.engines.xdp.conftest import in_own_namespace

pytestmark = pytest.mark.integration

HERE, THERE = IPv6Address("fd00:b::1"), IPv6Address("fd00:a::1")
NEIGHBOUR = {"b0": "02:00:00:00:00:b2", "c0": "02:00:00:00:00:c2"}
SID = IPv6Address("fc00:e::1")
ERROR = ErrorEstimate(False, TimestampFormat.NTP, 0, 1)


def ip(*arguments: str) -> str:
    return subprocess.run(
        ["ip", "-6", *arguments], check=True, capture_output=True, text=True
    ).stdout


class Node:
    """This network namespace, as the program knows it."""

    def __init__(self, module: BpfModule) -> None:
        with open("/proc/sys/net/ipv6/conf/all/forwarding", "w") as file:
            file.write("1")
        self.macs = {}
        for name in NEIGHBOUR:
            ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-peer")
            ip("link", "set", name, "up")
            ip("link", "set", f"{name}-peer", "up")
            ip("address", "add", f"fd00:{name[0]}::1/64", "dev", name, "nodad")
            shown = json.loads(ip("-j", "link", "show", name))[0]
            self.macs[name] = bytes.fromhex(shown["address"].replace(":", ""))
        self.kernel = Kernel()
        self.tables = ReflectorTables(module)
        self.program = module.load("reflector")
        self.tables.set_locals(self.kernel.locals())
        self.tables.set_interfaces(self.kernel.devices(("b0", "c0")).devices)
        sessions = (ReflectorSession(1), ReflectorSession(2, segments=(SID,)))
        self.tables.set_sessions({each.key: each for each in sessions}, lambda _key: 0)
        self.tables.set_config(Reflector(), ReflectorFlag.TRAILERS)
        self.index = int(json.loads(ip("-j", "link", "show", "b0"))[0]["ifindex"])

    def way_back(self, device: str, destination: str = "fd00:a::/64") -> None:
        via = f"fd00:{device[0]}::2"
        ip("route", "replace", destination, "via", via, "dev", device)
        ip("neighbor", "replace", via, "lladdr", NEIGHBOUR[device], "dev", device)

    def ask(
        self, ssid: int = 1, tail: int = 0, *, now_ns: int | None = None, anew: bool = True
    ) -> Run:
        """A request through b0; `anew`: the FIB is asked for it."""
        if anew:
            self.tables.renew_next_hops()
        t2_ns = wall_ns() if now_ns is None else now_ns
        self.tables.fix_clock(t2_ns, t2_ns)
        payload = SenderPacket(1, 0, ERROR, ssid, bytes(tail)).encode()
        frame = Frame(
            Datagram(THERE, HERE, 49_862, 862, payload),
            self.macs["b0"],
            bytes.fromhex("020000000001"),
        )
        data = frame.encode()
        return run_program(self.program, data, context=xdp_context(len(data), self.index))

    def handed_up(self, reason: HandedUp) -> int:
        return self.tables.counts().handed_up[reason]


@pytest.fixture
def node(reflector_module: BpfModule) -> Iterator[Node]:
    with in_own_namespace():
        made = Node(reflector_module)
        yield made
        made.kernel.close()


def macs(device: str, node: Node) -> bytes:
    return bytes.fromhex(NEIGHBOUR[device].replace(":", "")) + node.macs[device]


def test_the_same_interface(node: Node) -> None:
    node.way_back("b0")
    run = node.ask()
    assert (run.action, run.data[:12]) == (XDP_TX, macs("b0", node))


def test_another_interface(node: Node) -> None:
    node.way_back("c0")
    run = node.ask()
    assert (run.action, run.data[:12]) == (XDP_REDIRECT, macs("c0", node))


def test_an_interface_that_is_not_configured(node: Node) -> None:
    node.way_back("c0")
    node.tables.set_interfaces(node.kernel.devices(("b0",)).devices)
    before = node.handed_up(HandedUp.NEXT_HOP)
    assert node.ask().action == XDP_PASS
    assert node.handed_up(HandedUp.NEXT_HOP) == before + 1


def test_by_the_first_segment(node: Node) -> None:
    node.way_back("b0")
    node.way_back("c0", f"{SID}/128")
    assert node.ask(1).data[:12] == macs("b0", node)
    assert node.ask(2).data[:12] == macs("c0", node)


def test_no_route_and_no_neighbour_are_for_the_kernel(node: Node) -> None:
    before = node.handed_up(HandedUp.NEXT_HOP)
    assert node.ask().action == XDP_PASS
    node.way_back("b0")
    ip("neighbor", "delete", "fd00:b::2", "dev", "b0")
    assert node.ask().action == XDP_PASS
    assert node.handed_up(HandedUp.NEXT_HOP) == before + 2
    node.way_back("b0")
    assert node.ask().action == XDP_TX


def test_a_reply_that_is_too_big(node: Node) -> None:
    node.way_back("b0")
    node.way_back("b0", f"{SID}/128")
    before = node.handed_up(HandedUp.TOO_BIG)
    # 40 of IPv6, 8 of UDP, 44 of STAMP; the SRH of two segments takes another 40.
    assert node.ask(1, 1500 - 92).action == XDP_TX
    assert node.ask(2, 1500 - 132).action == XDP_TX
    assert node.handed_up(HandedUp.TOO_BIG) == before
    assert node.ask(2, 1501 - 132).action == XDP_PASS
    assert node.handed_up(HandedUp.TOO_BIG) == before + 1


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """Each CPU remembers for itself."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("one_cpu")
def test_a_next_hop_is_remembered_for_a_tenth_of_a_second(node: Node) -> None:
    node.way_back("b0")
    start_ns = wall_ns()
    assert node.ask(now_ns=start_ns).action == XDP_TX
    node.way_back("c0")
    assert node.ask(now_ns=start_ns + 99_000_000, anew=False).action == XDP_TX
    assert node.ask(now_ns=start_ns + 101_000_000, anew=False).action == XDP_REDIRECT
