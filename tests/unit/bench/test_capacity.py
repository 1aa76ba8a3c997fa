"""What the bed is able to is known from the best of all trials, whichever that was."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import cast

import pytest

from tools.bench import measure, selfcheck
from tools.bench.bed import Bed
from tools.bench.capacity import Capacity
from tools.bench.cell import Role
from tools.bench.generator import Load, Offered
from tools.bench.measure import GENERATOR_FULL, Measurement, TrialSettings
from tools.bench.search import BOUNDED_BY_BED, HELD_UP, NS_PER_S, Trial
from tools.bench.selfcheck import MAXIMUM_PPS, check
from tools.bench.sink import Counts
from tools.bench.systems import Idle

ABLE_PPS = 4_790_000
STALLED_PPS = 2_070_000
ALL_STAMP = Decimal(100)


class SimulatedBed:
    """Everything that is offered comes back; while the machine stalls, less is offered."""

    def __init__(self) -> None:
        self.capacity = Capacity()
        self.stalls = itertools.repeat(False)
        """Of each trial that asks for more than a stalled machine can offer."""
        self._returned = 0

    @property
    def generator(self) -> SimulatedBed:
        return self

    @property
    def sinks(self) -> SimulatedBed:
        return self

    def use(self, _data: object, _stamp: object) -> None:
        pass

    def offer(self, load: Load) -> Offered:
        pps = load.rate_pps
        if pps > STALLED_PPS:
            pps = STALLED_PPS if next(self.stalls) else min(pps, ABLE_PPS)
        packets = pps * load.duration_ns // NS_PER_S
        self._returned += packets
        idle = int(pps == load.rate_pps)
        return Offered(0, packets, load.duration_ns, idle=idle, slipped_ns=0, next_sequence=1)

    def counts(self, program: str) -> Counts:
        return Counts(0, self._returned if program == "sink_near" else 0, 0, 0)

    def returned(self) -> int:
        return self._returned

    def drops(self) -> dict[str, int]:
        return {}

    def kernel_waited_ns(self) -> int:
        return 0


@pytest.fixture
def bed(monkeypatch: pytest.MonkeyPatch) -> SimulatedBed:
    """One on which bare programs are as fast as the generator, and nothing takes time."""
    simulated = SimulatedBed()

    class Returning(Idle):
        def collected(self) -> int:
            return simulated.returned()

    monkeypatch.setattr(selfcheck, "BareProgram", Returning)
    monkeypatch.setattr(measure, "SETTLE_S", 0)
    monkeypatch.setattr(measure, "GRACE_S", 0)
    return simulated


def trial(bed: SimulatedBed, role: Role, rate_pps: int) -> Trial:
    measurement = Measurement(cast(Bed, bed), Idle(), role, ALL_STAMP, TrialSettings())
    return measurement.observe(rate_pps).trial


def test_a_machine_that_stalls_as_the_check_begins_is_asked_again(bed: SimulatedBed) -> None:
    bed.stalls = itertools.chain([True] * 4, itertools.repeat(False))
    found = check(cast(Bed, bed), TrialSettings())
    assert (found.generator_pps, found.bounce_pps) == (ABLE_PPS, ABLE_PPS)


@pytest.mark.parametrize("role", [Role.COLLECTOR, Role.REFLECTOR])
def test_a_trial_that_offers_more_makes_up_for_a_bad_check(bed: SimulatedBed, role: Role) -> None:
    bed.stalls = itertools.repeat(True)
    found = check(cast(Bed, bed), TrialSettings())
    assert (found.generator_pps, found.bounce_pps) == (STALLED_PPS, STALLED_PPS)
    rate_pps = 2_200_000
    assert set(trial(bed, role, rate_pps).notes) == {GENERATOR_FULL, BOUNDED_BY_BED}
    bed.stalls = itertools.repeat(False)
    assert trial(bed, Role.REFLECTOR, MAXIMUM_PPS).offered_pps == ABLE_PPS
    bed.stalls = itertools.repeat(True)
    assert set(trial(bed, role, rate_pps).notes) == {HELD_UP}


def test_each_role_has_what_was_seen_of_it() -> None:
    capacity = Capacity()
    assert not capacity.is_far_above(Role.COLLECTOR, 1)
    # What a slow reflector lost has not come back, and cost the sinks nothing.
    capacity.learn(Role.REFLECTOR, Trial(MAXIMUM_PPS, 4_000_000, 200_000, NS_PER_S))
    assert capacity.is_far_above(Role.COLLECTOR, 2_000_000)
    assert not capacity.is_far_above(Role.COLLECTOR, 2_000_001)
    assert capacity.is_far_above(Role.FORWARDER, 100_000)
    assert not capacity.is_far_above(Role.FORWARDER, 100_001)
    # Nor does what a collector kept.
    capacity.learn(Role.COLLECTOR, Trial(MAXIMUM_PPS, 5_000_000, 5_000_000, NS_PER_S))
    assert (capacity.offered_pps, capacity.returned_pps) == (5_000_000, 200_000)


def test_a_trial_that_offers_less_takes_nothing_away() -> None:
    capacity = Capacity()
    for pps in (4_000_000, 1_000):
        capacity.learn(Role.REFLECTOR, Trial(pps, pps, pps, NS_PER_S))
    assert (capacity.offered_pps, capacity.returned_pps) == (4_000_000, 4_000_000)
