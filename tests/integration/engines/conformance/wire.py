"""Packets written and read by hand: neither the project's codec nor Scapy is trusted here."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address

ETHERTYPE_IPV6, ETHERTYPE_VLAN = 0x86DD, 0x8100
NH_UDP, NH_IPV6, NH_ROUTING, NH_ICMPV6, NH_DESTINATION = 17, 41, 43, 58, 60

UNSYNCHRONIZED, PTPV2 = 0x0001, 0x4001
"""Error Estimates: the least error, not synchronised; Z bit clear and set."""

BASE = 44
_REPLY = struct.Struct("!IQHHQIQHHB3s")


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


def udp(
    source: IPv6Address,
    destination: IPv6Address,
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


def _sum(source: IPv6Address, destination: IPv6Address, datagram: bytes) -> int:
    """One's complement sum with the pseudo header (RFC 8200 §8.1)."""
    pseudo = source.packed + destination.packed + struct.pack("!IxxxB", len(datagram), NH_UDP)
    data = pseudo + datagram + bytes(len(datagram) % 2)
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

    source: IPv6Address
    destination: IPv6Address
    """Of the IPv6 header: the first segment, where there is an SRH."""

    hop_limit: int
    traffic_class: int
    srh: bytes
    """Empty for none."""

    ports: tuple[int, int]
    payload: bytes
    checksum_right: bool


def seen(frame: bytes) -> Seen | None:
    """A captured frame; None for anything but UDP over IPv6, with an SRH or without."""
    (ethertype,) = struct.unpack_from("!H", frame, 12)
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
    sport, dport, udp_length, checksum = struct.unpack_from("!HHHH", packet)
    right = checksum != 0 and _sum(source, final, packet) == 0xFFFF
    return Seen(
        *(source, destination, hop_limit, first >> 20 & 0xFF, found),
        *((sport, dport), packet[8:udp_length], right and udp_length == len(packet)),
    )


def is_unreachable(frame: bytes) -> bool:
    """Whether it is an ICMPv6 Destination Unreachable (RFC 4443 §3.1)."""
    return (
        struct.unpack_from("!H", frame, 12)[0] == ETHERTYPE_IPV6
        and frame[20] == NH_ICMPV6
        and frame[54] == 1
    )
