"""The clocks of this machine, and how far the kernel says they can be trusted.

CLOCK_REALTIME is what timestamps are taken from; CLOCK_MONOTONIC is what
packets are paced against. See adjtimex(2) and clock_gettime(2).

The kernel slews both alike, however fast: what they differ by changes when
CLOCK_REALTIME is set, at a leap second, and when the machine has slept. That is
a step, and at no other time is there one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat

wall_ns = time.time_ns
"""CLOCK_REALTIME in nanoseconds since 1970 UTC."""

monotonic_ns = time.monotonic_ns
"""CLOCK_MONOTONIC in nanoseconds; the same for all processes of a machine."""

REFRESH_NS = 1_000_000_000
"""How old a clock status may become before it is read again."""

STEP_NS = 10_000
"""No step is noticed that is smaller: two clocks cannot be read at the same moment."""

_READINGS = 100
"""After so many that took too long the next has to do."""

_CLOCK_REALTIME = 0
_TFD_CANCEL = 1 | 2
"""TFD_TIMER_ABSTIME and TFD_TIMER_CANCEL_ON_SET; timerfd_create(2)."""
_FAR_S = 1 << 33

_TIME_ERROR = 5
_STA_UNSYNC = 0x0040


class _Timeval(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_usec", ctypes.c_long))


class _Timex(ctypes.Structure):
    """struct timex; adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", _Timeval),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long),
        ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long),
        ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    )


_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class ClockStatus:
    """What the kernel knows about CLOCK_REALTIME."""

    synchronized: bool
    error_ns: int
    """Maximum error. Where nothing disciplines the clock the kernel lets it
    grow to 16 s, which is its way of saying that it does not know."""

    tai_offset_s: int
    """TAI minus UTC; 0 where nobody has told the kernel."""

    def error_estimate(self, fmt: TimestampFormat) -> ErrorEstimate:
        """As it is sent beside a timestamp (RFC 8762 §4.2.1)."""
        return ErrorEstimate.from_error_ns(self.error_ns, self.synchronized, fmt)


def read_clock_status() -> ClockStatus:
    """Ask the kernel. Raises OSError where adjtimex is forbidden."""
    timex = _Timex()
    state = _libc.adjtimex(ctypes.byref(timex))
    if state < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return ClockStatus(
        synchronized=state != _TIME_ERROR and not timex.status & _STA_UNSYNC,
        error_ns=timex.maxerror * 1_000,
        tai_offset_s=timex.tai,
    )


def read_unix_offset_ns() -> int:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC, to half of `STEP_NS`."""
    for _ in range(_READINGS):
        before_ns, unix_ns, after_ns = monotonic_ns(), wall_ns(), monotonic_ns()
        if after_ns - before_ns <= STEP_NS:
            break
    return unix_ns - (before_ns + after_ns) // 2


class Clock:
    """The clock status, read again once it is a second old; belongs to one thread."""

    def __init__(self) -> None:
        self._status = read_clock_status()
        self._read_ns = monotonic_ns()
        self.unix_offset_ns = read_unix_offset_ns()
        """CLOCK_REALTIME minus CLOCK_MONOTONIC."""
        self._estimates: dict[TimestampFormat, ErrorEstimate] = {}
        self._watchers: list[Callable[[], None]] = []

    def watch(self, broken: Callable[[], None]) -> None:
        """Have it called when timestamps of before are not to be compared with those that
        follow: there was a step, or the TAI offset is another one."""
        self._watchers.append(broken)

    @property
    def status(self) -> ClockStatus:
        return self._status

    def refresh(self, now_ns: int) -> None:
        """Read the status again if it is due; `now_ns` is monotonic."""
        if now_ns - self._read_ns >= REFRESH_NS:
            self._read(now_ns)

    def look(self, now_ns: int, unix_ns: int) -> None:
        """To be called before timestamps that have just come are compared with earlier ones,
        with both clocks as they were read afterwards, one after the other: if there was a
        step, it is told before this returns."""
        if abs(unix_ns - now_ns - self.unix_offset_ns) > STEP_NS:
            self._read(now_ns)

    def _read(self, now_ns: int) -> None:
        self._read_ns = now_ns
        before, self._status = self._status, read_clock_status()
        self._estimates.clear()
        offset_ns = read_unix_offset_ns()
        stepped = abs(offset_ns - self.unix_offset_ns) > STEP_NS
        if stepped:
            self.unix_offset_ns = offset_ns
        if stepped or self._status.tai_offset_s != before.tai_offset_s:
            for broken in self._watchers:
                broken()

    def error_estimate(self, fmt: TimestampFormat) -> ErrorEstimate:
        estimate = self._estimates.get(fmt)
        if estimate is None:
            estimate = self._estimates[fmt] = self._status.error_estimate(fmt)
        return estimate


class StepAlarm:
    """A descriptor that is ready to be read once there was a step."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._fd: int = _libc.timerfd_create(_CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
        # struct itimerspec: no interval, and a time that never comes.
        spec = (ctypes.c_long * 4)(0, 0, _FAR_S, 0)
        if self._fd < 0 or _libc.timerfd_settime(self._fd, _TFD_CANCEL, spec, None):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def fileno(self) -> int:
        return self._fd

    def rung(self) -> bool:
        """Whether there was a step since the last call."""
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise
        return True

    def close(self) -> None:
        os.close(self._fd)
