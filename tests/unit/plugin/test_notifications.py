"""Events become notifications, sent by another thread."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dataplane.engines.base import (
    HostRestarted,
    IntervalClosed,
    OperState,
    Role,
    SessionStateChanged,
)
from sysrepo_plugin import notifications as module
from sysrepo_plugin.notifications import Notifier, notification_of

CHANGED = SessionStateChanged(
    5, Role.SENDER, OperState.RUNNING, OperState.FAILED, "interface eth9 does not exist"
)


def test_state_change() -> None:
    assert notification_of(CHANGED) == (
        "session-state-change",
        {
            "ssid": 5,
            "previous-state": "running",
            "oper-state": "failed",
            "reason": "interface eth9 does not exist",
        },
    )


def test_a_new_session_has_no_previous_state() -> None:
    event = SessionStateChanged(5, Role.SENDER, None, OperState.RUNNING, "")
    assert notification_of(event) == (
        "session-state-change",
        {"ssid": 5, "oper-state": "running"},
    )


def test_interval_closed() -> None:
    assert notification_of(IntervalClosed(5, 17)) == (
        "interval-closed",
        {"ssid": 5, "number": 17},
    )


def test_events_without_a_notification() -> None:
    reflector = SessionStateChanged(None, Role.REFLECTOR, None, OperState.RUNNING, "")
    assert notification_of(reflector) is None
    assert notification_of(HostRestarted(1, "killed")) is None


def test_sent_by_another_thread_in_order_even_when_sending_fails() -> None:
    sent: list[tuple[int, str, dict[str, Any]]] = []

    def send(name: str, values: dict[str, Any]) -> None:
        sent.append((threading.get_ident(), name, values))
        if len(sent) == 1:
            raise RuntimeError("no subscriber")

    notifier = Notifier()
    notifier.put(IntervalClosed(1, 1))
    notifier.start(send)
    notifier.put(IntervalClosed(1, 2))
    notifier.close()
    assert [values["number"] for _, _, values in sent] == [1, 2]
    assert threading.get_ident() not in {ident for ident, _, _ in sent}


def test_a_full_queue_drops_and_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "QUEUE_LENGTH", 2)
    notifier = Notifier()
    for number in range(1002):
        notifier.put(IntervalClosed(1, number))
    assert notifier.dropped == 1000
    assert len(caplog.records) == 10
