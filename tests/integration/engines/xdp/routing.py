"""A node whose own FIB says where replies go.

b0  fd00:b::1/64  198.51.100.1/24   requests from fd00:a::1 and 192.0.2.1 arrive here
c0  fd00:c::1/64  203.0.113.1/24    the way back is through here, or not
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import Run, run_program, xdp_context
from dataplane.clock import wall_ns
from dataplane.config import IPAddress, Reflector, ReflectorSession
from dataplane.engines.driver.interfaces import Kernel, SourceValidation
from dataplane.engines.xdp.fib import FibAccess
from dataplane.engines.xdp.reflector_layouts import ReflectorFlag
from dataplane.engines.xdp.reflector_tables import ReflectorTables
from dataplane.frames import Datagram, Frame
from dataplane.reflector_store import HandedUp
from dataplane.stamp.packet import SenderPacket
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat

NEIGHBOUR = {"b0": "02:00:00:00:00:b2", "c0": "02:00:00:00:00:c2"}
SID = IPv6Address("fc00:e::1")
ERROR = ErrorEstimate(False, TimestampFormat.NTP, 0, 1)


@dataclass(frozen=True)
class Family:
    """The addresses of one IP version."""

    version: int
    here: IPAddress
    there: IPAddress
    senders: str
    """The network of `there`."""

    gateways: dict[str, str]
    header: int
    """Bytes of the IP header."""


IPV6 = Family(
    version=6,
    here=IPv6Address("fd00:b::1"),
    there=IPv6Address("fd00:a::1"),
    senders="fd00:a::/64",
    gateways={"b0": "fd00:b::2", "c0": "fd00:c::2"},
    header=40,
)
IPV4 = Family(
    version=4,
    here=IPv4Address("198.51.100.1"),
    there=IPv4Address("192.0.2.1"),
    senders="192.0.2.0/24",
    gateways={"b0": "198.51.100.2", "c0": "203.0.113.2"},
    header=20,
)
_ADDRESSES = {
    "b0": (("fd00:b::1/64", "nodad"), ("198.51.100.1/24",)),
    "c0": (("fd00:c::1/64", "nodad"), ("203.0.113.1/24",)),
}


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def setting(name: str, value: int | None = None) -> int:
    """Of this network namespace, in /proc/sys/net."""
    path = f"/proc/sys/net/{name}"
    if value is not None:
        with open(path, "w") as file:
            file.write(str(int(value)))
    with open(path) as file:
        return int(file.read())


class Node:
    """This network namespace, as the program knows it."""

    def __init__(self, module: BpfModule, family: Family, forwards: bool) -> None:
        self.family = family
        for version in ("ipv4", "ipv6"):
            setting(f"{version}/conf/all/forwarding", forwards)
        self.macs = {}
        for name, addresses in _ADDRESSES.items():
            ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-peer")
            ip("link", "set", name, "up")
            ip("link", "set", f"{name}-peer", "up")
            for address in addresses:
                ip("address", "add", *address, "dev", name)
            shown = json.loads(ip("-j", "link", "show", name))[0]
            self.macs[name] = bytes.fromhex(shown["address"].replace(":", ""))
        self._folder = tempfile.TemporaryDirectory()
        self.fib = FibAccess(Path(self._folder.name, "note"))
        self.kernel = Kernel()
        self.tables = ReflectorTables(module)
        self.program = module.load("reflector")
        self.tables.set_locals(self.kernel.locals())
        self.validate(SourceValidation.NONE)
        sessions = (ReflectorSession(1), ReflectorSession(2, segments=(SID,)))
        self.tables.set_sessions({each.key: each for each in sessions}, lambda _key: 0)
        self.tables.set_config(Reflector(), ReflectorFlag.TRAILERS)

    def close(self) -> None:
        self.kernel.close()
        self.fib.close()
        self._folder.cleanup()

    def validate(self, validation: SourceValidation) -> None:
        """How IPv4 senders of requests through b0 are believed."""
        setting("ipv4/conf/all/rp_filter", 0)
        setting("ipv4/conf/b0/rp_filter", validation)
        self.tables.set_interfaces(self.kernel.devices(("b0", "c0")).devices)

    def way_back(self, device: str, *more: str, to: str | None = None) -> None:
        """The route to senders, or `to` another destination, with `more` about it."""
        via = self.family.gateways[device]
        version = f"-{self.family.version}"
        ip(version, "route", "replace", to or self.family.senders, *more, "via", via, "dev", device)
        ip("neighbor", "replace", via, "lladdr", NEIGHBOUR[device], "dev", device)

    def forget_neighbour(self, device: str) -> None:
        ip("neighbor", "delete", self.family.gateways[device], "dev", device)

    def ask(
        self,
        ssid: int = 1,
        tail: int = 0,
        *,
        traffic_class: int = 0,
        now_ns: int | None = None,
        anew: bool = True,
        device: str = "b0",
    ) -> Run:
        """A request through a device; `anew`: the FIB is asked for it."""
        if anew:
            self.tables.renew_next_hops()
        t2_ns = wall_ns() if now_ns is None else now_ns
        self.tables.fix_clock(t2_ns, t2_ns)
        payload = SenderPacket(1, 0, ERROR, ssid, bytes(tail)).encode()
        ends = self.family.there, self.family.here, 49_862, 862
        frame = Frame(
            Datagram(*ends, payload, traffic_class=traffic_class),
            self.macs[device],
            bytes.fromhex("020000000001"),
        )
        data = frame.encode()
        return run_program(
            self.program, data, context=xdp_context(len(data), socket.if_nametoindex(device))
        )

    def handed_up(self, reason: HandedUp) -> int:
        return self.tables.counts().handed_up[reason]

    def frame_by(self, device: str) -> bytes:
        """How frames through a device begin: both link-layer addresses."""
        return bytes.fromhex(NEIGHBOUR[device].replace(":", "")) + self.macs[device]
