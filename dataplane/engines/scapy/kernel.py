"""What the kernel of this network namespace would do with a packet that was sniffed."""

from __future__ import annotations

import enum
import socket
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from dataplane.clock import monotonic_ns

MEMORY_NS = 1_000_000_000
"""An answer of the kernel is used for this long: routes and addresses change."""

_RTN_LOCAL, _RTN_BROADCAST, _RTN_MULTICAST = 2, 3, 5
_AF_INET, _AF_INET6 = 2, 10
_DECAPSULATIONS = frozenset({7, 16})
"""seg6local actions End.DT6 and End.DT46 (linux/seg6_local.h)."""

_END_DX4 = 6


class Fate(enum.Enum):
    """Of a packet, by its destination."""

    LOCAL = enum.auto()
    """The address is this node's."""

    DECAPSULATED = enum.auto()
    """It is a SID of this node that sets free what is inside (RFC 8986 §4.6, §4.8)."""

    DECAPSULATED_IPV4 = enum.auto()
    """It is a SID of this node that sets free IPv4, by its own destination (§4.5)."""

    MANY = enum.auto()
    """It is a broadcast or multicast address that is received here."""

    ELSEWHERE = enum.auto()
    """This node forwards the packet, or drops it."""


class Kernel:
    """Belongs to one thread, whose network namespace it asks about."""

    def __init__(self) -> None:
        self._netlink = IPRoute()
        self._fates: dict[tuple[str, str], Fate] = {}
        self._srh: dict[str, bool] = {}
        self._forget_ns = 0

    def fate(self, address: str, interface: str) -> Fate:
        """Of a packet to `address` that has arrived on `interface`."""
        self._forget()
        link = interface if IPv6Address(address).is_link_local else ""
        found = self._fates.get((address, link))
        if found is None:
            query = {"family": _AF_INET6, "dst": address}
            found = self._fates[address, link] = self._look_up(query, {"oif": link})
        return found

    def fate_from(self, source: str, address: str, interface: str) -> Fate:
        """The same of IPv4, where it depends on the source as well: a packet from where
        none can be from is dropped."""
        self._forget()
        key = f"{source} {address}", interface
        found = self._fates.get(key)
        if found is None:
            query = {"family": _AF_INET, "dst": address, "src": source}
            found = self._fates[key] = self._look_up(query, {"iif": interface})
        return found

    def accepts_srh(self, interface: str) -> bool:
        """Whether packets with an SRH may end here; ip-sysctl, `seg6_enabled`."""
        self._forget()
        found = self._srh.get(interface)
        if found is None:
            found = all(_seg6_enabled(name) for name in ("all", interface))
            self._srh[interface] = found
        return found

    def close(self) -> None:
        self._netlink.close()

    def _forget(self) -> None:
        now_ns = monotonic_ns()
        if now_ns >= self._forget_ns:
            self._forget_ns = now_ns + MEMORY_NS
            self._fates.clear()
            self._srh.clear()

    def _look_up(self, query: dict[str, Any], link: dict[str, str]) -> Fate:
        """`link` names an interface, or none."""
        try:
            indices = {name: socket.if_nametoindex(each) for name, each in link.items() if each}
            (route,) = self._netlink.route("get", **query, **indices)
        except (NetlinkError, OSError):
            return Fate.ELSEWHERE
        if route["type"] == _RTN_LOCAL:
            return Fate.LOCAL
        if route["type"] in (_RTN_BROADCAST, _RTN_MULTICAST):
            return Fate.MANY
        return _decapsulation(route.get_attr("RTA_ENCAP"))


def _decapsulation(encapsulation: Any) -> Fate:
    """Of a packet whose route says so."""
    action = None if encapsulation is None else encapsulation.get_attr("SEG6_LOCAL_ACTION")
    if action in _DECAPSULATIONS:
        return Fate.DECAPSULATED
    if action == _END_DX4 and encapsulation.get_attr("SEG6_LOCAL_NH4") == "0.0.0.0":
        return Fate.DECAPSULATED_IPV4
    return Fate.ELSEWHERE


def _seg6_enabled(name: str) -> bool:
    try:
        return Path(f"/proc/sys/net/ipv6/conf/{name}/seg6_enabled").read_text() != "0\n"
    except OSError:
        return False
