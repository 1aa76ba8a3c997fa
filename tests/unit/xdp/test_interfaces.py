"""VLANs on interfaces, which the kernel of a test machine may not have."""

from __future__ import annotations

from typing import Any

from dataplane.engines.xdp.interfaces import _base


class Message(dict[str, Any]):
    """A netlink message, as pyroute2 gives it."""

    def get_attr(self, name: str) -> Any:
        return self.get(name)


def link(index: int, **attributes: Any) -> Message:
    return Message(index=index, **attributes)


def vlan(index: int, on: int, identifier: int, **attributes: Any) -> Message:
    data = Message(IFLA_VLAN_ID=identifier)
    info = Message(IFLA_INFO_KIND="vlan", IFLA_INFO_DATA=data)
    return link(index, IFLA_LINK=on, IFLA_LINKINFO=info, **attributes)


def test_interface_below_vlans() -> None:
    physical, outer, inner = link(2), vlan(3, 2, 5), vlan(4, 3, 6)
    links = {each["index"]: each for each in (physical, outer, inner)}
    assert _base(physical, links) == (physical, [])
    assert _base(outer, links) == (physical, [5])
    assert _base(inner, links) == (physical, [5, 6])


def test_interface_in_another_namespace_is_out_of_reach() -> None:
    there = vlan(3, 2, 5, IFLA_LINK_NETNSID=0)
    assert _base(there, {2: link(2), 3: there})[0] is None


def test_interface_that_is_not_known() -> None:
    lonely = vlan(3, 2, 5)
    assert _base(lonely, {3: lonely})[0] is None
