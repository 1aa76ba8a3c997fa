"""Requests that are not answered: by reason, and without one where they are not ours."""

from __future__ import annotations

import dataclasses
import struct
import time
from collections.abc import Callable
from ipaddress import IPv6Address

import pytest

from dataplane.config import ReflectorSession
from dataplane.stamp.errors import DiscardReason
from tests.integration.engines.conformance import wire
from tests.integration.engines.conformance.conftest import in_both_modes
from tests.integration.engines.conformance.reflecting import (
    PORT,
    SENDER_PORT,
    SSID,
    Reflecting,
    packet,
)
from tests.integration.engines.conformance.stand import (
    DECAPSULATING,
    MAIN,
    OTHER,
    Running,
    grace,
)
from tests.integration.engines.conformance.test_reflector_packets import FORMS
from tests.integration.engines.network import ip, sysctl

pytestmark = pytest.mark.integration

ALL_NODES = IPv6Address("ff02::1")
NOBODY = IPv6Address("fd00:1::9")
AFAR = IPv6Address("2001:db8::1")


@pytest.fixture
def reflecting(running: Running) -> Reflecting:
    return Reflecting(running)


def reflected(seconds: int = 1_000) -> bytes:
    """What another Session-Reflector would send."""
    now = seconds << 32
    return wire.reply(0, SSID, 0, now, t2=now, t3=now)


GOOD = wire.request(1, SSID)

