"""A node under test, and a peer that sends and captures whole frames.

    peer                        node
    p0   fd00:1::1 ─────────── n0   fd00:1::2     default route
    p0.7 fd00:7::1 ─────────── n0.7 fd00:7::2     VLAN 7 of the same link, on request
    p1   fd00:2::1 ─────────── n1   fd00:2::2

Over IPv4 they are 192.0.2.1 and 192.0.2.2 (default route), 192.0.2.129 and 192.0.2.130
(VLAN 7), 198.51.100.1 and 198.51.100.2.

The peer's addresses are nobody's: its kernel keeps silent, and every answer that is
seen was written by hand. The node has the SIDs fc00:2::d6 (End.DT6) and fc00:2::d4
(End.DX4).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import socket
import struct
import subprocess
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from dataplane.config import Node
from dataplane.engines import registry
from dataplane.engines.base import (
    Capabilities,
    EngineContext,
    OperState,
    ReflectorStatusReport,
    Report,
    Resume,
    Role,
    SenderStatusReport,
    SessionStatus,
)
from dataplane.host.results import Results
from dataplane.reflector_store import ReflectorSnapshot
from dataplane.session_state import SessionSnapshot
from tests.integration.engines.conformance import wire
from tests.integration.engines.network import Capture, eventually, inside, ip, sysctl

DECAPSULATING = IPv6Address("fc00:2::d6")
"""The node's SID with the behaviour End.DT6."""

DECAPSULATING_IPV4 = IPv6Address("fc00:2::d4")
"""The node's SID with the behaviour End.DX4, to the packet's own destination."""

GRACE_S = 0.1
"""How long something that must not happen is waited for."""

_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_NO_OFFLOAD = bytes(10)
"""struct virtio_net_hdr of a frame that is as on a wire."""

_count = itertools.count()


@dataclass(frozen=True)
class Link:
    """One of the stand's links, as the peer uses it."""

    device: str
    """On the node."""

    far: str
    """On the peer."""

    here: Any
    """The node's address, of either family."""

    there: Any
    """The peer's."""

    tags: tuple[wire.Tag, ...] = ()
    """VLAN tags of frames, outermost first."""

    def over_ipv4(self) -> Link:
        """The same link, by its addresses of IPv4."""
        here, there = _IPV4[self.far]
        return dataclasses.replace(self, here=IPv4Address(here), there=IPv4Address(there))


_IPV4 = {
    "p0": ("192.0.2.2", "192.0.2.1"),
    "p0.7": ("192.0.2.130", "192.0.2.129"),
    "p1": ("198.51.100.2", "198.51.100.1"),
}

MAIN = Link("n0", "p0", IPv6Address("fd00:1::2"), IPv6Address("fd00:1::1"))
VLAN = Link("n0.7", "p0.7", IPv6Address("fd00:7::2"), IPv6Address("fd00:7::1"), (wire.Tag(7),))
OTHER = Link("n1", "p1", IPv6Address("fd00:2::2"), IPv6Address("fd00:2::1"))
PRIORITY = dataclasses.replace(MAIN, tags=(wire.Tag(0),))
"""The main link, by frames that carry a priority and no VLAN (IEEE 802.1Q §6.9)."""


