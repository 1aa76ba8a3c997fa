"""The time slice that a thread asks for is the one that the kernel gives it, for a while."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from collections.abc import Callable

import pytest

from dataplane.engines.common import loop as loops
from dataplane.engines.common import time_slice
from dataplane.engines.common.loop import Loop
from dataplane.engines.common.time_slice import PATIENT_NS, ask_for_slice

_GETATTR = {"x86_64": 315, "aarch64": 275}.get(platform.machine())


def slice_ns() -> int:
    """Of the calling thread; 0 where the kernel does not tell."""
    found = ctypes.create_string_buffer(time_slice._ATTRIBUTES.size)
    if _GETATTR is None or ctypes.CDLL(None).syscall(_GETATTR, 0, found, len(found), 0):
        return 0
    return int(time_slice._ATTRIBUTES.unpack(found.raw)[5])


needs_slices = pytest.mark.skipif(slice_ns() == 0, reason="this kernel has no custom slices (6.12)")


def in_thread(function: Callable[[], None]) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


@needs_slices
def test_a_slice_is_asked_for_and_given_back() -> None:
    def check() -> None:
        usual_ns = slice_ns()
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        assert ask_for_slice(PATIENT_NS)
        assert slice_ns() == PATIENT_NS > usual_ns
        assert os.getpriority(os.PRIO_PROCESS, 0) == nice
        assert ask_for_slice(0)
        assert slice_ns() == usual_ns

    in_thread(check)


@needs_slices
def test_a_policy_that_somebody_chose_is_left_alone() -> None:
    def check() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        assert not ask_for_slice(PATIENT_NS)
        assert os.sched_getscheduler(0) == os.SCHED_BATCH

    in_thread(check)


@needs_slices
def test_a_loop_is_patient_for_as_long_as_packets_flood_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loops, "FLOOD_NS", 20_000_000)
    loop = Loop("test")
    loop.start()
    try:
        usual_ns = loop.call(slice_ns)
        loop.call(loop.flooded)
        assert loop.call(slice_ns) == PATIENT_NS
        deadline = time.monotonic() + 10
        while loop.call(slice_ns) != usual_ns and time.monotonic() < deadline:
            time.sleep(0.01)
        assert loop.call(slice_ns) == usual_ns
    finally:
        loop.close()
