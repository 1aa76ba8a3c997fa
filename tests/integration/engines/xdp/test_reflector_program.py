"""The program against the sans-IO core, packet by packet, with one clock for both.

Packets go through BPF_PROG_RUN. The node of these tests does not forward, so that
replies go back to the neighbour that the request came from.
"""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv6Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.bpf.syscall import XDP_DROP, XDP_PASS, XDP_TX, run_program
from dataplane.config import Reflector, ReflectorSession
from dataplane.engines.xdp.interfaces import Place
from dataplane.engines.xdp.layouts import ReflectorFlag
from dataplane.frames import Frame, Outer
from dataplane.reflector_store import HandedUp
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.timestamp import ErrorEstimate
from tests.integration.engines.xdp import reference
from tests.integration.engines.xdp.devices import DEVICE, DEVICES, INDEX, ONE_VLAN, TWO_VLANS
from tests.integration.engines.xdp.reflecting import (
    CLOCK,
    NTP,
    PATH,
    PTP,
    REFLECTOR,
    SENDER,
    SESSIONS,
    SID,
    T2_NS,
    Bench,
    judged_rightly,
    mutated,
    request,
)

pytestmark = pytest.mark.integration

FORMS = {
    "plain": request(),
    "one VLAN": replace(request(), tags=ONE_VLAN),
    "two VLANs": replace(request(), tags=TWO_VLANS),
    "SRH": request(segments=(*PATH[:2], REFLECTOR)),
    "long SRH": request(segments=(*PATH[:15], REFLECTOR)),
    "encapsulated": replace(request(), outer=Outer(PATH[3], SID)),
    "encapsulated, SRH": replace(request(), outer=Outer(PATH[3], SID, (PATH[0], SID))),
    "encapsulated, SRH in SRH": replace(
        request(segments=(PATH[1], REFLECTOR)), outer=Outer(PATH[3], SID, (PATH[0], SID))
    ),
    "VLAN, encapsulated": replace(request(), tags=ONE_VLAN, outer=Outer(PATH[3], SID, (SID,))),
}


