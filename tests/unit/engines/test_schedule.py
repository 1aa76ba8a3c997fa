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
from dataplane.engines.common.plan import slack_ns_of
from dataplane.engines.common.schedule import (
    EXPIRING,
    FLIGHT,
    LATENESS_MAX_NS,
    REST,
    SLICE,
    Schedule,
)
from dataplane.stamp.sender_rounds import Rows
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
        lambda _rows, _pressing_ns, now_ns: now_ns,
        lambda _ssid, _now_ns: None,
        lambda rows, _now_ns: np.zeros(len(np.r_[rows]), np.int64),
    )
    for ssid in range(1, sessions + 1):
        table.row(ssid)
        table.columns[module.END_NS][ssid] = module.NEVER
        found.send_at(ssid, due_ns + ssid, SLACK_NS)
    return found


@pytest.mark.parametrize(
    ("interval_ns", "slack_ns"),
    [
        (10 * MS, MS // 10),
        (199 * MS, 1_990_000),
        (200 * MS, 10 * MS),
        (1_000 * MS, 50 * MS),
        (60_000 * MS, 50 * MS),
    ],
)
def test_slow_sessions_may_be_later(interval_ns: int, slack_ns: int) -> None:
    assert slack_ns_of(interval_ns) == slack_ns


def test_those_that_have_waited_longest_leave_first(table: SessionTable) -> None:
    schedule = schedule_of(table, Timers(), 3 * FLIGHT, due_ns=0)
    assert schedule.due(FLIGHT // 2).tolist() == [*range(1, FLIGHT // 2 + 1)]
    assert schedule.due(10**9).tolist() == [*range(1, FLIGHT + 1)]


def test_sessions_that_are_gone_leave_a_gap(table: SessionTable) -> None:
    schedule = schedule_of(table, Timers(), 5, due_ns=0)
    schedule.forget(3)
    assert schedule.due(10**9).tolist() == [1, 2, 4, 5]


def test_when_the_last_session_is_gone_nothing_is_waited_for(table: SessionTable) -> None:
    timers = Timers()
    schedule = schedule_of(table, timers, 2, due_ns=0)
    assert schedule.slack_ns == SLACK_NS
    schedule.forget(1)
    schedule.forget(2)
    schedule.forget(2)
    timers.armed_ns.clear()
    schedule.arm()
    assert (timers.armed_ns, schedule.due(10**9).tolist(), schedule.slack_ns) == ([], [], 0)


def test_after_a_dear_flight_more_packets_are_waited_for(
    table: SessionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = monotonic_ns()
    monkeypatch.setattr(module, "monotonic_ns", lambda: now_ns)
    timers = Timers()
    schedule = schedule_of(table, timers, 2, due_ns=now_ns)
    schedule.arm()
    assert timers.armed_ns[-1] == now_ns + 1 + SLACK_NS - SPIN_NS
    flight_ns = 3 * SLACK_NS // 4
    schedule.arm(flight_ns)
    assert timers.armed_ns[-1] == now_ns + REST * flight_ns - SPIN_NS


def test_no_flight_makes_others_wait_for_longer_than_they_may(table: SessionTable) -> None:
    timers = Timers()
    schedule = schedule_of(table, timers, 2, due_ns=monotonic_ns())
    schedule.arm(60_000 * MS)
    first_ns = int(table.columns[module.DUE_NS][1])
    assert timers.armed_ns[-1] == first_ns + module.LATENESS * SLACK_NS - SPIN_NS
    assert module.LATENESS * SLACK_NS <= LATENESS_MAX_NS


def test_slow_sessions_are_not_kept_waiting_for_as_many_times_their_slack(
    table: SessionTable,
) -> None:
    timers = Timers()
    schedule = schedule_of(table, timers, 0, due_ns=0)
    due_ns = monotonic_ns()
    schedule.send_at(1, due_ns, LATENESS_MAX_NS // 2)
    schedule.arm(60_000 * MS)
    assert timers.armed_ns[-1] == due_ns + LATENESS_MAX_NS - SPIN_NS


def test_after_a_cheap_flight_packets_wait_as_long_as_they_can(
    table: SessionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = monotonic_ns()
    monkeypatch.setattr(module, "monotonic_ns", lambda: now_ns)
    timers = Timers()
    schedule = schedule_of(table, timers, 2, due_ns=now_ns)
    schedule.arm(1)
    assert timers.armed_ns[-1] == now_ns + 1 + SLACK_NS - SPIN_NS


def test_who_can_wait_least_decides(table: SessionTable) -> None:
    """And is waited for in a busy loop for no longer than its slack."""
    timers = Timers()
    schedule = schedule_of(table, timers, 0, due_ns=0)
    schedule.send_at(1, 40 * MS, 50 * MS)
    schedule.send_at(2, 60 * MS, SPIN_NS // 2)
    armed_ns = timers.armed_ns[-2]
    timers.armed_ns.clear()
    schedule.arm()
    assert timers.armed_ns == [armed_ns] == [60 * MS]
    assert schedule.slack_ns == SPIN_NS // 2
    rows = np.array([1, 2])
    assert schedule.overdue_ns(rows, 60 * MS) == -SPIN_NS // 2
    assert schedule.overdue_ns(rows, 100 * MS) == 40 * MS - SPIN_NS // 2
    assert schedule.overdue_ns(rows[:1], 100 * MS) == 10 * MS


def test_runs_that_are_complete_are_not_waited_for(table: SessionTable) -> None:
    timers = Timers()
    schedule = schedule_of(table, timers, 2, due_ns=0)
    schedule.send_at(1, None, SLACK_NS)
    # Another session of the same name has nothing to send yet.
    schedule.forget(2)
    schedule.watch(2, None, SLACK_NS)
    timers.armed_ns.clear()
    schedule.arm()
    assert timers.armed_ns == []
    assert schedule.due(10**9).tolist() == []


def test_packets_that_begin_an_interval_do_not_fill_a_flight(table: SessionTable) -> None:
    timers, due_ns = Timers(), monotonic_ns() + 1_000 * MS
    schedule = schedule_of(table, timers, 2 * FLIGHT, due_ns)
    table.columns[module.END_NS][1 : 2 * FLIGHT + 1] = due_ns
    schedule.arm()
    assert timers.armed_ns[-1] == due_ns + 1 + SLACK_NS - SPIN_NS


def test_as_many_as_leave_in_one_go_are_not_kept_waiting_for_more(table: SessionTable) -> None:
    timers, due_ns = Timers(), monotonic_ns() + 1_000 * MS
    schedule = schedule_of(table, timers, 2 * FLIGHT, due_ns)
    schedule.arm()
    assert timers.armed_ns[-1] == due_ns + FLIGHT - SPIN_NS


def test_packets_that_begin_an_interval_wait_for_each_other(table: SessionTable) -> None:
    schedule = schedule_of(table, Timers(), 4, due_ns=0)
    table.columns[module.END_NS][[2, 3]] = 2, 3
    assert schedule.due(4).tolist() == [1, 4]
    assert schedule.due(2 + SLACK_NS - SPIN_NS).tolist() == [1, 2, 3, 4]


class Expiring:
    """A schedule of sessions that have something to expire at some times."""

    def __init__(self, table: SessionTable, due_ns: list[int]) -> None:
        self.due_ns = np.array(due_ns)
        self.emptied_ns = 0
        self.together: list[tuple[list[int], int, int]] = []
        self.singly: list[int] = []
        self.armed_ns: list[int] = []
        timer = SimpleNamespace(
            at=lambda at_ns, _slack=0: self.armed_ns.append(at_ns),
            no_later_than=lambda _at_ns, _slack: None,
        )
        self.schedule = Schedule(
            cast(Loop, SimpleNamespace(timer=lambda _: timer)),
            table,
            lambda: None,
            self._expire_together,
            lambda ssid, _now_ns: self.singly.append(ssid),
            lambda rows, _now_ns: np.append(0, self.due_ns)[rows],
        )
        for ssid, each in enumerate(due_ns, 1):
            table.row(ssid)
            self.schedule.watch(ssid, each, SLACK_NS)

    def _expire_together(self, rows: Rows, pressing_ns: int, now_ns: int) -> int:
        self.together.append((rows.tolist(), pressing_ns, now_ns))
        as_of_ns = self.emptied_ns if self.emptied_ns >= pressing_ns else now_ns
        # Of those that are due, odd ones are for the sessions themselves.
        done = (self.due_ns <= as_of_ns) & (np.arange(len(self.due_ns)) % 2 == 1)
        self.due_ns[done] = 1_000 * MS
        return as_of_ns

    def all_together(self, rows: Rows, pressing_ns: int, now_ns: int) -> int:
        self.together.append((rows.tolist(), pressing_ns, now_ns))
        self.due_ns[rows - 1] = 1_000 * MS
        return now_ns


def test_what_expires_waits_until_something_cannot(table: SessionTable) -> None:
    expiring = Expiring(table, [10 * MS + MS, 10 * MS])
    table.columns[module.TIMEOUT_NS][1:3] = 10_000 * MS
    expiring.schedule._look(10 * MS)
    assert not expiring.together
    assert expiring.armed_ns == [10 * MS + SLACK_NS - SPIN_NS]
    expiring.schedule._look(11 * MS)
    assert expiring.together == [([1, 2], 10 * MS, 11 * MS)]
    assert expiring.singly == [1]


def test_many_are_looked_after_in_slices_but_looked_for_once(table: SessionTable) -> None:
    count = 4 * SLICE + 2
    expiring = Expiring(table, [10 * MS] * count)
    singly = list(range(1, count + 1, 2))
    expiring.schedule._look(11 * MS)
    assert expiring.singly == singly[:SLICE]
    assert expiring.armed_ns == [11 * MS]
    # What is gone by then, or was looked after otherwise, is passed over.
    gone, fresh = singly[SLICE : SLICE + 2]
    expiring.schedule.forget(gone)
    expiring.due_ns[fresh - 1] = 12 * MS
    expiring.schedule._look(11 * MS)
    assert expiring.singly == singly[:SLICE] + singly[SLICE + 2 : 2 * SLICE]
    assert len(expiring.together) == 1
    expiring.schedule._look(11 * MS)
    assert expiring.singly[-1] == singly[-1]
    assert len(expiring.together) == 1


def test_packets_have_their_turn_before_more_are_looked_after_together(
    table: SessionTable,
) -> None:
    """Those that have waited longest come first."""
    expiring = Expiring(table, [10 * MS + 1] * EXPIRING + [10 * MS] * 3)
    table.columns[module.TIMEOUT_NS][1 : EXPIRING + 4] = 10_000 * MS
    # Nothing is left to be done one by one.
    expiring.schedule._expire_together = expiring.all_together
    expiring.schedule._look(11 * MS)
    [(rows, _, _)] = expiring.together
    assert len(rows) == EXPIRING
    assert rows[-3:] == [EXPIRING + 1, EXPIRING + 2, EXPIRING + 3]
    assert expiring.armed_ns[-1] < 11 * MS
    expiring.schedule._look(11 * MS)
    others = expiring.together[1][0]
    assert sorted(rows + others) == [*range(1, EXPIRING + 4)]
    assert not expiring.singly


def test_losses_of_packets_yet_to_be_sent_are_looked_for_in_time(table: SessionTable) -> None:
    """Of the session that has the shortest timeout, and not before."""
    expiring = Expiring(table, [60_000 * MS, 60_000 * MS])
    table.columns[module.TIMEOUT_NS][1:3] = 3_000 * MS, 2_000 * MS
    expiring.schedule._look(10 * MS)
    assert expiring.armed_ns == [2_010 * MS + SLACK_NS - SPIN_NS]


def test_sessions_with_nothing_to_expire_press_nobody(table: SessionTable) -> None:
    expiring = Expiring(table, [module.NEVER, 20 * MS])
    table.columns[module.TIMEOUT_NS][1:3] = 10_000 * MS
    expiring.schedule._look(10 * MS)
    assert not expiring.together
    assert expiring.armed_ns == [20 * MS + SLACK_NS - SPIN_NS]


class Timer:
    """One that never fires."""

    def __init__(self) -> None:
        self.at_ns: int | None = None

    def at(self, at_ns: int | None, _slack_ns: int = 0) -> None:
        self.at_ns = at_ns

    def no_later_than(self, at_ns: int, _slack_ns: int) -> None:
        self.at_ns = at_ns if self.at_ns is None else min(at_ns, self.at_ns)


def test_no_timer_is_left_running(table: SessionTable) -> None:
    made: list[Timer] = []

    def timer(_callback: object) -> Timer:
        made.append(Timer())
        return made[-1]

    schedule = schedule_of(table, cast(Timers, SimpleNamespace(timer=timer)), 1, due_ns=0)
    schedule.watch(1, 10 * MS, SLACK_NS)
    assert [each.at_ns for each in made] == [1 + SLACK_NS - SPIN_NS, 1 + SLACK_NS]
    schedule.close()
    assert [each.at_ns for each in made] == [None, None]


def test_what_expires_is_looked_for_when_it_cannot_wait(table: SessionTable) -> None:
    timers = Timers()
    schedule = schedule_of(table, timers, 0, due_ns=0)
    table.row(1)
    schedule.watch(1, 10 * MS, SLACK_NS)
    assert timers.armed_ns == [10 * MS + SLACK_NS - SPIN_NS]


def test_what_the_first_packet_leads_to_is_looked_for_in_time(table: SessionTable) -> None:
    """Before an interval ends for the first time."""
    timers = Timers()
    schedule = schedule_of(table, timers, 0, due_ns=0)
    table.row(7)
    table.columns[module.TIMEOUT_NS][7] = 2_000 * MS
    schedule.send_at(7, 30 * MS, SLACK_NS)
    assert timers.armed_ns[-1] == 30 * MS + SLACK_NS + 2_000 * MS


def test_only_what_cannot_wait_makes_replies_be_read(table: SessionTable) -> None:
    expiring = Expiring(table, [11 * MS, 10 * MS])
    table.columns[module.TIMEOUT_NS][1:3] = 10_000 * MS
    expiring.emptied_ns = 10 * MS
    expiring.schedule._look(11 * MS)
    assert expiring.together == [([1, 2], 10 * MS, 11 * MS)]
    # As of when everything had been read, the first one has nothing to expire.
    assert expiring.singly == []
    assert expiring.armed_ns == [11 * MS + SLACK_NS - SPIN_NS]
