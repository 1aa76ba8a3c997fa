"""IPv4 in the driver against the sans-IO core, through BPF_PROG_RUN."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from dataplane.bpf.syscall import XDP_DROP, XDP_PASS, XDP_TX
from dataplane.config import Reflector, ReflectorSession
from dataplane.engines.driver.interfaces import Place, SourceValidation
from dataplane.engines.xdp.reflector_layouts import ReflectorFlag
from dataplane.frames import Frame, Outer, encode_udp, internet_checksum
from dataplane.reflector_store import HandedUp
from dataplane.stamp.errors import DiscardReason
from tests.integration.engines.driver.devices import DEVICE, DEVICES, INDEX
from tests.integration.engines.xdp import reference, reflecting
from tests.integration.engines.xdp.reflecting import (
    FAMILIES,
    OLD_REFLECTOR,
    OLD_SENDER,
    OLD_SID,
    PATH,
    REFLECTOR,
    SESSIONS,
    SID,
    Bench,
    answers,
    discards,
    hands_up,
    judged_rightly,
    leaves,
)

pytestmark = pytest.mark.integration

IP_AT, UDP_AT = 14, 34


IPV4 = FAMILIES["IPv4"]
FORMS, request = IPV4.forms(), IPV4.request


@pytest.mark.parametrize("form", ["plain", "two VLANs", "encapsulated, SRH"])
def test_a_request_without_a_checksum(bench: Bench, form: str) -> None:
    """RFC 768: zero stands for none. The reply has one."""
    asked = FORMS[form]
    data = bytearray(asked.encode())
    check_at = len(data) - len(asked.datagram.payload) - 2
    data[check_at : check_at + 2] = bytes(2)
    answers(bench, asked, bytes(data))


def test_checksums_on_the_edge(bench: Bench) -> None:
    """Many sums, and that of zero, which UDP sends as 65535."""
    chance = random.Random(4)
    for _ in range(20_000):
        asked = request(1, sequence=chance.getrandbits(32), source_port=chance.randrange(1, 800))
        assert judged_rightly(bench, asked.encode()) == XDP_TX
    # With this sequence number the sum of the request comes to zero.
    plain = request(1, sequence=0)
    check = int.from_bytes(encode_udp(plain.datagram)[6:8], "big")
    zero = request(1, sequence=check)
    assert encode_udp(zero.datagram)[6:8] == b"\xff\xff"
    assert judged_rightly(bench, zero.encode()) == XDP_TX


def test_a_session_of_another_sender(bench: Bench) -> None:
    discards(bench, request(65_535), DiscardReason.UNKNOWN_SESSION)


def in_ipv6(source: str, destination: str) -> Frame:
    return reflecting.request(1, source=IPv6Address(source), destination=IPv6Address(destination))


UNTOUCHED = {
    "a group": request(destination=IPv4Address("224.0.0.1")),
    "everybody": request(destination=IPv4Address("255.255.255.255")),
    "from this network": request(source=IPv4Address("0.0.0.1")),
    "from a loopback": request(source=IPv4Address("127.0.0.1")),
    "from a group": request(source=IPv4Address("224.0.0.1")),
    "from everybody": request(source=IPv4Address("255.255.255.255")),
    "from ourselves": request(source=OLD_REFLECTOR),
    "SID for IPv6": replace(request(), outer=Outer(PATH[3], SID)),
    "IPv6 to a SID for IPv4": replace(reflecting.request(), outer=Outer(PATH[3], OLD_SID)),
    "IPv6 from a mapped address": in_ipv6(f"::ffff:{OLD_SENDER}", str(REFLECTOR)),
    "IPv6 to a mapped address": in_ipv6("fd00:a::1", f"::ffff:{OLD_REFLECTOR}"),
    "IPv6 between mapped addresses": in_ipv6(f"::ffff:{OLD_SENDER}", f"::ffff:{OLD_REFLECTOR}"),
}


@pytest.mark.parametrize("what", UNTOUCHED)
def test_untouched(bench: Bench, what: str) -> None:
    # The next hop to this sender is known by now.
    answers(bench, request())
    leaves(bench, UNTOUCHED[what].encode())


def with_header(frame: Frame, header: bytes, checksum: int | None = None) -> bytes:
    """The frame with another IPv4 header, whose checksum is right unless it is given."""
    data = frame.encode()
    header = header[:10] + bytes(2) + header[12:]
    if checksum is None:
        checksum = internet_checksum(header)
    return data[:IP_AT] + header[:10] + checksum.to_bytes(2, "big") + header[12:] + data[UDP_AT:]


def changed(at: int, value: bytes) -> bytes:
    """A request with other bytes in its IPv4 header."""
    header = request().encode()[IP_AT:UDP_AT]
    return with_header(request(), header[:at] + value + header[at + len(value) :])


def with_options() -> bytes:
    header = bytearray(request().encode()[IP_AT:UDP_AT])
    header[0] = 0x46
    header[2:4] = (int.from_bytes(header[2:4], "big") + 4).to_bytes(2, "big")
    return with_header(request(), bytes(header) + b"\x94\x04\0\0")


HANDED_UP = {
    "options": (with_options(), HandedUp.IPV4_OPTIONS),
    "first fragment": (changed(6, b"\x20\x00"), HandedUp.FRAGMENT),
    "header checksum": (
        with_header(request(), request().encode()[IP_AT:UDP_AT], 0x1234),
        HandedUp.CHECKSUM,
    ),
    "no header checksum": (
        with_header(request(), request().encode()[IP_AT:UDP_AT], 0),
        HandedUp.CHECKSUM,
    ),
    "shorter than the frame": (changed(2, (71).to_bytes(2, "big")), HandedUp.LENGTH),
    "longer than the frame": (changed(2, (73).to_bytes(2, "big")), HandedUp.LENGTH),
    "encapsulated, short outer header": (
        FORMS["encapsulated"].encode()[:18] + b"\0\x47" + FORMS["encapsulated"].encode()[20:],
        HandedUp.LENGTH,
    ),
}


@pytest.mark.parametrize("what", HANDED_UP)
def test_handed_up_unchanged(bench: Bench, what: str) -> None:
    hands_up(bench, *HANDED_UP[what])


def test_a_later_fragment_has_no_ports(bench: Bench) -> None:
    leaves(bench, changed(6, b"\x00\x07"))


def test_the_reserved_flag_and_the_identification_say_nothing(bench: Bench) -> None:
    answers(bench, request(), changed(4, b"\x12\x34\x80\x00"))


def test_a_checksum_that_is_left_to_the_interface(bench: Bench) -> None:
    asked = request(7)
    data = bytearray(asked.encode())
    data[UDP_AT + 6 : UDP_AT + 8] = (~reference.pseudo_sum(asked.datagram) & 0xFFFF).to_bytes(2)
    assert bench.run(bytes(data)).action == XDP_PASS
    bench.serve(Reflector(sessions=SESSIONS), ReflectorFlag.TRAILERS | ReflectorFlag.PARTIAL)
    answers(bench, asked, bytes(data))


@pytest.mark.parametrize("validation", SourceValidation)
def test_sources_that_are_to_be_judged_by_a_route(
    bench: Bench, validation: SourceValidation
) -> None:
    """The FIB of this node tells a program nothing: the kernel is to judge."""
    device = replace(DEVICE, source_validation=validation)
    bench.tables.set_interfaces({Place(INDEX): device})
    try:
        before = bench.tables.counts().handed_up[HandedUp.NEXT_HOP]
        expected = XDP_TX if validation is SourceValidation.NONE else XDP_PASS
        assert bench.run(request().encode()).action == expected
        after = bench.tables.counts().handed_up[HandedUp.NEXT_HOP]
        assert after - before == (expected == XDP_PASS)
        assert bench.run(reflecting.request().encode()).action == XDP_TX
    finally:
        bench.tables.set_interfaces(DEVICES)


def test_senders_of_both_families_share_an_ssid(bench: Bench) -> None:
    served = (ReflectorSession(1, OLD_SENDER), ReflectorSession(1, reflecting.SENDER))
    for number in range(3):
        some = {session.key: session for session in served[:number]}
        bench.serve(Reflector(sessions=some))
        for asked in (request(), reflecting.request()):
            judged_rightly(bench, asked.encode())
    one, other = (bench.tables.session_counts(each.key) for each in served)
    assert (one.answered, other.answered) == (1, 1)


def test_a_source_has_a_rate(bench: Bench) -> None:
    bench.serve(Reflector(sessions=SESSIONS, rate_limit=1))
    asked = request(source=IPv4Address("192.0.2.99")).encode()
    assert [bench.run(asked).action for _ in range(3)] == [XDP_TX, XDP_DROP, XDP_DROP]
    assert bench.run(request(source=IPv4Address("192.0.2.98")).encode()).action == XDP_TX
