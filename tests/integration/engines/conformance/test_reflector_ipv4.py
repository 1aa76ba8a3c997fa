"""Requests over IPv4: what is answered, what is not, and what both families share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest

from dataplane.config import ReflectorMode, ReflectorSession
from dataplane.engines import registry
from dataplane.engines.base import OperState
from dataplane.stamp.errors import DiscardReason
from tests.integration.engines.conformance import wire
from tests.integration.engines.conformance.reflecting import (
    PORT,
    SENDER_PORT,
    SSID,
    Reflecting,
    packet,
)
from tests.integration.engines.conformance.stand import (
    DECAPSULATING_IPV4,
    MAIN,
    OTHER,
    PRIORITY,
    VLAN,
    Link,
    Running,
    grace,
)
from tests.integration.engines.network import ip, sysctl

pytestmark = pytest.mark.integration

OLD, OLD_OTHER = MAIN.over_ipv4(), OTHER.over_ipv4()
NOBODY, UNROUTED = IPv4Address("192.0.2.9"), IPv4Address("203.0.113.1")
GROUP, EVERYBODY = IPv4Address("224.0.0.1"), IPv4Address("192.0.2.63")
TRANSIT = IPv6Address("fc00:e::1")
GOOD = wire.request(1, SSID)


@pytest.fixture
def reflecting(running: Running) -> Reflecting:
    """The engine, if it can; else that it says so."""
    made = Reflecting(running)
    refusal = f"engine {running.name} does not support IPv4"
    refusals = [
        *registry.refusals(made.node(ReflectorSession(SSID, OLD.there), interfaces=("n0",))),
        *registry.refusals(made.node(source_address=OLD.here, interfaces=("n0",))),
    ]
    if 4 not in running.able.address_families:
        assert refusals == [f"reflector session {SSID}: {refusal}", refusal]
        pytest.skip(refusal)
    assert refusals == []
    return made


def encapsulated(srh: bool) -> Callable[[Link], bytes]:
    def wrap(link: Link) -> bytes:
        inner = packet(wire.request(7, SSID), link)
        if not srh:
            return wire.ipv6(MAIN.there, DECAPSULATING_IPV4, wire.NH_IPV4, inner)
        header = wire.srh((TRANSIT, DECAPSULATING_IPV4), 0, wire.NH_IPV4)
        return wire.ipv6(MAIN.there, DECAPSULATING_IPV4, wire.NH_ROUTING, header + inner)

    return wrap


def with_options(link: Link) -> bytes:
    """A Router Alert (RFC 2113)."""
    datagram = wire.udp(link.there, link.here, (SENDER_PORT, PORT), wire.request(7, SSID))
    return wire.ipv4(link.there, link.here, wire.NH_UDP, datagram, options=b"\x94\x04\0\0")


def unsummed(link: Link) -> bytes:
    """Without a UDP checksum, which IPv4 allows (RFC 768)."""
    return packet(wire.request(7, SSID), link, checksum=0)


FORMS: dict[str, Callable[[Link], bytes]] = {
    "plain": lambda link: packet(wire.request(7, SSID), link),
    "no checksum": unsummed,
    "options": with_options,
    "End.DX4": encapsulated(srh=False),
    "End.DX4, SRH": encapsulated(srh=True),
}


@pytest.mark.parametrize("link", [OLD, PRIORITY.over_ipv4()], ids=["untagged", "priority"])
@pytest.mark.parametrize("form", FORMS)
def test_header_forms(reflecting: Reflecting, form: str, link: Link) -> None:
    reflecting.configure()
    reflecting.stand.inject(link, FORMS[form](link))
    reply = reflecting.answer()
    assert (reply.source, reply.destination) == (link.here, link.there)
    assert (reply.ports, reply.hop_limit) == ((PORT, SENDER_PORT), 255)
    fields = wire.Reflected.read(reply.payload)
    assert fields.t2 < fields.t3
    assert (fields.ssid, fields.sequence, fields.sender_sequence) == (SSID, 7, 7)
    assert (fields.ttl, fields.t1) == (64, 0xE58BFC31F60997FF)
    assert reflecting.running.reflector().sessions[SSID, None].reflected == 1


@pytest.mark.parametrize("form", ["plain", "End.DX4, SRH"])
def test_header_forms_on_a_vlan(reflecting: Reflecting, form: str) -> None:
    reflecting.stand.add_vlan()
    link = VLAN.over_ipv4()
    reflecting.configure()
    reflecting.stand.inject(link, FORMS[form](link))
    reply = reflecting.answer(link)
    assert (reply.source, reply.destination) == (link.here, link.there)


@pytest.mark.parametrize("ttl", [1, 63, 255])
@pytest.mark.parametrize("tos", [0, 0xB8, 0xBB, 0x03])
def test_ttl_and_dscp(reflecting: Reflecting, ttl: int, tos: int) -> None:
    reflecting.configure()
    reflecting.send(GOOD, OLD, hop_limit=ttl, traffic_class=tos)
    reply = reflecting.answer()
    assert wire.Reflected.read(reply.payload).ttl == ttl
    assert (reply.traffic_class, reply.hop_limit) == (tos & 0xFC, 255)


@pytest.mark.parametrize("length", [14, 41, 44, 45, 100, 1_001, 1_400])
def test_lengths(reflecting: Reflecting, length: int) -> None:
    ssid = {14: 0}.get(length, 0x0301)
    reflecting.configure(require_configured_session=False)
    request = wire.request(9, 0x0301, length=length)
    fields = reflecting.exchange(request, OLD)
    assert (fields.sequence, fields.ssid) == (9, ssid)
    assert fields.rest == request[wire.BASE :]


def test_both_families_at_once(reflecting: Reflecting) -> None:
    """No source address: all of the node's answer. Sessions tell senders apart."""
    reflecting.configure(
        ReflectorSession(SSID, OLD.there, mode=ReflectorMode.STATEFUL),
        ReflectorSession(SSID, MAIN.there, mode=ReflectorMode.STATEFUL),
        ReflectorSession(6),
    )
    for number in range(3):
        for link in (OLD, MAIN):
            assert reflecting.exchange(wire.request(10, SSID), link).sequence == number
            assert reflecting.exchange(wire.request(10, 6), link).sequence == 10
    sessions = reflecting.running.reflector().sessions
    assert {key: s.reflected for key, s in sessions.items()} == {
        (SSID, OLD.there): 3,
        (SSID, MAIN.there): 3,
        (6, None): 6,
    }


