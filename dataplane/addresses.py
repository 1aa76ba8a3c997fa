"""IP addresses of both families, side by side.

Where addresses are columns or keys they have 16 bytes: an IPv4 address is written as
IPv4-mapped (RFC 4291 §2.5.5.2). No IPv6 packet is from such an address: whoever receives
one that says so takes its source for unspecified, which is nobody's.
"""

from __future__ import annotations

import functools
import socket
from ipaddress import IPv6Address, ip_address

from dataplane.config import IPAddress

LENGTH = 16
"""Bytes."""

MAPPED = bytes(10) + b"\xff\xff"
"""What an IPv4-mapped address begins with."""

_LOOPBACK = bytes(15) + b"\1"
_LOOPBACK_IPV4 = MAPPED + b"\x7f"

address_of = functools.lru_cache(maxsize=4096)(ip_address)
"""`ip_address` of a text, with a memory: those of packets come again and again."""


def packed(address: IPAddress) -> bytes:
    """16 bytes."""
    return address.packed if address.version == 6 else MAPPED + address.packed


def text_of(data: bytes) -> str:
    """Of 16 bytes: "fd00::1", "192.0.2.1"."""
    if data.startswith(MAPPED):
        return socket.inet_ntop(socket.AF_INET, data[len(MAPPED) :])
    return socket.inet_ntop(socket.AF_INET6, data)


def is_loopback(data: bytes) -> bool:
    """Of 16 bytes: whether no packet that comes over a link has them (RFC 4291 §2.5.3,
    RFC 1122 §3.2.1.3)."""
    return data == _LOOPBACK or data.startswith(_LOOPBACK_IPV4)


def is_link_local(data: bytes) -> bool:
    """Of 16 bytes: whether the address is of one link only (RFC 4291 §2.5.6)."""
    return data[0] == 0xFE and data[1] & 0xC0 == 0x80


def endpoint(address: IPAddress | str, port: int) -> str:
    """For people: "[fd00::1]:862", "192.0.2.1:862"."""
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"


@functools.lru_cache(maxsize=4096)
def not_unicast(address: IPAddress) -> str | None:
    """What an address is that no single node has, for people; None for any other."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return "an IPv4 address written as IPv6"
    if address.is_multicast or address.is_unspecified or address == _LIMITED_BROADCAST:
        return "not a unicast address"
    return None


_LIMITED_BROADCAST = ip_address("255.255.255.255")
