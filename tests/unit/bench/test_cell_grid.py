"""Cells, plans and estimates."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.unit.bench.samples import HEADER, run
from tools.bench.cell import BASELINE, CellKey, Metric, Role, format_share, parse_share
from tools.bench.extras import Quantile, TimestampError, quantile_ns, quantiles_of
from tools.bench.grid import ENDS, PLANS, Estimator, Plan, Step, first_guess_s, grid, interleave
from tools.bench.paper import TABLES
from tools.bench.results import Results

A = CellKey(Role.REFLECTOR, "userspace", Decimal(0))
B = CellKey(Role.REFLECTOR, "userspace", Decimal(100))
C = CellKey(Role.COLLECTOR, "xdp", Decimal(100))


@pytest.mark.parametrize("text", ["0", "0.001", "0.5", "10", "100"])
def test_shares_are_exact(text: str) -> None:
    assert format_share(parse_share(text)) == text
    assert CellKey(Role.REFLECTOR, "xdp", parse_share(text)).share == Decimal(text)


def test_a_share_has_one_form() -> None:
    assert format_share(Decimal("1.50")) == "1.5"
    assert format_share(Decimal("1E+1")) == "10"
    assert format_share(Decimal("1E-3")) == "0.001"
    assert CellKey(Role.REFLECTOR, "xdp", Decimal("1.0")) == CellKey(
        Role.REFLECTOR, "xdp", Decimal(1)
    )


@pytest.mark.parametrize("text", ["-1", "100.1", "1e2", "", "NaN", " 1", "1 %"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ValueError, match="a share is a number from 0 to 100 percent, not"):
        parse_share(text)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "x" * 65])
def test_what_is_no_system(name: str) -> None:
    with pytest.raises(ValueError, match="a system's name is"):
        CellKey(Role.REFLECTOR, name, Decimal(0))


def test_a_cell_has_a_name_for_people() -> None:
    assert str(CellKey(Role.COLLECTOR, "teaparty-1.3", Decimal("0.05"), Metric.NDR)) == (
        "collector teaparty-1.3 0.05 % NDR"
    )


def test_the_full_grid_is_that_of_the_paper() -> None:
    full = PLANS["full"]
    assert full.runs == 10
    for table in TABLES:
        shares = [key.share for key in full.only(roles={table.role}, systems={table.system}).cells]
        paper = [share for share in shares if table.value(share) is not None]
        assert len(paper) == len(table.values)
    assert len(set(full.cells)) == len(full.cells) == 2 * 3 * 13 + 2
    assert set(PLANS["quick"].cells) <= set(full.cells)


def test_what_the_figures_need_takes_half_an_hour_at_most() -> None:
    figures = PLANS["figures"]
    pairs = list(figures.pairs())
    assert set(figures.cells) <= set(PLANS["full"].cells)
    assert {run for key, run in pairs if key.share in ENDS} == {0, 1, 2}
    assert {run for key, run in pairs if key.share not in ENDS} == {0}
    # Stopped at any time, there is as much of every cell.
    assert [run for _, run in pairs] == sorted(run for _, run in pairs)
    least, most = first_guess_s(len(pairs), trial_s=0.25)
    assert (least, most) == (len(pairs) * 15, len(pairs) * 25)
    assert most <= 28 * 60
    assert len(list(figures.with_runs(2).pairs())) == 2 * len(figures.cells)


def test_all_first_runs_come_before_the_second_and_each_follows_its_baseline() -> None:
    steps = list(Plan("p", (A, B), runs=2).steps())
    assert steps == [
        Step(A, 0, True),
        Step(A, 0, False),
        Step(B, 0, True),
        Step(B, 0, False),
        Step(A, 1, True),
        Step(A, 1, False),
        Step(B, 1, True),
        Step(B, 1, False),
    ]
    assert [step.measured for step in steps[:4]] == [BASELINE, A, BASELINE, B]


def test_the_baseline_is_of_the_same_metric_and_has_none_itself() -> None:
    ndr = CellKey(Role.REFLECTOR, "xdp", Decimal(1), Metric.NDR)
    (baseline, _) = interleave([(ndr, 0)])
    assert baseline.measured == CellKey(Role.FORWARDER, "none", Decimal(0), Metric.NDR)
    assert list(interleave([(BASELINE, 0)])) == [Step(BASELINE, 0, False)]


def test_plans_are_filtered() -> None:
    full = PLANS["full"]
    chosen = full.only(
        roles={Role.COLLECTOR}, systems={"xdp", "scapy"}, shares={Decimal(0), Decimal("0.10")}
    )
    assert [str(key) for key in chosen.cells] == [
        "collector scapy 0 % PDR",
        "collector scapy 0.1 % PDR",
        "collector xdp 0 % PDR",
        "collector xdp 0.1 % PDR",
    ]
    assert full.only() == full
    assert len(list(chosen.with_runs(3).pairs())) == 12


def test_other_listeners_have_the_same_grid() -> None:
    cells = grid([Role.REFLECTOR], ["other-1.0"], [Decimal(0), Decimal(5)])
    assert [key.system for key in cells] == ["other-1.0", "other-1.0"]


def test_a_resumed_plan_measures_what_is_missing() -> None:
    plan = Plan("p", (A, B), runs=2)
    results = Results(HEADER).with_run(A, run(5.0)).with_run(B, run(5.0)).with_run(A, run(5.0))
    assert list(interleave(results.missing(plan.pairs()))) == [Step(B, 1, True), Step(B, 1, False)]


def test_nothing_is_estimated_from_nothing() -> None:
    estimator = Estimator()
    assert estimator.remaining_ns([(A, 0)]) is None
    assert estimator.remaining_ns([]) == 0


def test_estimates_come_from_the_nearest_relatives() -> None:
    estimator = Estimator()
    estimator.finished(A, 10)
    assert estimator.remaining_ns([(A, 1), (B, 0), (C, 0)]) == 30
    estimator.finished(C, 100)
    near_c = CellKey(Role.COLLECTOR, "xdp", Decimal(1))
    same_engine = CellKey(Role.REFLECTOR, "xdp", Decimal(1))
    stranger = CellKey(Role.REFLECTOR, "scapy", Decimal(1))
    assert [estimator.expected_ns(k) for k in (B, near_c, same_engine)] == [10, 100, 100]
    assert estimator.expected_ns(stranger) == 55
    for duration in (20, 90):
        estimator.finished(A, duration)
    assert estimator.expected_ns(A) == 20


def test_quantiles_are_samples() -> None:
    samples = [5, -3, 100, 7]
    quantiles = quantiles_of(samples)
    assert quantiles[0] == Quantile(0.0, -3)
    assert quantiles[-1] == Quantile(1.0, 100)
    assert quantile_ns(quantiles, 0.5) == 5
    assert quantile_ns(quantiles, 0.123) is None
    assert {q.ns for q in quantiles} <= set(samples)
    assert quantiles_of([]) == ()


def test_quantiles_have_an_order() -> None:
    with pytest.raises(ValueError, match="quantiles are not in order"):
        TimestampError("a", "b", 2, (Quantile(0.1, 5), Quantile(0.9, 4)))
    with pytest.raises(ValueError, match="quantiles are not in order"):
        TimestampError("a", "b", 2, (Quantile(0.1, 5), Quantile(0.1, 5)))
    with pytest.raises(ValueError, match=r"a probability is from 0 to 1, not 1\.5"):
        Quantile(1.5, 0)