@pytest.mark.parametrize(("one", "other"), [(OLD, MAIN), (MAIN, OLD)], ids=["IPv4", "IPv6"])
def test_one_address_is_listened_on(reflecting: Reflecting, one: Link, other: Link) -> None:
    reflecting.configure(source_address=one.here)
    assert reflecting.exchange(GOOD, one).sequence == 1
    reflecting.send(GOOD, other)
    grace()
    assert reflecting.stand.seen(MAIN) == []
    assert reflecting.running.reflector().received == 1


def test_each_address_of_the_node_answers_for_itself(reflecting: Reflecting) -> None:
    reflecting.configure()
    reflecting.send(GOOD, OLD, destination=OLD_OTHER.here)
    reply = reflecting.answer()
    assert (reply.source, reply.destination) == (OLD_OTHER.here, OLD.there)


def test_a_return_path_is_for_senders_over_ipv6(reflecting: Reflecting) -> None:
    """A session for any sender may have one; that of an IPv4 address is refused."""
    reflecting.configure(ReflectorSession(SSID, segments=(TRANSIT,)))
    reflecting.send(GOOD, OLD)
    reply = reflecting.answer()
    assert (reply.destination, reply.srh) == (OLD.there, b"")
    reflecting.send(GOOD, MAIN)
    assert reflecting.answer().destination == TRANSIT
    impossible = reflecting.node(
        ReflectorSession(SSID, OLD.there, segments=(TRANSIT,)), interfaces=("n0",)
    )
    assert list(registry.refusals(impossible)) == [
        f"reflector session {SSID}: packets to {OLD.there} cannot take a path of SRv6 segments: "
        "it is not IPv6"
    ]


