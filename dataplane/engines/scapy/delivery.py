"""From a sniffed packet to what a UDP socket would have been given.

A sniffer sees everything that arrives. What is for this node's port, and whole,
the kernel sorts out for a UDP socket; here it is sorted out by the same rules:

- It was sent to this node's link-layer address, and to an address that is
  local, or to a multicast group; not to one that it is forwarded to.
- Every SRH on the way to the UDP header has no segments left, and the interface
  accepts packets with one.
- What is encapsulated was sent to a SID of this node that decapsulates. (Where
  the kernel decapsulates at a local address instead, for ip6tnl or behind an
  SRH, the inner packet is received anew, and sniffed anew.)
- The UDP length fits and the checksum is right; zero is not (RFC 8200 §8.1), but over
  IPv4, where there may be none (RFC 768).
- Over IPv4 the header's checksum is right, the packet is no fragment, and its source is
  one that the kernel believes.

Packets that fail are nobody's business here, as with a UDP socket: the kernel
counts them.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

import dataplane.engines.scapy.quiet  # noqa: F401  isort: skip
from scapy.layers.inet import IP, UDP, in4_chksum
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrSegmentRouting,
    in6_chksum,
)
from scapy.packet import Packet
from scapy.utils import checksum

from dataplane.addresses import LENGTH, address_of, packed
from dataplane.config import IPAddress
from dataplane.engines.scapy.kernel import Fate, Kernel
from dataplane.engines.scapy.sniffing import Sniffed

_TO_US = (socket.PACKET_HOST, socket.PACKET_BROADCAST, socket.PACKET_MULTICAST)
_EXTENSION_HEADERS = (IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt, IPv6ExtHdrSegmentRouting)
_UDP_HEADER = 8
_LOOPBACK = "lo"


@dataclass(frozen=True, slots=True)
class Delivered:
    """A UDP datagram that is for this node."""

    ip: IPv6 | IP
    """The innermost IP header."""

    udp: UDP
    payload: bytes
    destination: bytes
    """See `Datagram`."""


def deliver(packet: Sniffed, address: IPAddress, port: int, kernel: Kernel) -> Delivered | None:
    """What a UDP socket bound to `address` and `port` would be given; the unspecified
    address is for any of its family."""
    if packet.kind not in _TO_US:
        return None
    ip: IPv6 | IP = packet
    upper, segments_left, srh = _upper(ip)
    while isinstance(upper, IPv6 | IP):
        wanted = Fate.DECAPSULATED if isinstance(upper, IPv6) else Fate.DECAPSULATED_IPV4
        if isinstance(ip, IP) or segments_left:
            return None
        if kernel.fate(ip.dst, packet.interface) is not wanted:
            return None
        ip = upper
        upper, segments_left, srh = _upper(ip)
    if segments_left or (srh and not kernel.accepts_srh(packet.interface)):
        return None
    if not isinstance(upper, UDP) or upper.dport != port:
        return None
    destination = address_of(ip.dst)
    if destination.version != address.version or address not in (destination, _any(address)):
        return None
    if isinstance(ip, IP):
        fate = _fate_of_ipv4(ip, packet.interface, kernel)
    else:
        fate = _fate_of_ipv6(ip, packet.interface, kernel)
    if fate not in (Fate.LOCAL, Fate.MANY):
        return None
    if not _whole(upper) or not (packet.checksum_trusted or _checksum_right(upper)):
        return None
    payload = bytes(upper.original[_UDP_HEADER : upper.len])
    return Delivered(
        ip, upper, payload, packed(destination) if fate is Fate.LOCAL else bytes(LENGTH)
    )


def _any(address: IPAddress) -> IPAddress:
    """The unspecified address of its family."""
    return address_of("::" if address.version == 6 else "0.0.0.0")


def _fate_of_ipv6(ip: IPv6, interface: str, kernel: Kernel) -> Fate:
    source, destination = address_of(ip.src), address_of(ip.dst)
    if interface != _LOOPBACK and (source.is_loopback or destination.is_loopback):
        return Fate.ELSEWHERE
    return Fate.LOCAL if destination.is_multicast else kernel.fate(ip.dst, interface)


def _fate_of_ipv4(ip: IP, interface: str, kernel: Kernel) -> Fate:
    size = 4 * ip.ihl
    if ip.ihl < 5 or ip.len < size or ip.len > len(ip.original) or ip.frag or ip.flags.MF:
        return Fate.ELSEWHERE
    if checksum(bytes(ip.original[:size])):
        return Fate.ELSEWHERE
    return kernel.fate_from(ip.src, ip.dst, interface)


def _upper(ip: IPv6 | IP) -> tuple[Packet, bool, bool]:
    """What the extension headers of `ip` lead to; whether one of them is an SRH
    that has segments left; whether one of them is an SRH."""
    header = ip.payload
    segments_left = srh = False
    while isinstance(header, _EXTENSION_HEADERS):
        if isinstance(header, IPv6ExtHdrSegmentRouting):
            srh = True
            segments_left = segments_left or header.segleft > 0
        header = header.payload
    return header, segments_left, srh


def _whole(udp: UDP) -> bool:
    length: int = udp.len
    return _UDP_HEADER <= length <= len(udp.original)


def _checksum_right(udp: UDP) -> bool:
    covered = udp.original[: udp.len]
    if isinstance(udp.underlayer, IP):
        return udp.chksum == 0 or in4_chksum(socket.IPPROTO_UDP, udp.underlayer, covered) == 0
    right: bool = in6_chksum(socket.IPPROTO_UDP, udp, covered) == 0  # type: ignore[no-untyped-call]
    return right and udp.chksum != 0
