"""What holds for every search, whatever the system."""

from __future__ import annotations

import random
import statistics

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.bench.simulated import SimulatedSystem
from tools.bench.cell import Metric
from tools.bench.search import (
    HELD_UP,
    HELD_UP_MAX_IN_ALL,
    NS_PER_S,
    SearchSettings,
    Trial,
    make_search,
    run_search,
)

settings = st.builds(
    SearchSettings,
    start_pps=st.integers(100, 1_000_000),
    ceiling_pps=st.just(100_000_000),
    floor_pps=st.just(10),
    loss_ratio=st.sampled_from([0.0, 0.001, 0.005, 0.05]),
    resolution=st.sampled_from([0.002, 0.01, 0.05]),
    step=st.sampled_from([1.05, 1.5, 2.0, 4.0]),
    tries=st.integers(1, 3),
    max_trials=st.just(500),
)


@given(
    settings,
    st.integers(10_000, 5_000_000),
    st.integers(0, 1_000),
    st.sampled_from([Metric.PDR, Metric.NDR]),
)
def test_the_capacity_is_found_within_the_resolution(
    chosen: SearchSettings, capacity_pps: int, queue: int, metric: Metric
) -> None:
    system = SimulatedSystem(capacity_pps, queue)
    outcome = run_search(make_search(metric, chosen), system.trial)
    loss_ratio = chosen.loss_ratio if metric is Metric.PDR else 0.0
    # In a trial of one second, the queue adds its length to what can be carried.
    limit = (capacity_pps + queue) / (1 - loss_ratio)
    assert limit / (1 + chosen.resolution) - 2 <= outcome.pps <= limit + 1
    assert outcome.reason == "found"
    assert not outcome.bounded_by_bed


@given(settings, st.integers(10_000, 5_000_000), st.integers(0, 2**32))
def test_noise_and_stalls_cost_a_little_accuracy(
    chosen: SearchSettings, capacity_pps: int, seed: int
) -> None:
    generator = random.Random(seed)
    stalled = frozenset(i for i in range(500) if generator.random() < 0.05)
    results = []
    for _ in range(5):
        system = SimulatedSystem(
            capacity_pps,
            noise=0.01,
            stalled_trials=stalled,
            random=random.Random(generator.random()),
        )
        results.append(run_search(make_search(Metric.PDR, chosen), system.trial).pps)
    limit = capacity_pps / (1 - chosen.loss_ratio)
    # The worst: only stalled trials of one try each, each by a fifth; 5 SD of noise above.
    assert 0.75 * limit <= statistics.median(results) <= 1.05 * limit


@given(
    settings,
    st.lists(
        st.tuples(st.floats(0, 1.2), st.floats(0, 1.1), st.booleans()), min_size=1, max_size=30
    ),
    st.integers(1, 40),
)
def test_every_search_ends_with_an_outcome_that_its_trials_bear_out(
    chosen: SearchSettings, behaviour: list[tuple[float, float, bool]], max_trials: int
) -> None:
    """Any system at all: offered and delivered shares are arbitrary, trial by trial, and
    so is whether the generator was held up."""
    bounded = SearchSettings(
        start_pps=chosen.start_pps,
        loss_ratio=chosen.loss_ratio,
        resolution=chosen.resolution,
        tries=chosen.tries,
        max_trials=max_trials,
    )
    search = make_search(Metric.PDR, bounded)
    count = 0
    while (rate := search.next_rate()) is not None:
        assert search.outcome is None
        assert bounded.floor_pps <= rate <= bounded.ceiling_pps
        assert 1 <= search.remaining_trials <= max_trials - max(0, count - HELD_UP_MAX_IN_ALL)
        offered, delivered, held_up = behaviour[count % len(behaviour)]
        packets = round(rate * offered)
        notes = (HELD_UP,) if held_up else ()
        search.record(Trial(rate, packets, round(packets * delivered), NS_PER_S, notes))
        count += 1
        assert count <= max_trials + HELD_UP_MAX_IN_ALL
    outcome = search.outcome
    assert outcome is not None
    assert len(outcome.trials) == count
    passed = [t.offered_pps for t in outcome.trials if t.passes(bounded.loss_ratio)]
    assert outcome.pps == max(passed, default=0.0)
    assert outcome.reason
