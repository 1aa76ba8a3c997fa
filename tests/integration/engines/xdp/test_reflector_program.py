"""The program against the sans-IO core, packet by packet, with one clock for both.

Packets go through BPF_PROG_RUN. The node of these tests does not forward, so that
replies go back to the neighbour that the request came from.
"""

from __future__ import annotations

import errno
import random
from dataclasses import replace
from ipaddress import IPv6Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.bpf.syscall import XDP_DROP, XDP_PASS, XDP_TX, run_program
from dataplane.config import Reflector, ReflectorSession
from dataplane.engines.driver.interfaces import Place
from dataplane.engines.driver.layouts import LocalFlag
from dataplane.engines.xdp import reflector_tables as tables
from dataplane.engines.xdp.reflector_layouts import SESSIONS_MAX, ReflectorFlag
from dataplane.engines.xdp.reflector_tables import SessionCounts
from dataplane.frames import Frame, Outer
from dataplane.reflector_store import HandedUp
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.timestamp import ErrorEstimate
from tests.integration.engines.driver.devices import DEVICE, DEVICES, INDEX
from tests.integration.engines.driver.extensions import (
    DESTINATION,
    EXTENSIONS_MAX,
    HOP_BY_HOP,
    with_options,
)
from tests.integration.engines.xdp import reference
from tests.integration.engines.xdp.reflecting import (
    CLOCK,
    FAMILIES,
    LOCALS,
    NTP,
    PATH,
    PTP,
    REFLECTOR,
    SENDER,
    SESSIONS,
    T2_NS,
    Bench,
    Family,
    answers,
    discards,
    each_family,
    hands_up,
    judged_rightly,
    leaves,
    of_each_family,
    request,
)

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("error", [NTP, PTP], ids=["NTP", "PTPv2"])
@pytest.mark.parametrize(
    "case",
    of_each_family(
        lambda family: {
            f"{form}, {ssid}": (family, shape, ssid)
            for form, shape in family.forms().items()
            for ssid in family.answered
        }
    ),
)
def test_every_form_as_the_core(
    bench: Bench, case: tuple[Family, Frame, int], error: ErrorEstimate
) -> None:
    """Sessions with a return path among them: over IPv4 there is none."""
    family, shape, ssid = case
    for sequence in (0, 0xFFFFFFFF):
        payload = family.request(ssid, sequence=sequence, error=error).datagram.payload
        answers(bench, shape.with_datagram(replace(shape.datagram, payload=payload)))


@pytest.mark.parametrize("length", [*range(20), 100, 511, 512, 513, 1023, 1024, 1400])
@each_family
def test_every_length(bench: Bench, family: Family, length: int) -> None:
    answers(bench, family.request(tail=random.Random(length).randbytes(length)))


@pytest.mark.parametrize("length", [*range(20), 100, 511, 512, 513, 1023, 1024, 1400, 1777, 2047])
def test_every_length_to_a_return_path(bench: Bench, length: int) -> None:
    tail = random.Random(length).randbytes(length)
    asked = request(5, tail=tail, segments=(PATH[0], REFLECTOR))
    action = judged_rightly(bench, asked.encode())
    assert action == XDP_TX or length >= 1400


