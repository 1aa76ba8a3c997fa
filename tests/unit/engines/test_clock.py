from __future__ import annotations

import pytest

from dataplane import clock
from dataplane.clock import Clock, ClockStatus, read_clock_status
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
