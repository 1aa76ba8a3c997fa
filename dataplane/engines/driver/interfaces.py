"""What the kernel says about interfaces, addresses and SIDs (rtnetlink)."""

from __future__ import annotations

import contextlib
import enum
from collections import defaultdict
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import IPRoute, NetlinkError
from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool

from dataplane.config import IPAddress
from dataplane.engines.driver.layouts import VLAN_TAGS_MAX, LocalFlag
from dataplane.frames import ETHERTYPE_VLAN
from dataplane.stamp.timestamp import NS_PER_S

LOOK_NS = 10 * NS_PER_S
"""How often the kernel is asked about interfaces, addresses and SIDs where all is well.

It tells of most changes by itself; not of these: `seg6_enabled` was set, the XDP program
at the other end of a veth has come or gone, the own one was forced off. Asking takes
milliseconds, and longer the more routes there are."""

_SYSCTLS = {6: Path("/proc/sys/net/ipv6/conf"), 4: Path("/proc/sys/net/ipv4/conf")}
_FAMILY_IPV4, _FAMILY_IPV6 = 2, 10
_NUD_STALE, _NTF_USE = 0x04, 0x01
"""linux/neighbour.h."""

_TABLE_LOCAL = 255
_TO_TABLE, _INVERTED = 1, 0x2
"""linux/fib_rules.h: FR_ACT_TO_TBL, FIB_RULE_INVERT."""

_FOR_ALL = {"FRA_TABLE", "FRA_PRIORITY", "FRA_PROTOCOL", "FRA_SUPPRESS_PREFIXLEN"}
"""What a routing rule has that is for every packet, and for every route of its table."""

_SUPPRESSES_NONE = 0xFFFFFFFF
_UP, _LOOPBACK = 0x1, 0x8
"""IFF_UP, IFF_LOOPBACK."""

_TENTATIVE, _OPTIMISTIC, _DAD_FAILED = 0x40, 0x04, 0x08
_SEG6_LOCAL = 7
"""enum lwtunnel_encap_types: LWTUNNEL_ENCAP_SEG6_LOCAL."""

_END_DX4, _END_DT6 = 6, 7
"""enum in include/uapi/linux/seg6_local.h."""

_TAKING_TAGS_OFF = ("rx-vlan-hw-parse", "rx-vlan-stag-hw-parse")
"""Features of interfaces, as `ethtool -k` has them: for tags of 802.1Q and of 802.1ad."""


class SourceValidation(enum.IntEnum):
    """Whether a device takes IPv4 packets by their source; ip-sysctl, `rp_filter`."""

    NONE = 0
    STRICT = 1
    """The route to the source is through the device."""

    LOOSE = 2
    """There is a route to the source."""


