"""The frames of the bench, byte by byte: data, Session-Sender and Session-Reflector packets."""

from __future__ import annotations

import enum
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address

from dataplane.config import SENDER_PORT, STAMP_PORT
from dataplane.srv6 import SegmentRoutingHeader
from dataplane.stamp.packet import ReflectorPacket, SenderPacket
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat

ETHERNET = 14
ETHERTYPE_IPV6 = 0x86DD
NEXT_HEADER_UDP = 17
NEXT_HEADER_ROUTING = 43
HOP_LIMIT = 64

GENERATOR_MAC = bytes.fromhex("02000000aa01")
SYSTEM_MAC = bytes.fromhex("02000000bb01")

_CHECKSUM_AT = 6
_ERROR = ErrorEstimate(synchronized=False, fmt=TimestampFormat.NTP, scale=0, multiplier=1)


class Kind(enum.Enum):
    """What a frame is for."""

    DATA = "data"
    """To be encapsulated and forwarded."""

    REQUEST = "request"
    """A Session-Sender's packet, to be reflected."""

    REPLY = "reply"
    """A Session-Reflector's packet, to be collected."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame whose variable fields (sequence number, timestamps, SSID) are zero."""

    kind: Kind
    data: bytes
    """The whole frame; its UDP checksum is right for zeros in the variable fields."""

    udp_at: int
    """Offset of the UDP header."""

    @property
    def checksum_sum(self) -> int:
        """What the UDP checksum is the complement of: a sum of 16-bit words in the
        order of this machine, folded."""
        at = self.udp_at + _CHECKSUM_AT
        return ~int.from_bytes(self.data[at : at + 2], sys.byteorder) & 0xFFFF


def data_frame(source: IPv6Address, destination: IPv6Address, payload: int) -> Frame:
    """A customer's UDP packet with `payload` bytes of UDP payload."""
    return _frame(Kind.DATA, source, destination, (), 5_000, 5_001, bytes(payload))


def request_frame(
    sender: IPv6Address, reflector: IPv6Address, segments: Sequence[IPv6Address]
) -> Frame:
    """A request that has visited all of `segments`; the last is the reflector. None: no SRH."""
    packet = SenderPacket(sequence=0, timestamp=0, error_estimate=_ERROR)
    return _frame(
        *(Kind.REQUEST, sender, reflector, segments, SENDER_PORT, STAMP_PORT), packet.encode()
    )


def reply_frame(
    reflector: IPv6Address, sender: IPv6Address, segments: Sequence[IPv6Address]
) -> Frame:
    """A reply that has visited all of `segments`; the last is the sender. None: no SRH."""
    packet = ReflectorPacket(
        sequence=0,
        timestamp=0,
        error_estimate=_ERROR,
        ssid=0,
        receive_timestamp=0,
        sender_sequence=0,
        sender_timestamp=0,
        sender_error_estimate=_ERROR,
        sender_ttl=HOP_LIMIT,
    )
    return _frame(
        *(Kind.REPLY, reflector, sender, segments, STAMP_PORT, SENDER_PORT), packet.encode()
    )


def _frame(
    kind: Kind,
    source: IPv6Address,
    destination: IPv6Address,
    segments: Sequence[IPv6Address],
    source_port: int,
    destination_port: int,
    payload: bytes,
) -> Frame:
    udp = _udp(source, destination, source_port, destination_port, payload)
    routing = b""
    next_header = NEXT_HEADER_UDP
    if segments:
        routing = SegmentRoutingHeader(
            segments=tuple(segments), segments_left=0, next_header=NEXT_HEADER_UDP
        ).encode()
        next_header = NEXT_HEADER_ROUTING
    ip = struct.pack(
        "!IHBB16s16s",
        6 << 28,
        len(routing) + len(udp),
        next_header,
        HOP_LIMIT,
        source.packed,
        destination.packed,
    )
    ethernet = SYSTEM_MAC + GENERATOR_MAC + struct.pack("!H", ETHERTYPE_IPV6)
    head = ethernet + ip + routing
    return Frame(kind, head + udp, len(head))


def _udp(
    source: IPv6Address,
    destination: IPv6Address,
    source_port: int,
    destination_port: int,
    payload: bytes,
) -> bytes:
    length = 8 + len(payload)
    head = struct.pack("!HHHH", source_port, destination_port, length, 0)
    pseudo = source.packed + destination.packed + struct.pack("!IHBB", length, 0, 0, 17)
    check = ~_folded_sum(pseudo + head + payload) & 0xFFFF
    return head[:_CHECKSUM_AT] + struct.pack("!H", check or 0xFFFF) + payload


def _folded_sum(data: bytes) -> int:
    """The one's-complement sum of RFC 1071, in network order."""
    padded = data + bytes(len(data) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
