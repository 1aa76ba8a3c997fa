"""VLANs on interfaces, which the kernel of a test machine may not have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dataplane.engines.driver.interfaces import Kernel, Place, Port, Vlan, _places, _stack
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


class Ethtool:
    """An interface that takes tags of one kind off frames, or of none."""

    def __init__(self, active: str | None) -> None:
        self._active = active

    def change_ifname(self, name: str) -> None:
        assert name == "eth0"

    def get_features(self) -> Ethtool:
        return self

    def is_active(self, name: str) -> bool:
        return name == self._active

    def close(self) -> None: ...


class Silent(Ethtool):
    def get_features(self) -> Ethtool:
        raise OSError("no such interface")


class Netlink:
    def __init__(self, *links: Message) -> None:
        self._links = links

    def get_links(self) -> Iterator[Message]:
        return iter(self._links)

    def close(self) -> None: ...


def named(link: Message, name: str) -> Message:
    return Message(link, IFLA_IFNAME=name)


ETH0, ETH0_5 = named(PHYSICAL, "eth0"), named(OUTER, "eth0.5")
ETH0_6, ETH0_5_6 = named(vlan(4, 2, 6), "eth0.6"), named(vlan(5, 3, 6), "eth0.5.6")
BRIDGE = named(link(2, IFLA_LINKINFO=Message(IFLA_INFO_KIND="bridge")), "eth0")


def seen(ethtool: Ethtool, *links: Message) -> tuple[bool, set[tuple[Vlan, ...]]]:
    """Whether eth0 hides VLANs, and the tags by which a program is to know its devices."""
    kernel = Kernel()
    kernel.close()
    kernel._route, kernel._ethtool = Netlink(*links), ethtool
    found = kernel.devices(tuple(link["IFLA_IFNAME"] for link in links))
    return found.interfaces[0].hides_vlans, {place.vlans for place in found.devices}


UNTAGGED = {(), (Vlan(0),)}


@pytest.mark.parametrize("feature", ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"])
def test_what_may_have_lost_its_tag_is_not_for_programs(feature: str) -> None:
    assert seen(Ethtool(feature), ETH0, ETH0_5) == (True, {(Vlan(5),)})


def test_an_interface_that_leaves_tags_on_frames() -> None:
    assert seen(Ethtool(None), ETH0, ETH0_5) == (False, {*UNTAGGED, (Vlan(5),)})


def test_an_interface_without_vlans() -> None:
    assert seen(Ethtool("rx-vlan-hw-parse"), ETH0) == (False, UNTAGGED)


def test_one_of_two_tags_may_be_lost() -> None:
    hidden = seen(Ethtool("rx-vlan-hw-parse"), ETH0, ETH0_5, ETH0_6, ETH0_5_6)
    assert hidden == (True, {(Vlan(5),), (Vlan(5), Vlan(6))})


def test_nobody_says_whether_tags_are_left() -> None:
    assert seen(Silent(None), ETH0, ETH0_5) == (True, {(Vlan(5),)})
    # A virtual interface is not asked: others have had the frame before.
    assert seen(Ethtool(None), BRIDGE, ETH0_5) == (True, {(Vlan(5),)})


def test_frames_of_a_port_are_for_the_device_that_it_belongs_to() -> None:
    port = named(link(1, IFLA_MASTER=7), "eth0")
    bridge = named(link(7, IFLA_LINKINFO=Message(IFLA_INFO_KIND="bridge")), "br0")
    vlan_of_port = named(vlan(2, 1, 5), "eth0.5")
    kernel = Kernel()
    kernel.close()
    kernel._route, kernel._ethtool = Netlink(port, vlan_of_port, bridge), Ethtool(None)
    found = kernel.devices(("eth0", "eth0.5"))
    assert found.devices == {}
    assert found.interfaces[0].handed_on == (Port("eth0", "br0"), Port("eth0.5", "br0"))


def test_the_kernel_tells_features() -> None:
    kernel = Kernel()
    assert not kernel._takes_tags_off(named(link(1), "lo"))
    assert kernel._takes_tags_off(named(link(1), "nosuch"))
    kernel.close()
