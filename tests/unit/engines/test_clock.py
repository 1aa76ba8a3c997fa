from __future__ import annotations

import ctypes
import errno
import select
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from dataplane import clock
from dataplane.clock import STEP_NS, Clock, ClockStatus, StepAlarm, read_clock_status
from dataplane.engines.base import EngineContext
from dataplane.engines.common.engine import LoopEngine
from dataplane.engines.userspace.engine import CAPABILITIES
from dataplane.stamp.timestamp import TimestampFormat


def test_the_kernel_answers() -> None:
    status = read_clock_status()
    assert 0 <= status.error_ns <= 16_000_000_000
    assert 0 <= status.tai_offset_s < 100


def test_status_is_read_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [ClockStatus(True, 1_000, 37), ClockStatus(False, 2_000_000_000, 0)]
    monkeypatch.setattr(clock, "read_clock_status", lambda: known.pop(0))
    monkeypatch.setattr(clock, "monotonic_ns", lambda: 5)
    keeper = Clock()
    estimate = keeper.error_estimate(TimestampFormat.PTPV2)
    assert estimate.synchronized
    assert estimate.fmt is TimestampFormat.PTPV2
    assert 1_000 <= estimate.error_ns < 1_010
    assert keeper.error_estimate(TimestampFormat.PTPV2) is estimate
    keeper.refresh(5 + clock.REFRESH_NS - 1)
    assert keeper.status.tai_offset_s == 37
    keeper.refresh(5 + clock.REFRESH_NS)
    assert keeper.status == ClockStatus(False, 2_000_000_000, 0)
    later = keeper.error_estimate(TimestampFormat.PTPV2)
    assert not later.synchronized
    assert later.error_ns >= 2_000_000_000


def test_a_step_is_told_once_and_a_thread_that_was_held_up_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[int] = []
    keeper = Clock()
    keeper.watch(lambda: told.append(keeper.unix_offset_ns))
    before_ns = keeper.unix_offset_ns

    def look(held_up_ns: int = 0) -> None:
        keeper.look(clock.monotonic_ns(), clock.wall_ns() + held_up_ns)

    for held_up_ns in (0, 50_000_000, -50_000_000):
        look(held_up_ns)
    assert told == []
    for step_ns in (4 * STEP_NS, -3_600_000_000_000):
        monkeypatch.setattr(clock, "wall_ns", lambda: time.time_ns() + step_ns)  # noqa: B023
        look()
        look()
        assert abs(told.pop() - before_ns - step_ns) <= 2 * STEP_NS
        assert told == []


def test_a_step_is_told_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    keeper = Clock()
    keeper.watch(lambda: told.append(True))
    monkeypatch.setattr(clock, "wall_ns", lambda: time.time_ns() + 1_000_000)
    keeper.refresh(clock.monotonic_ns())
    assert not told
    keeper.refresh(clock.monotonic_ns() + clock.REFRESH_NS)
    assert told


def test_the_alarm_rings_when_the_clock_is_set() -> None:
    """By a nanosecond to and fro: a delta is no harm to others on this machine."""
    alarm, poll = StepAlarm(), select.epoll()
    poll.register(alarm.fileno(), select.EPOLLIN)
    try:
        assert not poll.poll(0)
        assert not alarm.rung()
        for delta_ns in (1, -1):
            shift(delta_ns)
            assert poll.poll(5)
            assert alarm.rung()
            assert not alarm.rung()
            assert not poll.poll(0)
    finally:
        poll.close()
        alarm.close()


def test_an_engine_hears_of_a_step_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    keeper = Clock()
    monkeypatch.setattr(keeper, "refresh", lambda _now_ns: None)
    context = EngineContext(tmp_path, lambda _report: None)
    engine = LoopEngine("test", CAPABILITIES, context, keeper, cast(Any, None))
    try:
        keeper.watch(told.set)
        for module in ("clock", "engines.common.engine"):
            monkeypatch.setattr(f"dataplane.{module}.wall_ns", lambda: time.time_ns() + 1_000_000)
        for delta_ns in (1, -1):
            shift(delta_ns)
        assert told.wait(5)
    finally:
        engine.close()


def shift(delta_ns: int) -> None:
    """Set CLOCK_REALTIME by a delta (ADJ_SETOFFSET and ADJ_NANO of adjtimex(2))."""
    timex = clock._Timex(modes=0x0100 | 0x2000)
    timex.time.tv_sec, timex.time.tv_usec = divmod(delta_ns, 1_000_000_000)
    if clock._libc.adjtimex(ctypes.byref(timex)) < 0:
        if ctypes.get_errno() == errno.EPERM:
            pytest.skip("not allowed to set the clock")
        raise OSError(ctypes.get_errno(), "adjtimex")