class Port(NamedTuple):
    """A device that belongs to another one."""

    name: str
    master: str
    """The bridge, bond or VRF."""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network device that can have an XDP program."""

    name: str
    index: int
    kind: str
    """As iproute2 has it, "veth"; empty for a physical one."""

    program_id: int
    """Of an XDP program that is there; 0 for none."""

    drops_frames: bool
    """Whether frames of a program in the driver are lost: the other end of a veth
    takes them only if it has an XDP program as well."""

    leaves_checksums: bool
    """Whether packets may arrive whose checksum was left to an interface: those of
    programs on this machine."""

    hides_vlans: bool
    """Whether frames of VLANs on it may have lost their tags by the time that a program
    sees them."""

    handed_on: tuple[Port, ...] = ()
    """Configured devices on it, or itself, whose frames another device gets."""


@dataclass(frozen=True, slots=True)
class Device:
    """What the kernel gives frames to: an interface, or a VLAN on it."""

    index: int
    mac: bytes
    """Frames for another address are not its."""

    takes_srh: bool
    """Whether it accepts Segment Routing Headers, and unsigned ones."""

    source_validation: SourceValidation = SourceValidation.NONE

    requires_hmac: bool = False
    """Whether SIDs refuse unsigned ones that came through it (`seg6_require_hmac`); what
    `seg6_enabled` says is not asked of a SID."""


class Vlan(NamedTuple):
    """What a VLAN tag says of where a frame belongs (IEEE 802.1Q §9.6)."""

    identifier: int
    protocol: int = ETHERTYPE_VLAN
    """EtherType of the tag: those of 802.1Q and 802.1ad have VLANs of their own."""


class Place(NamedTuple):
    """Where frames arrive that a device gets."""

    ifindex: int
    """Of the interface that can have the program."""

    vlans: tuple[Vlan, ...] = ()
    """Outermost first, at most `VLAN_TAGS_MAX`."""


_PRIORITY = Vlan(0)


class Neighbour(NamedTuple):
    """Who a device can send frames to."""

    ifindex: int
    address: str
    mac: bytes


@dataclass(frozen=True, slots=True)
class Devices:
    """The configured devices, and the interfaces whose frames they get."""

    interfaces: tuple[Interface, ...]
    devices: dict[Place, Device]
    """Without places where frames of VLANs seem to arrive that have lost their tags: who
    is to get a frame from there, the kernel alone knows."""

    missing: str | None
    """Which configured device is not there, for the operator."""


class Kernel:
    """Asks the kernel about the network namespace it was made in."""

    def __init__(self) -> None:
        self._route = IPRoute()
        self._ethtool = IoctlEthtool()

    def close(self) -> None:
        self._route.close()
        self._ethtool.close()

    def devices(self, names: tuple[str, ...]) -> Devices:
        """`names` are those of devices, VLANs on an interface included."""
        links = {link["index"]: link for link in self._route.get_links()}
        by_name = {link.get_attr("IFLA_IFNAME"): link for link in links.values()}
        shared = _shared_places(links)
        with_vlans = {place.ifindex for place in shared}
        interfaces: dict[int, Interface] = {}
        devices: dict[Place, Device] = {}
        ports: dict[int, list[Port]] = defaultdict(list)
        missing = None
        for name in names:
            link = by_name.get(name)
            if link is None:
                missing = missing or f"interface {name} does not exist"
                continue
            stack = _stack(link, links)
            if not 0 < len(stack) <= 1 + VLAN_TAGS_MAX:
                missing = missing or f"interface {name} is beyond the reach of an XDP program"
                continue
            base = stack[0]
            interface = self._interface(base, base["index"] in with_vlans)
            interfaces[base["index"]] = interface
            master = _master(stack, links)
            if master is not None:
                # Its frames are for that one, in another table of routes at the least.
                ports[base["index"]].append(Port(name, master))
                continue
            for place in _places(stack, links):
                if not (interface.hides_vlans and place in shared):
                    devices[place] = _device(link)
        for index, found in ports.items():
            interfaces[index] = replace(interfaces[index], handed_on=tuple(found))
        ordered = sorted(interfaces.values(), key=lambda each: each.name)
        return Devices(tuple(ordered), devices, missing)

    def _interface(self, link: Any, has_vlans: bool) -> Interface:
        kind = _kind(link)
        return Interface(
            name=link.get_attr("IFLA_IFNAME"),
            index=link["index"],
            kind=kind,
            program_id=_program_id(link),
            drops_frames=kind == "veth" and not self._other_end_has_program(link),
            leaves_checksums=kind == "veth" or bool(link["flags"] & _LOOPBACK),
            hides_vlans=has_vlans and self._takes_tags_off(link),
        )

    def _takes_tags_off(self, link: Any) -> bool:
        """Whether frames may arrive with their outermost VLAN tag beside them."""
        # A virtual interface hands frames on as whoever sent them has left them. Of a veth,
        # for one, the other end's setting counts, which may be out of reach.
        if _kind(link):
            return True
        try:
            self._ethtool.change_ifname(link.get_attr("IFLA_IFNAME"))
            features = self._ethtool.get_features()
        except (OSError, EthtoolError):
            # It is gone, or does not say.
            return True
        return any(features.is_active(name) for name in _TAKING_TAGS_OFF)

    def _other_end_has_program(self, link: Any) -> bool:
        namespace = link.get_attr("IFLA_LINK_NETNSID")
        there = {} if namespace is None else {"if_netnsid": namespace}
        try:
            ends = list(self._route.get_links(link.get_attr("IFLA_LINK"), **there))
        except NetlinkError:
            # It is gone, or not ours to look at.
            return False
        return any(_attached_natively(end) for end in ends)

    def stale_neighbours(self, devices: Container[int]) -> list[Neighbour]:
        """Of these devices: those that nobody has confirmed for a while."""
        return [
            Neighbour(message["ifindex"], message.get_attr("NDA_DST"), _mac(address))
            for message in self._route.get_neighbours()
            if message["state"] == _NUD_STALE and message["ifindex"] in devices
            for address in [message.get_attr("NDA_LLADDR")]
            if address is not None
        ]

    def probe(self, neighbour: Neighbour) -> None:
        """Have the kernel ask whether it is there still, as if it had sent it a packet."""
        # It may have been forgotten by now.
        with contextlib.suppress(NetlinkError):
            self._route.neigh(
                "change",
                family=_FAMILY_IPV6 if ":" in neighbour.address else _FAMILY_IPV4,
                dst=neighbour.address,
                ifindex=neighbour.ifindex,
                flags=_NTF_USE,
            )

    def locals(self) -> dict[IPAddress, LocalFlag]:
        """Addresses that packets of others can be sent to, and decapsulating SIDs."""
        return dict(self._addresses()) | dict(self._sids())

    def _addresses(self) -> Iterator[tuple[IPAddress, LocalFlag]]:
        for message in self._route.get_addr():
            flags = message.get_attr("IFA_FLAGS") or message["flags"]
            if flags & _DAD_FAILED or (flags & _TENTATIVE and not flags & _OPTIMISTIC):
                continue
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            address = ip_address(text)
            if not (address.is_link_local or address.is_loopback):
                yield address, LocalFlag.ADDRESS

    def _sids(self) -> Iterator[tuple[IPAddress, LocalFlag]]:
        """Of the tables that every packet is looked up in. Those that rules lead to for some
        packets alone are left to the kernel."""
        tables = self._tables()
        routes = [
            route
            for route in self._route.get_routes(family=_FAMILY_IPV6)
            if route.get_attr("RTA_ENCAP_TYPE") == _SEG6_LOCAL
            and route["dst_len"] == 128
            and route.get_attr("RTA_TABLE") in tables
        ]
        routes.sort(key=lambda route: tables.index(route.get_attr("RTA_TABLE")))
        found: dict[str, LocalFlag | None] = {}
        for route in routes:
            found.setdefault(route.get_attr("RTA_DST"), _decapsulation(route.get_attr("RTA_ENCAP")))
        for text, flag in found.items():
            if flag is not None:
                yield IPv6Address(text), flag

    def _tables(self) -> list[int]:
        """Of IPv6, in the order in which they are asked."""
        tables = []
        for rule in self._route.get_rules(family=_FAMILY_IPV6):
            if not _is_for_all(rule):
                continue
            if rule["action"] != _TO_TABLE:
                # Nothing goes past it, or past what is between it and its target.
                break
            tables.append(rule.get_attr("FRA_TABLE"))
        return tables


def _is_for_all(rule: Any) -> bool:
    """Whether a routing rule is for every packet, and hides no route of its table."""
    return (
        rule["src_len"] == rule["dst_len"] == rule["tos"] == 0
        and not rule["flags"] & _INVERTED
        and {name for name, _ in rule["attrs"]} <= _FOR_ALL
        and rule.get_attr("FRA_SUPPRESS_PREFIXLEN") in (None, _SUPPRESSES_NONE)
    )


def _decapsulation(encapsulation: Any) -> LocalFlag | None:
    """What a SID's behaviour sets free to be delivered on this node, if anything."""
    action = encapsulation.get_attr("SEG6_LOCAL_ACTION")
    # Another table hands packets on, even those to an address of this node.
    if action == _END_DT6 and encapsulation.get_attr("SEG6_LOCAL_TABLE") == _TABLE_LOCAL:
        return LocalFlag.DECAPSULATES_IPV6
    # Any other next hop than the packet's own destination may be another node.
    if action == _END_DX4 and encapsulation.get_attr("SEG6_LOCAL_NH4") == "0.0.0.0":
        return LocalFlag.DECAPSULATES_IPV4
    return None