@pytest.mark.parametrize("ssid", [1, 2, 3, 5, 7, 8, 9, 65_535])
@pytest.mark.parametrize("error", [NTP, PTP], ids=["NTP", "PTPv2"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_as_the_core(bench: Bench, form: str, error: ErrorEstimate, ssid: int) -> None:
    shape = FORMS[form]
    for sequence in (0, 0xFFFFFFFF):
        payload = request(ssid, sequence=sequence, error=error).datagram.payload
        asked = shape.with_datagram(replace(shape.datagram, payload=payload))
        run = bench.run(asked.encode())
        assert run.action == XDP_TX
        assert run.data.hex() == bench.expect_reply(asked).encode().hex()


@pytest.mark.parametrize("length", [*range(20), 100, 511, 512, 513, 1023, 1024, 1400, 1777, 2047])
def test_every_length(bench: Bench, length: int) -> None:
    tail = random.Random(length).randbytes(length)
    asked = request(5, tail=tail, segments=(PATH[0], REFLECTOR))
    run = bench.run(asked.encode())
    if length < 1400:
        assert run.action == XDP_TX
        assert run.data.hex() == bench.expect_reply(asked).encode().hex()


@given(
    t2_ns=st.integers(0, (1 << 63) - 1 - 10**12),
    apart_ns=st.integers(0, 10**9),
    ptp=st.booleans(),
)
@settings(
    max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_timestamps_are_rounded_as_the_core_rounds(
    bench: Bench, t2_ns: int, apart_ns: int, ptp: bool
) -> None:
    asked = request(1, error=PTP if ptp else NTP)
    bench.tables.fix_clock(t2_ns, t2_ns + apart_ns)
    run = run_program(bench.program, asked.encode())
    reply = reference.receive(bench.core, asked, t2_ns)
    assert not isinstance(reply, DiscardReason)
    expected = reference.turned_back(asked, reply, t2_ns + apart_ns, CLOCK)
    assert run.data.hex() == expected.encode().hex()


REFLECTED = request(1).datagram.payload[:16] + bytes.fromhex("0123456200000000") + bytes(20)

DISCARDS = {
    "unknown": (request(99), DiscardReason.UNKNOWN_SESSION),
    "no SSID": (request(0), DiscardReason.UNKNOWN_SESSION),
    "wrong port": (request(4), DiscardReason.WRONG_PORT),
    "disabled": (request(6), DiscardReason.SESSION_DISABLED),
    "port 0": (request(1, source_port=0), DiscardReason.UNANSWERABLE),
    "reflector's port": (request(1, source_port=862), DiscardReason.UNANSWERABLE),
    "multicast": (request(1, source=IPv6Address("ff02::1")), DiscardReason.UNANSWERABLE),
    "unspecified": (request(1, source=IPv6Address("::")), DiscardReason.UNANSWERABLE),
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


UNTOUCHED = {
    "another port": request(destination_port=863),
    "another node": request(destination=SENDER),
    "another node, session unknown": request(99, destination=SENDER),
    "another host": replace(request(), destination_mac=bytes.fromhex("02000000bb02")),
    "everybody": replace(request(), destination_mac=bytes([255] * 6)),
    "not the last segment": request(segments=(PATH[0], REFLECTOR), segments_left=1),
    "SID of another": replace(request(), outer=Outer(PATH[3], PATH[4])),
    "address where a SID should be": replace(request(), outer=Outer(PATH[3], REFLECTOR)),
}


@pytest.mark.parametrize("what", UNTOUCHED)
def test_untouched(bench: Bench, what: str) -> None:
    data = UNTOUCHED[what].encode()
    before = bench.tables.counts()
    run = bench.run(data)
    assert (run.action, run.data) == (XDP_PASS, data)
    assert bench.tables.counts() == before


def fragment(frame: Frame) -> bytes:
    data = frame.encode()
    header = bytes([17, 0, 0, 1, 0, 0, 0, 9])
    length = int.from_bytes(data[18:20], "big") + len(header)
    return data[:18] + length.to_bytes(2, "big") + bytes([44]) + data[21:54] + header + data[54:]


def corrupt(frame: Frame) -> bytes:
    data = frame.encode()
    return data[:-1] + bytes([data[-1] ^ 1])


HANDED_UP = {
    "fragment": (fragment(request()), HandedUp.FRAGMENT),
    "short": (request(payload=bytes(20)).encode(), HandedUp.SHORT),
    "empty": (request(payload=b"").encode(), HandedUp.SHORT),
    "checksum": (corrupt(request()), HandedUp.CHECKSUM),
    "padded frame": (request().encode() + bytes(4), HandedUp.LENGTH),
    "longer than it sums": (request(tail=bytes(2_048)).encode(), HandedUp.LENGTH),
    "link-local": (request(source=IPv6Address("fe80::1")).encode(), HandedUp.LINK_LOCAL),
    "no head room": (request(11).encode(), HandedUp.HEAD_ROOM),
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


def test_trailers_are_handed_up_where_they_are_tlvs(bench: Bench) -> None:
    bench.serve(Reflector(sessions=SESSIONS), ReflectorFlag(0))
    before = bench.tables.counts().handed_up[HandedUp.TRAILER]
    assert bench.run(request(tail=b"\x80\x01\0\0").encode()).action == XDP_PASS
    assert bench.tables.counts().handed_up[HandedUp.TRAILER] == before + 1
    assert bench.run(request().encode()).action == XDP_TX


def test_a_checksum_that_is_left_to_the_interface(bench: Bench) -> None:
    asked = request(7, tail=b"abc")
    data = bytearray(asked.encode())
    data[60:62] = (~reference.pseudo_sum(asked.datagram) & 0xFFFF).to_bytes(2, "big")
    assert bench.run(bytes(data)).action == XDP_PASS
    bench.serve(Reflector(sessions=SESSIONS), ReflectorFlag.TRAILERS | ReflectorFlag.PARTIAL)
    run = bench.run(bytes(data))
    assert run.action == XDP_TX
    expected = bench.expect_reply(asked).encode()
    assert run.data.hex() == expected.hex()
    # In generic mode it is left open, as the kernel goes on thinking it is.
    bench.tables.set_interfaces(DEVICES, generic={INDEX})
    try:
        run = bench.run(bytes(data))
        there = len(expected) - len(asked.datagram.payload) - 2
        expected = bench.expect_reply(asked).encode()
        assert run.data.hex() == (expected[:there] + data[60:62] + expected[there + 2 :]).hex()
        # One that is complete stays complete.
        run = bench.run(asked.encode())
        assert run.data.hex() == bench.expect_reply(asked).encode().hex()
    finally:
        bench.tables.set_interfaces(DEVICES)


def test_srh_where_the_kernel_takes_none(bench: Bench) -> None:
    routed, plain = FORMS["SRH"], FORMS["encapsulated, SRH"]
    assert bench.run(routed.encode()).action == XDP_TX
    bench.tables.set_interfaces({Place(INDEX): replace(DEVICE, takes_srh=False)})
    try:
        assert bench.run(routed.encode()).action == XDP_PASS
        # The SRH of the outer header is the SID's affair.
        assert bench.run(plain.encode()).action == XDP_TX
    finally:
        bench.tables.set_interfaces(DEVICES)


def test_sessions_come_and_go(bench: Bench) -> None:
    one, everyone = ReflectorSession(700, SENDER), ReflectorSession(700)
    beside = ReflectorSession(701)
    for served in (
        [],
        [one],
        [one, everyone],
        [everyone],
        [everyone, beside],
        [one, beside],
        [beside],
        [one, everyone, beside],
        [],
    ):
        bench.tables.set_sessions({session.key: session for session in served}, lambda _key: 0)
        bench.core.update(Reflector(sessions={session.key: session for session in served}))
        for ssid in (700, 701, 702):
            for source in (SENDER, PATH[0]):
                judged_rightly(bench, request(ssid, source=source).encode())


def test_one_address(bench: Bench) -> None:
    bench.serve(Reflector(sessions=SESSIONS, source_address=REFLECTOR))
    assert bench.run(request().encode()).action == XDP_TX
    bench.serve(Reflector(sessions=SESSIONS, source_address=SENDER))
    assert bench.run(request().encode()).action == XDP_PASS


def test_disabled(bench: Bench) -> None:
    bench.serve(Reflector(sessions=SESSIONS, enabled=False))
    assert bench.run(request().encode()).action == XDP_PASS


def test_any_session(bench: Bench) -> None:
    bench.serve(Reflector(sessions=SESSIONS, require_configured_session=False))
    before = bench.tables.session_counts(None).answered
    for asked in (request(0), request(77, error=PTP)):
        run = bench.run(asked.encode())
        assert run.data.hex() == bench.expect_reply(asked).encode().hex()
    assert bench.tables.session_counts(None).answered == before + 2
    assert bench.run(request(0, source_port=862).encode()).action == XDP_DROP


def test_counts_of_sessions(bench: Bench) -> None:
    for ssid, times in ((1, 3), (2, 2)):
        for _ in range(times):
            bench.run(request(ssid).encode())
    one, two = bench.tables.session_counts((1, None)), bench.tables.session_counts((2, None))
    assert (one.answered, one.next_sequence) == (3, 0)
    assert (two.answered, two.next_sequence, two.last_received_ns) == (2, 2, bench.now_ns)


def test_a_source_has_a_rate(bench: Bench) -> None:
    bench.serve(Reflector(sessions=SESSIONS, rate_limit=1_000))
    asked = request(source=IPv6Address("fd00:a::99")).encode()
    bench.tables.fix_clock(T2_NS, T2_NS)
    at_once = [run_program(bench.program, asked).action for _ in range(150)]
    assert at_once.count(XDP_TX) == 101
    assert at_once[101:] == [XDP_DROP] * 49
    bench.tables.fix_clock(T2_NS + 10_000_000, T2_NS)
    later = [run_program(bench.program, asked).action for _ in range(20)]
    assert later.count(XDP_TX) == 10
    other = request(source=IPv6Address("fd00:a::98")).encode()
    assert run_program(bench.program, other).action == XDP_TX
    # A clock that is set back costs nobody more than a burst.
    bench.tables.fix_clock(T2_NS - 10**12, T2_NS)
    assert run_program(bench.program, asked).action == XDP_TX


def random_request(chance: random.Random) -> Frame:
    shape = chance.choice(list(FORMS.values()))
    ssid = chance.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 65_535])
    payload = bytearray(
        request(
            ssid, sequence=chance.getrandbits(32), error=chance.choice([NTP, PTP])
        ).datagram.payload
    )
    payload[16:] = chance.choice(
        [bytes(28), chance.randbytes(28), bytes(28) + chance.randbytes(chance.randrange(60))]
    )
    datagram = replace(
        shape.datagram,
        payload=bytes(payload),
        source=chance.choice([SENDER, SENDER, IPv6Address(chance.getrandbits(128))]),
        source_port=chance.choice([49_862, 50_000, 862, 0, chance.getrandbits(16)]),
        hop_limit=chance.getrandbits(8),
        traffic_class=chance.getrandbits(8),
        flow_label=chance.getrandbits(20),
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


def test_random_bytes(bench: Bench) -> None:
    chance = random.Random(3)
    for _ in range(50_000):
        data = bytearray(chance.randbytes(chance.randrange(14, 200)))
        data[12:14] = b"\x86\xdd"
        if len(data) > 20:
            data[14] = 0x60 | data[14] & 15
            data[20] = chance.choice([17, 41, 43, 44, 4])
        assert judged_rightly(bench, bytes(data)) == XDP_PASS
