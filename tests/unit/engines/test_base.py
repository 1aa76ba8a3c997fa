"""What an engine can do decides which configuration it refuses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from dataplane.config import Node, Reflector, ReflectorSession, Sender, SenderSession
from dataplane.engines import registry
from dataplane.engines.base import (
    Capabilities,
    EngineError,
    Refusal,
    Role,
    check_reflector,
    check_reflector_session,
    check_sender,
)
from dataplane.stamp.timestamp import TimestampFormat

HERE, THERE = IPv6Address("fd00::1"), IPv6Address("fd00::2")
OLD = IPv4Address("192.0.2.1")
NARROW = Capabilities(
    min_interval_us=5_000, max_segments=1, timestamp_formats=frozenset({TimestampFormat.NTP})
)


@pytest.mark.parametrize(
    ("session", "refusals"),
    [
        (SenderSession(1, THERE, HERE), []),
        (SenderSession(1, THERE, HERE, segments=(THERE,), interval_us=5_000), []),
        (SenderSession(1, OLD, OLD), [("reflector_address", "engine x does not support IPv4")]),
        (
            SenderSession(1, OLD, OLD, segments=(THERE,)),
            [
                ("reflector_address", "engine x does not support IPv4"),
                (
                    "segments",
                    "packets to 192.0.2.1 cannot take a path of SRv6 segments: it is not IPv6",
                ),
            ],
        ),
        (
            SenderSession(1, OLD, HERE),
            [
                ("reflector_address", "engine x does not support IPv4"),
                (
                    "reflector_address",
                    "source fd00::1 and reflector 192.0.2.1 are of different address families",
                ),
            ],
        ),
        (
            SenderSession(1, THERE, HERE, interval_us=4_999),
            [("interval_us", "engine x needs an interval of at least 5000 us")],
        ),
        (
            SenderSession(1, THERE, HERE, segments=(THERE, HERE)),
            [("segments", "engine x supports at most 1 segments, not 2")],
        ),
        (
            SenderSession(1, THERE, HERE, timestamp_format=TimestampFormat.PTPV2),
            [("timestamp_format", "engine x does not support timestamp format PTPV2")],
        ),
    ],
)
def test_check_sender(session: SenderSession, refusals: list[Refusal]) -> None:
    assert check_sender("x", NARROW, session) == refusals


def test_check_reflector() -> None:
    assert check_reflector("x", NARROW, Reflector()) == []
    assert check_reflector("x", NARROW, Reflector(source_address=OLD)) == [
        ("source_address", "engine x does not support IPv4")
    ]
    wanted = ReflectorSession(
        1, OLD, segments=(HERE, THERE), timestamp_format=TimestampFormat.PTPV2
    )
    assert check_reflector_session("x", NARROW, wanted) == [
        ("sender_address", "engine x does not support IPv4"),
        ("segments", "engine x supports at most 1 segments, not 2"),
        ("segments", "packets to 192.0.2.1 cannot take a path of SRv6 segments: it is not IPv6"),
        ("timestamp_format", "engine x does not support timestamp format PTPV2"),
    ]


def test_a_role_that_an_engine_has_not() -> None:
    nothing = Capabilities(roles=frozenset())
    assert check_sender("x", nothing, SenderSession(1, THERE, HERE)) == [
        ("engine", "engine x has no Session-Sender")
    ]
    assert check_reflector("x", nothing, Reflector()) == [
        ("engine", "engine x has no Session-Reflector")
    ]


def test_refusals_name_their_session() -> None:
    node = Node(
        Sender(sessions={7: SenderSession(7, OLD, OLD, interval_us=999)}),
        Reflector(sessions={(8, OLD): ReflectorSession(8, OLD, segments=(HERE,))}),
    )
    assert list(registry.refusals(node)) == [
        "session 7: engine userspace needs an interval of at least 1000 us",
        "reflector session 8: packets to 192.0.2.1 cannot take a path of SRv6 segments: "
        "it is not IPv6",
    ]
    assert list(registry.refusals(Node())) == []


def test_unknown_engine() -> None:
    with pytest.raises(EngineError, match=r"^there is no engine warp; there are: .*userspace"):
        registry.capabilities("warp")
    node = Node(Sender(engine="warp"), Reflector(engine="warp"))
    assert len(list(registry.refusals(node))) == 2


def test_userspace_engine_has_both_roles() -> None:
    assert registry.capabilities("userspace").roles == frozenset(Role)
