"""Requests that are answered, and what the answers are like to the last bit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from ipaddress import IPv6Address

import pytest

from dataplane.config import ReflectorMode, ReflectorSession
from dataplane.reflector_store import HandedUp
from dataplane.stamp.timestamp import TimestampFormat, decode_timestamp, encode_timestamp
from tests.integration.engines.conformance import wire
from tests.integration.engines.conformance.conftest import NATIVE, in_both_modes
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
    PRIORITY,
    VLAN,
    Link,
    Running,
    grace,
)
from tests.integration.engines.network import ip

pytestmark = pytest.mark.integration

TRANSIT = IPv6Address("fc00:e::1")
"""A SID on the way, of somebody else."""

ERRORS = {TimestampFormat.NTP: wire.UNSYNCHRONIZED, TimestampFormat.PTPV2: wire.PTPV2}


@pytest.fixture
def reflecting(running: Running) -> Reflecting:
    return Reflecting(running)


def plain(link: Link) -> bytes:
    return packet(wire.request(7, SSID), link)


def with_srh(link: Link, *segments: IPv6Address, left: int = 0) -> bytes:
    path = (*segments, link.here)
    datagram = wire.udp(link.there, link.here, (SENDER_PORT, PORT), wire.request(7, SSID))
    header = wire.srh(path, left, wire.NH_UDP)
    return wire.ipv6(link.there, link.here, wire.NH_ROUTING, header + datagram)


def with_options(kind: int, whole: bytes) -> bytes:
    """The packet with options of one kind before all else."""
    options = bytes([whole[6], 0, 1, 4, 0, 0, 0, 0])
    source, destination = IPv6Address(whole[8:24]), IPv6Address(whole[24:40])
    return wire.ipv6(source, destination, kind, options + whole[40:])


def inside_ipv6(inner: bytes, *segments: IPv6Address, srh: bool = True) -> bytes:
    """Encapsulated towards the last segment, which it has reached."""
    header = wire.srh(segments, 0, wire.NH_IPV6) if srh else b""
    kind = wire.NH_ROUTING if srh else wire.NH_IPV6
    return wire.ipv6(MAIN.there, segments[-1], kind, header + inner, hop_limit=33)


FORMS: dict[str, Callable[[Link], bytes]] = {
    "no SRH, or popped": plain,
    "SRH": lambda link: with_srh(link, TRANSIT),
    "SRH of one segment": with_srh,
    "SRH of 16 segments": lambda link: with_srh(link, *[TRANSIT] * 15),
    "Hop-by-Hop Options": lambda link: with_options(wire.NH_HOP_BY_HOP, plain(link)),
    "Destination Options": lambda link: with_options(wire.NH_DESTINATION, plain(link)),
    "Destination Options, SRH": lambda link: with_options(
        wire.NH_DESTINATION, with_srh(link, TRANSIT)
    ),
    "End.DT6": lambda link: inside_ipv6(plain(link), TRANSIT, DECAPSULATING),
    "End.DT6, outer SRH popped": lambda link: inside_ipv6(plain(link), DECAPSULATING, srh=False),
    "End.DT6, SRH within": lambda link: inside_ipv6(with_srh(link, TRANSIT), DECAPSULATING),
    "SRH to the node's address": lambda link: inside_ipv6(plain(link), TRANSIT, MAIN.here),
}


WITH_OPTIONS = ("Hop-by-Hop Options", "Destination Options", "Destination Options, SRH")
HANDED_UP = (*WITH_OPTIONS, "SRH to the node's address")
"""Forms that no program in the driver answers."""


@pytest.mark.parametrize("link", [MAIN, PRIORITY], ids=("untagged", "priority"))
@pytest.mark.parametrize("form", FORMS)
def test_header_forms(reflecting: Reflecting, form: str, link: Link) -> None:
    reflecting.configure()
    answers_form(reflecting, form, link)


@pytest.mark.parametrize("running", [NATIVE], indirect=True)
def test_header_forms_in_the_driver(reflecting: Reflecting) -> None:
    """One engine for all of them, for the time that it takes to start."""
    reflecting.configure()
    for link in (MAIN, PRIORITY):
        for form in FORMS:
            answers_form(reflecting, form, link)
    # All but those that the kernel has to look into first.
    counted = reflecting.running.reflector()
    assert counted.driver_answered == counted.received - 2 * len(HANDED_UP)
    assert counted.handed_up[HandedUp.IPV6_OPTIONS] == 2 * len(WITH_OPTIONS)


def answers_form(reflecting: Reflecting, form: str, link: Link) -> None:
    before_ns = time.time_ns()
    reflecting.stand.inject(link, FORMS[form](link))
    reply = reflecting.answer(link)
    after_ns = time.time_ns()
    assert (reply.source, reply.destination) == (link.here, link.there)
    assert reply.ports == (PORT, SENDER_PORT)
    assert (reply.hop_limit, reply.traffic_class, reply.srh) == (255, 0, b"")
    assert len(reply.payload) == wire.BASE
    fields = wire.Reflected.read(reply.payload)
    t2, t3 = (decode_timestamp(t, TimestampFormat.NTP, before_ns) for t in (fields.t2, fields.t3))
    assert before_ns <= t2 < t3 <= after_ns
    assert fields == wire.Reflected(
        sequence=7,
        t3=fields.t3,
        error=fields.error,
        ssid=SSID,
        t2=fields.t2,
        sender_sequence=7,
        t1=0xE58BFC31F60997FF,
        sender_error=wire.UNSYNCHRONIZED,
        mbz=0,
        ttl=64,
        mbz_end=bytes(3),
        rest=b"",
    )
    assert fields.error & 0xFF
    assert not any(map(wire.is_unreachable, reflecting.stand.frames(link)))


@pytest.mark.parametrize("form", ["no SRH, or popped", "SRH", "End.DT6"])
def test_header_forms_on_a_vlan(reflecting: Reflecting, form: str) -> None:
    reflecting.stand.add_vlan()
    test_header_forms(reflecting, form, VLAN)


@pytest.mark.parametrize(
    "tags",
    [
        (wire.Tag(0, wire.ETHERTYPE_SERVICE_VLAN),),
        (wire.Tag(0), wire.Tag(0)),
        (wire.Tag(0), wire.Tag(0, wire.ETHERTYPE_SERVICE_VLAN)),
    ],
    ids=["802.1ad", "twice", "802.1ad in 802.1Q"],
)
def test_priorities_as_the_kernel_takes_them(
    reflecting: Reflecting, tags: tuple[wire.Tag, ...]
) -> None:
    """It removes tags without a VLAN, of either protocol and more than one."""
    reflecting.configure()
    reflecting.stand.inject(dataclasses.replace(MAIN, tags=tags), packet(wire.request(7, SSID)))
    assert wire.Reflected.read(reflecting.answer().payload).sender_sequence == 7


@pytest.mark.parametrize("asked", [None, *TimestampFormat], ids=str)
@pytest.mark.parametrize("sent", TimestampFormat, ids=str)
def test_timestamp_formats(
    reflecting: Reflecting, sent: TimestampFormat, asked: TimestampFormat | None
) -> None:
    running = reflecting.running
    session = ReflectorSession(SSID, timestamp_format=asked)
    if running.refused(
        reflecting.node(session),
        f"reflector session {SSID}: engine {running.name} does not support "
        f"timestamp format {asked.name if asked else ''}",
    ):
        return
    reflecting.configure(session)
    now_ns = time.time_ns()
    t1 = encode_timestamp(now_ns, sent)
    fields = reflecting.exchange(wire.request(1, SSID, t1=t1, error=ERRORS[sent]))
    assert (fields.t1, fields.sender_error) == (t1, ERRORS[sent])
    answered = asked or sent
    assert bool(fields.error & 0x4000) == (answered is TimestampFormat.PTPV2)
    # The clock is not known to be TAI's: PTPv2 counts from the offset that the kernel knows.
    t2, t3 = (decode_timestamp(value, answered, now_ns) for value in (fields.t2, fields.t3))
    assert now_ns <= t2 < t3 < now_ns + 60 * 1_000_000_000


@in_both_modes
def test_sequence_numbers(reflecting: Reflecting) -> None:
    stateful = ReflectorSession(8, mode=ReflectorMode.STATEFUL)
    reflecting.configure(ReflectorSession(SSID), stateful)
    for ssid, expected in ((SSID, [10, 12, 11, 0xFFFFFFFF]), (8, [0, 1, 2, 3])):
        found = []
        for sequence in (10, 12, 11, 0xFFFFFFFF):
            fields = reflecting.exchange(wire.request(sequence, ssid))
            assert (fields.sender_sequence, fields.ssid) == (sequence, ssid)
            found.append(fields.sequence)
        assert found == expected


@in_both_modes
@pytest.mark.parametrize("count", [1, 2, 15])
def test_return_path(reflecting: Reflecting, count: int) -> None:
    segments = tuple(IPv6Address(f"fc00:f::{at + 1}") for at in range(count))
    running, session = reflecting.running, ReflectorSession(SSID, segments=segments)
    if running.refused(
        reflecting.node(session),
        f"reflector session {SSID}: engine {running.name} supports at most "
        f"{running.able.max_segments} segments, not {count}",
    ):
        return
    reflecting.configure(session)
    reflecting.send(wire.request(1, SSID))
    reply = reflecting.answer()
    path = (*segments, MAIN.there)
    assert reply.destination == segments[0]
    assert reply.srh == wire.srh(path, len(path) - 1, wire.NH_UDP)
    assert wire.Reflected.read(reply.payload).ssid == SSID


def test_return_path_that_ends_with_the_sender(reflecting: Reflecting) -> None:
    reflecting.configure(ReflectorSession(SSID, segments=(TRANSIT, MAIN.there)))
    reflecting.send(wire.request(1, SSID))
    assert reflecting.answer().srh == wire.srh((TRANSIT, MAIN.there), 1, wire.NH_UDP)


@pytest.mark.parametrize("hop_limit", [1, 63, 255])
@pytest.mark.parametrize("traffic_class", [0, 0xB8, 0xBB, 0x03])
def test_hop_limit_and_dscp(reflecting: Reflecting, hop_limit: int, traffic_class: int) -> None:
    reflecting.configure()
    reflecting.send(wire.request(1, SSID), hop_limit=hop_limit, traffic_class=traffic_class)
    reply = reflecting.answer()
    assert wire.Reflected.read(reply.payload).ttl == hop_limit
    assert reply.traffic_class == traffic_class & 0xFC
    assert reply.hop_limit == 255


@pytest.mark.parametrize("length", [14, 15, 16, 17, 41, 43, 44, 45, 47, 100, 1_001, 1_400])
def test_lengths(reflecting: Reflecting, length: int) -> None:
    # What is shorter than 16 bytes has no SSID, or half of one.
    ssid = {14: 0, 15: 0x0300}.get(length, 0x0301)
    reflecting.configure(ReflectorSession(ssid), require_configured_session=False)
    request = wire.request(9, 0x0301, length=length)
    fields = reflecting.exchange(request)
    assert (fields.sequence, fields.ssid, fields.sender_sequence) == (9, ssid, 9)
    assert fields.rest == request[wire.BASE :]


def test_ssid_zero(reflecting: Reflecting) -> None:
    reflecting.configure(require_configured_session=False)
    fields = reflecting.exchange(wire.request(3, 0))
    assert (fields.ssid, fields.sequence) == (0, 3)
    assert reflecting.running.reflector().unconfigured_received == 1


def test_sessions_share_a_port(reflecting: Reflecting) -> None:
    """The most specific session serves; each counts by itself."""
    any_sender = ReflectorSession(SSID, timestamp_format=TimestampFormat.NTP)
    ours = ReflectorSession(SSID, MAIN.there, segments=(TRANSIT,))
    other = ReflectorSession(6, mode=ReflectorMode.STATEFUL)
    reflecting.configure(any_sender, ours, other)
    reflecting.send(wire.request(1, SSID))
    reflecting.send(wire.request(1, 6))
    first, second = sorted(reflecting.answers(2), key=lambda reply: reply.srh, reverse=True)
    assert (first.destination, second.destination) == (TRANSIT, MAIN.there)
    assert [wire.Reflected.read(r.payload).ssid for r in (first, second)] == [SSID, 6]
    reflecting.send(wire.request(2, SSID), OTHER)
    assert reflecting.answer(OTHER).srh == b""
    sessions = reflecting.running.reflector().sessions
    assert {key: (s.received, s.reflected) for key, s in sessions.items()} == {
        (SSID, None): (1, 1),
        (SSID, MAIN.there): (1, 1),
        (6, None): (1, 1),
    }


def test_interfaces_share_a_port(reflecting: Reflecting) -> None:
    reflecting.configure()
    for link in (MAIN, OTHER):
        reflecting.send(wire.request(1, SSID), link)
        reply = reflecting.answer(link)
        assert (reply.source, reply.destination) == (link.here, link.there)
    assert reflecting.running.reflector().received == 2


def test_each_address_of_the_node_answers_for_itself(reflecting: Reflecting) -> None:
    """A request to one interface's address that arrives on another (RFC 8762 §4.3.1)."""
    reflecting.configure()
    reflecting.send(wire.request(1, SSID), MAIN, destination=OTHER.here)
    reply = reflecting.answer(MAIN)
    assert (reply.source, reply.destination) == (OTHER.here, MAIN.there)


