"""Where replies go, by the node's own FIB."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_PASS, XDP_REDIRECT, XDP_TX
from dataplane.clock import wall_ns
from dataplane.reflector_store import HandedUp
from tests.integration.engines.xdp.conftest import in_own_namespace
from tests.integration.engines.xdp.routing import IPV4, IPV6, SID, Node, ip, setting

pytestmark = pytest.mark.integration

STAMP = 8 + 44
"""Bytes of UDP header and base packet."""


@pytest.fixture(params=[False, True], ids=["host", "router"])
def forwards(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[IPV6, IPV4], ids=["IPv6", "IPv4"])
def node(
    reflector_module: BpfModule, request: pytest.FixtureRequest, forwards: bool
) -> Iterator[Node]:
    with in_own_namespace():
        made = Node(reflector_module, request.param, forwards)
        yield made
        made.close()


in_ipv6 = pytest.mark.parametrize("node", [IPV6], ids=["IPv6"], indirect=True)


def test_the_same_interface(node: Node) -> None:
    node.way_back("b0")
    run = node.ask()
    assert (run.action, run.data[:12]) == (XDP_TX, node.frame_by("b0"))


def test_another_interface(node: Node) -> None:
    node.way_back("c0")
    run = node.ask()
    assert (run.action, run.data[:12]) == (XDP_REDIRECT, node.frame_by("c0"))


def test_the_fib_answers_though_the_node_does_not_forward(node: Node, forwards: bool) -> None:
    """By a setting of the loopback interface alone, which is undone."""
    version = f"ipv{node.family.version}"
    assert setting(f"{version}/conf/all/forwarding") == forwards
    assert setting(f"{version}/conf/b0/forwarding") == forwards
    assert setting(f"{version}/conf/lo/forwarding") == 1
    node.fib.close()
    assert setting(f"{version}/conf/lo/forwarding") == forwards


def test_an_interface_that_is_not_configured(node: Node) -> None:
    node.way_back("c0")
    node.tables.set_interfaces(node.kernel.devices(("b0",)).devices)
    before = node.handed_up(HandedUp.NEXT_HOP)
    assert node.ask().action == XDP_PASS
    assert node.handed_up(HandedUp.NEXT_HOP) == before + 1


@pytest.mark.parametrize("generic", [(), ("b0",), ("c0",), ("b0", "c0")], ids=str)
def test_from_a_driver_to_an_interface_that_takes_no_frames_of_one(
    node: Node, generic: tuple[str, ...]
) -> None:
    node.way_back("c0")
    places = {socket.if_nametoindex(name) for name in generic}
    node.tables.set_interfaces(node.kernel.devices(("b0", "c0")).devices, generic=places)
    before = node.handed_up(HandedUp.NEXT_HOP)
    lost = generic == ("c0",)
    assert node.ask().action == (XDP_PASS if lost else XDP_REDIRECT)
    assert node.handed_up(HandedUp.NEXT_HOP) == before + lost


def test_no_route_and_no_neighbour_are_for_the_kernel(node: Node) -> None:
    before = node.handed_up(HandedUp.NEXT_HOP)
    assert node.ask().action == XDP_PASS
    node.way_back("b0")
    node.forget_neighbour("b0")
    assert node.ask().action == XDP_PASS
    assert node.handed_up(HandedUp.NEXT_HOP) == before + 2
    node.way_back("b0")
    assert node.ask().action == XDP_TX


def test_a_reply_that_is_too_big_for_its_interface(node: Node) -> None:
    node.way_back("b0")
    room = 1_500 - node.family.header - STAMP
    before = node.handed_up(HandedUp.TOO_BIG)
    assert node.ask(tail=room).action == XDP_TX
    ip("link", "set", "b0", "mtu", "1499")
    assert node.ask(tail=room - 1).action == XDP_TX
    assert node.handed_up(HandedUp.TOO_BIG) == before
    assert node.ask(tail=room).action == XDP_PASS
    assert node.handed_up(HandedUp.TOO_BIG) == before + 1


@in_ipv6
def test_a_reply_that_is_too_big_with_its_return_path(node: Node) -> None:
    node.way_back("b0")
    node.way_back("b0", to=f"{SID}/128")
    room = 1_500 - node.family.header - STAMP
    before = node.handed_up(HandedUp.TOO_BIG)
    assert node.ask(1, room).action == XDP_TX
    # The SRH of two segments takes 40.
    assert node.ask(2, room - 40).action == XDP_TX
    assert node.handed_up(HandedUp.TOO_BIG) == before
    assert node.ask(2, room - 39).action == XDP_PASS
    assert node.handed_up(HandedUp.TOO_BIG) == before + 1


@in_ipv6
def test_by_the_first_segment(node: Node) -> None:
    node.way_back("b0")
    node.way_back("c0", to=f"{SID}/128")
    assert node.ask(1).data[:12] == node.frame_by("b0")
    assert node.ask(2).data[:12] == node.frame_by("c0")


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


@pytest.mark.usefixtures("one_cpu")
def test_another_class_of_traffic_goes_its_own_way(node: Node) -> None:
    """What is remembered of one says nothing about another."""
    node.way_back("b0")
    node.way_back("c0", "table", "77")
    ip(f"-{node.family.version}", "rule", "add", "tos", "0x10", "lookup", "77")
    now_ns = wall_ns()
    assert node.ask(traffic_class=0x10, now_ns=now_ns).data[:12] == node.frame_by("c0")
    other = node.ask(traffic_class=0x08, now_ns=now_ns, anew=False)
    assert other.data[:12] == node.frame_by("b0")
    # Congestion Experienced on the way here does not matter to the way back.
    same = node.ask(traffic_class=0x0B, now_ns=now_ns, anew=False)
    assert same.data[:12] == node.frame_by("b0")


def test_by_the_ports(node: Node) -> None:
    rule = f"-{node.family.version}", "rule", "add", "ipproto", "udp"
    node.way_back("b0")
    node.way_back("c0", "table", "77")
    ip(*rule, "sport", "863", "lookup", "77")
    ip(*rule, "dport", "49863", "lookup", "77")
    assert node.ask().data[:12] == node.frame_by("b0")
    ip(*rule, "sport", "862", "dport", "49862", "lookup", "77")
    assert node.ask().data[:12] == node.frame_by("c0")


@pytest.mark.usefixtures("one_cpu")
def test_a_next_hop_is_remembered_for_where_the_request_came_from(node: Node) -> None:
    """By the same way back: c0 takes its own replies, and no frames of b0's driver."""
    node.way_back("c0")
    generic = {socket.if_nametoindex("c0")}
    node.tables.set_interfaces(node.kernel.devices(("b0", "c0")).devices, generic)
    start_ns = wall_ns()
    assert node.ask(device="c0", now_ns=start_ns).action == XDP_TX
    before = node.handed_up(HandedUp.NEXT_HOP)
    assert node.ask(device="b0", now_ns=start_ns + 1, anew=False).action == XDP_PASS
    assert node.handed_up(HandedUp.NEXT_HOP) == before + 1
