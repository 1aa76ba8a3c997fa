"""STAMP base packets: fields to bytes and back.

Rules that hold here:

- A field that must be zero is zero when sent and ignored when received.
- Timestamps stay raw 64-bit wire values: only the receiver knows the era.
- What follows the base packet (TLVs, TWAMP padding) is carried as it came.
- ``decode`` returns a packet or raises ``PacketError``, never anything else.
- ``encode`` raises ``ValueError`` for a field that does not fit.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dataplane.stamp.errors import DiscardReason, PacketError
from dataplane.stamp.timestamp import ErrorEstimate

SENDER_MINIMUM = 14
"""Bytes of the shortest request: a TWAMP-Light one without padding (RFC 8762 §4.6)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the fields of one mode's base packets stand."""

    length: int
    """Bytes of either base packet; TLVs start here."""

    sender: struct.Struct
    """Sequence Number, Timestamp, Error Estimate, SSID."""

    reflector: struct.Struct
    """As the sender's, then Receive Timestamp and the Session-Sender's
    Sequence Number, Timestamp, Error Estimate and TTL."""


OPEN = Layout(
    length=44,
    sender=struct.Struct("!IQHH28x"),
    reflector=struct.Struct("!IQHHQIQH2xB3x"),
)
"""Unauthenticated mode (RFC 8762 §4.2.1, §4.3.1, with the SSID of RFC 8972 §3)."""


@dataclass(frozen=True, slots=True)
class SenderPacket:
    """What a Session-Sender transmits."""

    sequence: int
    """32 bits."""

    timestamp: int
    """T1, as a 64-bit wire value in the format that ``error_estimate`` names."""

    error_estimate: ErrorEstimate
    ssid: int = 0
    """16 bits; 0 from a peer without RFC 8972."""

    tlvs: bytes = b""
    """Everything after the base packet."""

    def encode(self) -> bytes:
        error = self.error_estimate.encode()
        try:
            base = OPEN.sender.pack(self.sequence, self.timestamp, error, self.ssid)
        except struct.error as cause:
            raise ValueError(f"Session-Sender packet has a field out of range: {cause}") from None
        return base + self.tlvs

    @classmethod
    def decode(cls, data: bytes | memoryview) -> SenderPacket:
        """Read a UDP payload; one shorter than the base packet reads as if zeros followed."""
        length = len(data)
        if length < SENDER_MINIMUM:
            raise PacketError(
                f"Session-Sender packet of {length} bytes is shorter than {SENDER_MINIMUM}",
                DiscardReason.TRUNCATED,
            )
        base = data if length >= OPEN.length else bytes(data).ljust(OPEN.length, b"\0")
        sequence, timestamp, error, ssid = OPEN.sender.unpack_from(base)
        return cls(
            sequence=sequence,
            timestamp=timestamp,
            error_estimate=_error_estimate(error, "Session-Sender packet"),
            ssid=ssid,
            tlvs=bytes(data[OPEN.length :]),
        )


@dataclass(frozen=True, slots=True)
class ReflectorPacket:
    """What a Session-Reflector answers."""

    sequence: int
    """32 bits: the Session-Sender's (stateless) or the session's own counter (stateful)."""

    timestamp: int
    """T3, as a 64-bit wire value in the format that ``error_estimate`` names."""

    error_estimate: ErrorEstimate
    ssid: int
    receive_timestamp: int
    """T2, in the format of T3."""

    sender_sequence: int
    sender_timestamp: int
    """T1, in the format that ``sender_error_estimate`` names."""

    sender_error_estimate: ErrorEstimate
    sender_ttl: int
    """TTL or Hop Limit with which the request arrived."""

    tlvs: bytes = b""
    """Everything after the base packet."""

    def encode(self) -> bytes:
        error = self.error_estimate.encode()
        sender_error = self.sender_error_estimate.encode()
        try:
            base = OPEN.reflector.pack(
                self.sequence,
                self.timestamp,
                error,
                self.ssid,
                self.receive_timestamp,
                self.sender_sequence,
                self.sender_timestamp,
                sender_error,
                self.sender_ttl,
            )
        except struct.error as cause:
            raise ValueError(
                f"Session-Reflector packet has a field out of range: {cause}"
            ) from None
        return base + self.tlvs

    @classmethod
    def decode(cls, data: bytes | memoryview) -> ReflectorPacket:
        """Read a UDP payload of at least the base packet's length."""
        if len(data) < OPEN.length:
            raise PacketError(
                f"Session-Reflector packet of {len(data)} bytes is shorter than {OPEN.length}",
                DiscardReason.TRUNCATED,
            )
        (
            sequence,
            timestamp,
            error,
            ssid,
            receive_timestamp,
            sender_sequence,
            sender_timestamp,
            sender_error,
            sender_ttl,
        ) = OPEN.reflector.unpack_from(data)
        return cls(
            sequence=sequence,
            timestamp=timestamp,
            error_estimate=_error_estimate(error, "Session-Reflector packet"),
            ssid=ssid,
            receive_timestamp=receive_timestamp,
            sender_sequence=sender_sequence,
            sender_timestamp=sender_timestamp,
            sender_error_estimate=_error_estimate(sender_error, "reflected Session-Sender part"),
            sender_ttl=sender_ttl,
            tlvs=bytes(data[OPEN.length :]),
        )


def _error_estimate(value: int, where: str) -> ErrorEstimate:
    estimate = ErrorEstimate.decode(value)
    if estimate.multiplier == 0:
        raise PacketError(
            f"{where} has an Error Estimate with Multiplier 0", DiscardReason.ZERO_MULTIPLIER
        )
    return estimate
