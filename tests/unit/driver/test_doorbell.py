"""What rings: not every route of a router."""

from __future__ import annotations

import struct

import pytest

from dataplane.engines.driver.doorbell import _matters, _messages

NEW_LINK, NEW_ROUTE, DELETE_ROUTE = 16, 24, 25


def message(kind: int, *attributes: tuple[int, bytes]) -> bytes:
    body = bytes(12)
    for number, value in attributes:
        body += struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


DESTINATION = (1, bytes(16))
SEG6_LOCAL, MPLS = (21, struct.pack("=H", 7)), (21, struct.pack("=H", 1))


@pytest.mark.parametrize(
    ("told", "matters"),
    [
        (message(NEW_LINK), True),
        (message(NEW_ROUTE, DESTINATION), False),
        (message(NEW_ROUTE, DESTINATION, MPLS), False),
        (message(NEW_ROUTE, DESTINATION, SEG6_LOCAL), True),
        (message(DELETE_ROUTE, SEG6_LOCAL), True),
        (message(NEW_ROUTE, (1, b"")) + b"\0\0\0\0", False),
    ],
)
def test_what_matters(told: bytes, matters: bool) -> None:
    assert _matters(told) is matters


def test_messages_that_come_together() -> None:
    told = [message(NEW_LINK), message(NEW_ROUTE, DESTINATION), message(NEW_ROUTE, SEG6_LOCAL)]
    assert list(_messages(b"".join(told))) == told
    assert list(_messages(bytes(16))) == []