class Stand:
    """The two namespaces, gone at the end."""

    def __init__(self) -> None:
        tag = f"stamp-{os.getpid()}-{next(_count)}"
        self.node, self.peer = f"{tag}-n", f"{tag}-p"
        self._macs: dict[str, bytes] = {}
        self._captures: dict[str, Capture] = {}
        self._sockets: dict[str, socket.socket] = {}
        self._offload = _NO_OFFLOAD

    def __enter__(self) -> Stand:
        try:
            self._build()
        except subprocess.CalledProcessError as error:
            self.__exit__()
            raise RuntimeError(f"{error.cmd}: {error.stderr}") from error
        return self

    def __exit__(self, *_: object) -> None:
        for opened in (*self._captures.values(), *self._sockets.values()):
            opened.close()
        for name in (self.node, self.peer):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def inject(self, link: Link, packet: bytes, to: bytes | None = None) -> None:
        """Have an IP packet arrive at the node, its VLAN tags in the frame; `to`
        is another link-layer address than the node's."""
        far = link.far.partition(".")[0]
        header = (to or self._macs[link.device]) + self._macs[link.far]
        for tag in link.tags:
            header += struct.pack("!HH", tag.protocol, tag.identifier)
        kind = wire.ETHERTYPE_IPV6 if packet[0] >> 4 == 6 else wire.ETHERTYPE_IPV4
        self._sockets[far].send(self._offload + header + struct.pack("!H", kind) + packet)

    def inject_burst(self, link: Link, packet: bytes, length: int) -> None:
        """A UDP packet that is several yet, of `length` bytes of payload each, as a program
        on the peer sends them (UDP_SEGMENT): it has the sum of the pseudo header alone."""
        udp_at = 14 + (40 if packet[0] >> 4 == 6 else 20)
        self._offload = struct.pack("=BBHHHH", 1, 5, udp_at + 8, length, udp_at, 6)
        self.inject(link, packet)
        self._offload = _NO_OFFLOAD

    def frames(self, link: Link) -> list[bytes]:
        """What the node has sent on a link since the last call."""
        source = self._macs[link.device]
        return [frame for frame in self._captures[link.far].frames() if frame[6:12] == source]

    def seen(self, link: Link) -> list[wire.Seen]:
        """The UDP packets among `frames`."""
        return [packet for packet in map(wire.seen, self.frames(link)) if packet is not None]

    def socket_on_node(self) -> socket.socket:
        """UDP, for what another program there would do."""
        with inside(self.node):
            return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)

    def has_program(self, link: Link) -> bool:
        """Whether the node's end of a link has an XDP program."""
        shown = run("ip", "-n", self.node, "-j", "link", "show", link.device)
        return "xdp" in json.loads(shown)[0]

    def restore(self, link: Link) -> None:
        """The node's addresses and routes on a link, as they were at first."""
        near = ("-n", self.node)
        old = link.over_ipv4()
        ip(*near, "address", "replace", f"{link.here}/64", "dev", link.device, "nodad")
        ip(*near, "address", "replace", f"{old.here}/26", "dev", link.device)
        for each in (link, old):
            self._neighbour(each)
            if link is MAIN:
                default = ("route", "replace", "default", "via", str(each.there))
                ip(*near, f"-{each.here.version}", *default)

    def _build(self) -> None:
        for name in (self.node, self.peer):
            ip("netns", "add", name)
            sysctl(name, "net.ipv6.conf.default.accept_dad", 0)
            ip("-n", name, "link", "set", "lo", "up")
        for knob in ("all", "default"):
            sysctl(self.node, f"net.ipv6.conf.{knob}.seg6_enabled", 1)
        self._connect(MAIN)
        self._connect(OTHER)
        ip(
            *("-n", self.node, "-6", "route", "add", str(DECAPSULATING)),
            *("encap", "seg6local", "action", "End.DT6", "table", "255", "dev", MAIN.device),
        )
        ip(
            *("-n", self.node, "-6", "route", "add", str(DECAPSULATING_IPV4)),
            *("encap", "seg6local", "action", "End.DX4", "nh4", "0.0.0.0", "dev", MAIN.device),
        )

    def add_vlan(self) -> None:
        """Have the link `VLAN`. Skips the test where the kernel has no such devices."""
        try:
            for where, name in ((self.node, VLAN.device), (self.peer, VLAN.far)):
                parent = name.partition(".")[0]
                kind = ("type", "vlan", "id", str(VLAN.tags[0].identifier))
                ip("-n", where, "link", "add", "link", parent, "name", name, *kind)
        except subprocess.CalledProcessError as error:
            if "Unknown device type" not in error.stderr:
                raise
            pytest.skip("this kernel has no VLAN devices (CONFIG_VLAN_8021Q)")
        self._bring_up(VLAN)

    def _connect(self, link: Link) -> None:
        ends = (link.device, "type", "veth", "peer", "name", link.far, "netns", self.peer)
        ip("-n", self.node, "link", "add", *ends)
        self._bring_up(link)
        with inside(self.peer):
            self._sockets[link.far] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._sockets[link.far].setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        self._sockets[link.far].bind((link.far, 0))

    def _bring_up(self, link: Link) -> None:
        for namespace, name in ((self.node, link.device), (self.peer, link.far)):
            ip("-n", namespace, "link", "set", name, "up")
            shown = run("ip", "-n", namespace, "-j", "link", "show", name)
            self._macs[name] = bytes.fromhex(json.loads(shown)[0]["address"].replace(":", ""))
        # What is captured is to have its checksum, as on a wire.
        with inside(self.node):
            run("ethtool", "-K", link.device, "tx", "off")
        self.restore(link)
        self._captures[link.far] = Capture(self.peer, link.far)

    def _neighbour(self, link: Link) -> None:
        ip(
            *("-n", self.node, "neighbor", "replace", str(link.there), "dev", link.device),
            *("lladdr", self._macs[link.far].hex(":"), "nud", "permanent"),
        )