@given(
    t2_ns=st.integers(0, (1 << 63) - 1 - 10**12),
    apart_ns=st.integers(0, 10**9),
    ptp=st.booleans(),
)
@settings(max_examples=2_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
MULTIPLIER_0 = request().datagram.payload[:13] + bytes(31)


def discarded(family: Family) -> dict[str, tuple[Frame, DiscardReason]]:
    wrong_port, disabled = (4, 6) if family.version == 6 else (14, 13)
    ask = family.request
    return {
        "unknown": (ask(99), DiscardReason.UNKNOWN_SESSION),
        "no SSID": (ask(0), DiscardReason.UNKNOWN_SESSION),
        "wrong port": (ask(wrong_port), DiscardReason.WRONG_PORT),
        "disabled": (ask(disabled), DiscardReason.SESSION_DISABLED),
        "port 0": (ask(source_port=0), DiscardReason.UNANSWERABLE),
        "reflector's port": (ask(source_port=862), DiscardReason.UNANSWERABLE),
        "multiplier": (ask(payload=MULTIPLIER_0), DiscardReason.ZERO_MULTIPLIER),
        "reflected": (ask(payload=REFLECTED), DiscardReason.UNANSWERABLE),
    }


@pytest.mark.parametrize("case", of_each_family(discarded))
def test_discards_as_the_core(bench: Bench, case: tuple[Frame, DiscardReason]) -> None:
    discards(bench, *case)


@pytest.mark.parametrize("source", ["ff02::1", "::"])
def test_sources_that_are_none_as_the_core(bench: Bench, source: str) -> None:
    discards(bench, request(source=IPv6Address(source)), DiscardReason.UNANSWERABLE)


@pytest.mark.parametrize("ssid", [1, 7], ids=["back", "return path"])
def test_a_loopback_is_nobody_on_a_link(bench: Bench, ssid: int) -> None:
    """Not even where the next hop of the reply is known by now."""
    loopback = IPv6Address("::1")
    answers(bench, request(ssid))
    leaves(bench, request(ssid, source=loopback).encode())
    bench.tables.set_locals(LOCALS | {loopback: LocalFlag.ADDRESS})
    try:
        leaves(bench, request(ssid, destination=loopback).encode())
    finally:
        bench.tables.set_locals(LOCALS)


def untouched(family: Family) -> dict[str, Frame]:
    plain = family.request()
    return {
        "another port": family.request(destination_port=863),
        "another node": family.request(destination=family.sender),
        "another node, session unknown": family.request(99, destination=family.sender),
        "another host": replace(plain, destination_mac=bytes.fromhex("02000000bb02")),
        "everybody": replace(plain, destination_mac=bytes([255] * 6)),
        "SID of another": replace(plain, outer=Outer(PATH[3], PATH[4])),
        "address where a SID should be": replace(plain, outer=Outer(PATH[3], REFLECTOR)),
    }


@pytest.mark.parametrize("asked", of_each_family(untouched))
def test_untouched(bench: Bench, asked: Frame) -> None:
    leaves(bench, asked.encode())


def test_a_segment_that_is_not_the_last(bench: Bench) -> None:
    leaves(bench, request(segments=(PATH[0], REFLECTOR), segments_left=1).encode())


def fragment(frame: Frame) -> bytes:
    data = frame.encode()
    header = bytes([17, 0, 0, 1, 0, 0, 0, 9])
    length = int.from_bytes(data[18:20], "big") + len(header)
    return data[:18] + length.to_bytes(2, "big") + bytes([44]) + data[21:54] + header + data[54:]


def corrupt(frame: Frame) -> bytes:
    data = frame.encode()
    return data[:-1] + bytes([data[-1] ^ 1])


def without_checksum(frame: Frame) -> bytes:
    data = bytearray(frame.encode())
    data[60:62] = bytes(2)
    return bytes(data)


def handed_up(family: Family) -> dict[str, tuple[bytes, HandedUp]]:
    plain = family.request()
    return {
        "short": (family.request(payload=bytes(20)).encode(), HandedUp.SHORT),
        "empty": (family.request(payload=b"").encode(), HandedUp.SHORT),
        "checksum": (corrupt(plain), HandedUp.CHECKSUM),
        "padded frame": (plain.encode() + bytes(4), HandedUp.LENGTH),
        "longer than it sums": (family.request(tail=bytes(2_048)).encode(), HandedUp.LENGTH),
    }


@pytest.mark.parametrize("case", of_each_family(handed_up))
def test_handed_up_unchanged(bench: Bench, case: tuple[bytes, HandedUp]) -> None:
    hands_up(bench, *case)


IN_IPV6_ALONE = {
    "fragment": (fragment(request()), HandedUp.FRAGMENT),
    "link-local": (request(source=IPv6Address("fe80::1")).encode(), HandedUp.LINK_LOCAL),
    "no checksum": (without_checksum(request()), HandedUp.CHECKSUM),
    "no head room": (request(11).encode(), HandedUp.HEAD_ROOM),
}


@pytest.mark.parametrize("what", IN_IPV6_ALONE)
def test_ipv6_that_is_handed_up_unchanged(bench: Bench, what: str) -> None:
    hands_up(bench, *IN_IPV6_ALONE[what])


ROUTED = FAMILIES["IPv6"].forms()["SRH"].encode()

WITH_OPTIONS = {
    "Hop-by-Hop": with_options(request().encode(), (HOP_BY_HOP, 0)),
    "Destination": with_options(request().encode(), (DESTINATION, 0)),
    "both": with_options(request().encode(), (HOP_BY_HOP, 0), (DESTINATION, 2)),
    "as many as may be": with_options(request().encode(), *[(DESTINATION, 0)] * EXTENSIONS_MAX),
    "long": with_options(request().encode(), (DESTINATION, 31)),
    "before an SRH": with_options(ROUTED, (HOP_BY_HOP, 0), (DESTINATION, 0)),
    "before a fragment": with_options(fragment(request()), (HOP_BY_HOP, 0)),
    "with TLVs": with_options(request(tail=bytes(8)).encode(), (DESTINATION, 0)),
}


@pytest.mark.parametrize("what", WITH_OPTIONS)
def test_options_of_ipv6_are_handed_up_unchanged(bench: Bench, what: str) -> None:
    hands_up(bench, WITH_OPTIONS[what], HandedUp.IPV6_OPTIONS)


def test_options_after_an_srh_are_handed_up_unchanged(bench: Bench) -> None:
    srh_length = 8 * (1 + ROUTED[55])
    options = bytes([17, 0, 1, 4, 0, 0, 0, 0])
    length = int.from_bytes(ROUTED[18:20], "big") + len(options)
    data = bytearray(ROUTED[: 54 + srh_length] + options + ROUTED[54 + srh_length :])
    data[18:20], data[54] = length.to_bytes(2, "big"), DESTINATION
    hands_up(bench, bytes(data), HandedUp.IPV6_OPTIONS)


LEFT_TO_THE_KERNEL = {
    "too many": with_options(request().encode(), *[(DESTINATION, 0)] * (EXTENSIONS_MAX + 1)),
    "beyond the frame": with_options(request().encode(), (DESTINATION, 0))[:55] + b"\xff",
    "cut short": with_options(request().encode(), (DESTINATION, 0))[:55],
    "to another port": with_options(
        request(destination_port=863).encode(), (HOP_BY_HOP, 0), (DESTINATION, 0)
    ),
    "to another node": with_options(request(destination=SENDER).encode(), (DESTINATION, 0)),
}


@pytest.mark.parametrize("what", LEFT_TO_THE_KERNEL)
def test_behind_options_only_what_is_ours_is_counted(bench: Bench, what: str) -> None:
    leaves(bench, LEFT_TO_THE_KERNEL[what])


def test_packets_with_options_count_for_the_rate_of_their_source(bench: Bench) -> None:
    bench.serve(Reflector(sessions=SESSIONS, rate_limit=1_000))
    asked = with_options(request(source=IPv6Address("fd00:a::97")).encode(), (DESTINATION, 0))
    bench.tables.fix_clock(T2_NS, T2_NS)
    actions = [run_program(bench.program, asked).action for _ in range(150)]
    assert actions == [XDP_PASS] * 101 + [XDP_DROP] * 49


def test_trailers_are_handed_up_where_they_are_tlvs(bench: Bench) -> None:
    bench.serve(Reflector(sessions=SESSIONS), ReflectorFlag(0))
    before = bench.tables.counts().handed_up[HandedUp.TRAILER]
    assert bench.run(request(tail=b"\x80\x01\0\0").encode()).action == XDP_PASS
    assert bench.tables.counts().handed_up[HandedUp.TRAILER] == before + 1
    assert bench.run(request().encode()).action == XDP_TX


def with_open_checksum(asked: Frame) -> bytes:
    data = bytearray(asked.encode())
    data[60:62] = (~reference.pseudo_sum(asked.datagram) & 0xFFFF).to_bytes(2, "big")
    return bytes(data)


def test_requests_that_are_to_be_cut_apart_are_handed_up(bench: Bench) -> None:
    """In generic mode the kernel shows a burst of UDP_SEGMENT as one packet."""
    bench.serve(Reflector(sessions=SESSIONS), ReflectorFlag.TRAILERS | ReflectorFlag.PARTIAL)
    second = request(sequence=8).datagram.payload
    hands_up(bench, with_open_checksum(request(tail=second)), HandedUp.CHECKSUM)
    assert bench.run(request(tail=second).encode()).action == XDP_TX


def test_a_checksum_that_is_left_to_the_interface(bench: Bench) -> None:
    asked = request(7)
    data = with_open_checksum(asked)
    assert bench.run(data).action == XDP_PASS
    bench.serve(Reflector(sessions=SESSIONS), ReflectorFlag.TRAILERS | ReflectorFlag.PARTIAL)
    run = bench.run(data)
    assert run.action == XDP_TX
    expected = bench.expect_reply(asked).encode()
    assert run.data.hex() == expected.hex()
    # In generic mode it is left open, as the kernel goes on thinking it is.
    bench.tables.set_interfaces(DEVICES, generic={INDEX})
    try:
        run = bench.run(data)
        there = len(expected) - len(asked.datagram.payload) - 2
        expected = bench.expect_reply(asked).encode()
        assert run.data.hex() == (expected[:there] + data[60:62] + expected[there + 2 :]).hex()
        # One that is complete stays complete.
        run = bench.run(asked.encode())
        assert run.data.hex() == bench.expect_reply(asked).encode().hex()
    finally:
        bench.tables.set_interfaces(DEVICES)


def test_a_checksum_that_may_be_complete_or_left_open(bench: Bench) -> None:
    """One in 65 536 that are complete looks as if it were not."""
    bench.serve(Reflector(sessions=SESSIONS), ReflectorFlag.TRAILERS | ReflectorFlag.PARTIAL)
    frames = (request(1, sequence=number).encode() for number in range(1 << 16))
    open_checksum = with_open_checksum(request(1))[60:62]
    hands_up(bench, next(f for f in frames if f[60:62] == open_checksum), HandedUp.CHECKSUM)


def test_srh_where_the_kernel_takes_none(bench: Bench) -> None:
    forms = FAMILIES["IPv6"].forms()
    routed, plain = forms["SRH"], forms["encapsulated, SRH"]
    assert bench.run(routed.encode()).action == XDP_TX
    bench.tables.set_interfaces({Place(INDEX): replace(DEVICE, takes_srh=False)})
    try:
        assert bench.run(routed.encode()).action == XDP_PASS
        # The SRH of the outer header is the SID's affair.
        assert bench.run(plain.encode()).action == XDP_TX
        # Without an HMAC, where that is required, no SID takes it either.
        device = replace(DEVICE, takes_srh=False, requires_hmac=True)
        bench.tables.set_interfaces({Place(INDEX): device})
        assert bench.run(plain.encode()).action == XDP_PASS
    finally:
        bench.tables.set_interfaces(DEVICES)


def test_a_session_that_changes_has_a_slot_all_the_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that take sequence numbers ask for it meanwhile."""
    session = SESSIONS[2, None]
    slot, there = bench.tables.slots[session.key], []

    def released(*counts: int) -> tables.SessionCounts:
        there.append(bench.tables.slots.get(session.key))
        return SessionCounts(*counts)

    monkeypatch.setattr(tables, "SessionCounts", released)
    changed = replace(session, segments=PATH[:1])
    bench.tables.set_sessions(SESSIONS | {session.key: changed}, lambda _key: 0)
    assert there == [bench.tables.slots[session.key]]
    assert there != [slot]


def test_no_slot_is_lost_to_a_map_that_is_full(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.E2BIG, "full")

    more = SESSIONS | {(77, None): ReflectorSession(77)}
    with monkeypatch.context() as patch:
        patch.setattr(tables, "update_element", full)
        for _ in range(SESSIONS_MAX):
            with pytest.raises(OSError, match="full"):
                bench.tables.set_sessions(more, lambda _key: 0)
    discards(bench, request(77), DiscardReason.UNKNOWN_SESSION)
    bench.serve(Reflector(sessions=more))
    answers(bench, request(77))


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


@each_family
def test_one_address(bench: Bench, family: Family) -> None:
    bench.serve(Reflector(sessions=SESSIONS, source_address=family.reflector))
    for other in FAMILIES.values():
        expected = XDP_TX if other is family else XDP_PASS
        assert bench.run(other.request().encode()).action == expected
    bench.serve(Reflector(sessions=SESSIONS, source_address=family.sender))
    assert bench.run(family.request().encode()).action == XDP_PASS


def test_disabled(bench: Bench) -> None:
    bench.serve(Reflector(sessions=SESSIONS, enabled=False))
    assert bench.run(request().encode()).action == XDP_PASS


@each_family
def test_any_session(bench: Bench, family: Family) -> None:
    bench.serve(Reflector(sessions=SESSIONS, require_configured_session=False))
    before = bench.tables.session_counts(None).answered
    for asked in (family.request(0), family.request(77, error=PTP)):
        answers(bench, asked)
    assert bench.tables.session_counts(None).answered == before + 2
    assert bench.run(family.request(0, source_port=862).encode()).action == XDP_DROP


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
