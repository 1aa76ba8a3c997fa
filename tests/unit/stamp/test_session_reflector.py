"""The Session-Reflector: matching, numbering, replies, discards."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from dataplane.config import Reflector, ReflectorMode, ReflectorSession
from dataplane.measurement import TimestampMethod
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.packet import ReflectorPacket, SenderPacket
from dataplane.stamp.session_reflector import ReflectorState, Reply, SessionReflector
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, encode_timestamp

SENDER = IPv6Address("2001:db8::1")
OTHER = IPv6Address("2001:db8::66")
SID = IPv6Address("fc00::1")
NTP, PTPV2 = TimestampFormat.NTP, TimestampFormat.PTPV2
T2_NS = 1_700_000_000_000_000_000
T3_NS = T2_NS + 4_321
OURS = ErrorEstimate(True, NTP, 1, 9)
USERSPACE = TimestampMethod.USERSPACE.code
REQUEST = SenderPacket(
    sequence=77,
    timestamp=0x1112131415161718,
    error_estimate=ErrorEstimate(False, NTP, 0, 1),
    ssid=5,
)


def reflector(*sessions: ReflectorSession, require: bool = True) -> SessionReflector:
    return SessionReflector(config(*sessions, require=require))


def config(*sessions: ReflectorSession, require: bool = True) -> Reflector:
    return Reflector(
        require_configured_session=require,
        sessions={session.key: session for session in sessions},
    )


def receive(
    role: SessionReflector,
    request: SenderPacket | bytes = REQUEST,
    source: IPv6Address | IPv4Address = SENDER,
    source_port: int = 50_000,
    hop_limit: int | None = 63,
    t2_method: TimestampMethod = TimestampMethod.USERSPACE,
) -> Reply | DiscardReason:
    data = request if isinstance(request, bytes) else request.encode()
    return role.receive(
        data,
        source=source,
        source_port=source_port,
        hop_limit=hop_limit,
        t2_ns=T2_NS,
        t2_method=t2_method,
    )


def answer(role: SessionReflector, request: SenderPacket | bytes = REQUEST) -> ReflectorPacket:
    reply = receive(role, request)
    assert isinstance(reply, Reply)
    return ReflectorPacket.decode(reply.encode(T3_NS, OURS))


def test_reply_bytes() -> None:
    reply = receive(reflector(ReflectorSession(5)), REQUEST)
    assert isinstance(reply, Reply)
    assert reply.encode(500_000_000, OURS) == (
        bytes.fromhex("0000004d 83aa7e80 80000000 8109 0005")
        + encode_timestamp(T2_NS, NTP).to_bytes(8, "big")
        + bytes.fromhex("0000004d 1112131415161718 0001 0000 3f 000000")
    )
    assert (reply.destination, reply.destination_port) == (SENDER, 50_000)


def test_a_hop_limit_that_cannot_be_read() -> None:
    reply = receive(reflector(ReflectorSession(5)), hop_limit=None)
    assert isinstance(reply, Reply)
    assert ReflectorPacket.decode(reply.encode(T3_NS, OURS)).sender_ttl == 255


@pytest.mark.parametrize(("length", "expected"), [(14, 44), (41, 44), (44, 44)])
def test_a_short_request_gets_the_base_packet(length: int, expected: int) -> None:
    role = reflector(require=False)
    reply = receive(role, REQUEST.encode()[:length])
    assert isinstance(reply, Reply)
    assert len(reply.encode(T3_NS, OURS)) == expected


def test_what_follows_the_base_packet_is_copied() -> None:
    packet = answer(reflector(ReflectorSession(5)), replace(REQUEST, tlvs=b"\x80\x01\x00\x01x"))
    assert packet.tlvs == b"\x80\x01\x00\x01x"


@pytest.mark.parametrize("requested", [NTP, PTPV2])
@pytest.mark.parametrize("configured", [None, NTP, PTPV2])
def test_timestamp_format(configured: TimestampFormat | None, requested: TimestampFormat) -> None:
    role = SessionReflector(
        config(ReflectorSession(5, timestamp_format=configured)), tai_offset_s=37
    )
    theirs = REQUEST.error_estimate.in_format(requested)
    packet = answer(role, replace(REQUEST, error_estimate=theirs))
    expected = configured or requested
    assert packet.error_estimate == OURS.in_format(expected)
    assert packet.receive_timestamp == encode_timestamp(T2_NS, expected, 37)
    assert packet.timestamp == encode_timestamp(T3_NS, expected, 37)
    assert packet.sender_error_estimate == theirs


def test_stateless_copies_the_sequence_number() -> None:
    role = reflector(ReflectorSession(5))
    assert [answer(role).sequence for _ in range(2)] == [77, 77]


def test_stateful_counts_each_session_from_zero() -> None:
    first = ReflectorSession(5, mode=ReflectorMode.STATEFUL)
    role = reflector(first, replace(first, ssid=6))
    assert [answer(role).sequence for _ in range(3)] == [0, 1, 2]
    assert answer(role, replace(REQUEST, ssid=6)).sequence == 0


def test_the_stateful_counter_wraps() -> None:
    session = ReflectorSession(5, mode=ReflectorMode.STATEFUL)
    role = reflector(session)
    role.states[session.key].next_sequence = 0xFFFFFFFF
    assert [answer(role).sequence for _ in range(2)] == [0xFFFFFFFF, 0]


def test_the_most_specific_session_is_taken() -> None:
    any_sender = ReflectorSession(5)
    this_sender = ReflectorSession(5, sender_address=SENDER)
    role = reflector(any_sender, this_sender)
    for source, session in ((SENDER, this_sender), (OTHER, any_sender)):
        reply = receive(role, source=source)
        assert isinstance(reply, Reply)
        assert reply.session is session


def test_a_session_for_another_port_leaves_the_packet_to_a_wider_one() -> None:
    narrow = ReflectorSession(5, sender_address=SENDER, sender_udp_port=49_862)
    wide = ReflectorSession(5)
    reply = receive(reflector(narrow, wide), source_port=50_000)
    assert isinstance(reply, Reply)
    assert reply.session is wide


@pytest.mark.parametrize("require", [True, False])
def test_wrong_port(require: bool) -> None:
    role = reflector(ReflectorSession(5, sender_udp_port=49_862), require=require)
    assert receive(role, source_port=50_000) is DiscardReason.WRONG_PORT
    assert isinstance(receive(role, source_port=49_862), Reply)


def test_unknown_session() -> None:
    role = reflector(ReflectorSession(5, sender_address=SENDER))
    assert receive(role, source=OTHER) is DiscardReason.UNKNOWN_SESSION
    assert receive(role, replace(REQUEST, ssid=6)) is DiscardReason.UNKNOWN_SESSION
    assert role.discarded[DiscardReason.UNKNOWN_SESSION] == 2
    assert sum(role.discarded.values()) == 2


@pytest.mark.parametrize("ssid", [0, 9])
def test_a_reflector_for_anyone_is_stateless_and_has_no_return_path(ssid: int) -> None:
    role = reflector(
        ReflectorSession(5, segments=(SID,), mode=ReflectorMode.STATEFUL), require=False
    )
    reply = receive(role, replace(REQUEST, ssid=ssid))
    assert isinstance(reply, Reply)
    assert (reply.session, reply.segments) == (None, ())
    packet = ReflectorPacket.decode(reply.encode(T3_NS, OURS))
    assert (packet.sequence, packet.ssid) == (77, ssid)
    reply.sent()
    assert role.unconfigured == ReflectorState(1, 1, 0, T2_NS, USERSPACE, USERSPACE)


def test_a_disabled_session_does_not_answer() -> None:
    role = reflector(ReflectorSession(5, enabled=False), require=False)
    assert receive(role) is DiscardReason.SESSION_DISABLED


def test_a_disabled_role_does_not_answer() -> None:
    role = SessionReflector(replace(config(ReflectorSession(5)), enabled=False))
    assert receive(role) is DiscardReason.SESSION_DISABLED


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", DiscardReason.TRUNCATED),
        (bytes(13), DiscardReason.TRUNCATED),
        (bytes(44), DiscardReason.ZERO_MULTIPLIER),
    ],
)
def test_bad_packets_are_counted(data: bytes, reason: DiscardReason) -> None:
    role = reflector(ReflectorSession(5))
    assert receive(role, data) is reason
    assert {key: count for key, count in role.discarded.items() if count} == {reason: 1}
    assert role.states[5, None].received == 0


def test_return_path_ends_with_the_sender() -> None:
    reply = receive(reflector(ReflectorSession(5, segments=(SID,))))
    assert isinstance(reply, Reply)
    assert reply.segments == (SID, SENDER)


def test_an_ipv4_sender_gets_no_segments() -> None:
    reply = receive(
        reflector(ReflectorSession(5, segments=(SID,))), source=IPv4Address("192.0.2.1")
    )
    assert isinstance(reply, Reply)
    assert reply.segments == ()


def test_counters() -> None:
    """A reply that could not be sent is received, and not reflected."""
    role = reflector(ReflectorSession(5))
    receive(role)
    reply = receive(role)
    assert isinstance(reply, Reply)
    reply.sent()
    assert role.states[5, None] == ReflectorState(
        received=2,
        reflected=1,
        next_sequence=0,
        last_received_ns=T2_NS,
        t2_method=USERSPACE,
        t3_method=USERSPACE,
    )


def test_t3_has_no_method_before_a_reply_was_sent() -> None:
    role = reflector(ReflectorSession(5))
    receive(role, t2_method=TimestampMethod.KERNEL_SOFTWARE)
    state = role.states[5, None]
    assert state.t2_method == TimestampMethod.KERNEL_SOFTWARE.code
    assert state.t3_method == TimestampMethod.UNKNOWN.code


def test_update_keeps_the_state_of_equal_sessions() -> None:
    kept = ReflectorSession(5, mode=ReflectorMode.STATEFUL)
    changed = replace(kept, ssid=6)
    role = reflector(kept, changed, replace(kept, ssid=7))
    for ssid in (5, 6, 7):
        answer(role, replace(REQUEST, ssid=ssid))
    role.update(config(replace(kept), replace(changed, segments=(SID,))))
    assert set(role.states) == {(5, None), (6, None)}
    assert answer(role).sequence == 1
    assert answer(role, replace(REQUEST, ssid=6)).sequence == 0
    assert receive(role, replace(REQUEST, ssid=7)) is DiscardReason.UNKNOWN_SESSION


def test_an_engine_supplies_the_state() -> None:
    made: list[ReflectorSession | None] = []

    def factory(session: ReflectorSession | None) -> ReflectorState:
        made.append(session)
        return ReflectorState(received=100)

    session = ReflectorSession(5)
    role = SessionReflector(config(session), state_factory=factory)
    answer(role)
    assert made == [None, session]
    assert role.states[session.key].received == 101


def test_a_reply_is_never_answered() -> None:
    """One packet between two reflectors would go on for ever."""
    first = reflector(ReflectorSession(5), require=False)
    reply = receive(first)
    assert isinstance(reply, Reply)
    echo = reply.encode(T3_NS, OURS)
    outcome = first.receive(echo, source=SENDER, source_port=5001, hop_limit=64, t2_ns=T2_NS)
    assert outcome is DiscardReason.UNANSWERABLE


@pytest.mark.parametrize("require", [True, False])
def test_a_reflectors_port_is_answered_for_the_session_that_names_it(require: bool) -> None:
    named, other = ReflectorSession(5, sender_udp_port=862), ReflectorSession(6)
    role = reflector(named, other, require=require)

    def outcome(ssid: int) -> Reply | DiscardReason:
        data = replace(REQUEST, ssid=ssid).encode()
        return role.receive(data, source=SENDER, source_port=862, hop_limit=64, t2_ns=T2_NS)

    assert isinstance(outcome(5), Reply)
    assert outcome(6) is DiscardReason.UNANSWERABLE
    unknown = DiscardReason.UNKNOWN_SESSION if require else DiscardReason.UNANSWERABLE
    assert outcome(7) is unknown