class Running:
    """An engine on the node of a stand."""

    def __init__(self, stand: Stand, name: str, folder: Path, everywhere: bool = False) -> None:
        """`everywhere`: both roles name all interfaces of the stand, where a test names
        none. By default, a reflector does so that has to."""
        self.stand = stand
        self.name = name
        self._everywhere = everywhere
        self.able: Capabilities = registry.capabilities(name)
        self.reports: list[Report] = []
        self.results = Results(folder)
        self._folder = folder
        self._begin()

    def _begin(self) -> None:
        with inside(self.stand.node):
            self.engine = registry.create(
                self.name, EngineContext(self._folder, self.reports.append)
            )

    def configure(self, node: Node) -> None:
        named = self._naming_interfaces(node)
        assert not list(registry.refusals(named))
        self.engine.configure(named)

    def _naming_interfaces(self, node: Node) -> Node:
        """With all interfaces of the stand, where none is named and that is wanted."""
        with inside(self.stand.node):
            known = tuple(sorted({name for _, name in socket.if_nameindex()} - {"lo"}))
        sender, reflector = node.sender, node.reflector
        wanted = self._everywhere or self.able.needs_interfaces
        if sender is not None and not sender.interfaces and wanted:
            sender = dataclasses.replace(sender, interfaces=known)
        if reflector is not None and not reflector.interfaces and wanted:
            reflector = dataclasses.replace(reflector, interfaces=known)
        return dataclasses.replace(node, sender=sender, reflector=reflector)

    def refused(self, node: Node, *reasons: str) -> bool:
        """Whether the engine lacks what `node` needs; it then says so in these words."""
        refusals = list(registry.refusals(self._naming_interfaces(node)))
        assert refusals in ([], list(reasons))
        return bool(refusals)

    def has(self, role: Role) -> bool:
        return role in self.able.roles

    def resume(self, node: Node, resume: dict[int, Resume]) -> None:
        """The engine dies, and another takes up what it did."""
        self.engine.close()
        self.reports.clear()
        self._begin()
        self.engine.configure(self._naming_interfaces(node), resume)

    def reflector(self) -> ReflectorSnapshot:
        time.sleep(2 * self.able.counters_lag_ms / 1_000)
        snapshot = self.results.reflector()
        assert snapshot is not None
        return snapshot

    def session(self, ssid: int) -> SessionSnapshot:
        return self.results.snapshot(ssid)

    def statuses(self, ssid: int) -> list[SessionStatus]:
        return [
            report.status
            for report in self.reports
            if isinstance(report, SenderStatusReport)
            and report.ssid == ssid
            and report.status is not None
        ]

    def await_session(self, ssid: int, state: OperState) -> SessionStatus:
        def reached() -> bool:
            known = self.statuses(ssid)
            return bool(known) and known[-1].oper_state is state

        eventually(reached, f"session {ssid} {state.value}")
        return self.statuses(ssid)[-1]

    def reflector_states(self) -> list[tuple[OperState, str | None]]:
        return [
            (report.status.oper_state, report.status.last_error)
            for report in self.reports
            if isinstance(report, ReflectorStatusReport) and report.status is not None
        ]

    def await_reflector(self, state: OperState) -> str | None:
        """Its last error."""

        def reached() -> bool:
            known = self.reflector_states()
            return bool(known) and known[-1][0] is state

        eventually(reached, f"Session-Reflector {state.value}", timeout_s=60)
        return self.reflector_states()[-1][1]

    def close(self) -> None:
        self.engine.close()
        self.results.remove_all()


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def grace() -> None:
    """Give what must not happen the time to happen."""
    time.sleep(GRACE_S)