DISCARDED: dict[str, tuple[DiscardReason, bytes]] = {
    "no payload": (DiscardReason.TRUNCATED, packet(b"")),
    "13 bytes": (DiscardReason.TRUNCATED, packet(GOOD[:13])),
    "Multiplier 0": (DiscardReason.ZERO_MULTIPLIER, packet(wire.request(1, SSID, error=0x8100))),
    "no such SSID": (DiscardReason.UNKNOWN_SESSION, packet(wire.request(1, 4))),
    "SSID 0": (DiscardReason.UNKNOWN_SESSION, packet(wire.request(1, 0))),
    "no such sender": (DiscardReason.UNKNOWN_SESSION, packet(wire.request(1, 6))),
    "session of another port": (DiscardReason.WRONG_PORT, packet(wire.request(1, 7))),
    "disabled session": (DiscardReason.SESSION_DISABLED, packet(wire.request(1, 8))),
    "a reply": (DiscardReason.UNANSWERABLE, packet(reflected())),
    "from a reflector's port": (DiscardReason.UNANSWERABLE, packet(GOOD, ports=(PORT, PORT))),
    "from port 0": (DiscardReason.UNANSWERABLE, packet(GOOD, ports=(0, PORT))),
    "to a group": (DiscardReason.UNANSWERABLE, packet(GOOD, destination=ALL_NODES)),
    "unroutable sender": (DiscardReason.SEND_FAILED, packet(GOOD, source=AFAR)),
    "wrong interface": (
        DiscardReason.WRONG_INTERFACE,
        packet(GOOD, OTHER),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_more_than_a_source_may_send(reflecting: Reflecting, form: str) -> None:
    """In whatever headers it comes: not everything is seen in the driver."""
    reflecting.configure(rate_limit=1)
    for _ in range(40):
        reflecting.stand.inject(MAIN, FORMS[form](MAIN))
    reflecting.answer()
    assert reflecting.running.reflector().discards[DiscardReason.RATE_LIMITED] == 39


@in_both_modes
def test_a_source_within_its_rate(reflecting: Reflecting) -> None:
    """It loses nothing, whatever another sends."""
    per_s = 200
    reflecting.configure(rate_limit=per_s)
    for number in range(per_s // 4):
        for _ in range(10):
            reflecting.send(wire.request(number, SSID), source=AFAR)
        reflecting.send(wire.request(number, SSID))
        time.sleep(1 / per_s)
    grace()
    replies = reflecting.stand.seen(MAIN)
    mine = [reply for reply in replies if reply.destination == MAIN.there]
    assert len(mine) == per_s // 4
    refused = reflecting.running.reflector().discards[DiscardReason.RATE_LIMITED]
    assert refused == 11 * per_s // 4 - len(replies) > 0


@in_both_modes
def test_a_burst_is_limited_as_single_packets_are(reflecting: Reflecting) -> None:
    reflecting.configure(rate_limit=100)
    reflecting.exchange(GOOD)
    grace()
    requests = [wire.request(sequence, SSID) for sequence in range(40)]
    burst = wire.burst(MAIN.there, MAIN.here, (SENDER_PORT, PORT), *requests)
    reflecting.stand.inject_burst(MAIN, burst, wire.BASE)
    # Those of a tenth of a second, and the one that is sent at its end.
    fields = [wire.Reflected.read(reply.payload) for reply in reflecting.answers(11)]
    assert [field.sender_sequence for field in fields] == list(range(11))
    assert reflecting.running.reflector().discards[DiscardReason.RATE_LIMITED] == 29


@pytest.mark.parametrize("case", DISCARDED)
def test_discards_by_reason(reflecting: Reflecting, case: str) -> None:
    reason, bad = DISCARDED[case]
    reflecting.configure(
        ReflectorSession(SSID),
        ReflectorSession(6, NOBODY),
        ReflectorSession(7, sender_udp_port=50_000),
        ReflectorSession(8, enabled=False),
        interfaces=("n0",),
    )
    if reason is DiscardReason.SEND_FAILED:
        ip("-n", reflecting.stand.node, "-6", "route", "delete", "default")
    reflecting.stand.inject(OTHER if case == "wrong interface" else MAIN, bad)
    reflecting.discarded(reason)
    assert reflecting.stand.seen(OTHER) == []
    # The engine is none the worse for it.
    assert reflecting.exchange(wire.request(2, SSID)).sequence == 2


def test_a_session_that_names_the_reflectors_port(reflecting: Reflecting) -> None:
    """The one way to be answered on it: both ends use port 862."""
    reflecting.configure(ReflectorSession(SSID, sender_udp_port=PORT))
    reflecting.send(GOOD, ports=(PORT, PORT))
    assert reflecting.answer().ports == (PORT, PORT)
    reflecting.send(reflected(), ports=(PORT, PORT))
    reflecting.discarded(DiscardReason.UNANSWERABLE)


def with_srh(left: int, *path: IPv6Address) -> bytes:
    datagram = wire.udp(MAIN.there, path[-1], (SENDER_PORT, PORT), GOOD)
    active = path[len(path) - 1 - left]
    header = wire.srh(path, left, wire.NH_UDP)
    return wire.ipv6(MAIN.there, active, wire.NH_ROUTING, header + datagram)


def behind_options(whole: bytes) -> bytes:
    """The packet with a Destination Options header before all others."""
    options = bytes([whole[6], 0, 1, 4, 0, 0, 0, 0])
    active = IPv6Address(whole[24:40])
    return wire.ipv6(MAIN.there, active, wire.NH_DESTINATION, options + whole[40:])


def wrong_checksum() -> bytes:
    good = packet(GOOD)
    (checksum,) = struct.unpack_from("!H", good, 46)
    return packet(GOOD, checksum=checksum ^ 0x0101)


NOT_OURS: dict[str, Callable[[], bytes]] = {
    "to another node": lambda: packet(GOOD, destination=NOBODY),
    "from a loopback": lambda: packet(GOOD, source=IPv6Address("::1")),
    "to a loopback": lambda: packet(GOOD, destination=IPv6Address("::1")),
    "to another node, SRH": lambda: with_srh(0, MAIN.here, NOBODY),
    "segments left": lambda: with_srh(1, NOBODY, MAIN.here),
    "segments left, our segment": lambda: with_srh(1, MAIN.here, NOBODY),
    "segments left, behind options": lambda: behind_options(with_srh(1, MAIN.here, NOBODY)),
    "to another port, behind options": lambda: behind_options(
        packet(GOOD, ports=(SENDER_PORT, 863))
    ),
    "encapsulated to another node": lambda: wire.ipv6(
        MAIN.there, NOBODY, wire.NH_IPV6, packet(GOOD)
    ),
    "decapsulated, to another node": lambda: wire.ipv6(
        MAIN.there, DECAPSULATING, wire.NH_IPV6, packet(GOOD, destination=NOBODY)
    ),
    "wrong checksum": wrong_checksum,
    "no checksum": lambda: packet(GOOD, checksum=0),
    "UDP length beyond the packet": lambda: packet(GOOD, length=200),
    "UDP length below the header": lambda: packet(GOOD, length=7),
    "cut off in the UDP header": lambda: packet(GOOD)[:46],
    "cut off in the payload": lambda: packet(GOOD)[:70],
    "cut off in the IPv6 header": lambda: packet(GOOD)[:20],
    "cut off in the SRH": lambda: with_srh(0, NOBODY, MAIN.here)[:60],
    "rubbish": lambda: bytes(range(0x60, 0x60 + 100)),
}


@pytest.mark.parametrize("case", NOT_OURS)
def test_what_the_kernel_would_not_deliver(reflecting: Reflecting, case: str) -> None:
    """Nobody asked this Session-Reflector: it neither answers nor counts."""
    reflecting.configure()
    reflecting.stand.inject(MAIN, NOT_OURS[case]())
    assert reflecting.exchange(wire.request(2, SSID)).sequence == 2
    snapshot = reflecting.running.reflector()
    assert snapshot.received == snapshot.reflected == 1
    assert not any(snapshot.discards.values())


@pytest.mark.parametrize(
    "tags",
    [
        (wire.Tag(9),),
        (wire.Tag(9, wire.ETHERTYPE_SERVICE_VLAN),),
        (wire.Tag(0), wire.Tag(9)),
        (wire.Tag(9), wire.Tag(0)),
    ],
    ids=["802.1Q", "802.1ad", "behind a priority", "in front of a priority"],
)
def test_a_vlan_that_is_not_there(reflecting: Reflecting, tags: tuple[wire.Tag, ...]) -> None:
    reflecting.configure()
    reflecting.stand.inject(dataclasses.replace(MAIN, tags=tags), packet(GOOD))
    assert reflecting.exchange(wire.request(2, SSID)).sequence == 2
    assert reflecting.running.reflector().received == 1


def test_a_frame_for_another_host(reflecting: Reflecting) -> None:
    """As a hub, or a switch that has forgotten an address, delivers."""
    reflecting.configure()
    reflecting.stand.inject(MAIN, packet(GOOD), to=bytes.fromhex("020000000009"))
    assert reflecting.exchange(wire.request(2, SSID)).sequence == 2
    assert reflecting.running.reflector().received == 1


def test_srh_where_the_kernel_takes_none(reflecting: Reflecting) -> None:
    """Segment routing is switched off on the interface (ip-sysctl, seg6_enabled)."""
    sysctl(reflecting.stand.node, "net.ipv6.conf.n0.seg6_enabled", 0)
    reflecting.configure()
    reflecting.stand.inject(MAIN, with_srh(0, NOBODY, MAIN.here))
    assert reflecting.exchange(wire.request(2, SSID)).sequence == 2
    assert reflecting.running.reflector().received == 1


def test_what_the_node_itself_sends_is_no_request(reflecting: Reflecting) -> None:
    """A request that only leaves through this node's interface."""
    reflecting.configure()
    with reflecting.stand.socket_on_node() as sock:
        sock.bind((str(MAIN.here), SENDER_PORT))
        sock.sendto(GOOD, (str(MAIN.there), PORT))
    (sent,) = reflecting.answers(1)
    assert sent.payload == GOOD
    assert reflecting.exchange(wire.request(2, SSID)).sequence == 2
    assert reflecting.running.reflector().received == 1


def test_the_role_counts_what_it_discards_and_reflects(reflecting: Reflecting) -> None:
    reflecting.configure()
    started_ns = time.time_ns()
    for at in range(3):
        reflecting.exchange(wire.request(at, SSID))
    reflecting.send(wire.request(1, 4))
    reflecting.discarded(DiscardReason.UNKNOWN_SESSION)
    grace()
    snapshot = reflecting.running.reflector()
    assert (snapshot.received, snapshot.reflected) == (3, 3)
    assert snapshot.last_received_ns is not None
    assert snapshot.start_time_ns is not None
    assert snapshot.start_time_ns < started_ns < snapshot.last_received_ns < time.time_ns()
