"""Which IPv4 senders are believed, and what else routes of IPv4 have to say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_PASS, XDP_REDIRECT, XDP_TX
from dataplane.engines.driver.interfaces import SourceValidation
from dataplane.engines.driver.layouts import LocalFlag
from dataplane.reflector_store import HandedUp
from tests.integration.engines.xdp.conftest import in_own_namespace
from tests.integration.engines.xdp.routing import IPV4, Node, ip, setting

pytestmark = pytest.mark.integration


@pytest.fixture
def node(reflector_module: BpfModule) -> Iterator[Node]:
    with in_own_namespace():
        made = Node(reflector_module, IPV4, forwards=False)
        yield made
        made.close()


@pytest.mark.parametrize("validation", SourceValidation)
def test_a_sender_behind_the_same_interface(node: Node, validation: SourceValidation) -> None:
    node.way_back("b0")
    node.validate(validation)
    run = node.ask()
    assert (run.action, run.data[:12]) == (XDP_TX, node.frame_by("b0"))


@pytest.mark.parametrize("validation", SourceValidation)
def test_a_sender_behind_another_interface(node: Node, validation: SourceValidation) -> None:
    """Strict validation takes no packet from a sender that is reached otherwise."""
    node.way_back("c0")
    node.validate(validation)
    before = node.handed_up(HandedUp.NEXT_HOP)
    run = node.ask()
    if validation is SourceValidation.STRICT:
        assert run.action == XDP_PASS
        assert node.handed_up(HandedUp.NEXT_HOP) == before + 1
    else:
        assert (run.action, run.data[:12]) == (XDP_REDIRECT, node.frame_by("c0"))


def test_validation_of_all_interfaces_counts(node: Node) -> None:
    setting("ipv4/conf/all/rp_filter", 1)
    devices = node.kernel.devices(("b0",)).devices
    assert {each.source_validation for each in devices.values()} == {SourceValidation.STRICT}


def test_by_the_type_of_service(node: Node) -> None:
    """Of a value that all kernels look at; some do not look at the upper three bits."""
    node.way_back("b0")
    node.way_back("c0", "tos", "0x10")
    assert node.ask(traffic_class=0x13).data[:12] == node.frame_by("c0")
    assert node.ask(traffic_class=0x08).data[:12] == node.frame_by("b0")


def test_a_reply_that_is_encapsulated_on_its_way_is_for_the_kernel(node: Node) -> None:
    """H.Encaps: the route puts the packet into IPv6 with an SRH."""
    ip("-6", "route", "add", "fc00::/16", "dev", "b0")
    encap = ("encap", "seg6", "mode", "encap", "segs", "fc00:e::1")
    ip("route", "replace", node.family.senders, *encap, "dev", "b0")
    before = node.handed_up(HandedUp.NEXT_HOP)
    assert node.ask().action == XDP_PASS
    assert node.handed_up(HandedUp.NEXT_HOP) == before + 1


def test_a_reply_that_is_too_big_for_its_route(node: Node) -> None:
    node.way_back("b0", "mtu", "lock", "1000")
    before = node.handed_up(HandedUp.TOO_BIG)
    # 20 of IPv4, 8 of UDP, 44 of STAMP.
    assert node.ask(tail=1_000 - 72).action == XDP_TX
    assert node.handed_up(HandedUp.TOO_BIG) == before
    assert node.ask(tail=1_001 - 72).action == XDP_PASS
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
