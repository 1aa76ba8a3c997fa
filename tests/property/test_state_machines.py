"""Session-Sender and Session-Reflector over a network that exists in memory.

SessionSender ── forward (delay, loss) ──► SessionReflector
      ▲                                          │
      └────────── backward (delay, loss) ────────┘
"""

from __future__ import annotations

from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from dataplane.config import Reflector, ReflectorMode, ReflectorSession, SenderSession
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.packet import ReflectorPacket
from dataplane.stamp.session_reflector import Reply, SessionReflector
from dataplane.stamp.session_sender import SessionSender
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, decode_timestamp

SENDER = IPv6Address("2001:db8::1")
REFLECTOR = IPv6Address("2001:db8::2")
WALL_NS = 1_700_000_000_000_000_000
INTERVAL_NS = 1_000_000
ERROR = ErrorEstimate(True, TimestampFormat.NTP, 0, 1)

fates = st.lists(st.sampled_from(["forward lost", "backward lost", "answered"]), max_size=60)
delays_ns = st.integers(-(10**9), 10**9)
formats = st.sampled_from(TimestampFormat)


@given(
    fates,
    delays_ns,
    st.integers(0, 10**6),
    delays_ns,
    st.sampled_from(ReflectorMode),
    formats,
    st.one_of(st.none(), formats),
    st.sampled_from([0, 0xFFFFFFF0]),
)
def test_delays_and_losses_are_told_exactly(
    fates: list[str],
    forward_ns: int,
    dwell_ns: int,
    backward_ns: int,
    mode: ReflectorMode,
    sender_format: TimestampFormat,
    reflector_format: TimestampFormat | None,
    first_sequence: int,
) -> None:
    """Delays may be negative, as those between unsynchronised clocks are."""
    session = ReflectorSession(5, SENDER, mode=mode, timestamp_format=reflector_format)
    reflector = SessionReflector(Reflector(sessions={session.key: session}))
    sender = SessionSender(
        SenderSession(
            ssid=5,
            reflector_address=REFLECTOR,
            source_address=SENDER,
            interval_us=INTERVAL_NS // 1_000,
            packet_count=len(fates),
            timestamp_format=sender_format,
        ),
        start_ns=0,
        first_sequence=first_sequence,
    )
    answered = []
    for fate in fates:
        due_ns = sender.next_send_ns()
        assert due_ns is not None
        t1_ns = WALL_NS + due_ns
        number = sender.sequence
        payload = sender.send(due_ns, t1_ns, ERROR)
        if fate == "forward lost":
            continue
        t2_ns = t1_ns + forward_ns
        reply = reflector.receive(
            payload, source=SENDER, source_port=49_862, hop_limit=64, t2_ns=t2_ns
        )
        assert isinstance(reply, Reply)
        t3_ns = t2_ns + dwell_ns
        data = reply.encode(t3_ns, ERROR)
        reply.sent()
        if fate == "backward lost":
            continue
        t4_ns = t3_ns + backward_ns
        packet = ReflectorPacket.decode(data)
        sent_fmt, reflected_fmt = packet.sender_error_estimate.fmt, packet.error_estimate.fmt
        assert sent_fmt is sender_format
        assert reflected_fmt is (reflector_format or sender_format)
        assert decode_timestamp(packet.sender_timestamp, sent_fmt, t4_ns) == t1_ns
        assert decode_timestamp(packet.receive_timestamp, reflected_fmt, t4_ns) == t2_ns
        assert decode_timestamp(packet.timestamp, reflected_fmt, t4_ns) == t3_ns
        assert packet.sender_sequence == number & 0xFFFFFFFF
        answered.append(packet)

    assert sender.complete
    assert sender.sent == len(fates)
    received = len(fates) - fates.count("forward lost")
    assert reflector.states[session.key].received == received
    assert reflector.states[session.key].reflected == received
    if mode is ReflectorMode.STATELESS:
        assert all(packet.sequence == packet.sender_sequence for packet in answered)
    elif answered:
        last = len(fates) - 1 - fates[::-1].index("answered")
        lost_backward = answered[-1].sequence + 1 - len(answered)
        assert lost_backward == fates[:last].count("backward lost")


@given(st.binary(max_size=100), st.booleans(), st.one_of(st.none(), st.integers(0, 255)))
def test_any_datagram_is_answered_or_counted(
    data: bytes, require: bool, hop_limit: int | None
) -> None:
    reflector = SessionReflector(Reflector(require_configured_session=require))
    outcome = reflector.receive(
        data, source=SENDER, source_port=1, hop_limit=hop_limit, t2_ns=WALL_NS
    )
    if isinstance(outcome, DiscardReason):
        assert reflector.discarded[outcome] == 1
        assert sum(reflector.discarded.values()) == 1
    else:
        assert len(outcome.encode(WALL_NS, ERROR)) == max(44, len(data))
        outcome.sent()
        assert reflector.unconfigured.reflected == 1
        assert sum(reflector.discarded.values()) == 0


@given(
    st.lists(st.integers(0, 5 * INTERVAL_NS), max_size=50),
    st.one_of(st.none(), st.integers(1, 30)),
)
def test_every_slot_is_sent_or_skipped(delays_ns: list[int], packet_count: int | None) -> None:
    """However late the engine is, slots = packets + skipped, and no two share a slot."""
    sender = SessionSender(
        SenderSession(
            ssid=5,
            reflector_address=REFLECTOR,
            source_address=SENDER,
            interval_us=INTERVAL_NS // 1_000,
            packet_count=packet_count,
        ),
        start_ns=0,
    )
    now_ns = 0
    slots = []
    for delay_ns in delays_ns:
        due_ns = sender.next_send_ns()
        if due_ns is None:
            break
        assert due_ns == (sender.sent + sender.skipped) * INTERVAL_NS
        now_ns = max(now_ns, due_ns) + delay_ns
        sender.send(now_ns, WALL_NS, ERROR)
        slots.append(now_ns // INTERVAL_NS)
    assert len(set(slots)) == len(slots) == sender.sent
    assert sender.complete == (packet_count is not None and sender.sent == packet_count)
