"""The judgement, right and wrong."""

from __future__ import annotations

from dataclasses import replace
from math import comb

import pytest

from tests.unit.demo.samples import CORE1, CORE2, make_records, make_state
from tools.demo.truth import LineCount
from tools.demo.verdict import (
    LOSS_TAIL,
    binomial_bounds,
    compare_delay,
    compare_loss,
    judge,
)
from tools.stamp_client import Loss

SENT = 2000
LOST = frozenset(range(10, 2000, 50))
NO_LOSS = Loss(forward=0, backward=0, undetermined=0, round_trip=0)


def line(lost: int, dropped: int = 0, late_ns: int = 0) -> LineCount:
    return LineCount(
        lost=lost, dropped_queue=dropped, dropped_socket=0, dropped_send=0, late_ns=late_ns
    )


@pytest.mark.parametrize(
    ("trials", "probability"), [(10, 0.5), (50, 0.02), (200, 0.98), (7, 0.001), (300, 0.3)]
)
def test_binomial_bounds_are_the_exact_quantiles(trials: int, probability: float) -> None:
    terms = [
        comb(trials, k) * probability**k * (1 - probability) ** (trials - k)
        for k in range(trials + 1)
    ]
    low, high = binomial_bounds(trials, probability)
    at_most = [sum(terms[: k + 1]) for k in range(trials + 1)]
    at_least = [sum(terms[k:]) for k in range(trials + 1)]
    plausible = [
        k for k in range(trials + 1) if at_most[k] >= LOSS_TAIL and at_least[k] >= LOSS_TAIL
    ]
    assert (low, high) == (plausible[0], plausible[-1])


def test_binomial_bounds_at_the_edges() -> None:
    assert binomial_bounds(100, 0.0) == (0, 0)
    assert binomial_bounds(100, 1.0) == (100, 100)
    assert binomial_bounds(0, 0.5) == (0, 0)
    low, high = binomial_bounds(1_000_000, 0.02)
    assert 19_500 < low < 19_600
    assert 20_400 < high < 20_500


@pytest.mark.parametrize(
    ("injected_ns", "mean_ns", "problem"),
    [
        (5_000_000, 6_000_000, None),
        (5_000_000, 6_000_001, "forward delay off by +1.000 ms"),
        (5_000_000, 3_500_000, "forward delay off by -1.500 ms"),
        (100_000_000, 103_000_000, None),
        (100_000_000, 103_100_000, "forward delay off by +3.100 ms"),
        (0, -1_200_000, "forward delay off by -1.200 ms"),
        (5_000_000, None, "forward delay unknown: no samples"),
    ],
)
def test_delay_tolerance(injected_ns: int, mean_ns: int | None, problem: str | None) -> None:
    assert compare_delay("forward", injected_ns, 0, mean_ns, None, 1).problem == problem


def test_what_the_line_was_late_belongs_to_the_truth() -> None:
    late = compare_delay("forward", 5_000_000, 2_000_000, 7_020_000, None, 1)
    assert late.problem is None
    assert late.delta_ns == 20_000
    punctual = compare_delay("forward", 5_000_000, 2_000_000, 5_020_000, None, 1)
    assert punctual.problem == "forward delay off by -1.980 ms"


@pytest.mark.parametrize(
    ("lost", "undetermined", "counted", "problem"),
    [
        (40, 0, None, None),
        (40, 0, line(40), None),
        (40, 0, line(41), "forward loss off: 40 lost, the delay line lost 41"),
        (40, 1, line(41), None),
        (40, 1, line(39), "forward loss off: 40 lost, the delay line lost 39"),
        (15, 0, None, "forward loss off: 15 of 2000 lost, expected 21 to 62"),
        (15, 6, None, None),
        (63, 0, None, "forward loss off: 63 of 2000 lost, expected 21 to 62"),
        (40, 0, line(38, 2), "forward: the delay line itself dropped 2 by accident"),
        (None, 0, None, "forward loss unknown"),
    ],
)
def test_loss(
    lost: int | None, undetermined: int, counted: LineCount | None, problem: str | None
) -> None:
    assert compare_loss("forward", 0.02, SENT, lost, undetermined, counted).problem == problem


def test_a_true_measurement_agrees() -> None:
    records = make_records(CORE2, SENT, LOST)
    loss = Loss(forward=len(LOST), backward=0, undetermined=0, round_trip=len(LOST))
    verdict = judge(
        CORE2,
        make_state(CORE2, records, SENT, loss),
        records,
        SENT,
        {(2, "forward"): line(len(LOST)), (2, "backward"): line(0)},
    )
    assert verdict.problems == ()
    assert verdict.agrees
    # Only what arrived could be lost on the way back.
    assert [loss.packets for loss in verdict.losses] == [SENT, SENT - len(LOST)]


def test_a_delay_that_is_off_does_not_agree() -> None:
    records = make_records(CORE1, SENT, error_ns=1_500_000)
    verdict = judge(CORE1, make_state(CORE1, records, SENT, NO_LOSS), records, SENT, {})
    assert not verdict.agrees
    assert [problem.split(" off by ")[0] for problem in verdict.problems] == [
        "forward delay",
        "backward delay",
        "round-trip delay",
    ]


def test_loss_in_the_wrong_direction_does_not_agree() -> None:
    records = make_records(CORE2, SENT, lost_backward=LOST)
    loss = Loss(forward=0, backward=len(LOST), undetermined=0, round_trip=len(LOST))
    verdict = judge(CORE2, make_state(CORE2, records, SENT, loss), records, SENT, {})
    assert verdict.problems == (
        "forward loss off: 0 of 2000 lost, expected 21 to 62",
        "backward loss off: 40 of 2000 lost, expected 0 to 0",
    )


def test_missing_packets_and_records() -> None:
    records = make_records(CORE1, SENT)
    state = make_state(CORE1, records, SENT, NO_LOSS)
    assert judge(CORE1, state, records, SENT + 1, {}).problems == (
        "sent 2000 packets instead of 2001",
    )
    assert judge(CORE1, state, records[1:], SENT, {}).problems == (
        "fetched 1999 records of 2000 replies",
    )
    doubled = (*records[1:], records[1])
    assert not judge(CORE1, state, doubled, SENT, {}).agrees


def test_records_that_tell_another_story_than_the_statistics() -> None:
    records = make_records(CORE1, SENT)
    later = make_records(CORE1, SENT, error_ns=100_000)
    assert judge(CORE1, make_state(CORE1, records, SENT, NO_LOSS), later, SENT, {}).problems == (
        "the records' mean round-trip delay is +0.200 ms off the statistics'",
    )


def test_a_session_that_did_not_complete() -> None:
    records = make_records(CORE1, SENT)
    state = make_state(CORE1, records, SENT, NO_LOSS, oper_state="stopped")
    state = replace(state, last_error="the replies carry SSID 0")
    assert judge(CORE1, state, records, SENT, {}).problems == (
        "the session is stopped: the replies carry SSID 0",
    )