def _stack(link: Any, links: dict[int, Any]) -> list[Any]:
    """The interface below VLANs and these, outermost first; empty where it is not there,
    or not in this network namespace."""
    stack = [link]
    while _kind(stack[0]) == "vlan":
        below = links.get(stack[0].get_attr("IFLA_LINK"))
        if below is None or stack[0].get_attr("IFLA_LINK_NETNSID") is not None:
            return []
        stack.insert(0, below)
    return stack


def _master(stack: list[Any], links: dict[int, Any]) -> str | None:
    """Who gets the frames that a device or one below it would."""
    for link in stack:
        master = links.get(link.get_attr("IFLA_MASTER"))
        if master is not None:
            name: str = master.get_attr("IFLA_IFNAME")
            return name
    return None


def _places(stack: list[Any], links: dict[int, Any]) -> Iterator[Place]:
    """Where a device's frames arrive, as far as programs are to know.

    A priority-tagged frame is the interface's own (IEEE 802.1Q §6.9), unless a VLAN
    takes it. The kernel removes more than that, 802.1ad tags with identifier 0 and
    those beside other tags: such frames are left to it, and those for a device that is
    down, which it drops.
    """
    if not all(each["flags"] & _UP for each in stack):
        return
    base, *vlans = stack
    yield Place(base["index"], tuple(map(_vlan, vlans)))
    if not vlans and not any(
        _kind(link) == "vlan"
        and link.get_attr("IFLA_LINK") == base["index"]
        and _vlan(link) == _PRIORITY
        for link in links.values()
    ):
        yield Place(base["index"], (_PRIORITY,))


