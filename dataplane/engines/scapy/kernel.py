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

_RTN_LOCAL = 2
_DECAPSULATIONS = frozenset({7, 16})
"""seg6local actions End.DT6 and End.DT46 (linux/seg6_local.h)."""


class Fate(enum.Enum):
    """Of a packet, by its destination."""

    LOCAL = enum.auto()
    """The address is this node's."""

    DECAPSULATED = enum.auto()
    """It is a SID of this node that sets free what is inside (RFC 8986 §4.6, §4.8)."""

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
            found = self._fates[address, link] = self._look_up(address, link)
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

    def _look_up(self, address: str, link: str) -> Fate:
        query: dict[str, Any] = {"family": 10, "dst": address}
        try:
            if link:
                query["oif"] = socket.if_nametoindex(link)
            (route,) = self._netlink.route("get", **query)
        except (NetlinkError, OSError):
            return Fate.ELSEWHERE
        if route["type"] == _RTN_LOCAL:
            return Fate.LOCAL
        encapsulation = route.get_attr("RTA_ENCAP")
        action = None if encapsulation is None else encapsulation.get_attr("SEG6_LOCAL_ACTION")
        return Fate.DECAPSULATED if action in _DECAPSULATIONS else Fate.ELSEWHERE


def _seg6_enabled(name: str) -> bool:
    try:
        return Path(f"/proc/sys/net/ipv6/conf/{name}/seg6_enabled").read_text() != "0\n"
    except OSError:
        return False
