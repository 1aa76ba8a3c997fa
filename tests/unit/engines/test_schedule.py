"""When the packets of many sessions leave together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from dataplane.arena import Arena
from dataplane.clock import monotonic_ns
from dataplane.engines.common import schedule as module
from dataplane.engines.common.loop import SPIN_NS, Loop
from dataplane.engines.common.schedule import FLIGHT, LATENESS_MAX_NS, REST, Schedule
from dataplane.stamp.session_table import SessionTable

MS = 1_000_000
SLACK_NS = MS // 10


class Timers:
    """A loop of which only the send timer is looked at."""

    def __init__(self) -> None:
        self.armed_ns: list[int] = []

    def timer(self, _callback: object) -> object:
        return SimpleNamespace(no_later_than=lambda at_ns, _slack: self.armed_ns.append(at_ns))


@pytest.fixture
def table() -> SessionTable:
    return SessionTable(Arena())


def schedule_of(table: SessionTable, timers: Timers, sessions: int, due_ns: int) -> Schedule:
    found = Schedule(
        cast(Loop, timers),
        table,
        lambda: None,
        lambda _rows, _now_ns: None,
        lambda _ssid, _now_ns: None,
        lambda rows, _now_ns: np.zeros(len(np.r_[rows]), np.int64),
    )
    for ssid in range(1, sessions + 1):
        table.row(ssid)
        found.send_at(ssid, due_ns + ssid, SLACK_NS)
    return found


def test_those_that_have_waited_longest_leave_first(table: SessionTable) -> None:
    schedule = schedule_of(table, Timers(), 3 * FLIGHT, due_ns=0)
    assert schedule.due(FLIGHT // 2).tolist() == [*range(1, FLIGHT // 2 + 1)]
    assert schedule.due(10**9).tolist() == [*range(1, FLIGHT + 1)]


def test_sessions_that_are_gone_leave_a_gap(table: SessionTable) -> None:
    schedule = schedule_of(table, Timers(), 5, due_ns=0)
    schedule.forget(3)
    assert schedule.due(10**9).tolist() == [1, 2, 4, 5]


def test_after_a_dear_flight_more_packets_are_waited_for(
    table: SessionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = monotonic_ns()
    monkeypatch.setattr(module, "monotonic_ns", lambda: now_ns)
    timers = Timers()
    schedule = schedule_of(table, timers, 2, due_ns=now_ns)
    schedule.arm()
    assert timers.armed_ns[-1] == now_ns + 1 + SLACK_NS - SPIN_NS
    flight_ns = MS // 4
    schedule.arm(flight_ns)
    assert timers.armed_ns[-1] == now_ns + REST * flight_ns - SPIN_NS


def test_no_flight_makes_others_wait_for_longer_than_they_may(table: SessionTable) -> None:
    timers = Timers()
    schedule = schedule_of(table, timers, 2, due_ns=monotonic_ns())
    schedule.arm(60_000 * MS)
    first_ns = int(table.columns[module.DUE_NS][1])
    assert timers.armed_ns[-1] == first_ns + module.LATENESS * SLACK_NS - SPIN_NS
    assert module.LATENESS * SLACK_NS <= LATENESS_MAX_NS
