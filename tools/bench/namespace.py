"""Threads and kernel threads in their places: network namespaces and processor cores."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path

from dataplane.clock import monotonic_ns
from tools.bench.errors import BenchError
from tools.lab.kernel import in_namespace, run

NAPI_TIMEOUT_S = 5.0

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


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """This thread, and what it starts meanwhile, is in a network namespace of its own,
    where nothing is set or routed. Raises OSError."""
    with open("/proc/thread-self/ns/net") as home:
        if _libc.unshare(_CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """This thread, and what it starts meanwhile, is on one processor core.

    Raises BenchError where there is no such core.
    """
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:
        raise BenchError(f"processor core {core} cannot be used: {error.strerror}") from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def place_process(pid: int, core: int) -> None:
    """Have all threads of a process, and those to come, on `core` with the bench's priority.

    Raises OSError.
    """
    for entry in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end meanwhile.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(entry.name), {core})
            set_nice(int(entry.name))


def place_napi(namespace: str, device: str, core: int, priority: int = 0) -> list[int]:
    """Have a kernel thread of its own serve an interface, on `core`; its process id.

    `priority` is of SCHED_FIFO, 0 for the bench's ordinary one. Raises BenchError where
    no thread appears: the interface has no NAPI.
    """
    before = napi_threads()
    script = f"echo 1 > /sys/class/net/{device}/threaded"
    run(in_namespace(namespace, ["sh", "-c", script]))
    deadline_ns = monotonic_ns() + int(NAPI_TIMEOUT_S * 1e9)
    while not (new := napi_threads().keys() - before.keys()):
        if monotonic_ns() > deadline_ns:
            raise BenchError(f"{device} in {namespace} has no NAPI thread: is GRO or XDP on?")
        time.sleep(0.01)
    for pid in new:
        os.sched_setaffinity(pid, {core})
        set_nice(pid)
        if priority:
            # Where this is forbidden the check of the sinks' drops speaks up.
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(priority))
    return sorted(new)


def scheduled(pid: int) -> tuple[int, int]:
    """Nanoseconds for which all threads of a process have run, and have had to wait for
    a processor, so far; zeros where the kernel does not say or the process is gone."""
    ran = waited = 0
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                running, waiting, _ = (entry / "schedstat").read_text().split()
                ran, waited = ran + int(running), waited + int(waiting)
    return ran, waited


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
