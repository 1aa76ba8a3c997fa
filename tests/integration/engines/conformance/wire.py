"""Packets written and read by hand: neither the project's codec nor Scapy is trusted here."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

IPAddress = IPv4Address | IPv6Address

ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0800, 0x86DD
ETHERTYPE_VLAN, ETHERTYPE_SERVICE_VLAN = 0x8100, 0x88A8
NH_HOP_BY_HOP, NH_UDP, NH_IPV6, NH_ROUTING, NH_ICMPV6, NH_DESTINATION = 0, 17, 41, 43, 58, 60
NH_ICMP, NH_IPV4 = 1, 4

UNSYNCHRONIZED, PTPV2 = 0x0001, 0x4001
"""Error Estimates: the least error, not synchronised; Z bit clear and set."""

BASE = 44
_REPLY = struct.Struct("!IQHHQIQHHB3s")


class Tag(NamedTuple):
    """A VLAN tag whose priority is 0."""

    identifier: int
    protocol: int = ETHERTYPE_VLAN


def srh(segments: Sequence[IPv6Address], left: int, next_header: int) -> bytes:
    """A Segment Routing Header; `segments` in the order of travel."""
    count = len(segments)
    fixed = struct.pack("!BBBBBBH", next_header, 2 * count, 4, left, count - 1, 0, 0)
    return fixed + b"".join(sid.packed for sid in reversed(segments))


def ipv6(
    source: IPv6Address,
    destination: IPv6Address,
    next_header: int,
    payload: bytes,
    *,
    hop_limit: int = 64,
    traffic_class: int = 0,
) -> bytes:
    first = 6 << 28 | traffic_class << 20
    fixed = struct.pack("!IHBB", first, len(payload), next_header, hop_limit)
    return fixed + source.packed + destination.packed + payload


def ipv4(
    source: IPv4Address,
    destination: IPv4Address,
    protocol: int,
    payload: bytes,
    *,
    hop_limit: int = 64,
    traffic_class: int = 0,
    options: bytes = b"",
    fragment: int = 0,
) -> bytes:
    """RFC 791 §3.1; `fragment` is flags and offset."""
    size = 20 + len(options)
    head = struct.pack(
        *("!BBHHHBBH", 4 << 4 | size // 4, traffic_class, size + len(payload), 0, fragment),
        *(hop_limit, protocol, 0),
    )
    head += source.packed + destination.packed + options
    checksum = ~_fold(head) & 0xFFFF
    return head[:10] + struct.pack("!H", checksum) + head[12:] + payload


def udp(
    source: IPAddress,
    destination: IPAddress,
    ports: tuple[int, int],
    payload: bytes,
    *,
    checksum: int | None = None,
    length: int | None = None,
) -> bytes:
    """`destination` is the final one; `checksum` and `length` may be given wrong ones."""
    length = 8 + len(payload) if length is None else length
    header = struct.pack("!HHHH", *ports, length, 0)
    if checksum is None:
        checksum = ~_sum(source, destination, header + payload) & 0xFFFF or 0xFFFF
    return header[:6] + struct.pack("!H", checksum) + payload


def burst(
    source: IPAddress, destination: IPAddress, ports: tuple[int, int], *payloads: bytes
) -> bytes:
    """An IP packet with UDP payloads that are to be cut apart yet; its checksum is the
    pseudo header's alone."""
    payload = b"".join(payloads)
    within = ipv6 if source.version == 6 else ipv4
    checksum = _sum(source, destination, bytes(8 + len(payload)))
    return within(
        *(source, destination, NH_UDP),
        udp(source, destination, ports, payload, checksum=checksum),
    )


def _sum(source: IPAddress, destination: IPAddress, datagram: bytes) -> int:
    """One's complement sum with the pseudo header (RFC 8200 §8.1, RFC 768)."""
    layout = "!IxxxB" if source.version == 6 else "!xBH"
    numbers = (len(datagram), NH_UDP) if source.version == 6 else (NH_UDP, len(datagram))
    return _fold(source.packed + destination.packed + struct.pack(layout, *numbers) + datagram)


