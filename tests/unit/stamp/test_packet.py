"""Base packets against exact bytes and against captured ones."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from dataplane.srv6 import SegmentRoutingHeader
from dataplane.stamp.errors import DiscardReason, PacketError
from dataplane.stamp.packet import ReflectorPacket, SenderPacket
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, decode_timestamp

VECTORS = Path(__file__).parents[2] / "vectors"
CAPTURED_NS = 1_642_167_730 * 10**9
UNSYNCHRONIZED = ErrorEstimate(False, TimestampFormat.NTP, 0, 1)
SYNCHRONIZED_PTP = ErrorEstimate(True, TimestampFormat.PTPV2, 2, 3)

SENDER = SenderPacket(
    sequence=0x01020304,
    timestamp=0x1112131415161718,
    error_estimate=SYNCHRONIZED_PTP,
    ssid=0xABCD,
)
SENDER_BYTES = bytes.fromhex("01020304 1112131415161718 c203 abcd") + bytes(28)

REFLECTOR = ReflectorPacket(
    sequence=5,
    timestamp=0x2122232425262728,
    error_estimate=UNSYNCHRONIZED,
    ssid=0xABCD,
    receive_timestamp=0x3132333435363738,
    sender_sequence=0x01020304,
    sender_timestamp=0x1112131415161718,
    sender_error_estimate=SYNCHRONIZED_PTP,
    sender_ttl=254,
)
REFLECTOR_BYTES = bytes.fromhex(
    "00000005 2122232425262728 0001 abcd 3132333435363738"
    "01020304 1112131415161718 c203 0000 fe 000000"
)


def captured(name: str) -> tuple[SegmentRoutingHeader, bytes]:
    """SRH and UDP payload of a one-frame capture.

    pcap file header 24, record header 16, Ethernet 14, IPv6 40, SRH, UDP 8.
    """
    frame = (VECTORS / name).read_bytes()[40:]
    header = SegmentRoutingHeader.decode(frame[54:])
    assert header.encode() == frame[54 : 54 + header.length]
    return header, frame[54 + header.length + 8 :]


def test_captured_sender_packet() -> None:
    header, payload = captured("stamp-srh-sender.pcap")
    packet = SenderPacket.decode(payload)
    assert packet == SenderPacket(
        sequence=2, timestamp=0xE58BFC31F60997FF, error_estimate=UNSYNCHRONIZED, ssid=1
    )
    assert packet.encode() == payload
    t1_ns = decode_timestamp(packet.timestamp, TimestampFormat.NTP, CAPTURED_NS)
    assert t1_ns == 1_642_167_729_961_083_889
    assert header == SegmentRoutingHeader(
        segments=(IPv6Address("fcfb:a:3:e::1"), IPv6Address("fc00::2")),
        segments_left=1,
        next_header=17,
    )


def test_captured_reflector_packet() -> None:
    header, payload = captured("stamp-srh-reflector.pcap")
    packet = ReflectorPacket.decode(payload)
    assert packet == ReflectorPacket(
        sequence=2,
        timestamp=0xE58BFC31FB91AFFF,
        error_estimate=UNSYNCHRONIZED,
        ssid=1,
        receive_timestamp=0xE58BFC31FB91AFFF,
        sender_sequence=2,
        sender_timestamp=0xE58BFC31F60997FF,
        sender_error_estimate=UNSYNCHRONIZED,
        sender_ttl=59,
    )
    assert packet.encode() == payload
    assert header.segments == (IPv6Address("fcfb:7:3:b::1"), IPv6Address("fc00::2"))


def test_sender_bytes() -> None:
    assert SENDER.encode() == SENDER_BYTES
    assert SenderPacket.decode(SENDER_BYTES) == SENDER
    assert SenderPacket.decode(memoryview(SENDER_BYTES)) == SENDER


def test_reflector_bytes() -> None:
    assert REFLECTOR.encode() == REFLECTOR_BYTES
    assert ReflectorPacket.decode(REFLECTOR_BYTES) == REFLECTOR
    assert ReflectorPacket.decode(memoryview(REFLECTOR_BYTES)) == REFLECTOR


def test_what_follows_is_kept() -> None:
    tail = bytes.fromhex("80010004 deadbeef")
    assert SenderPacket.decode(SENDER_BYTES + tail) == replace(SENDER, tlvs=tail)
    assert ReflectorPacket.decode(REFLECTOR_BYTES + tail) == replace(REFLECTOR, tlvs=tail)
    assert replace(SENDER, tlvs=tail).encode() == SENDER_BYTES + tail
    assert replace(REFLECTOR, tlvs=tail).encode() == REFLECTOR_BYTES + tail


def test_must_be_zero_is_ignored_when_received() -> None:
    assert SenderPacket.decode(SENDER_BYTES[:16] + b"\xff" * 28) == SENDER
    noisy = REFLECTOR_BYTES[:38] + b"\xff\xff\xfe\xff\xff\xff"
    assert ReflectorPacket.decode(noisy) == REFLECTOR


@pytest.mark.parametrize("length", [14, 15, 16, 41, 43])
def test_short_requests_are_read(length: int) -> None:
    packet = SenderPacket.decode(SENDER_BYTES[:length])
    ssid = {14: 0, 15: 0xAB00}.get(length, 0xABCD)
    assert packet == replace(SENDER, ssid=ssid)


@pytest.mark.parametrize("length", [0, 13])
def test_truncated_request(length: int) -> None:
    with pytest.raises(PacketError) as caught:
        SenderPacket.decode(SENDER_BYTES[:length])
    assert str(caught.value) == f"Session-Sender packet of {length} bytes is shorter than 14"
    assert caught.value.reason is DiscardReason.TRUNCATED


@pytest.mark.parametrize("length", [0, 14, 43])
def test_truncated_reply(length: int) -> None:
    with pytest.raises(PacketError) as caught:
        ReflectorPacket.decode(REFLECTOR_BYTES[:length])
    assert str(caught.value) == f"Session-Reflector packet of {length} bytes is shorter than 44"
    assert caught.value.reason is DiscardReason.TRUNCATED


def test_zero_multiplier_in_a_request() -> None:
    data = bytearray(SENDER_BYTES)
    data[13] = 0
    with pytest.raises(PacketError) as caught:
        SenderPacket.decode(bytes(data))
    assert str(caught.value) == "Session-Sender packet has an Error Estimate with Multiplier 0"
    assert caught.value.reason is DiscardReason.ZERO_MULTIPLIER


@pytest.mark.parametrize(
    ("offset", "where"), [(13, "Session-Reflector packet"), (37, "reflected Session-Sender part")]
)
def test_zero_multiplier_in_a_reply(offset: int, where: str) -> None:
    data = bytearray(REFLECTOR_BYTES)
    data[offset] = 0
    with pytest.raises(PacketError) as caught:
        ReflectorPacket.decode(bytes(data))
    assert str(caught.value) == f"{where} has an Error Estimate with Multiplier 0"
    assert caught.value.reason is DiscardReason.ZERO_MULTIPLIER


def test_fields_out_of_range_are_not_sent() -> None:
    with pytest.raises(ValueError, match=r"^Session-Sender packet has a field out of range: "):
        replace(SENDER, ssid=0x10000).encode()
    with pytest.raises(ValueError, match=r"^Session-Reflector packet has a field out of range: "):
        replace(REFLECTOR, sender_ttl=256).encode()