def test_a_burst(reflecting: Reflecting) -> None:
    """More packets at once than are handled in one go, of two families in turns."""
    links = (OLD, MAIN)
    reflecting.configure(
        *(ReflectorSession(SSID, link.there, mode=ReflectorMode.STATEFUL) for link in links)
    )
    for sequence in range(400):
        reflecting.send(wire.request(sequence, SSID), links[sequence % 2])
    replies = reflecting.answers(400)
    for at, link in enumerate(links):
        fields = [
            wire.Reflected.read(reply.payload)
            for reply in replies
            if reply.destination == link.there
        ]
        assert [f.sequence for f in fields] == list(range(200))
        assert [f.sender_sequence for f in fields] == list(range(at, 400, 2))


def mapped(address: IPv4Address) -> IPv6Address:
    return IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)


DISCARDED: dict[str, tuple[DiscardReason, bytes]] = {
    "13 bytes": (DiscardReason.TRUNCATED, packet(GOOD[:13], OLD)),
    "Multiplier 0": (
        DiscardReason.ZERO_MULTIPLIER,
        packet(wire.request(1, SSID, error=0x8100), OLD),
    ),
    "no such SSID": (DiscardReason.UNKNOWN_SESSION, packet(wire.request(1, 4), OLD)),
    "no such sender": (DiscardReason.UNKNOWN_SESSION, packet(wire.request(1, 6), OLD)),
    "from a reflector's port": (DiscardReason.UNANSWERABLE, packet(GOOD, OLD, ports=(PORT, PORT))),
    "from port 0": (DiscardReason.UNANSWERABLE, packet(GOOD, OLD, ports=(0, PORT))),
    "to a group": (DiscardReason.UNANSWERABLE, packet(GOOD, OLD, destination=GROUP)),
    "to everybody": (DiscardReason.UNANSWERABLE, packet(GOOD, OLD, destination=EVERYBODY)),
    "unroutable sender": (DiscardReason.SEND_FAILED, packet(GOOD, OLD, source=UNROUTED)),
    "wrong interface": (DiscardReason.WRONG_INTERFACE, packet(GOOD, OLD_OTHER)),
    "by IPv6, as if from IPv4": (
        DiscardReason.UNANSWERABLE,
        packet(GOOD, source=mapped(OLD.there)),
    ),
}


@pytest.mark.parametrize("case", DISCARDED)
def test_discards_by_reason(reflecting: Reflecting, case: str) -> None:
    reason, bad = DISCARDED[case]
    reflecting.configure(ReflectorSession(SSID), ReflectorSession(6, NOBODY), interfaces=("n0",))
    if reason is DiscardReason.SEND_FAILED:
        ip("-n", reflecting.stand.node, "route", "delete", "default")
    reflecting.stand.inject(OLD_OTHER if case == "wrong interface" else OLD, bad)
    reflecting.discarded(reason)
    # The engine is none the worse for it.
    assert reflecting.exchange(wire.request(2, SSID), OLD).sequence == 2


def spoilt(at: int) -> Callable[[], bytes]:
    """A request with another byte than its checksums tell."""

    def make() -> bytes:
        good = packet(GOOD, OLD)
        return good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]

    return make


def fragment(offset: int) -> bytes:
    datagram = wire.udp(OLD.there, OLD.here, (SENDER_PORT, PORT), GOOD)
    more = 0x2000
    return wire.ipv4(OLD.there, OLD.here, wire.NH_UDP, datagram, fragment=more | offset)


NOT_OURS: dict[str, Callable[[], bytes]] = {
    "to another node": lambda: packet(GOOD, OLD, destination=NOBODY),
    "encapsulated to another node": lambda: wire.ipv6(
        MAIN.there, TRANSIT, wire.NH_IPV4, packet(GOOD, OLD)
    ),
    "decapsulated, to another node": lambda: wire.ipv6(
        MAIN.there, DECAPSULATING_IPV4, wire.NH_IPV4, packet(GOOD, OLD, destination=NOBODY)
    ),
    "from ourselves": lambda: packet(GOOD, OLD, source=OLD.here),
    "from a loopback": lambda: packet(GOOD, OLD, source=IPv4Address("127.0.0.1")),
    "from a group": lambda: packet(GOOD, OLD, source=GROUP),
    "from nobody": lambda: packet(GOOD, OLD, source=IPv4Address("0.0.0.0")),
    "header checksum": spoilt(8),
    "UDP checksum": spoilt(60),
    "first fragment alone": lambda: fragment(0),
    "last fragment alone": lambda: fragment(5),
    "UDP length beyond the packet": lambda: packet(GOOD, OLD, length=200),
    "cut off in the UDP header": lambda: packet(GOOD, OLD)[:25],
    "cut off in the payload": lambda: packet(GOOD, OLD)[:60],
    "cut off in the IP header": lambda: packet(GOOD, OLD)[:12],
    "rubbish": lambda: bytes(range(0x45, 0x45 + 100)),
}


