"""The Session-Sender's schedule and payloads."""

from __future__ import annotations

from ipaddress import IPv6Address
from random import Random

import pytest

from dataplane.config import SenderSession
from dataplane.stamp.packet import SenderPacket
from dataplane.stamp.session_sender import SessionSender
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, encode_timestamp

ERROR = ErrorEstimate(True, TimestampFormat.NTP, 0, 7)
T1_NS = 1_700_000_000_123_456_789
START_NS = 5_000
INTERVAL_NS = 1_000_000


def session(
    packet_count: int | None = None,
    duration_s: int | None = None,
    timestamp_format: TimestampFormat = TimestampFormat.NTP,
    interval_us: int = INTERVAL_NS // 1_000,
) -> SenderSession:
    return SenderSession(
        ssid=7,
        reflector_address=IPv6Address("2001:db8::2"),
        source_address=IPv6Address("2001:db8::1"),
        interval_us=interval_us,
        packet_count=packet_count,
        duration_s=duration_s,
        timestamp_format=timestamp_format,
    )


def test_payload_bytes() -> None:
    sender = SessionSender(session(), start_ns=START_NS, first_sequence=0x01020304)
    payload = sender.send(START_NS, 0, ERROR)
    assert payload == bytes.fromhex("01020304 83aa7e80 00000000 8007 0007") + bytes(28)


def test_the_session_sets_the_timestamp_format() -> None:
    config = session(timestamp_format=TimestampFormat.PTPV2)
    sender = SessionSender(config, start_ns=START_NS, tai_offset_s=37)
    packet = SenderPacket.decode(sender.send(START_NS, T1_NS, ERROR))
    assert packet.timestamp == encode_timestamp(T1_NS, TimestampFormat.PTPV2, 37)
    assert packet.error_estimate == ERROR.in_format(TimestampFormat.PTPV2)


def test_each_payload_is_its_own() -> None:
    sender = SessionSender(session(), start_ns=START_NS)
    first = sender.send(START_NS, T1_NS, ERROR)
    second = sender.send(START_NS + INTERVAL_NS, T1_NS + 1, ERROR)
    assert [SenderPacket.decode(data).sequence for data in (first, second)] == [0, 1]


def test_the_schedule_does_not_drift() -> None:
    sender = SessionSender(session(), start_ns=START_NS)
    for index in range(1_000):
        due_ns = sender.next_send_ns()
        assert due_ns == START_NS + index * INTERVAL_NS
        sender.send(due_ns + 999_999, T1_NS, ERROR)
    assert (sender.sent, sender.skipped) == (1_000, 0)


def test_after_an_hour_of_disturbances_packets_are_due_to_the_nanosecond() -> None:
    """3.6 million slots, with packets that are late by anything up to 200 intervals."""
    hour_ns = 3_600_000_000_000
    sender, random = SessionSender(session(), start_ns=START_NS), Random(862)
    used = 0
    while (due_ns := sender.next_send_ns()) is not None and due_ns < START_NS + hour_ns:
        slot, remainder = divmod(due_ns - START_NS, INTERVAL_NS)
        assert remainder == 0
        assert slot == used
        late_ns = random.choice((0, 1, INTERVAL_NS - 1, random.randrange(200 * INTERVAL_NS)))
        sender.send(due_ns + late_ns, T1_NS, ERROR)
        used = slot + late_ns // INTERVAL_NS + 1
        assert sender.sent + sender.skipped == used
    assert used >= 3_600_000
    assert sender.skipped > 0


def test_missed_slots_are_skipped_without_a_burst() -> None:
    sender = SessionSender(session(), start_ns=START_NS)
    sender.send(START_NS, T1_NS, ERROR)
    late_ns = START_NS + 4 * INTERVAL_NS + 10
    packet = SenderPacket.decode(sender.send(late_ns, T1_NS, ERROR))
    assert packet.sequence == 1
    assert sender.skipped == 3
    assert sender.next_send_ns() == START_NS + 5 * INTERVAL_NS


def test_an_early_call_does_not_move_the_schedule() -> None:
    sender = SessionSender(session(), start_ns=START_NS)
    sender.send(START_NS - 3 * INTERVAL_NS, T1_NS, ERROR)
    assert sender.next_send_ns() == START_NS + INTERVAL_NS
    assert sender.skipped == 0


def test_packet_count_ends_the_run() -> None:
    sender = SessionSender(session(packet_count=2), start_ns=START_NS)
    sender.send(START_NS, T1_NS, ERROR)
    assert not sender.complete
    sender.send(START_NS + 9 * INTERVAL_NS, T1_NS, ERROR)
    assert sender.complete
    assert sender.next_send_ns() is None
    with pytest.raises(RuntimeError, match=r"^run of session 7 is complete$"):
        sender.send(START_NS + 10 * INTERVAL_NS, T1_NS, ERROR)


def test_packet_count_is_of_the_run() -> None:
    sender = SessionSender(session(packet_count=1), start_ns=START_NS, first_sequence=50)
    assert not sender.complete
    sender.send(START_NS, T1_NS, ERROR)
    assert (sender.complete, sender.sequence, sender.sent) == (True, 51, 1)


@pytest.mark.parametrize(("interval_us", "packets"), [(250_000, 4), (300_000, 4), (2_000_000, 1)])
def test_duration_ends_the_run(interval_us: int, packets: int) -> None:
    sender = SessionSender(session(duration_s=1, interval_us=interval_us), start_ns=START_NS)
    sent_ns = []
    while (due_ns := sender.next_send_ns()) is not None:
        sent_ns.append(due_ns)
        sender.send(due_ns, T1_NS, ERROR)
    assert sent_ns == [START_NS + index * interval_us * 1_000 for index in range(packets)]


def test_a_sender_late_beyond_the_duration_counts_its_own_slots_only() -> None:
    sender = SessionSender(session(duration_s=1, interval_us=250_000), start_ns=START_NS)
    sender.send(START_NS + 60 * 10**9, T1_NS, ERROR)
    assert (sender.sent, sender.skipped, sender.complete) == (1, 3, True)


def test_the_sequence_wraps_on_the_wire_alone() -> None:
    sender = SessionSender(session(), start_ns=START_NS, first_sequence=0xFFFFFFFF)
    first = SenderPacket.decode(sender.send(START_NS, T1_NS, ERROR))
    second = SenderPacket.decode(sender.send(START_NS + INTERVAL_NS, T1_NS, ERROR))
    assert (first.sequence, second.sequence) == (0xFFFFFFFF, 0)
    assert sender.sequence == 0x1_0000_0001
