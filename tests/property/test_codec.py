"""What holds for every timestamp, packet and header."""

from __future__ import annotations

from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from dataplane.srv6 import SegmentRoutingHeader, SrhError
from dataplane.stamp.errors import PacketError
from dataplane.stamp.packet import ReflectorPacket, SenderPacket
from dataplane.stamp.timestamp import (
    ERA_NS,
    NS_PER_S,
    ErrorEstimate,
    TimestampFormat,
    decode_timestamp,
    encode_timestamp,
)

NTP_ROLLOVER_NS = 2_085_978_496 * NS_PER_S
"""2036-02-07T06:28:16Z."""
PTP_ROLLOVER_NS = ERA_NS
"""2106-02-07T06:28:16, TAI."""

formats = st.sampled_from(TimestampFormat)
times_ns = st.one_of(
    st.integers(-3 * ERA_NS, 3 * ERA_NS),
    st.integers(-2 * NS_PER_S, 2 * NS_PER_S).map(lambda ns: NTP_ROLLOVER_NS + ns),
    st.integers(-40 * NS_PER_S, 2 * NS_PER_S).map(lambda ns: PTP_ROLLOVER_NS + ns),
)
estimates = st.builds(
    ErrorEstimate, st.booleans(), formats, st.integers(0, 63), st.integers(1, 255)
)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
u64 = st.integers(0, 0xFFFFFFFFFFFFFFFF)
tails = st.binary(max_size=64)
addresses = st.integers(0, (1 << 128) - 1).map(IPv6Address)

sender_packets = st.builds(SenderPacket, u32, u64, estimates, u16, tails)
reflector_packets = st.builds(
    ReflectorPacket, u32, u64, estimates, u16, u64, u32, u64, estimates, st.integers(0, 255), tails
)


@st.composite
def headers(draw: st.DrawFn) -> SegmentRoutingHeader:
    segments = tuple(draw(st.lists(addresses, min_size=1, max_size=12)))
    return SegmentRoutingHeader(
        segments=segments,
        segments_left=draw(st.integers(0, len(segments))),
        next_header=draw(st.integers(0, 255)),
        flags=draw(st.integers(0, 255)),
        tag=draw(u16),
        tlvs=draw(st.integers(0, 4).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n))),
    )


@given(times_ns, formats, st.integers(-ERA_NS // 2 + 1, ERA_NS // 2), st.integers(0, 60))
def test_every_nanosecond_survives(
    time_ns: int, fmt: TimestampFormat, distance_ns: int, tai_offset_s: int
) -> None:
    value = encode_timestamp(time_ns, fmt, tai_offset_s)
    assert 0 <= value < 1 << 64
    assert decode_timestamp(value, fmt, time_ns + distance_ns, tai_offset_s) == time_ns


@given(times_ns, st.integers(0, 10**12))
def test_ntp_values_keep_the_order_of_times_within_an_era(time_ns: int, later_ns: int) -> None:
    first = encode_timestamp(time_ns, TimestampFormat.NTP)
    second = encode_timestamp(time_ns + later_ns, TimestampFormat.NTP)
    forward = (second - first) % (1 << 64)
    assert abs(forward * NS_PER_S - (later_ns << 32)) <= NS_PER_S


@given(u64, formats, times_ns)
def test_any_wire_value_decodes_near_the_reference(
    value: int, fmt: TimestampFormat, near_ns: int
) -> None:
    assert abs(decode_timestamp(value, fmt, near_ns) - near_ns) <= ERA_NS // 2


@given(u16)
def test_every_error_estimate_survives(value: int) -> None:
    estimate = ErrorEstimate.decode(value)
    if estimate.multiplier:
        assert estimate.encode() == value


@given(st.one_of(st.integers(0, 10**6), st.integers(0, 5 * 10**20)), st.booleans(), formats)
def test_the_smallest_sufficient_error_is_chosen(
    error_ns: int, synchronized: bool, fmt: TimestampFormat
) -> None:
    def units(scale: int, multiplier: int) -> int:
        return multiplier << scale

    chosen = ErrorEstimate.from_error_ns(error_ns, synchronized, fmt)
    assert (chosen.synchronized, chosen.fmt) == (synchronized, fmt)
    wanted = error_ns << 32
    sufficient = (
        units(scale, multiplier)
        for scale in range(64)
        for multiplier in (1, max(1, -(-wanted // (NS_PER_S << scale))))
        if multiplier <= 255 and units(scale, multiplier) * NS_PER_S >= wanted
    )
    assert units(chosen.scale, chosen.multiplier) == min(sufficient)


@given(sender_packets)
def test_sender_packets_survive(packet: SenderPacket) -> None:
    assert SenderPacket.decode(packet.encode()) == packet


@given(reflector_packets)
def test_reflector_packets_survive(packet: ReflectorPacket) -> None:
    assert ReflectorPacket.decode(packet.encode()) == packet


@given(st.binary(max_size=120))
def test_a_request_decodes_or_raises_packet_error(data: bytes) -> None:
    try:
        packet = SenderPacket.decode(data)
    except PacketError:
        return
    assert packet.encode()[:14] == data[:14]


@given(st.binary(max_size=120))
def test_a_reply_decodes_or_raises_packet_error(data: bytes) -> None:
    try:
        packet = ReflectorPacket.decode(data)
    except PacketError:
        return
    encoded = packet.encode()
    assert (encoded[:38], encoded[40], encoded[44:]) == (data[:38], data[40], data[44:])


@given(headers(), st.binary(max_size=16))
def test_headers_survive(header: SegmentRoutingHeader, payload: bytes) -> None:
    encoded = header.encode()
    assert len(encoded) == header.length
    assert SegmentRoutingHeader.decode(encoded + payload) == header


@given(
    st.one_of(
        st.binary(max_size=80),
        st.tuples(st.binary(min_size=2, max_size=2), st.binary(max_size=200)).map(
            lambda parts: parts[0][:1] + bytes([parts[0][1] % 8, 4]) + parts[1]
        ),
    )
)
def test_a_header_decodes_or_raises_srh_error(data: bytes) -> None:
    try:
        header = SegmentRoutingHeader.decode(data)
    except SrhError:
        return
    assert header.encode() == data[: header.length]
