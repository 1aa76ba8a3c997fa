"""Addresses of two families in one width."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from dataplane.addresses import (
    address_of,
    endpoint,
    is_link_local,
    is_loopback,
    not_unicast,
    packed,
    text_of,
)
from dataplane.config import IPAddress

SIX, FOUR = IPv6Address("fd00::1"), IPv4Address("192.0.2.1")


@pytest.mark.parametrize("address", [SIX, FOUR, IPv6Address("::"), IPv4Address("0.0.0.0")])
def test_sixteen_bytes_and_back(address: IPAddress) -> None:
    assert len(packed(address)) == 16
    assert address_of(text_of(packed(address))) == address


def test_ipv4_is_mapped() -> None:
    assert packed(FOUR) == IPv6Address("::ffff:192.0.2.1").packed


def test_endpoint() -> None:
    assert endpoint(SIX, 862) == "[fd00::1]:862"
    assert endpoint("192.0.2.1", 862) == "192.0.2.1:862"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("fd00::1", None),
        ("192.0.2.1", None),
        ("192.0.2.255", None),
        ("ff02::1", "not a unicast address"),
        ("::", "not a unicast address"),
        ("0.0.0.0", "not a unicast address"),
        ("224.0.0.1", "not a unicast address"),
        ("255.255.255.255", "not a unicast address"),
        ("::ffff:192.0.2.1", "an IPv4 address written as IPv6"),
    ],
)
def test_what_no_single_node_has(text: str, problem: str | None) -> None:
    assert not_unicast(ip_address(text)) == problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("::1", True),
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::", False),
        ("::2", False),
        ("1::1", False),
        ("126.0.0.1", False),
        ("7f00::", False),
    ],
)
def test_loopback(text: str, expected: bool) -> None:
    assert is_loopback(packed(ip_address(text))) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fe80::1", True),
        ("febf:ffff::", True),
        ("fe7f::1", False),
        ("fec0::1", False),
        ("fd00::1", False),
        ("169.254.0.1", False),
    ],
)
def test_link_local(text: str, expected: bool) -> None:
    assert is_link_local(packed(ip_address(text))) is expected
