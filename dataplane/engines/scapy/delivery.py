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
- The UDP length fits and the checksum is right; zero is not (RFC 8200 §8.1).

Packets that fail are nobody's business here, as with a UDP socket: the kernel
counts them.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv6Address

import dataplane.engines.scapy.quiet  # noqa: F401  isort: skip
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrSegmentRouting,
    in6_chksum,
)
from scapy.packet import Packet

from dataplane.engines.scapy.kernel import Fate, Kernel
from dataplane.engines.scapy.sniffing import Sniffed

_TO_US = (socket.PACKET_HOST, socket.PACKET_BROADCAST, socket.PACKET_MULTICAST)
_EXTENSION_HEADERS = (IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt, IPv6ExtHdrSegmentRouting)
_UDP_HEADER = 8


@dataclass(frozen=True, slots=True)
class Delivered:
    """A UDP datagram that is for this node."""

    ip: IPv6
    """The innermost IPv6 header."""

    udp: UDP
    payload: bytes


def deliver(
    packet: Sniffed, address: IPv6Address | None, port: int, kernel: Kernel
) -> Delivered | None:
    """What a UDP socket bound to `address` (None: any) and `port` would be given."""
    if packet.kind not in _TO_US:
        return None
    ip: IPv6 = packet
    upper, segments_left, srh = _upper(ip)
    while isinstance(upper, IPv6):
        if segments_left or kernel.fate(ip.dst, packet.interface) is not Fate.DECAPSULATED:
            return None
        ip = upper
        upper, segments_left, srh = _upper(ip)
    if segments_left or (srh and not kernel.accepts_srh(packet.interface)):
        return None
    if not isinstance(upper, UDP) or upper.dport != port:
        return None
    destination = IPv6Address(ip.dst)
    if address is not None and destination != address:
        return None
    if not destination.is_multicast and kernel.fate(ip.dst, packet.interface) is not Fate.LOCAL:
        return None
    if not _whole(upper) or not (packet.checksum_trusted or _checksum_right(upper)):
        return None
    return Delivered(ip, upper, bytes(upper.original[_UDP_HEADER : upper.len]))


def _upper(ip: IPv6) -> tuple[Packet, bool, bool]:
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
    right: bool = in6_chksum(socket.IPPROTO_UDP, udp, covered) == 0  # type: ignore[no-untyped-call]
    return right and udp.chksum != 0
