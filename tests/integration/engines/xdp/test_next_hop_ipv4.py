"""Where replies over IPv4 go, by the node's own FIB, and which senders are believed.

b0  198.51.100.1/24   requests from 192.0.2.1 arrive here
c0  203.0.113.1/24    the way back is through here, or not
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_PASS, XDP_REDIRECT, XDP_TX, Run, run_program, xdp_context
from dataplane.clock import wall_ns
from dataplane.config import Reflector, ReflectorSession
from dataplane.engines.xdp.fib import FibAccess
from dataplane.engines.xdp.interfaces import Kernel, SourceValidation
from dataplane.engines.xdp.layouts import LocalFlag, ReflectorFlag
from dataplane.engines.xdp.tables import ReflectorTables
from dataplane.frames import Datagram, Frame
from dataplane.reflector_store import HandedUp
from dataplane.stamp.packet import SenderPacket
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat
from tests.integration.engines.xdp.conftest import in_own_namespace

pytestmark = pytest.mark.integration

HERE, THERE = IPv4Address("198.51.100.1"), IPv4Address("192.0.2.1")
ADDRESSES = {"b0": "198.51.100.1/24", "c0": "203.0.113.1/24"}
GATEWAYS = {"b0": "198.51.100.2", "c0": "203.0.113.2"}
NEIGHBOUR = {"b0": "02:00:00:00:00:b2", "c0": "02:00:00:00:00:c2"}
ERROR = ErrorEstimate(False, TimestampFormat.NTP, 0, 1)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def setting(name: str, value: int | None = None) -> int:
    """Of IPv4, in this network namespace."""
    path = f"/proc/sys/net/ipv4/{name}"
    if value is not None:
        with open(path, "w") as file:
            file.write(str(value))
    with open(path) as file:
        return int(file.read())


class Node:
    """This network namespace, as the program knows it; it does not forward."""

    def __init__(self, module: BpfModule) -> None:
        self.macs = {}
        for name in NEIGHBOUR:
            ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-peer")
            ip("link", "set", name, "up")
            ip("link", "set", f"{name}-peer", "up")
            ip("address", "add", ADDRESSES[name], "dev", name)
            shown = json.loads(ip("-j", "link", "show", name))[0]
            self.macs[name] = bytes.fromhex(shown["address"].replace(":", ""))
        self.fib = FibAccess()
        self.kernel = Kernel()
        self.tables = ReflectorTables(module)
        self.program = module.load("reflector")
        self.tables.set_locals(self.kernel.locals())
        self.validate(SourceValidation.NONE)
        session = ReflectorSession(1)
        self.tables.set_sessions({session.key: session}, lambda _key: 0)
        self.tables.set_config(Reflector(), ReflectorFlag.TRAILERS)
        self.index = int(json.loads(ip("-j", "link", "show", "b0"))[0]["ifindex"])

    def close(self) -> None:
        self.kernel.close()
        self.fib.close()

    def validate(self, validation: SourceValidation) -> None:
        setting("conf/all/rp_filter", 0)
        setting("conf/b0/rp_filter", validation)
        found = self.kernel.devices(("b0", "c0"))
        self.tables.set_interfaces(found.devices)

    def way_back(self, device: str, *more: str) -> None:
        via = GATEWAYS[device]
        ip("route", "replace", "192.0.2.0/24", *more, "via", via, "dev", device)
        ip("neighbor", "replace", via, "lladdr", NEIGHBOUR[device], "dev", device)

    def ask(self, tail: int = 0, traffic_class: int = 0) -> Run:
        """A request through b0."""
        self.tables.renew_next_hops()
        now_ns = wall_ns()
        self.tables.fix_clock(now_ns, now_ns)
        payload = SenderPacket(1, 0, ERROR, 1, bytes(tail)).encode()
        frame = Frame(
            Datagram(THERE, HERE, 49_862, 862, payload, traffic_class=traffic_class),
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
        made.close()


def macs(device: str, node: Node) -> bytes:
    return bytes.fromhex(NEIGHBOUR[device].replace(":", "")) + node.macs[device]


def test_the_fib_answers_though_the_node_does_not_forward(node: Node) -> None:
    assert setting("ip_forward") == 0
    assert setting("conf/lo/forwarding") == 1
    node.way_back("b0")
    run = node.ask()
    assert (run.action, run.data[:12]) == (XDP_TX, macs("b0", node))
    node.fib.close()
    assert setting("conf/lo/forwarding") == 0


@pytest.mark.parametrize("validation", SourceValidation)
def test_the_same_interface(node: Node, validation: SourceValidation) -> None:
    node.way_back("b0")
    node.validate(validation)
    run = node.ask()
    assert (run.action, run.data[:12]) == (XDP_TX, macs("b0", node))


@pytest.mark.parametrize("validation", SourceValidation)
def test_another_interface(node: Node, validation: SourceValidation) -> None:
    """Strict validation takes no packet from a sender that is reached otherwise."""
    node.way_back("c0")
    node.validate(validation)
    before = node.handed_up(HandedUp.NEXT_HOP)
    run = node.ask()
    if validation is SourceValidation.STRICT:
        assert run.action == XDP_PASS
        assert node.handed_up(HandedUp.NEXT_HOP) == before + 1
    else:
        assert (run.action, run.data[:12]) == (XDP_REDIRECT, macs("c0", node))


def test_validation_of_all_interfaces_counts(node: Node) -> None:
    setting("conf/all/rp_filter", 1)
    devices = node.kernel.devices(("b0",)).devices
    assert {each.source_validation for each in devices.values()} == {SourceValidation.STRICT}


def test_by_the_type_of_service(node: Node) -> None:
    """Of a value that all kernels look at; some do not look at the upper three bits."""
    node.way_back("b0")
    node.way_back("c0", "tos", "0x10")
    assert node.ask(traffic_class=0x13).data[:12] == macs("c0", node)
    assert node.ask(traffic_class=0x08).data[:12] == macs("b0", node)


def test_no_route_and_no_neighbour_are_for_the_kernel(node: Node) -> None:
    before = node.handed_up(HandedUp.NEXT_HOP)
    assert node.ask().action == XDP_PASS
    node.way_back("b0")
    ip("neighbor", "delete", GATEWAYS["b0"], "dev", "b0")
    assert node.ask().action == XDP_PASS
    assert node.handed_up(HandedUp.NEXT_HOP) == before + 2
    node.way_back("b0")
    assert node.ask().action == XDP_TX


def test_a_reply_that_is_encapsulated_on_its_way_is_for_the_kernel(node: Node) -> None:
    """H.Encaps: the route puts the packet into IPv6 with an SRH."""
    ip("-6", "route", "add", "fc00::/16", "dev", "b0")
    encap = ("encap", "seg6", "mode", "encap", "segs", "fc00:e::1")
    ip("route", "replace", "192.0.2.0/24", *encap, "dev", "b0")
    before = node.handed_up(HandedUp.NEXT_HOP)
    assert node.ask().action == XDP_PASS
    assert node.handed_up(HandedUp.NEXT_HOP) == before + 1


def test_a_reply_that_is_too_big(node: Node) -> None:
    ip("link", "set", "b0", "mtu", "1500")
    node.way_back("b0", "mtu", "lock", "1000")
    before = node.handed_up(HandedUp.TOO_BIG)
    # 20 of IPv4, 8 of UDP, 44 of STAMP.
    assert node.ask(1_000 - 72).action == XDP_TX
    assert node.handed_up(HandedUp.TOO_BIG) == before
    assert node.ask(1_001 - 72).action == XDP_PASS
    assert node.handed_up(HandedUp.TOO_BIG) == before + 1


def test_sids_that_set_ipv4_free(node: Node) -> None:
    """End.DX4 with the packet's own destination as next hop (RFC 8986 §4.5)."""
    for sid, nexthop in (("fc00:b::d4", "0.0.0.0"), ("fc00:b::d5", "203.0.113.2")):
        action = ("encap", "seg6local", "action", "End.DX4", "nh4", nexthop)
        ip("-6", "route", "add", sid, *action, "dev", "b0")
    found = {str(address): flag for address, flag in node.kernel.locals().items()}
    assert found["fc00:b::d4"] is LocalFlag.DECAPSULATES_IPV4
    assert "fc00:b::d5" not in found
    assert found["198.51.100.1"] is LocalFlag.ADDRESS
