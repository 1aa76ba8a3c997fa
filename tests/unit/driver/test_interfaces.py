"""VLANs on interfaces, which the kernel of a test machine may not have."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.engines.driver.interfaces import Place, Vlan, _places, _stack
from dataplane.frames import ETHERTYPE_SERVICE_VLAN

UP = 1


class Message(dict[str, Any]):
    """A netlink message, as pyroute2 gives it."""

    def get_attr(self, name: str) -> Any:
        return self.get(name)


def link(index: int, flags: int = UP, **attributes: Any) -> Message:
    return Message(index=index, flags=flags, **attributes)


def vlan(
    index: int,
    on: int,
    identifier: int,
    protocol: int | None = None,
    flags: int = UP,
    **attributes: Any,
) -> Message:
    data = Message(IFLA_VLAN_ID=identifier)
    if protocol is not None:
        data["IFLA_VLAN_PROTOCOL"] = protocol
    info = Message(IFLA_INFO_KIND="vlan", IFLA_INFO_DATA=data)
    return link(index, flags, IFLA_LINK=on, IFLA_LINKINFO=info, **attributes)


def places(device: Message, *others: Message) -> list[Place]:
    links = {each["index"]: each for each in (device, *others)}
    return list(_places(_stack(device, links), links))


PHYSICAL, OUTER = link(2), vlan(3, 2, 5)
PRIORITY = Place(2, (Vlan(0),))


def test_an_interface_gets_priority_tagged_frames() -> None:
    assert places(PHYSICAL, OUTER) == [Place(2), PRIORITY]


def test_vlans_on_an_interface() -> None:
    inner = vlan(4, 3, 6)
    assert places(OUTER, PHYSICAL, inner) == [Place(2, (Vlan(5),))]
    assert places(inner, PHYSICAL, OUTER) == [Place(2, (Vlan(5), Vlan(6)))]


def test_protocols_of_vlans() -> None:
    service = vlan(3, 2, 5, ETHERTYPE_SERVICE_VLAN)
    assert places(service, PHYSICAL) == [Place(2, (Vlan(5, ETHERTYPE_SERVICE_VLAN),))]
    customer = vlan(4, 3, 6, 0x8100)
    expected = (Vlan(5, ETHERTYPE_SERVICE_VLAN), Vlan(6))
    assert places(customer, service, PHYSICAL) == [Place(2, expected)]


def test_a_vlan_may_have_the_priority_tagged_frames() -> None:
    zero = vlan(3, 2, 0)
    assert places(PHYSICAL, zero) == [Place(2)]
    assert places(zero, PHYSICAL) == [PRIORITY]
    for other in (vlan(3, 2, 0, ETHERTYPE_SERVICE_VLAN), vlan(3, 9, 0)):
        assert places(PHYSICAL, other) == [Place(2), PRIORITY]


@pytest.mark.parametrize("down", range(3))
def test_the_kernel_drops_frames_for_what_is_down(down: int) -> None:
    links = [link(2), vlan(3, 2, 5), vlan(4, 3, 6)]
    links[down]["flags"] = 0
    assert places(links[2], *links) == []


def test_interface_in_another_namespace_is_out_of_reach() -> None:
    there = vlan(3, 2, 5, IFLA_LINK_NETNSID=0)
    assert _stack(there, {2: link(2), 3: there}) == []


def test_interface_that_is_not_known() -> None:
    lonely = vlan(3, 2, 5)
    assert _stack(lonely, {3: lonely}) == []
