"""What a trial says of the bed."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from types import SimpleNamespace
from typing import cast

import pytest

from tools.bench.bed import Bed
from tools.bench.capacity import Capacity
from tools.bench.cell import Role
from tools.bench.generator import Offered
from tools.bench.measure import GENERATOR_FULL, Measurement, TrialSettings
from tools.bench.search import BOUNDED_BY_BED, HELD_UP, NS_PER_S, Trial
from tools.bench.systems import Idle

CAPACITY = Capacity()
CAPACITY.learn(Role.COLLECTOR, Trial(20_000_000, 1_000_000, 1_000_000, NS_PER_S))


def notes(rate_pps: int, offered: int, *, idle: int = 0, role: Role = Role.COLLECTOR) -> set[str]:
    bed = cast(Bed, SimpleNamespace(generator=None, capacity=CAPACITY))
    measurement = Measurement(bed, Idle(), role, Decimal(100), TrialSettings())
    seen = Offered(0, offered, NS_PER_S, idle=idle, slipped_ns=0, next_sequence=1)
    counters: Counter[str] = Counter(collected=offered, reflected=offered)
    return set(measurement._judge(rate_pps, seen, counters).notes)


def test_a_generator_that_falls_short_far_below_its_capacity_was_held_up() -> None:
    assert notes(500_000, 490_000) == {HELD_UP}


def test_one_that_falls_short_near_its_capacity_is_full() -> None:
    assert notes(510_000, 490_000) == {GENERATOR_FULL, BOUNDED_BY_BED}


@pytest.mark.parametrize("role", [Role.COLLECTOR, Role.REFLECTOR])
def test_one_that_had_time_to_spare_was_held_up(role: Role) -> None:
    assert notes(900_000, 850_000, idle=1, role=role) == {HELD_UP}


def test_of_a_capacity_that_is_not_known_nothing_is_concluded() -> None:
    assert notes(1_000, 900, role=Role.REFLECTOR) == {GENERATOR_FULL, BOUNDED_BY_BED}


def test_nothing_is_said_where_what_was_asked_for_was_offered() -> None:
    assert notes(500_000, 496_000) == set()