@in_both_modes
@pytest.mark.parametrize("count", [1, 40])
def test_a_link_local_address_answers_on_its_link(reflecting: Reflecting, count: int) -> None:
    """Its scope is not that of the address which asks; many answers leave at once."""
    reflecting.configure()
    address = IPv6Address("fe80::2")
    for link in (MAIN, OTHER):
        where = ("dev", link.device, "nodad")
        ip("-n", reflecting.stand.node, "address", "add", f"{address}/64", *where)
    for link in (MAIN, OTHER):
        for sequence in range(count):
            reflecting.send(wire.request(sequence, SSID), link, destination=address)
        replies = reflecting.answers(count, link)
        assert {(reply.source, reply.destination) for reply in replies} == {(address, link.there)}


def test_another_port(reflecting: Reflecting) -> None:
    reflecting.configure(udp_port=5_862)
    reflecting.send(wire.request(1, SSID), ports=(SENDER_PORT, 5_862))
    assert reflecting.answer().ports == (5_862, SENDER_PORT)
    reflecting.send(wire.request(1, SSID))
    grace()
    assert reflecting.stand.seen(MAIN) == []
    assert reflecting.running.reflector().received == 1


@in_both_modes
def test_a_burst(reflecting: Reflecting) -> None:
    """More packets at once than are handled in one go."""
    session = dataclasses.replace(ReflectorSession(SSID), mode=ReflectorMode.STATEFUL)
    reflecting.configure(session)
    for sequence in range(200):
        reflecting.send(wire.request(sequence, SSID))
    fields = [wire.Reflected.read(reply.payload) for reply in reflecting.answers(200)]
    assert [f.sequence for f in fields] == list(range(200))
    assert [f.sender_sequence for f in fields] == list(range(200))
    assert all(f.t2 < f.t3 for f in fields)


@pytest.mark.parametrize("link", [MAIN, MAIN.over_ipv4()], ids=["IPv6", "IPv4"])
@pytest.mark.parametrize("count", [2, 8, 40])
def test_requests_that_were_sent_as_one(reflecting: Reflecting, count: int, link: Link) -> None:
    """By a program on this machine: the kernel cuts them apart where they leave it."""
    reflecting.configure()
    requests = [wire.request(sequence, SSID) for sequence in range(count)]
    burst = wire.burst(link.there, link.here, (SENDER_PORT, PORT), *requests)
    reflecting.stand.inject_burst(link, burst, wire.BASE)
    fields = [wire.Reflected.read(reply.payload) for reply in reflecting.answers(count, link)]
    assert [f.sender_sequence for f in fields] == list(range(count))
    assert all(f.rest == b"" and f.ssid == SSID for f in fields)
    assert reflecting.running.reflector().received == count
