"""IPv4 in the driver against the sans-IO core, through BPF_PROG_RUN."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from dataplane.bpf.syscall import XDP_DROP, XDP_PASS, XDP_TX
from dataplane.config import Reflector, ReflectorSession
from dataplane.engines.xdp.interfaces import Place, SourceValidation
from dataplane.engines.xdp.layouts import ReflectorFlag
from dataplane.frames import Datagram, Frame, Outer, encode_udp, internet_checksum
from dataplane.reflector_store import HandedUp
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.timestamp import ErrorEstimate
from tests.integration.engines.xdp import reference, reflecting
from tests.integration.engines.xdp.devices import DEVICE, DEVICES, INDEX, ONE_VLAN, TWO_VLANS
from tests.integration.engines.xdp.reflecting import (
    ENDS_IPV4,
    NTP,
    OLD_REFLECTOR,
    OLD_SENDER,
    OLD_SID,
    PATH,
    PTP,
    REFLECTOR,
    SESSIONS,
    SID,
    T2_NS,
    Bench,
    judged_rightly,
    mutated,
)

pytestmark = pytest.mark.integration

IP_AT, UDP_AT = 14, 34


def request(ssid: int = 1, **fields: Any) -> Frame:
    return reflecting.request(ssid, **(ENDS_IPV4 | fields))


FORMS = {
    "plain": request(),
    "may not be fragmented": request(dont_fragment=True),
    "one VLAN": replace(request(), tags=ONE_VLAN),
    "two VLANs": replace(request(), tags=TWO_VLANS),
    "encapsulated": replace(request(), outer=Outer(PATH[3], OLD_SID)),
    "encapsulated, SRH": replace(request(), outer=Outer(PATH[3], OLD_SID, (PATH[0], OLD_SID))),
    "VLAN, encapsulated, SRH": replace(
        request(), tags=ONE_VLAN, outer=Outer(PATH[3], OLD_SID, (OLD_SID,))
    ),
}


@pytest.mark.parametrize("ssid", [1, 2, 3, 5, 7, 9, 12])
@pytest.mark.parametrize("error", [NTP, PTP], ids=["NTP", "PTPv2"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_as_the_core(bench: Bench, form: str, error: ErrorEstimate, ssid: int) -> None:
    """Sessions with a return path among them: over IPv4 there is none."""
    shape = FORMS[form]
    for sequence in (0, 0xFFFFFFFF):
        payload = request(ssid, sequence=sequence, error=error).datagram.payload
        asked = shape.with_datagram(replace(shape.datagram, payload=payload))
        run = bench.run(asked.encode())
        assert run.action == XDP_TX
        assert run.data.hex() == bench.expect_reply(asked).encode().hex()


@pytest.mark.parametrize("length", [*range(20), 100, 511, 512, 513, 1023, 1024, 1400])
def test_every_length(bench: Bench, length: int) -> None:
    asked = request(1, tail=random.Random(length).randbytes(length))
    run = bench.run(asked.encode())
    assert run.action == XDP_TX
    assert run.data.hex() == bench.expect_reply(asked).encode().hex()


@pytest.mark.parametrize("form", ["plain", "two VLANs", "encapsulated, SRH"])
def test_a_request_without_a_checksum(bench: Bench, form: str) -> None:
    """RFC 768: zero stands for none. The reply has one."""
    asked = FORMS[form]
    data = bytearray(asked.encode())
    check_at = len(data) - len(asked.datagram.payload) - 2
    data[check_at : check_at + 2] = bytes(2)
    run = bench.run(bytes(data))
    assert run.action == XDP_TX
    assert run.data.hex() == bench.expect_reply(asked).encode().hex()


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


REFLECTED = request(1).datagram.payload[:16] + bytes.fromhex("0123456200000000") + bytes(20)

DISCARDS = {
    "unknown": (request(99), DiscardReason.UNKNOWN_SESSION),
    "session of another": (request(65_535), DiscardReason.UNKNOWN_SESSION),
    "wrong port": (request(14), DiscardReason.WRONG_PORT),
    "disabled": (request(13), DiscardReason.SESSION_DISABLED),
    "port 0": (request(1, source_port=0), DiscardReason.UNANSWERABLE),
    "reflector's port": (request(1, source_port=862), DiscardReason.UNANSWERABLE),
    "multiplier": (
        request(1, payload=request().datagram.payload[:13] + bytes(31)),
        DiscardReason.ZERO_MULTIPLIER,
    ),
    "reflected": (request(1, payload=REFLECTED), DiscardReason.UNANSWERABLE),
}


@pytest.mark.parametrize("what", DISCARDS)
def test_discards_as_the_core(bench: Bench, what: str) -> None:
    asked, reason = DISCARDS[what]
    assert reference.receive(bench.core, asked, T2_NS) is reason
    before = bench.tables.counts()
    run = bench.run(asked.encode())
    after = bench.tables.counts()
    assert run.action == XDP_DROP
    assert after.discarded == before.discarded | {reason: before.discarded[reason] + 1}
    assert after.answered == before.answered


def in_ipv6(source: str, destination: str) -> Frame:
    return reflecting.request(1, source=IPv6Address(source), destination=IPv6Address(destination))


UNTOUCHED = {
    "another port": request(destination_port=863),
    "another node": request(destination=OLD_SENDER),
    "a group": request(destination=IPv4Address("224.0.0.1")),
    "everybody": request(destination=IPv4Address("255.255.255.255")),
    "another host": replace(request(), destination_mac=bytes.fromhex("02000000bb02")),
    "from this network": request(source=IPv4Address("0.0.0.1")),
    "from a loopback": request(source=IPv4Address("127.0.0.1")),
    "from a group": request(source=IPv4Address("224.0.0.1")),
    "from everybody": request(source=IPv4Address("255.255.255.255")),
    "from ourselves": request(source=OLD_REFLECTOR),
    "SID of another": replace(request(), outer=Outer(PATH[3], PATH[4])),
    "SID for IPv6": replace(request(), outer=Outer(PATH[3], SID)),
    "IPv6 to a SID for IPv4": replace(reflecting.request(), outer=Outer(PATH[3], OLD_SID)),
    "IPv6 from a mapped address": in_ipv6(f"::ffff:{OLD_SENDER}", str(REFLECTOR)),
    "IPv6 to a mapped address": in_ipv6("fd00:a::1", f"::ffff:{OLD_REFLECTOR}"),
    "IPv6 between mapped addresses": in_ipv6(f"::ffff:{OLD_SENDER}", f"::ffff:{OLD_REFLECTOR}"),
}


@pytest.mark.parametrize("what", UNTOUCHED)
def test_untouched(bench: Bench, what: str) -> None:
    assert bench.run(request().encode()).action == XDP_TX
    data = UNTOUCHED[what].encode()
    before = bench.tables.counts()
    run = bench.run(data)
    assert (run.action, run.data) == (XDP_PASS, data)
    assert bench.tables.counts() == before


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


def corrupt() -> bytes:
    data = request().encode()
    return data[:-1] + bytes([data[-1] ^ 1])


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
    "UDP checksum": (corrupt(), HandedUp.CHECKSUM),
    "shorter than the frame": (changed(2, (71).to_bytes(2, "big")), HandedUp.LENGTH),
    "longer than the frame": (changed(2, (73).to_bytes(2, "big")), HandedUp.LENGTH),
    "padded frame": (request().encode() + bytes(4), HandedUp.LENGTH),
    "short": (request(payload=bytes(20)).encode(), HandedUp.SHORT),
    "encapsulated, short outer header": (
        FORMS["encapsulated"].encode()[:18] + b"\0\x47" + FORMS["encapsulated"].encode()[20:],
        HandedUp.LENGTH,
    ),
}


@pytest.mark.parametrize("what", HANDED_UP)
def test_handed_up_unchanged(bench: Bench, what: str) -> None:
    data, reason = HANDED_UP[what]
    before = bench.tables.counts()
    run = bench.run(data)
    after = bench.tables.counts()
    assert (run.action, run.data) == (XDP_PASS, data)
    assert after.handed_up == before.handed_up | {reason: before.handed_up[reason] + 1}
    assert (after.answered, after.discarded) == (before.answered, before.discarded)


def test_a_later_fragment_has_no_ports(bench: Bench) -> None:
    before = bench.tables.counts()
    assert bench.run(changed(6, b"\x00\x07")).action == XDP_PASS
    assert bench.tables.counts() == before


def test_the_reserved_flag_and_the_identification_say_nothing(bench: Bench) -> None:
    data = changed(4, b"\x12\x34\x80\x00")
    run = bench.run(data)
    assert run.data.hex() == bench.expect_reply(request()).encode().hex()


def test_a_checksum_that_is_left_to_the_interface(bench: Bench) -> None:
    asked = request(7, tail=b"abc")
    data = bytearray(asked.encode())
    data[UDP_AT + 6 : UDP_AT + 8] = (~reference.pseudo_sum(asked.datagram) & 0xFFFF).to_bytes(2)
    assert bench.run(bytes(data)).action == XDP_PASS
    bench.serve(Reflector(sessions=SESSIONS), ReflectorFlag.TRAILERS | ReflectorFlag.PARTIAL)
    run = bench.run(bytes(data))
    assert run.action == XDP_TX
    assert run.data.hex() == bench.expect_reply(asked).encode().hex()


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


def test_one_address(bench: Bench) -> None:
    bench.serve(Reflector(sessions=SESSIONS, source_address=OLD_REFLECTOR))
    assert bench.run(request().encode()).action == XDP_TX
    assert bench.run(reflecting.request().encode()).action == XDP_PASS
    bench.serve(Reflector(sessions=SESSIONS, source_address=REFLECTOR))
    assert bench.run(request().encode()).action == XDP_PASS


def test_senders_of_both_families_share_an_ssid(bench: Bench) -> None:
    served = (ReflectorSession(1, OLD_SENDER), ReflectorSession(1, reflecting.SENDER))
    for number in range(3):
        some = {session.key: session for session in served[:number]}
        bench.serve(Reflector(sessions=some))
        for asked in (request(), reflecting.request()):
            judged_rightly(bench, asked.encode())
    one, other = (bench.tables.session_counts(each.key) for each in served)
    assert (one.answered, other.answered) == (1, 1)


def test_any_session(bench: Bench) -> None:
    bench.serve(Reflector(sessions=SESSIONS, require_configured_session=False))
    before = bench.tables.session_counts(None).answered
    for asked in (request(0), request(77, error=PTP)):
        run = bench.run(asked.encode())
        assert run.data.hex() == bench.expect_reply(asked).encode().hex()
    assert bench.tables.session_counts(None).answered == before + 2


def test_a_source_has_a_rate(bench: Bench) -> None:
    bench.serve(Reflector(sessions=SESSIONS, rate_limit=1))
    asked = request(source=IPv4Address("192.0.2.99")).encode()
    assert [bench.run(asked).action for _ in range(3)] == [XDP_TX, XDP_DROP, XDP_DROP]
    assert bench.run(request(source=IPv4Address("192.0.2.98")).encode()).action == XDP_TX


def random_request(chance: random.Random) -> Frame:
    shape = chance.choice(list(FORMS.values()))
    ssid = chance.choice([0, 1, 2, 3, 4, 5, 7, 9, 10, 12, 13, 14, 65_535])
    made = request(ssid, sequence=chance.getrandbits(32), error=chance.choice([NTP, PTP]))
    payload = made.datagram.payload[:16] + chance.choice(
        [bytes(28), chance.randbytes(28), bytes(28) + chance.randbytes(chance.randrange(60))]
    )
    datagram: Datagram = replace(
        shape.datagram,
        payload=payload,
        source=chance.choice([OLD_SENDER, OLD_SENDER, IPv4Address(chance.getrandbits(32))]),
        source_port=chance.choice([49_862, 50_000, 862, 0, chance.getrandbits(16)]),
        hop_limit=chance.getrandbits(8),
        traffic_class=chance.getrandbits(8),
    )
    return shape.with_datagram(datagram)


def test_random_requests(bench: Bench) -> None:
    chance = random.Random(1)
    actions = [judged_rightly(bench, random_request(chance).encode()) for _ in range(20_000)]
    assert min(actions.count(action) for action in (XDP_TX, XDP_DROP, XDP_PASS)) > 200


def test_mutated_packets(bench: Bench) -> None:
    chance = random.Random(2)
    originals = [random_request(chance).encode() for _ in range(500)]
    actions = [
        judged_rightly(bench, mutated(chance.choice(originals), chance)) for _ in range(100_000)
    ]
    assert actions.count(XDP_PASS) > 50_000
    assert actions.count(XDP_TX) > 100


def test_mutated_headers_whose_checksum_is_right(bench: Bench) -> None:
    """What no checksum gives away: lengths, fragments, options, protocols, addresses."""
    chance = random.Random(3)
    actions = []
    for _ in range(50_000):
        asked = request(1, tail=chance.randbytes(chance.randrange(40)))
        header = bytearray(asked.encode()[IP_AT:UDP_AT])
        for _ in range(chance.randrange(1, 3)):
            at = chance.randrange(20)
            header[at] = chance.choice(
                [header[at] ^ 1 << chance.randrange(8), header[at] + 1 & 255]
            )
        actions.append(judged_rightly(bench, with_header(asked, bytes(header))))
    assert actions.count(XDP_PASS) > 20_000
    assert actions.count(XDP_TX) > 100


def test_random_bytes(bench: Bench) -> None:
    chance = random.Random(3)
    for _ in range(50_000):
        data = bytearray(chance.randbytes(chance.randrange(14, 200)))
        data[12:14] = b"\x08\x00"
        if len(data) > 23:
            data[14] = chance.choice([0x45, 0x46, 0x4F, 0x44, 0x60])
            data[23] = 17
        assert judged_rightly(bench, bytes(data)) == XDP_PASS
