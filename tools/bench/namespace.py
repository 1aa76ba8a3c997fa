"""Threads and kernel threads in their places: network namespaces and processor cores."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


NICE = -20
"""Of everything that takes part in a bench, alike: what else runs on the machine waits."""


def set_nice(pid: int) -> None:
    """Give a process or thread the bench's priority, where that is permitted."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread, and what it starts meanwhile, is in a named network namespace.

    Raises OSError where there is no such namespace.
    """
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def napi_threads() -> dict[int, str]:
    """Kernel threads that serve interfaces: process id to name."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                name = (entry / "comm").read_text().strip()
                if name.startswith("napi/"):
                    found[int(entry.name)] = name
    return found
