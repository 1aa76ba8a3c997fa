"""64-bit wire timestamps and the Error Estimate, in exact integer arithmetic.

A wire timestamp says neither its format (the Z bit of the Error Estimate beside
it does) nor its era (both formats wrap every 2**32 seconds), so decoding takes
both as arguments.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

NS_PER_S = 1_000_000_000

NTP_UNIX_OFFSET_S = 2_208_988_800
"""Seconds from 1900-01-01 to 1970-01-01 (RFC 5905 §6)."""

ERA_NS = NS_PER_S << 32
"""Both formats wrap after this many nanoseconds."""

_WORD = (1 << 64) - 1
_SECONDS = (1 << 32) - 1
_HALF_NS = NS_PER_S // 2
_HALF_FRACTION = 1 << 31


class TimestampFormat(enum.Enum):
    """How a timestamp is written (RFC 8762 §4.2.1)."""

    NTP = "ntp"
    """Seconds since 1900 UTC and a fraction in units of 2**-32 s (RFC 5905 §6)."""

    PTPV2 = "ptpv2"
    """Seconds since 1970 TAI and nanoseconds, 32 bits each (RFC 8877 §4.3)."""


def encode_timestamp(unix_ns: int, fmt: TimestampFormat, tai_offset_s: int = 0) -> int:
    """Write a time as the 64-bit wire value.

    ``unix_ns`` is UTC since 1970; ``tai_offset_s`` is TAI minus UTC and counts
    for PTPv2 alone. The NTP fraction is rounded to the nearest, so that
    ``decode_timestamp`` gives back the same nanosecond.
    """
    if fmt is TimestampFormat.NTP:
        ntp_ns = unix_ns + NTP_UNIX_OFFSET_S * NS_PER_S
        return ((ntp_ns << 32) + _HALF_NS) // NS_PER_S & _WORD
    seconds, nanoseconds = divmod(unix_ns, NS_PER_S)
    return (seconds + tai_offset_s & _SECONDS) << 32 | nanoseconds


def decode_timestamp(value: int, fmt: TimestampFormat, near_ns: int, tai_offset_s: int = 0) -> int:
    """Read a 64-bit wire value as nanoseconds since 1970 UTC.

    Of all eras, the one that puts the result nearest to ``near_ns`` is taken,
    which is right wherever the two are less than 68 years apart.
    """
    if fmt is TimestampFormat.NTP:
        in_era_ns = (value * NS_PER_S + _HALF_FRACTION >> 32) - NTP_UNIX_OFFSET_S * NS_PER_S
    else:
        in_era_ns = ((value >> 32) - tai_offset_s) * NS_PER_S + (value & _SECONDS)
    difference_ns = (in_era_ns - near_ns + ERA_NS // 2) % ERA_NS - ERA_NS // 2
    return near_ns + difference_ns


@dataclass(frozen=True, slots=True)
class ErrorEstimate:
    """How far a timestamp may be off (RFC 4656 §4.1.2, RFC 8762 §4.2.1).

    16 bits: S, Z, Scale (6), Multiplier (8). The error is
    ``multiplier * 2**(scale - 32)`` seconds.
    """

    synchronized: bool
    """S: the clock is synchronised to UTC by an external source."""

    fmt: TimestampFormat
    """Z: the format of the timestamps that this estimate stands beside."""

    scale: int
    """0..63."""

    multiplier: int
    """1..255. A decoded 0 is kept, for the receiver to discard the packet."""

    def encode(self) -> int:
        """The 16-bit wire value; ValueError where a field cannot be sent."""
        if not 1 <= self.multiplier <= 0xFF:
            raise ValueError(f"Error Estimate multiplier {self.multiplier} is not within 1..255")
        if not 0 <= self.scale <= 0x3F:
            raise ValueError(f"Error Estimate scale {self.scale} is not within 0..63")
        return (
            (0x8000 if self.synchronized else 0)
            | (0x4000 if self.fmt is TimestampFormat.PTPV2 else 0)
            | self.scale << 8
            | self.multiplier
        )

    @classmethod
    def decode(cls, value: int) -> ErrorEstimate:
        """Read any 16-bit value; a Multiplier of 0 is for the caller to judge."""
        return cls(
            synchronized=bool(value & 0x8000),
            fmt=TimestampFormat.PTPV2 if value & 0x4000 else TimestampFormat.NTP,
            scale=value >> 8 & 0x3F,
            multiplier=value & 0xFF,
        )

    @property
    def error_ns(self) -> int:
        """The error in nanoseconds, rounded up."""
        return -(-(self.multiplier * NS_PER_S << self.scale) >> 32)

    @classmethod
    def from_error_ns(
        cls, error_ns: int, synchronized: bool, fmt: TimestampFormat
    ) -> ErrorEstimate:
        """The smallest estimate that is not below ``error_ns``.

        ValueError where it is negative or beyond the largest (some 17 000 years).
        """
        if error_ns < 0:
            raise ValueError(f"clock error {error_ns} ns is negative")
        units = max(1, -(-(error_ns << 32) // NS_PER_S))
        scale = max(0, units.bit_length() - 8)
        multiplier = -(-units >> scale)
        if multiplier > 0xFF:
            scale, multiplier = scale + 1, multiplier >> 1
        if scale > 0x3F:
            raise ValueError(f"clock error {error_ns} ns is beyond what an Error Estimate can say")
        return cls(synchronized, fmt, scale, multiplier)

    def in_format(self, fmt: TimestampFormat) -> ErrorEstimate:
        """The same error beside timestamps of another format."""
        if fmt is self.fmt:
            return self
        return ErrorEstimate(self.synchronized, fmt, self.scale, self.multiplier)
