"""What a bench says of a run."""

from __future__ import annotations

import pytest

from tests.unit.bench.samples import run
from tools.bench.progress import outcome
from tools.bench.results import Run
from tools.bench.runner import _notes


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (run(8e5, 4e5), "800.0 kpps, 2.000 of the baseline"),
        (run(8e5, None), "800.0 kpps"),
        (run(8e5, None, bounded=True), "at least 800.0 kpps"),
        (run(8e5, 4e5, bounded=True), "at least 800.0 kpps, at least 2.000 of the baseline"),
        (run(8e5, 4e5, baseline_bounded=True), "800.0 kpps, at most 2.000 of the baseline"),
        (
            run(8e5, 4e5, bounded=True, baseline_bounded=True),
            "at least 800.0 kpps; the ratio is not known: the bed was the limit of both",
        ),
    ],
)
def test_a_bound_is_said_of_what_it_holds_for(seen: Run, text: str) -> None:
    assert outcome(seen) == text


def test_a_baseline_that_the_bed_bounds_is_noted() -> None:
    seen = run(8e5, 4e5, baseline_bounded=True)
    assert _notes(seen.system, seen.baseline, {}) == (
        "the baseline may be higher, and the ratio lower: the bed was the limit",
    )
    assert _notes(seen.system, None, {}) == ()
