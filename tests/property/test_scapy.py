"""The layers of the scapy engine say what the codec says, and nothing sniffed breaks it."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from dataplane.engines.scapy.delivery import deliver
from dataplane.engines.scapy.kernel import Fate
from dataplane.engines.scapy.layers import SessionReflectorTest, SessionSenderTest
from dataplane.engines.scapy.sniffing import Sniffed, SniffedIPv4, SniffedIPv6, dissect
from dataplane.engines.scapy.transmission import datagram, over_ip, over_srv6, restamp
from dataplane.srv6 import rthdr_for_socket
from dataplane.stamp.packet import OPEN, SENDER_MINIMUM, ReflectorPacket, SenderPacket
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat
from tests.property.test_codec import addresses, reflector_packets, sender_packets, u64

SOURCE, DESTINATION = "fd00::1", "fd00::2"
ANY, ANY_OLD = IPv6Address("::"), IPv4Address("0.0.0.0")


def estimate(test: Packet, suffix: str = "") -> ErrorEstimate:
    return ErrorEstimate(
        synchronized=bool(test.getfieldval("S" + suffix)),
        fmt=TimestampFormat.PTPV2 if test.getfieldval("Z" + suffix) else TimestampFormat.NTP,
        scale=test.getfieldval("scale" + suffix),
        multiplier=test.getfieldval("multiplier" + suffix),
    )


def rebuilt(test: Packet) -> bytes:
    """Built from its fields, not from the bytes that it was dissected from."""
    fresh = type(test)(**test.fields)
    return bytes(fresh / Raw(bytes(test.payload)))


@given(sender_packets)
def test_requests_are_the_same_fields_and_bytes(packet: SenderPacket) -> None:
    wire = packet.encode()
    test = SessionSenderTest(wire)
    assert (test.seq, test.ts, estimate(test), test.ssid, bytes(test.payload)) == (
        packet.sequence,
        packet.timestamp,
        packet.error_estimate,
        packet.ssid,
        packet.tlvs,
    )
    assert bytes(test) == rebuilt(test) == wire


@given(reflector_packets)
def test_replies_are_the_same_fields_and_bytes(packet: ReflectorPacket) -> None:
    wire = packet.encode()
    test = SessionReflectorTest(wire)
    assert (test.seq, test.ts, estimate(test), test.ssid) == (
        packet.sequence,
        packet.timestamp,
        packet.error_estimate,
        packet.ssid,
    )
    assert (test.ts_rx, test.seq_sender, test.ts_sender, test.ttl_sender) == (
        packet.receive_timestamp,
        packet.sender_sequence,
        packet.sender_timestamp,
        packet.sender_ttl,
    )
    assert estimate(test, "_sender") == packet.sender_error_estimate
    assert bytes(test.payload) == packet.tlvs
    assert bytes(test) == rebuilt(test) == wire


@given(st.binary(max_size=OPEN.length + 20))
def test_any_input_is_a_request_or_raw(data: bytes) -> None:
    test = SessionSenderTest(data)
    if len(data) < SENDER_MINIMUM:
        assert isinstance(test, Raw)
    else:
        assert bytes(test)[: OPEN.length] == data.ljust(OPEN.length, b"\0")[: OPEN.length]
    assert isinstance(SessionReflectorTest(data), Raw) == (len(data) < OPEN.length)


@given(
    reflector_packets.map(ReflectorPacket.encode),
    u64,
    st.lists(addresses, max_size=4),
)
def test_the_checksum_follows_a_new_timestamp(
    payload: bytes, timestamp: int, segments: list[IPv6Address]
) -> None:
    rthdr = rthdr_for_socket([*segments, IPv6Address(DESTINATION)])
    packet = datagram(
        over_srv6(SOURCE, DESTINATION, rthdr, 0, 255), 862, 49862, SessionReflectorTest(payload)
    )
    wire = bytearray(bytes(packet))
    restamp(wire, len(payload), timestamp)
    there = IPv6(bytes(wire))
    udp = there[UDP]
    assert udp.original[8:] == payload[:4] + timestamp.to_bytes(8, "big") + payload[12:]
    assert in6_chksum(socket.IPPROTO_UDP, udp, udp.original) == 0
    assert udp.chksum != 0


class AnyKernel:
    """One for which everything is local, and every SID decapsulates."""

    def fate(self, address: str, _interface: str) -> Fate:
        if address.startswith("fc00::4"):
            return Fate.DECAPSULATED_IPV4
        return Fate.DECAPSULATED if address.startswith("fc") else Fate.LOCAL

    def fate_from(self, _source: str, _address: str, _interface: str) -> Fate:
        return Fate.LOCAL

    def accepts_srh(self, _interface: str) -> bool:
        return True


def sniffed(data: bytes, layer: type[Sniffed] = SniffedIPv6) -> Sniffed | None:
    packet = dissect(data, layer)
    if packet is None:
        return None
    packet.kind, packet.interface, packet.checksum_trusted = socket.PACKET_HOST, "va", False
    return packet


WHOLE = bytes(
    IPv6(src=SOURCE, dst="fc00::1")
    / IPv6(src=SOURCE, dst=DESTINATION)
    / UDP(sport=49862, dport=862)
    / SessionSenderTest()
)


@given(
    st.integers(0, len(WHOLE)),
    st.dictionaries(st.integers(0, len(WHOLE) - 1), st.integers(0, 255), max_size=6),
)
@example(len(WHOLE), {})
def test_what_is_delivered_is_whole(length: int, changes: dict[int, int]) -> None:
    data = bytearray(WHOLE)
    for at, value in changes.items():
        data[at] = value
    packet = sniffed(bytes(data[:length]))
    delivered = None if packet is None else deliver(packet, ANY, 862, AnyKernel())
    if bytes(data[:length]) == WHOLE:
        assert delivered is not None
    if delivered is not None:
        udp = delivered.udp
        assert udp.dport == 862
        assert len(delivered.payload) == udp.len - 8
        assert in6_chksum(socket.IPPROTO_UDP, udp, udp.original[: udp.len]) == 0


@given(reflector_packets.map(ReflectorPacket.encode), u64)
def test_the_checksums_of_ipv4(payload: bytes, timestamp: int) -> None:
    below = over_ip("192.0.2.1", "192.0.2.2", b"", 0xB8, 255)
    packet = datagram(below, 862, 49862, SessionReflectorTest(payload))
    wire = bytearray(bytes(packet))
    restamp(wire, len(payload), timestamp)
    there = IP(bytes(wire))
    udp = there[UDP]
    assert (there.tos, there.ttl, str(there.flags), there.len) == (0xB8, 255, "DF", len(wire))
    assert checksum(bytes(wire[:20])) == 0
    assert udp.original[8:] == payload[:4] + timestamp.to_bytes(8, "big") + payload[12:]
    assert in4_chksum(socket.IPPROTO_UDP, there, udp.original) == 0
    assert udp.chksum != 0


OLD = IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=49862, dport=862) / SessionSenderTest()
OLD_WHOLE = {SniffedIPv4: bytes(OLD), SniffedIPv6: bytes(IPv6(src=SOURCE, dst="fc00::4") / OLD)}


@given(
    st.sampled_from(sorted(OLD_WHOLE, key=str)),
    st.integers(0, max(map(len, OLD_WHOLE.values()))),
    st.dictionaries(st.integers(0, len(bytes(OLD)) - 1), st.integers(0, 255), max_size=6),
)
@example(SniffedIPv4, 1_000, {})
@example(SniffedIPv6, 1_000, {})
def test_what_is_delivered_of_ipv4_is_whole(
    layer: type[Sniffed], length: int, changes: dict[int, int]
) -> None:
    data = bytearray(OLD_WHOLE[layer])
    for at, value in changes.items():
        data[at] = value
    packet = sniffed(bytes(data[:length]), layer)
    delivered = None if packet is None else deliver(packet, ANY_OLD, 862, AnyKernel())
    if bytes(data[:length]) == OLD_WHOLE[layer]:
        assert delivered is not None
    if delivered is not None:
        ip, udp = delivered.ip, delivered.udp
        assert isinstance(ip, IP)
        assert (ip.version, udp.dport, ip.frag, ip.flags.MF) == (4, 862, 0, False)
        assert checksum(bytes(ip.original[: 4 * ip.ihl])) == 0
        assert len(delivered.payload) == udp.len - 8
        unsummed = udp.chksum == 0
        assert unsummed or in4_chksum(socket.IPPROTO_UDP, ip, udp.original[: udp.len]) == 0
