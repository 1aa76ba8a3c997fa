"""Verdicts on two results files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from tests.unit.bench.samples import HEADER, make_results, paper_ratio, run
from tools.bench import compare as compare_module
from tools.bench.cell import BASELINE, CellKey, Role
from tools.bench.compare import Comparison, Verdict, compare, document, table
from tools.bench.grid import PLANS
from tools.bench.results import Results
from tools.bench.search import SearchSettings

KEY = CellKey(Role.REFLECTOR, "userspace", Decimal(1))
OTHER = CellKey(Role.COLLECTOR, "xdp", Decimal(100))


def results(*rates: float, key: CellKey = KEY, bounded: bool = False) -> Results:
    found = Results(HEADER)
    for rate in rates:
        found = found.with_run(key, run(rate, 1000.0, bounded=bounded))
    return found


def verdict(a: Results, b: Results) -> tuple[Verdict, str]:
    (cell,) = compare(a, b).cells
    return cell.verdict, cell.reason


def test_a_clear_loss_is_slower() -> None:
    comparison = compare(results(500, 505, 495), results(400, 404, 396))
    (cell,) = comparison.cells
    assert (cell.verdict, cell.reason) == (Verdict.SLOWER, "by 20.0%")
    assert cell.ratio_a == pytest.approx(0.5, rel=1e-4)
    assert cell.change is not None
    assert cell.change.ratio == pytest.approx(0.8)
    assert cell.change.high is not None
    assert cell.change.high < 1
    assert comparison.exit_status == 1


def test_a_clear_gain_is_faster() -> None:
    comparison = compare(results(400, 404, 396), results(500, 505, 495))
    assert comparison.cells[0].verdict is Verdict.FASTER
    assert comparison.exit_status == 0


def test_noise_is_no_difference_and_says_what_it_hides() -> None:
    found, reason = verdict(results(500, 550, 450), results(480, 530, 430))
    assert found is Verdict.SAME
    assert reason.startswith("differences below ")
    assert reason.endswith("% are not seen in these runs")


def test_a_certain_difference_may_be_too_small_to_matter() -> None:
    found, reason = verdict(results(500, 500.1, 499.9), results(495, 495.1, 494.9))
    assert (found, reason) == (Verdict.SAME, "1.0% is below the threshold of 2.0%")
    (cell,) = compare(results(500, 500.1, 499.9), results(495, 495.1, 494.9), threshold=0.005).cells
    assert cell.verdict is Verdict.SLOWER


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (results(5, 5), results(5, 5, 5), "fewer than 3 runs in A: 2"),
        (results(5, 5, 5), results(5), "fewer than 3 runs in B: 1"),
        (results(5, 5, 5, bounded=True), results(5, 5, 5), "bounded by the bed in A"),
        (results(5, 5, 5), results(5, 5, 5, bounded=True), "bounded by the bed in B"),
        (results(5, 5, 5), results(), "not measured in B"),
        (results(), results(5, 5, 5), "not measured in A"),
        (results(5, 5, 5), results(5, 0, 0, 5), "no trial passed in 2 of 4 runs in B"),
        (results(0, 0, 0), results(5, 0, 0), "no trial passed in 3 of 3 runs in A"),
    ],
)
def test_what_cannot_be_told(a: Results, b: Results, reason: str) -> None:
    assert verdict(a, b) == (Verdict.UNKNOWN, reason)
    assert compare(a, b).exit_status == 2


def test_a_system_that_died_is_slower_without_any_interval() -> None:
    assert verdict(results(5, 5, 5), results(0, 0, 0)) == (Verdict.SLOWER, "no trial passed in B")
    assert verdict(results(0, 0, 0), results(5, 5, 5)) == (Verdict.FASTER, "no trial passed in A")
    assert verdict(results(0, 0, 0), results(0, 0, 0)) == (
        Verdict.SAME,
        "no trial passed in either",
    )


def test_the_baseline_is_compared_with_nothing() -> None:
    alone = Results(HEADER)
    for _ in range(3):
        alone = alone.with_run(BASELINE, run(500.0, None))
    assert verdict(alone, alone) == (Verdict.UNKNOWN, "no baseline in A")


def test_the_machine_s_speed_cancels() -> None:
    fast, slow = Results(HEADER), Results(HEADER)
    for rate in (500.0, 505.0, 495.0):
        fast = fast.with_run(KEY, run(rate, 1000.0))
        slow = slow.with_run(KEY, run(rate / 3, 1000.0 / 3))
    assert verdict(fast, slow)[0] is Verdict.SAME


def test_rates_of_another_meaning_are_not_compared() -> None:
    settings = replace(HEADER.settings, search=SearchSettings(loss_ratio=0.1))
    other = replace(results(5, 5, 5), header=replace(HEADER, settings=settings))
    assert verdict(results(5, 5, 5), other) == (
        Verdict.UNKNOWN,
        "the permitted loss is 0.005 in A, 0.1 in B",
    )


def test_another_kernel_is_a_warning() -> None:
    other = replace(results(5, 5, 5), header=replace(HEADER, kernel="6.19.0"))
    comparison = compare(results(5, 5, 5), other)
    assert comparison.warnings == ("kernel: 6.18.0 in A, 6.19.0 in B",)
    assert comparison.cells[0].verdict is Verdict.SAME
    assert "warning: kernel: 6.18.0 in A, 6.19.0 in B" in table(comparison)


def test_the_level_is_shared_by_the_cells_that_can_be_compared() -> None:
    cells = [CellKey(Role.REFLECTOR, "xdp", Decimal(share)) for share in range(10)]
    assert compare(make_results(cells), make_results(cells, seed=2)).confidence == pytest.approx(
        0.995
    )
    few = make_results(cells[:5], runs=2)
    assert compare(few, few).confidence == pytest.approx(0.95)


def fraction_without_difference(draws: int, cells: Sequence[CellKey]) -> float:
    same = 0
    for seed in range(draws):
        a = make_results(cells, runs=5, cv=0.03, seed=2 * seed)
        b = make_results(cells, runs=5, cv=0.03, seed=2 * seed + 1)
        same += compare(a, b).count(Verdict.SAME) == len(cells)
    return same / draws


def test_the_same_thing_twice_shows_no_difference_in_95_percent_of_draws() -> None:
    cells = PLANS["quick"].cells
    assert fraction_without_difference(200, cells) >= 0.95
    assert fraction_without_difference(300, cells[:1]) >= 0.95


def test_a_slowdown_of_a_fifth_is_found() -> None:
    """At a variation of 3 % and with five runs, though seventeen other cells are looked at."""
    cells = PLANS["quick"].cells

    def slower(key: CellKey) -> float:
        return paper_ratio(key) * (0.8 if key == KEY else 1.0)

    found = 0
    for seed in range(60):
        a = make_results(cells, runs=5, cv=0.03, seed=2 * seed)
        b = make_results(cells, runs=5, cv=0.03, seed=2 * seed + 1, ratio=slower)
        comparison = compare(a, b)
        (cell,) = (cell for cell in comparison.cells if cell.key == KEY)
        found += cell.verdict is Verdict.SLOWER and comparison.exit_status == 1
    assert found >= 57


def both() -> Comparison:
    a = results(500, 505, 495).with_run(OTHER, run(5.0, 1000.0))
    return compare(a, results(400, 404, 396))


def test_the_table_for_people() -> None:
    lines = table(both()).splitlines()
    assert lines[0].split() == ["CELL", "RUNS", "A", "B", "B", "/", "A", "INTERVAL", "VERDICT"]
    assert lines[1].startswith("reflector userspace 1 % PDR  3, 3    0.5000  0.4000  0.8000  0.78")
    assert lines[1].endswith("slower       by 20.0%")
    assert lines[2].startswith("collector xdp 100 % PDR      1, 0  0.005000       -       -  ")
    assert lines[2].endswith("cannot tell  not measured in B")
    assert lines[4] == (
        "2 cells of B against A: 0 faster, 1 slower, 0 no difference, 1 cannot tell"
    )
    assert "95.00% each, 95% together" in lines[5]


def test_the_same_for_programs() -> None:
    comparison = both()
    content = json.loads(json.dumps(document(comparison)))
    assert content["exit_status"] == 1
    assert content["counts"] == {"faster": 0, "slower": 1, "no difference": 0, "cannot tell": 1}
    assert content["cells"][0]["verdict"] == "slower"
    assert content["cells"][0]["change"]["ratio"] == pytest.approx(0.8)
    assert content["cells"][1]["change"] is None
    rows = list(csv.DictReader(io.StringIO(compare_module.csv(comparison))))
    assert [row["verdict"] for row in rows] == ["slower", "cannot tell"]
    assert float(rows[0]["change"]) == pytest.approx(0.8)
    assert rows[1]["change"] == ""
    assert rows[1]["ratio_b"] == ""


def test_two_empty_files_are_unusable() -> None:
    comparison = compare(Results(HEADER), Results(HEADER))
    assert comparison.exit_status == 2
    assert "0 cells of B against A" in table(comparison)