def _shared_places(links: dict[int, Any]) -> set[Place]:
    """Where frames of VLANs seem to arrive once they have lost their outermost tag."""
    shared = set()
    for link in links.values():
        base, *vlans = _stack(link, links) or [link]
        if vlans:
            shared.add(Place(base["index"], tuple(map(_vlan, vlans[1:]))))
            # Untagged, or with a priority alone: the same device gets both.
            if len(vlans) == 1:
                shared.add(Place(base["index"], (_PRIORITY,)))
    return shared


def _vlan(link: Any) -> Vlan:
    info = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    protocol = info.get_attr("IFLA_VLAN_PROTOCOL") or ETHERTYPE_VLAN
    return Vlan(info.get_attr("IFLA_VLAN_ID"), protocol)


def _device(link: Any) -> Device:
    name = link.get_attr("IFLA_IFNAME")
    address = link.get_attr("IFLA_ADDRESS") or ""
    enabled = _sysctl(6, "all", "seg6_enabled") > 0 and _sysctl(6, name, "seg6_enabled") > 0
    signed = _sysctl(6, name, "seg6_require_hmac") > 0
    validation = max(_sysctl(4, where, "rp_filter") for where in ("all", name))
    return Device(
        link["index"],
        _mac(address).ljust(6, b"\0"),
        enabled and not signed,
        SourceValidation(min(validation, SourceValidation.LOOSE)),
        signed,
    )


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _sysctl(version: int, device: str, name: str) -> int:
    """Of IPv6 or IPv4, in the calling thread's network namespace; 0 where there is none."""
    try:
        return int((_SYSCTLS[version] / device / name).read_text())
    except OSError:
        return 0


def program_on(index: int) -> int:
    """Identifier of the XDP program of an interface of the calling thread's network
    namespace; 0 where there is none, or no such interface."""
    with IPRoute() as route, contextlib.suppress(NetlinkError):
        return next((_program_id(link) for link in route.get_links(index)), 0)
    return 0


def _program_id(link: Any) -> int:
    xdp = link.get_attr("IFLA_XDP")
    return (xdp.get_attr("IFLA_XDP_PROG_ID") or 0) if xdp is not None else 0


def _attached_natively(link: Any) -> bool:
    xdp = link.get_attr("IFLA_XDP")
    return xdp is not None and bool(xdp.get_attr("IFLA_XDP_DRV_PROG_ID"))


def _kind(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return (info.get_attr("IFLA_INFO_KIND") or "") if info is not None else ""
