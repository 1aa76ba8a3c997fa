"""Transmission: whole IP packets of Scapy layers through a raw socket.

Building a packet takes Scapy some hundred microseconds, which must not count as
delay: T1 and T3 are written once more into the finished bytes, right before they
leave, and the UDP checksum is adapted.
"""

from __future__ import annotations

import functools
import socket
import struct

import dataplane.engines.scapy.quiet  # noqa: F401  isort: skip
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrSegmentRouting, L3RawSocket6
from scapy.packet import Packet

from dataplane.addresses import is_link_local
from dataplane.srv6 import SegmentRoutingHeader

_IPV6_PKTINFO, _IP_PKTINFO = 50, 8
_IPV6_SOURCE, _IPV4_SOURCE = struct.Struct("=16sI"), struct.Struct("=I4s4x")
"""struct in6_pktinfo and in_pktinfo, as far as they name a source."""

_CHECKSUM_AT = 6
"""In the UDP header."""

_UDP_HEADER = 8
_TIMESTAMP_AT = 4
"""T1 and T3 in an open-mode packet (RFC 8762 §4.2.1, §4.3.1)."""

_TIMESTAMP = struct.Struct("!4H")
_WORD = struct.Struct("!H")


class RawSocket(L3RawSocket6):
    """An L3RawSocket6 that sends alone, and that says what went wrong.

    Scapy's opens a packet socket besides, which takes in all IPv6 packets, and
    logs errors where a session is to report them.
    """

    def __init__(self, version: int = 6) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        self.outs: socket.socket = socket.socket(family, kind, socket.IPPROTO_RAW)
        self.ins = self.outs

    def send_bytes(self, wire: bytes | bytearray, packet: Packet, scope_id: int) -> None:
        """`wire` is `packet`, built. Raises OSError."""
        # The kernel's choice of a route may depend on the source address.
        if isinstance(packet, IP):
            source = _IPV4_SOURCE.pack(0, socket.inet_aton(packet.src))
            message, to = (socket.IPPROTO_IP, _IP_PKTINFO, source), (packet.dst, 0)
            self.outs.sendmsg([wire], [message], 0, to)
            return
        address = socket.inet_pton(socket.AF_INET6, packet.src)
        source = _IPV6_SOURCE.pack(address, scope_id if is_link_local(address) else 0)
        message = socket.IPPROTO_IPV6, _IPV6_PKTINFO, source
        self.outs.sendmsg([wire], [message], 0, (packet.dst, 0, 0, scope_id))


def over_ip(
    source: str, destination: str, rthdr: bytes, traffic_class: int, hop_limit: int
) -> Packet:
    """The headers below UDP, of the addresses' family."""
    if ":" in source:
        return over_srv6(source, destination, rthdr, traffic_class, hop_limit)
    # As the kernel sends what is a socket's (ip(7), IP_MTU_DISCOVER).
    return IP(src=source, dst=destination, tos=traffic_class, ttl=hop_limit, flags="DF")


def over_srv6(
    source: str, destination: str, rthdr: bytes, traffic_class: int, hop_limit: int
) -> Packet:
    """The headers below UDP; `rthdr` is the SRH as `rthdr_for_socket` makes it, or empty."""
    ip = IPv6(src=source, dst=destination, tc=traffic_class, hlim=hop_limit)
    if not rthdr:
        return ip
    path = _segments(rthdr)
    ip.dst = path[0]
    # In the SRH the segments stand in reverse order (RFC 8754 §2).
    return ip / IPv6ExtHdrSegmentRouting(
        addresses=list(reversed(path)), segleft=len(path) - 1, lastentry=len(path) - 1
    )


@functools.lru_cache(maxsize=4096)
def _segments(rthdr: bytes) -> tuple[str, ...]:
    return tuple(str(sid) for sid in SegmentRoutingHeader.decode(rthdr).segments)


def datagram(below: Packet, source_port: int, destination_port: int, test: Packet) -> Packet:
    """IP, SRH where there is one, UDP and STAMP; Scapy computes the checksums."""
    return below / UDP(sport=source_port, dport=destination_port) / test


def restamp(wire: bytearray, test_length: int, timestamp: int) -> None:
    """Write T1 or T3 into a packet that ends with `test_length` bytes of STAMP.

    The UDP checksum follows as RFC 1624 §3 has it.
    """
    udp_at = len(wire) - test_length - _UDP_HEADER
    at = len(wire) - test_length + _TIMESTAMP_AT
    old = _TIMESTAMP.unpack_from(wire, at)
    wire[at : at + _TIMESTAMP.size] = timestamp.to_bytes(_TIMESTAMP.size, "big")
    new = _TIMESTAMP.unpack_from(wire, at)
    (checksum,) = _WORD.unpack_from(wire, udp_at + _CHECKSUM_AT)
    total = (~checksum & 0xFFFF) + sum(new) + sum(~word & 0xFFFF for word in old)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    # Zero would mean that there is no checksum (RFC 8200 §8.1).
    _WORD.pack_into(wire, udp_at + _CHECKSUM_AT, ~total & 0xFFFF or 0xFFFF)
