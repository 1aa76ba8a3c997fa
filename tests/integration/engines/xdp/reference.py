"""What the driver is held against: frames read by other code, answered by the sans-IO core."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from dataplane.clock import ClockStatus
from dataplane.frames import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_SERVICE_VLAN,
    ETHERTYPE_VLAN,
    NEXT_HEADER_IPV4,
    NEXT_HEADER_IPV6,
    NEXT_HEADER_ROUTING,
    NEXT_HEADER_UDP,
    Datagram,
    Frame,
    Outer,
    VlanTag,
    encode_udp,
    internet_checksum,
    pseudo_header,
)
from dataplane.srv6 import SegmentRoutingHeader, SrhError
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.session_reflector import Reply, SessionReflector


class Unreadable(Exception):
    """No frame that the driver should answer or discard."""


def decode(data: bytes) -> Frame:
    """A frame that is right in every length and in its UDP checksum. Raises Unreadable."""
    at, tags = 12, []
    while len(tags) < 2 and data[at : at + 2] in (
        ETHERTYPE_VLAN.to_bytes(2, "big"),
        ETHERTYPE_SERVICE_VLAN.to_bytes(2, "big"),
    ):
        if len(data) < at + 4:
            raise Unreadable("VLAN tag")
        protocol, control = struct.unpack_from("!HH", data, at)
        tags.append(VlanTag(control, protocol))
        at += 4
    ethertype = int.from_bytes(data[at : at + 2], "big")
    if ethertype == ETHERTYPE_IPV6:
        outer, datagram = _packet(data[at + 2 :])
    elif ethertype == ETHERTYPE_IPV4:
        outer, datagram = None, _in_ipv4(data[at + 2 :])
    else:
        raise Unreadable("no IP")
    return Frame(datagram, data[:6], data[6:12], tags, outer)


def _packet(data: bytes) -> tuple[Outer | None, Datagram]:
    header, segments, inside, rest = _ipv6(data)
    outer = None
    if inside == NEXT_HEADER_IPV6:
        outer = Outer(header.source, header.destination, segments, header.hop_limit)
        header, segments, inside, rest = _ipv6(rest)
    elif inside == NEXT_HEADER_IPV4:
        return Outer(header.source, header.destination, segments, header.hop_limit), _in_ipv4(rest)
    return outer, _datagram(replace(header, segments=segments), inside, rest)


def _in_ipv4(data: bytes) -> Datagram:
    """RFC 791 §3.1."""
    if len(data) < 20 or data[0] != 0x45:
        raise Unreadable("IPv4 header, or one with options")
    tos, length, fragment, ttl, inside = struct.unpack_from("!xBH2xHBB", data)
    if internet_checksum(data[:20]) != 0:
        raise Unreadable("IPv4 header checksum")
    if length != len(data) or fragment & 0x3FFF:
        raise Unreadable("IPv4 length, or a fragment")
    source, destination = IPv4Address(data[12:16]), IPv4Address(data[16:20])
    header = Datagram(source, destination, 0, 0, b"", ttl, tos, dont_fragment=bool(fragment >> 14))
    return _datagram(header, inside, data[20:])


def _datagram(header: Datagram, inside: int, rest: bytes) -> Datagram:
    if inside != NEXT_HEADER_UDP or len(rest) < 8:
        raise Unreadable("no UDP")
    source_port, destination_port, length, check = struct.unpack_from("!HHHH", rest)
    if length != len(rest):
        raise Unreadable("UDP length")
    datagram = replace(
        header,
        source_port=source_port,
        destination_port=destination_port,
        payload=rest[8:],
    )
    without = check == 0 and datagram.source.version == 4
    if not without and (encode_udp(datagram)[6:8] != rest[6:8] or check == 0):
        raise Unreadable("UDP checksum")
    return datagram


def _ipv6(data: bytes) -> tuple[Datagram, tuple[IPv6Address, ...], int, bytes]:
    if len(data) < 40 or data[0] >> 4 != 6:
        raise Unreadable("IPv6 header")
    first, length, inside, hop_limit, source, destination = struct.unpack_from("!IHBB16s16s", data)
    if length != len(data) - 40:
        raise Unreadable("IPv6 length")
    rest = data[40:]
    segments: tuple[IPv6Address, ...] = ()
    if inside == NEXT_HEADER_ROUTING:
        try:
            header = SegmentRoutingHeader.decode(rest)
        except SrhError as error:
            raise Unreadable("SRH") from error
        if header.segments_left or header.tlvs:
            raise Unreadable("SRH that the driver leaves alone")
        segments, inside, rest = header.segments, header.next_header, rest[header.length :]
    read = Datagram(
        IPv6Address(source),
        IPv6Address(destination),
        *(0, 0, b"", hop_limit, first >> 20 & 0xFF, first & 0xFFFFF),
    )
    return read, segments, inside, rest


def receive(core: SessionReflector, frame: Frame, t2_ns: int) -> Reply | DiscardReason:
    """What the core says, after what the userspace engine says before it asks the core."""
    datagram = frame.datagram
    source = datagram.source
    if source.is_multicast or source.is_unspecified or datagram.source_port == 0:
        return DiscardReason.UNANSWERABLE
    return core.receive(
        datagram.payload,
        source=source,
        source_port=datagram.source_port,
        hop_limit=datagram.hop_limit,
        t2_ns=t2_ns,
    )


def turned_back(request: Frame, reply: Reply, t3_ns: int, clock: ClockStatus) -> Frame:
    """The reply's frame where it goes back to the neighbour that the request came from."""
    asked = request.datagram
    datagram = Datagram(
        source=asked.destination,
        destination=reply.destination,
        source_port=asked.destination_port,
        destination_port=reply.destination_port,
        payload=reply.encode(t3_ns, clock.error_estimate(reply.timestamp_format)),
        hop_limit=255,
        traffic_class=asked.traffic_class & 0xFC,
        flow_label=asked.flow_label,
        segments=reply.segments,
        segments_left=max(0, len(reply.segments) - 1),
        # As the kernel sends what a socket has it send (ip(7), IP_MTU_DISCOVER).
        dont_fragment=True,
    )
    return Frame(datagram, request.source_mac, request.destination_mac, request.tags)


def pseudo_sum(datagram: Datagram) -> int:
    """The complement of what stands in a UDP checksum that is left to the interface."""
    return internet_checksum(pseudo_header(datagram, 8 + len(datagram.payload)))