@pytest.mark.parametrize("case", NOT_OURS)
def test_what_the_kernel_would_not_deliver(reflecting: Reflecting, case: str) -> None:
    """Nobody asked this Session-Reflector: it neither answers nor counts."""
    reflecting.configure()
    reflecting.stand.inject(OLD, NOT_OURS[case]())
    assert reflecting.exchange(wire.request(2, SSID), OLD).sequence == 2
    snapshot = reflecting.running.reflector()
    assert snapshot.received == snapshot.reflected == 1
    assert not any(snapshot.discards.values())


def test_a_sender_that_is_reached_otherwise_is_not_believed(reflecting: Reflecting) -> None:
    """Strict source validation (ip-sysctl, rp_filter); loose validation asks for less."""
    node = reflecting.stand.node
    ip("-n", node, "route", "add", "203.0.113.0/24", "via", str(OLD_OTHER.there))
    sysctl(node, "net.ipv4.conf.all.rp_filter", 1)
    reflecting.configure()
    reflecting.send(GOOD, OLD, source=UNROUTED)
    assert reflecting.exchange(wire.request(2, SSID), OLD).sequence == 2
    assert reflecting.stand.seen(OTHER) == []
    assert reflecting.running.reflector().received == 1


def test_a_sender_that_is_reached_otherwise_is_answered(reflecting: Reflecting) -> None:
    node = reflecting.stand.node
    ip("-n", node, "route", "add", "203.0.113.0/24", "via", str(OLD_OTHER.there))
    sysctl(node, "net.ipv4.conf.all.rp_filter", 2)
    reflecting.configure()
    reflecting.send(GOOD, OLD, source=UNROUTED)
    reply = reflecting.answer(OTHER)
    assert (reply.source, reply.destination) == (OLD.here, UNROUTED)


def test_the_address_comes_and_goes(reflecting: Reflecting) -> None:
    reflecting.configure(source_address=OLD.here)
    ip("-n", reflecting.stand.node, "address", "delete", f"{OLD.here}/26", "dev", "n0")
    error = reflecting.running.await_reflector(OperState.FAILED)
    assert error == f"cannot bind {OLD.here}:862: Cannot assign requested address"
    reflecting.stand.restore(MAIN)
    reflecting.running.await_reflector(OperState.RUNNING)
    assert reflecting.exchange(GOOD, OLD).sequence == 1


def test_nobody_is_told_that_the_port_is_closed(reflecting: Reflecting) -> None:
    """Nor after it has been closed to one family alone."""
    reflecting.configure()
    reflecting.exchange(GOOD, OLD)
    assert not any(map(wire.is_unreachable, reflecting.stand.frames(OLD)))
    reflecting.configure(source_address=MAIN.here)
    reflecting.send(GOOD, OLD)
    grace()
    assert any(map(wire.is_unreachable, reflecting.stand.frames(OLD)))


def test_a_frame_for_another_host(reflecting: Reflecting) -> None:
    reflecting.configure()
    reflecting.stand.inject(OLD, packet(GOOD, OLD), to=bytes.fromhex("020000000009"))
    reflecting.stand.inject(dataclasses.replace(OLD, tags=(wire.Tag(9),)), packet(GOOD, OLD))
    assert reflecting.exchange(wire.request(2, SSID), OLD).sequence == 2
    assert reflecting.running.reflector().received == 1


def test_checksums_of_many_replies(reflecting: Reflecting) -> None:
    """`answers` looks at each."""
    reflecting.configure()
    for at in range(200):
        reflecting.send(wire.request(at, SSID, t1=at << 32), OLD, ports=(50_000 + at, PORT))
    assert len({reply.ports[1] for reply in reflecting.answers(200)}) == 200
