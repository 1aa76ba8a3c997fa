"""Each change of state is logged, and those alike in one line."""

from __future__ import annotations

import logging
import time

import pytest

from dataplane.engines.base import (
    HostRestarted,
    IntervalClosed,
    OperState,
    Role,
    SessionStateChanged,
)
from sysrepo_plugin.event_log import EventLog


def changed(ssid: int | None, new: OperState, reason: str = "") -> SessionStateChanged:
    role = Role.REFLECTOR if ssid is None else Role.SENDER
    return SessionStateChanged(ssid, role, None, new, reason)


def test_levels_and_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = EventLog()
    log.put(changed(None, OperState.FAILED, "port 862 is in use"))
    log.put(changed(None, OperState.RUNNING))
    log.put(HostRestarted(2, "killed by signal 9"))
    log.put(IntervalClosed(1, 1))
    log.put(changed(7, OperState.RUNNING))
    log.put(changed(8, OperState.FAILED, "no such interface"))
    log.close()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "the Session-Reflector is failed: port 862 is in use"),
        ("INFO", "the Session-Reflector is running"),
        ("WARNING", "engine host process restarted (2 times so far): killed by signal 9"),
        ("INFO", "session 7 is running"),
        ("WARNING", "session 8 is failed: no such interface"),
    ]


def test_what_one_session_goes_through_is_told_in_order(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = EventLog(window_s=60)
    for state in (OperState.RUNNING, OperState.FAILED, OperState.RUNNING):
        log.put(changed(7, state))
    log.close()
    assert [record.getMessage() for record in caplog.records] == [
        "session 7 is running",
        "session 7 is failed",
        "session 7 is running",
    ]


def test_changes_of_a_moment_are_told_soon(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = EventLog(window_s=0.01)
    log.put(changed(7, OperState.RUNNING))
    deadline_s = time.monotonic() + 10
    while not caplog.records and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert [record.getMessage() for record in caplog.records] == ["session 7 is running"]


def test_ten_thousand_sessions_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = EventLog(window_s=60)
    for ssid in range(1, 10_001):
        log.put(changed(ssid, OperState.RUNNING))
    log.close()
    assert [record.getMessage() for record in caplog.records] == [
        "sessions 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 9990 more are running"
    ]