def _fold(data: bytes) -> int:
    """One's complement sum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def request(
    sequence: int,
    ssid: int,
    *,
    t1: int = 0xE58BFC31F60997FF,
    error: int = UNSYNCHRONIZED,
    length: int = BASE,
) -> bytes:
    """A Session-Sender's packet; past the base, bytes that tell if they were moved."""
    base = struct.pack("!IQHH28x", sequence, t1, error, ssid)
    return (base + bytes(at % 251 for at in range(length)))[:length]


def reply(
    sequence: int,
    ssid: int,
    sender_sequence: int,
    sender_timestamp: int,
    *,
    t2: int,
    t3: int,
    error: int = UNSYNCHRONIZED,
    sender_error: int = UNSYNCHRONIZED,
    ttl: int = 255,
) -> bytes:
    """A Session-Reflector's packet."""
    return _REPLY.pack(
        *(sequence, t3, error, ssid, t2, sender_sequence, sender_timestamp, sender_error),
        *(0, ttl, bytes(3)),
    )


@dataclass(frozen=True)
class Reflected:
    """The fields of a reply."""

    sequence: int
    t3: int
    error: int
    ssid: int
    t2: int
    sender_sequence: int
    t1: int
    sender_error: int
    mbz: int
    ttl: int
    mbz_end: bytes
    rest: bytes

    @classmethod
    def read(cls, payload: bytes) -> Reflected:
        return cls(*_REPLY.unpack_from(payload), rest=payload[BASE:])


@dataclass(frozen=True)
class Seen:
    """A UDP packet that was captured."""

    source: IPAddress
    destination: IPAddress
    """Of the IP header: the first segment, where there is an SRH."""

    hop_limit: int
    traffic_class: int
    srh: bytes
    """Empty for none."""

    ports: tuple[int, int]
    payload: bytes
    checksum_right: bool


def seen(frame: bytes) -> Seen | None:
    """A captured frame; None for anything but UDP over IPv6, with an SRH or without, or
    over IPv4 without options."""
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    if ethertype == ETHERTYPE_IPV4:
        return _seen_ipv4(frame[14:])
    if ethertype != ETHERTYPE_IPV6:
        return None
    first, length, header, hop_limit = struct.unpack_from("!IHBB", frame, 14)
    source, destination = IPv6Address(frame[22:38]), IPv6Address(frame[38:54])
    packet = frame[54 : 54 + length]
    found, final = b"", destination
    if header == NH_ROUTING:
        header, size = packet[0], 8 + 8 * packet[1]
        found, packet = packet[:size], packet[size:]
        final = IPv6Address(found[8:24])
    if header != NH_UDP:
        return None
    ports, payload, right = _seen_udp(source, final, packet)
    traffic_class = first >> 20 & 0xFF
    return Seen(source, destination, hop_limit, traffic_class, found, ports, payload, right)


def _seen_ipv4(packet: bytes) -> Seen | None:
    traffic_class, length, ttl, protocol = struct.unpack_from("!xBHxxxxBB", packet)
    if packet[0] != 0x45 or protocol != NH_UDP:
        return None
    source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    ports, payload, right = _seen_udp(source, destination, packet[20:length])
    right = right and _fold(packet[:20]) == 0xFFFF
    return Seen(source, destination, ttl, traffic_class, b"", ports, payload, right)


def _seen_udp(
    source: IPAddress, destination: IPAddress, packet: bytes
) -> tuple[tuple[int, int], bytes, bool]:
    """Ports, payload, and whether checksum and length are right."""
    sport, dport, length, checksum = struct.unpack_from("!HHHH", packet)
    right = checksum != 0 and _sum(source, destination, packet) == 0xFFFF
    return (sport, dport), packet[8:length], right and length == len(packet)


def is_unreachable(frame: bytes) -> bool:
    """Whether it is a Destination Unreachable of ICMPv6 or ICMP (RFC 4443 §3.1, RFC 792)."""
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    if ethertype == ETHERTYPE_IPV4:
        return frame[23] == NH_ICMP and frame[34] == 3
    return ethertype == ETHERTYPE_IPV6 and frame[20] == NH_ICMPV6 and frame[54] == 1
