"""STAMP packets as Scapy layers (RFC 8762 §4.2.1, §4.3.1; SSID: RFC 8972 §3).

These stand in for `scapy.contrib.stamp` 2.8, whose field names they keep: its
PTPv2 timestamps are one 64-bit number of seconds, it takes what is sent between
two ports 862 for a Session-Sender's packet, and short input makes it raise
struct.error. Importing it would bind its layers to port 862.

Here no layer is bound to a port: with STAMP it is the role of the receiver that
says whether a packet is a request or a reply.

What follows the base packet stays `Raw`, except where a later layer takes its place:
TLVs through `guess_payload_class`, authenticated packets as layers of their own.
"""

from __future__ import annotations

from typing import Any, ClassVar

import dataplane.engines.scapy.quiet  # noqa: F401  isort: skip
from scapy.config import conf
from scapy.fields import (
    BitEnumField,
    BitField,
    ByteField,
    Field,
    IntField,
    LongField,
    ShortField,
    XStrFixedLenField,
)
from scapy.packet import Packet

from dataplane.clock import wall_ns
from dataplane.stamp.packet import OPEN, SENDER_MINIMUM
from dataplane.stamp.timestamp import NS_PER_S, TimestampFormat, decode_timestamp

_FORMATS = tuple(TimestampFormat)


class TimestampField(LongField):
    """A 64-bit timestamp as it is on the wire, shown as the time that it means.

    Its format is told by the Z bit of the Error Estimate that goes with it, the
    field named by `z`.
    """

    __slots__ = ("z",)

    def __init__(self, name: str, default: int, z: str) -> None:
        super().__init__(name, default)
        self.z = z

    def i2repr(self, pkt: Packet | None, x: int) -> str:
        """Unix time in seconds, in the era of today; PTPv2 is shown in TAI."""
        fmt = timestamp_format(0 if pkt is None else pkt.getfieldval(self.z))
        seconds, nanoseconds = divmod(decode_timestamp(x, fmt, wall_ns()), NS_PER_S)
        return f"{seconds}.{nanoseconds:09d} ({fmt.value})"


def error_estimate(suffix: str = "") -> list[Field[Any, Any]]:
    """Error Estimate (RFC 8762 §4.2.1): Multiplier * 2**(Scale - 32) seconds."""
    return [
        BitEnumField("S" + suffix, 0, 1, {0: "unsynchronized", 1: "synchronized"}),
        BitEnumField("Z" + suffix, 0, 1, {0: "NTP", 1: "PTPv2"}),
        BitField("scale" + suffix, 0, 6),
        ByteField("multiplier" + suffix, 1),
    ]


def timestamp_format(z: int) -> TimestampFormat:
    """What a Z bit says."""
    return TimestampFormat.PTPV2 if z else TimestampFormat.NTP


class SessionSenderTest(Packet):
    """What a Session-Sender transmits."""

    name = "STAMP Session-Sender Test"
    fields_desc: ClassVar = [
        IntField("seq", 0),
        TimestampField("ts", 0, z="Z"),
        *error_estimate(),
        ShortField("ssid", 1),
        XStrFixedLenField("mbz", b"", 28),
    ]

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *_args: Any, **_kargs: Any) -> type[Packet]:
        if _pkt is not None and len(_pkt) < SENDER_MINIMUM:
            return conf.raw_layer
        return cls

    def pre_dissect(self, s: bytes) -> bytes:
        """A short request reads as if zeros followed (RFC 8762 §4.6)."""
        return s.ljust(OPEN.length, b"\0")


class SessionReflectorTest(Packet):
    """What a Session-Reflector answers."""

    name = "STAMP Session-Reflector Test"
    fields_desc: ClassVar = [
        IntField("seq", 0),
        TimestampField("ts", 0, z="Z"),
        *error_estimate(),
        ShortField("ssid", 1),
        TimestampField("ts_rx", 0, z="Z"),
        IntField("seq_sender", 0),
        TimestampField("ts_sender", 0, z="Z_sender"),
        *error_estimate("_sender"),
        XStrFixedLenField("mbz1", b"", 2),
        ByteField("ttl_sender", 255),
        XStrFixedLenField("mbz2", b"", 3),
    ]

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *_args: Any, **_kargs: Any) -> type[Packet]:
        if _pkt is not None and len(_pkt) < OPEN.length:
            return conf.raw_layer
        return cls
