"""Searches on a simulated system whose capacity is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.bench.simulated import SimulatedSystem
from tools.bench.cell import Metric
from tools.bench.search import (
    BOUNDED_BY_BED,
    HELD_UP,
    HELD_UP_MAX,
    NS_PER_S,
    DropRateSearch,
    SearchOutcome,
    SearchSettings,
    Trial,
    make_search,
    run_search,
)

SETTINGS = SearchSettings(start_pps=10_000, ceiling_pps=10_000_000, resolution=0.01)


def find(
    system: SimulatedSystem, metric: Metric = Metric.PDR, settings: SearchSettings = SETTINGS
) -> SearchOutcome:
    return run_search(make_search(metric, settings), system.trial)


def lossless(rate: int) -> Trial:
    return Trial(rate, rate, rate, NS_PER_S)


def lossy(rate: int, *notes: str) -> Trial:
    return Trial(rate, rate, rate // 2, NS_PER_S, notes)


def test_rates_double_then_close_in() -> None:
    system = SimulatedSystem(100_000)
    outcome = find(system)
    assert system.asked[:7] == [10_000, 20_000, 40_000, 80_000, 160_000, 160_000, 113_137]
    limit = 100_000 / 0.995
    assert limit / 1.01 <= outcome.pps <= limit
    assert outcome.reason == "found"
    assert not outcome.bounded_by_bed
    assert outcome.failed_pps is not None
    assert outcome.failed_pps <= outcome.pps * 1.01
    assert [trial.asked_pps for trial in outcome.trials] == system.asked


def test_rates_halve_until_one_passes() -> None:
    system = SimulatedSystem(1_060)
    outcome = find(system)
    assert system.asked[:8] == [10_000, 10_000, 5_000, 5_000, 2_500, 2_500, 1_250, 1_250]
    assert 1_060 / 0.995 / 1.01 <= outcome.pps <= 1_060 / 0.995


def test_no_drop_rate_permits_no_loss() -> None:
    outcome = find(SimulatedSystem(100_000), Metric.NDR)
    assert outcome.metric is Metric.NDR
    assert 100_000 / 1.01 <= outcome.pps <= 100_000
    assert all(t.loss_ratio == 0 for t in outcome.trials if t.passes(0.0))


def test_no_drop_rate_with_a_stated_tolerance() -> None:
    outcome = find(SimulatedSystem(100_000), Metric.NDR, replace(SETTINGS, ndr_loss_ratio=0.1))
    assert outcome.pps > 105_000


def test_receive_rate_is_what_is_delivered_of_the_most() -> None:
    system = SimulatedSystem(100_000)
    outcome = find(system, Metric.MRR)
    assert system.asked == [10_000_000, 10_000_000]
    assert outcome.pps == 100_000
    assert not outcome.bounded_by_bed


def test_receive_rate_of_a_system_that_is_not_saturated() -> None:
    outcome = find(SimulatedSystem(900_000, generator_pps=700_000), Metric.MRR)
    assert outcome.pps == 700_000
    assert outcome.bounded_by_bed
    assert outcome.reason == "everything that was offered was delivered"


def test_a_system_that_carries_nothing() -> None:
    outcome = find(SimulatedSystem(0))
    assert (outcome.pps, outcome.bounded_by_bed) == (0.0, False)
    assert outcome.reason == "no trial passed, down to 10 pps"
    assert len(outcome.trials) == 2 * 11
    assert find(SimulatedSystem(0), Metric.MRR).reason == "nothing was delivered"


def test_one_stall_does_not_decide() -> None:
    quiet = find(SimulatedSystem(100_000))
    for stalled in range(len(quiet.trials)):
        outcome = find(SimulatedSystem(100_000, stalled_trials=frozenset({stalled})))
        assert outcome.pps == pytest.approx(quiet.pps, rel=0.01)


def test_a_stall_of_all_tries_leaves_a_trace_and_is_struck_out() -> None:
    # Trials 3 and 4 are those at 80 000 pps, where the system carries 100 000.
    system = SimulatedSystem(99_000, stalled_trials=frozenset({3, 4}))
    assert system.capacity_pps * 0.8 < 80_000
    outcome = find(system)
    assert system.asked[3:5] == [80_000, 80_000]
    assert system.asked.count(80_000) == 3
    assert outcome.pps == pytest.approx(99_000 / 0.995, rel=0.01)


def test_a_suspected_rate_that_fails_again_stays_failed() -> None:
    # Just below 80 000: everything under it passes.
    system = SimulatedSystem(79_500)
    outcome = find(system)
    assert system.asked.count(80_000) == 3
    assert 79_500 / 0.995 / 1.01 <= outcome.pps < 80_000
    assert outcome.failed_pps == 80_000


def test_the_result_is_what_was_really_offered() -> None:
    def trial(rate: int) -> Trial:
        offered = round(rate * 0.99)
        return Trial(rate, offered, min(offered, 50_000), NS_PER_S)

    outcome = run_search(make_search(Metric.PDR, SETTINGS), trial)
    assert outcome.pps in {trial.offered_pps for trial in outcome.trials}
    assert outcome.pps <= 50_000 / 0.995
    assert not outcome.bounded_by_bed


def test_a_generator_that_is_slower_than_the_system() -> None:
    outcome = find(SimulatedSystem(2_000_000, generator_pps=500_000))
    assert outcome.pps == 500_000
    assert outcome.bounded_by_bed
    assert outcome.reason == "the bed could not offer more"


def test_one_hiccup_of_the_generator_is_tried_again() -> None:
    search = DropRateSearch(Metric.PDR, SETTINGS)
    search.record(Trial(10_000, 2_000, 2_000, NS_PER_S))
    assert search.next_rate() == 10_000
    search.record(lossless(10_000))
    assert search.next_rate() == 20_000


def held_up(rate: int, delivered: float = 1.0) -> Trial:
    offered = round(0.97 * rate)
    return Trial(rate, offered, round(delivered * offered), NS_PER_S, (HELD_UP,))


@pytest.mark.parametrize("delivered", [1.0, 0.9])
def test_a_generator_that_was_merely_held_up_does_not_end_a_search(delivered: float) -> None:
    search = DropRateSearch(Metric.PDR, SETTINGS)
    for _ in range(HELD_UP_MAX):
        search.record(held_up(10_000, delivered))
        assert search.next_rate() == 10_000
    search.record(lossless(10_000))
    assert search.next_rate() == 20_000


def test_a_generator_that_is_always_held_up_gets_as_far_as_it_can() -> None:
    def trial(rate: int) -> Trial:
        return held_up(rate, 1.0 if rate < 100_000 else 0.5)

    outcome = run_search(make_search(Metric.PDR, SETTINGS), trial)
    assert outcome.reason == HELD_UP
    assert outcome.bounded_by_bed
    # Half way to what failed it offers no more than has passed, and the resolution.
    assert (0.97 / 1.01) ** 2 * 100_000 < outcome.pps < 100_000
    rates = [trial.asked_pps for trial in outcome.trials]
    assert rates.count(10_000) == HELD_UP_MAX + SETTINGS.tries


def test_a_generator_that_is_held_up_at_any_rate_offers_what_it_can() -> None:
    def trial(rate: int) -> Trial:
        offered = min(rate, 50_000)
        return Trial(rate, offered, offered, NS_PER_S, (HELD_UP,) if rate > offered else ())

    outcome = run_search(make_search(Metric.PDR, SETTINGS), trial)
    assert (outcome.pps, outcome.reason) == (50_000, HELD_UP)


def test_a_generator_that_has_half_of_the_time_still_climbs() -> None:
    def trial(rate: int) -> Trial:
        offered = rate // 2
        return Trial(rate, offered, min(offered, 300_000), NS_PER_S, (HELD_UP,))

    outcome = run_search(make_search(Metric.PDR, SETTINGS), trial)
    assert 100_000 < outcome.pps <= 300_000 / 0.995
    assert outcome.bounded_by_bed


def test_a_generator_that_offers_nothing_ends_a_search() -> None:
    def trial(rate: int) -> Trial:
        return Trial(rate, 1, 1, 10 * NS_PER_S, (HELD_UP,))

    outcome = run_search(make_search(Metric.PDR, SETTINGS), trial)
    assert (outcome.pps, outcome.reason) == (0.1, HELD_UP)


def test_loss_while_the_generator_is_held_up_for_good_fails_a_rate() -> None:
    def trial(rate: int) -> Trial:
        return held_up(rate, 0.5) if rate > 10_000 else lossless(rate)

    outcome = run_search(make_search(Metric.PDR, replace(SETTINGS, resolution=0.5)), trial)
    assert outcome.reason == "found"
    assert outcome.pps == 10_000


def test_one_that_passes_with_nearly_all_of_the_rate_decides() -> None:
    search = DropRateSearch(Metric.PDR, SETTINGS)
    search.record(Trial(10_000, 9_850, 9_850, NS_PER_S, (HELD_UP,)))
    assert search.next_rate() == 20_000


def test_trials_that_are_set_aside_do_not_use_up_the_search() -> None:
    search = DropRateSearch(Metric.PDR, replace(SETTINGS, max_trials=2))
    for _ in range(HELD_UP_MAX):
        search.record(held_up(10_000))
    search.record(lossless(10_000))
    assert search.outcome is None


def test_loss_in_the_bed_is_no_fault_of_the_system() -> None:
    search = DropRateSearch(Metric.PDR, replace(SETTINGS, resolution=0.5))
    while (rate := search.next_rate()) is not None:
        search.record(lossless(rate) if rate < 45_000 else lossy(rate, BOUNDED_BY_BED))
    assert search.outcome is not None
    assert search.outcome.bounded_by_bed
    assert search.outcome.reason == "the bed lost packets"
    assert search.outcome.pps == 40_000


def test_the_ceiling_bounds_the_result() -> None:
    outcome = find(SimulatedSystem(100_000), settings=replace(SETTINGS, ceiling_pps=50_000))
    assert outcome.pps == 50_000
    assert outcome.bounded_by_bed
    assert outcome.reason == "passed at the ceiling of 50000 pps"


def test_the_number_of_trials_is_bounded() -> None:
    outcome = find(SimulatedSystem(100_000), settings=replace(SETTINGS, max_trials=6))
    assert len(outcome.trials) == 6
    assert outcome.pps == 80_000
    assert outcome.reason == "stopped after 6 trials"
    nothing = find(SimulatedSystem(0), settings=replace(SETTINGS, max_trials=3))
    assert nothing.reason == "stopped after 3 trials, of which none passed"


def test_more_delivered_than_offered_is_said() -> None:
    def trial(rate: int) -> Trial:
        return Trial(rate, rate, rate + 1 if rate < 50_000 else 0, NS_PER_S)

    outcome = run_search(make_search(Metric.PDR, SETTINGS), trial)
    assert "trials delivered more than they offered" in outcome.reason
    assert outcome.trials[0].loss_ratio == -0.0001


def test_a_known_result_shortens_the_search() -> None:
    expected = find(SimulatedSystem(100_000)).pps
    near = find(SimulatedSystem(100_000), settings=SETTINGS.near(expected))
    assert near.pps == pytest.approx(expected, rel=0.01)
    assert len(near.trials) <= 10 < len(find(SimulatedSystem(100_000)).trials)
    # A system that has become ten times slower or faster is still found.
    for capacity in (10_000, 1_000_000):
        outcome = find(SimulatedSystem(capacity), settings=SETTINGS.near(expected))
        assert capacity / 0.995 / 1.01 <= outcome.pps <= capacity / 0.995


def test_remaining_trials_count_down() -> None:
    search = make_search(Metric.PDR, SETTINGS)
    system = SimulatedSystem(100_000)
    remaining = []
    while (rate := search.next_rate()) is not None:
        remaining.append(search.remaining_trials)
        search.record(system.trial(rate))
    assert min(remaining) >= 1
    assert remaining[-1] <= 2
    assert search.remaining_trials == 0


def test_only_the_trial_that_was_asked_for() -> None:
    search = make_search(Metric.PDR, SETTINGS)
    assert search.outcome is None
    with pytest.raises(ValueError, match="a trial at 5 pps, where 10000 pps was asked for"):
        search.record(lossless(5))
    over = make_search(Metric.MRR, replace(SETTINGS, tries=1))
    over.record(lossless(10_000_000))
    with pytest.raises(ValueError, match="the search is over"):
        over.record(lossless(10_000_000))


def test_a_trial_without_packets_never_passes() -> None:
    nothing = Trial(100, 0, 0, NS_PER_S)
    assert nothing.loss_ratio is None
    assert not nothing.passes(0.5)
    assert nothing.fell_short(0.02)


def test_the_permitted_loss_is_permitted() -> None:
    assert Trial(200, 200, 199, NS_PER_S).passes(0.005)
    assert not Trial(200, 200, 198, NS_PER_S).passes(0.005)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_pps": 5}, r"1 <= floor <= start <= ceiling, not 10, 5, 10000000 pps"),
        ({"ceiling_pps": 5_000}, "rates must be in order"),
        ({"loss_ratio": 1.0}, r"loss_ratio is 1\.0, not in \[0, 1\)"),
        ({"resolution": 0.0}, "resolution must be above 0 and step above 1"),
        ({"step": 1.0}, "resolution must be above 0 and step above 1"),
        ({"tries": 0}, "tries and max_trials must be at least 1"),
    ],
)
def test_settings_with_which_no_search_ends(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **changes)


def test_counts_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="no such trial can be"):
        Trial(100, -1, 0, NS_PER_S)
    with pytest.raises(ValueError, match="no such trial can be"):
        Trial(100, 1, 1, 0)
