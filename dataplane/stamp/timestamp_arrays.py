"""`encode_timestamp` and `decode_timestamp` for whole arrays, to the same nanosecond.

64 bits suffice for everything: a fraction of a second times 10**9 stays below
2**62, and so do 2**32 seconds in nanoseconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.stamp.timestamp import (
    ERA_NS,
    NS_PER_S,
    NTP_UNIX_OFFSET_S,
    TimestampFormat,
)

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

_SECOND = np.uint64(NS_PER_S)
_HALF_SECOND = np.uint64(NS_PER_S // 2)
_HALF_FRACTION = np.uint64(1 << 31)
_WORD_BITS = np.uint64(32)
_LOW_WORD = np.uint64(0xFFFFFFFF)


def encode_timestamps(unix_ns: Int64, fmt: TimestampFormat, tai_offset_s: int = 0) -> UInt64:
    """64-bit wire values; see `encode_timestamp`."""
    seconds, nanoseconds = np.divmod(unix_ns, NS_PER_S)
    if fmt is TimestampFormat.PTPV2:
        return (seconds + tai_offset_s).astype(np.uint64) << _WORD_BITS | nanoseconds.astype(
            np.uint64
        )
    fraction = ((nanoseconds.astype(np.uint64) << _WORD_BITS) + _HALF_SECOND) // _SECOND
    # A fraction that is rounded up to a whole second carries into the seconds.
    return ((seconds + NTP_UNIX_OFFSET_S).astype(np.uint64) << _WORD_BITS) + fraction


def decode_timestamps(
    values: UInt64, ptp: npt.NDArray[np.bool_], near_ns: Int64, tai_offset_s: int = 0
) -> Int64:
    """Nanoseconds since 1970 UTC; see `decode_timestamp`.

    `ptp` says which of the values are PTPv2; the others are NTP.
    """
    seconds, low = values >> _WORD_BITS, values & _LOW_WORD
    if ptp.all():
        in_era_ns = _ptp(seconds, low, tai_offset_s)
    else:
        in_era_ns = _ntp(seconds, low)
        if ptp.any():
            in_era_ns = np.where(ptp, _ptp(seconds, low, tai_offset_s), in_era_ns)
    apart_ns: Any = (in_era_ns - near_ns + ERA_NS // 2) % ERA_NS - ERA_NS // 2
    result: Int64 = near_ns + apart_ns
    return result


def _ntp(seconds: UInt64, fraction: UInt64) -> Int64:
    nanoseconds = fraction * _SECOND + _HALF_FRACTION >> _WORD_BITS
    return (seconds * _SECOND + nanoseconds).astype(np.int64) - NTP_UNIX_OFFSET_S * NS_PER_S


def _ptp(seconds: UInt64, nanoseconds: UInt64, tai_offset_s: int) -> Int64:
    whole: Int64 = (seconds.astype(np.int64) - tai_offset_s) * NS_PER_S
    return whole + nanoseconds.astype(np.int64)
