"""Letting the kernel's threads go first on a core that is shared with them.

Where an interface's packets are received by a thread of the kernel (threaded NAPI), and
that thread has the core of the one that works on the packets, the ring between them and
the wire overflows while the latter runs: 256 packets, on a veth, are less than a
millisecond. The scheduler lets a thread that wakes up go first if the time slice that
it asks for is shorter than that of the thread that runs (EEVDF, sched(7), since Linux
6.12). So whoever works on a flood of packets asks for a long one. It runs no less for
that, only later; who has a schedule to keep does not want it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

PATIENT_NS = 6_000_000
"""A slice several times as long as the kernel's own, of some milliseconds at most."""

_SETATTR = {"x86_64": 314, "aarch64": 274}.get(platform.machine())
"""The system call: the C library has no function for it before glibc 2.41."""

_ATTRIBUTES = struct.Struct("=IIQiIQQQII")
"""struct sched_attr: size, policy, flags, nice, priority, runtime (here: slice), deadline,
period, two clamps."""

_libc = ctypes.CDLL(None, use_errno=True)


def ask_for_slice(slice_ns: int) -> bool:
    """Have the calling thread scheduled in slices of this length; 0: the kernel's own.

    Returns whether the kernel took that, which before Linux 6.12 means nothing. A thread
    that somebody gave another policy than SCHED_OTHER is left alone.
    """
    if _SETATTR is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, slice_ns, 0, 0, 0, 0)
    return bool(_libc.syscall(_SETATTR, 0, wanted, 0) == 0)
