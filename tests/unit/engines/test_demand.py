"""When packets come so fast that they are received in the driver."""

from __future__ import annotations

import logging

import pytest

from dataplane.engines.userspace.demand import (
    CALM_NS,
    DEMAND_PPS,
    DEMAND_SETTING,
    SPAN_NS,
    Demand,
    demand_pps,
)
from dataplane.stamp.timestamp import NS_PER_S

START_NS = 5 * NS_PER_S


class Role:
    """Packets come at a rate, second by second."""

    def __init__(self, from_pps: int) -> None:
        self.demand = Demand(from_pps, START_NS)
        self.now_ns = START_NS

    def receives(self, pps: int, seconds: int = 1) -> bool:
        """Whether they are to be received in the driver at the end."""
        for _ in range(seconds):
            self.now_ns += NS_PER_S
            self.demand.count(pps)
            there = self.demand.is_there(self.now_ns)
        return there


def test_a_flood_is_received_in_the_driver() -> None:
    role = Role(1_000)
    assert not role.receives(999, seconds=20)
    assert role.receives(1_000)


def test_the_program_goes_when_the_flood_has_been_over_for_long() -> None:
    role, calm_s = Role(1_000), CALM_NS // NS_PER_S
    assert role.receives(1_000)
    assert role.receives(499, seconds=calm_s - 1)
    assert not role.receives(499)
    assert not role.receives(999)


def test_half_as_many_keep_it() -> None:
    role = Role(1_000)
    assert role.receives(1_000)
    assert role.receives(500, seconds=3 * CALM_NS // NS_PER_S)


def test_few_are_enough_where_so_configured() -> None:
    demand, now_ns = Demand(1, START_NS), START_NS + SPAN_NS
    assert not demand.is_there(now_ns)
    demand.count(1)
    now_ns += NS_PER_S
    assert demand.is_there(now_ns)
    assert not demand.is_there(now_ns + CALM_NS)


def test_a_moment_s_burst_is_no_flood() -> None:
    demand = Demand(1_000, START_NS)
    demand.count(400)
    assert not demand.is_there(START_NS + SPAN_NS // 100)
    assert not demand.is_there(START_NS + SPAN_NS)


def test_it_is_counted_by_the_time_that_has_passed() -> None:
    demand = Demand(1_000, START_NS)
    demand.count(2_999)
    assert not demand.is_there(START_NS + 3 * NS_PER_S)
    demand.count(3_000)
    assert demand.is_there(START_NS + 6 * NS_PER_S)


def test_what_is_foreseen_is_not_waited_for() -> None:
    role = Role(1_000)
    role.demand.foresee(1_000.0)
    assert role.receives(0, seconds=3 * CALM_NS // NS_PER_S)
    role.demand.foresee(999.9)
    assert not role.receives(0)
    assert role.receives(1_000)


def test_always() -> None:
    demand = Demand(0, START_NS)
    assert demand.is_there(START_NS)
    assert demand.is_there(START_NS + 100 * CALM_NS)


@pytest.mark.parametrize(("text", "pps"), [(None, DEMAND_PPS), ("0", 0), ("250000", 250_000)])
def test_setting(monkeypatch: pytest.MonkeyPatch, text: str | None, pps: int) -> None:
    monkeypatch.delenv(DEMAND_SETTING, raising=False)
    if text is not None:
        monkeypatch.setenv(DEMAND_SETTING, text)
    assert demand_pps() == pps


@pytest.mark.parametrize("text", ["", "-1", "many", "1e4"])
def test_no_such_setting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    monkeypatch.setenv(DEMAND_SETTING, text)
    with caplog.at_level(logging.WARNING):
        assert demand_pps() == DEMAND_PPS
    assert caplog.messages == [
        f"{DEMAND_SETTING} is {text!r}, which is no number: {DEMAND_PPS} is used"
    ]
