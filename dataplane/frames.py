"""Ethernet frames around UDP, byte by byte: what a driver sees of a packet.

Shapes, from the outside: Ethernet, VLAN tags, an outer IPv6 header with SRH where
the packet is encapsulated, IPv6 with SRH, UDP.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from dataplane.config import IPAddress
from dataplane.srv6 import SegmentRoutingHeader

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_VLAN = 0x8100
ETHERTYPE_SERVICE_VLAN = 0x88A8

NEXT_HEADER_IPV4 = 4
NEXT_HEADER_UDP = 17
NEXT_HEADER_IPV6 = 41
NEXT_HEADER_ROUTING = 43

UDP_HEADER = 8
_DONT_FRAGMENT = 1 << 14
"""DF (RFC 791 §3.1)."""

HERE_MAC = bytes.fromhex("02000000bb01")
THERE_MAC = bytes.fromhex("02000000aa01")
"""Locally administered, for frames that leave no machine."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP packet in IPv6, or IPv4 without options, with right lengths and checksums."""

    source: IPAddress
    destination: IPAddress
    """Final destination: that of the last segment, where there are any."""

    source_port: int
    destination_port: int
    payload: bytes
    hop_limit: int = 64
    traffic_class: int = 0
    flow_label: int = 0
    segments: tuple[IPv6Address, ...] = ()
    """In travel order, ending with `destination`; empty for no SRH."""

    segments_left: int = 0
    dont_fragment: bool = False
    """Of IPv4 alone."""

    def encode(self) -> bytes:
        udp = encode_udp(self)
        if isinstance(self.source, IPv4Address):
            return _ipv4_header(self, len(udp)) + udp
        routing = b""
        if self.segments:
            routing = SegmentRoutingHeader(
                segments=self.segments,
                segments_left=self.segments_left,
                next_header=NEXT_HEADER_UDP,
            ).encode()
        head = _ipv6_header(
            self,
            self.segments[len(self.segments) - 1 - self.segments_left]
            if self.segments
            else self.destination,
            len(routing) + len(udp),
            NEXT_HEADER_ROUTING if routing else NEXT_HEADER_UDP,
        )
        return head + routing + udp


@dataclass(frozen=True, slots=True)
class Outer:
    """The IPv6 header that a packet is encapsulated in."""

    source: IPv6Address
    destination: IPv6Address
    segments: tuple[IPv6Address, ...] = ()
    """In travel order, all visited; empty for no SRH."""

    hop_limit: int = 64

    def encode(self, inner: bytes) -> bytes:
        inside = NEXT_HEADER_IPV4 if inner[0] >> 4 == 4 else NEXT_HEADER_IPV6
        routing = b""
        if self.segments:
            routing = SegmentRoutingHeader(
                segments=self.segments, segments_left=0, next_header=inside
            ).encode()
        head = struct.pack(
            "!IHBB16s16s",
            6 << 28,
            len(routing) + len(inner),
            NEXT_HEADER_ROUTING if routing else inside,
            self.hop_limit,
            self.source.packed,
            self.destination.packed,
        )
        return head + routing + inner


class VlanTag(NamedTuple):
    """What stands in front of the EtherType (IEEE 802.1Q §9.3)."""

    control: int
    """Priority (3 bits), drop eligible (1), VLAN identifier (12)."""

    protocol: int = ETHERTYPE_VLAN

    @property
    def identifier(self) -> int:
        return self.control & 0xFFF


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole Ethernet frame without its check sequence."""

    datagram: Datagram
    destination_mac: bytes = HERE_MAC
    source_mac: bytes = THERE_MAC
    tags: Sequence[VlanTag] = field(default_factory=tuple)
    """Outermost first."""

    outer: Outer | None = None

    def encode(self) -> bytes:
        packet = self.datagram.encode()
        ethertype = ETHERTYPE_IPV4 if packet[0] >> 4 == 4 else ETHERTYPE_IPV6
        if self.outer is not None:
            packet, ethertype = self.outer.encode(packet), ETHERTYPE_IPV6
        tags = b"".join(struct.pack("!HH", tag.protocol, tag.control) for tag in self.tags)
        return self.destination_mac + self.source_mac + tags + struct.pack("!H", ethertype) + packet

    def with_datagram(self, datagram: Datagram) -> Frame:
        """The same way for another packet."""
        return replace(self, datagram=datagram)


def encode_udp(datagram: Datagram) -> bytes:
    """UDP header and payload; the checksum is over the final destination (RFC 8200 §8.1)."""
    length = UDP_HEADER + len(datagram.payload)
    head = struct.pack("!HHHH", datagram.source_port, datagram.destination_port, length, 0)
    check = internet_checksum(pseudo_header(datagram, length) + head + datagram.payload)
    return head[:6] + struct.pack("!H", check or 0xFFFF) + datagram.payload


def pseudo_header(datagram: Datagram, length: int) -> bytes:
    """What a UDP checksum covers beside the packet (RFC 8200 §8.1, RFC 768)."""
    if isinstance(datagram.source, IPv4Address):
        tail = struct.pack("!BBH", 0, NEXT_HEADER_UDP, length)
    else:
        tail = struct.pack("!II", length, NEXT_HEADER_UDP)
    return datagram.source.packed + datagram.destination.packed + tail


def internet_checksum(data: bytes) -> int:
    """The complement of the one's-complement sum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ipv6_header(datagram: Datagram, destination: IPAddress, length: int, kind: int) -> bytes:
    return struct.pack(
        "!IHBB16s16s",
        6 << 28 | datagram.traffic_class << 20 | datagram.flow_label,
        length,
        kind,
        datagram.hop_limit,
        datagram.source.packed,
        destination.packed,
    )


def _ipv4_header(datagram: Datagram, length: int) -> bytes:
    """An IPv4 header of 20 bytes in front of `length` bytes (RFC 791 §3.1)."""
    head = struct.pack(
        "!BBHHHBBH4s4s",
        4 << 4 | 5,
        datagram.traffic_class,
        20 + length,
        0,
        _DONT_FRAGMENT if datagram.dont_fragment else 0,
        datagram.hop_limit,
        NEXT_HEADER_UDP,
        0,
        datagram.source.packed,
        datagram.destination.packed,
    )
    return head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:]
