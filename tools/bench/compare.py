"""Has anything become slower? Two results files, cell by cell, without crying wolf.

What is compared is each run's ratio to the baseline that was measured beside it: the
machine's speed on the day cancels. Each cell gets the confidence interval of B's ratio
divided by A's (Welch's t on logarithms, see `tools.bench.statistics`), and the interval
decides:

* faster, slower: it does not contain 1, and the difference is at least the practical
  threshold;
* no difference: otherwise. How small a difference would have been seen is said beside it;
* cannot tell: fewer than three runs on one side, or the bed bounded a rate.

Who looks at eighty cells at 95 % finds four that differ by chance. The level is therefore
Bonferroni's: 5 % divided by the number of cells that can be compared, so that two files of
the same thing show no difference at all in 95 % of cases. Holm's procedure would find
slightly more, but has no intervals that go with it: here the verdict is the interval that is
shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tools.bench.cell import CellKey, format_share
from tools.bench.jsonform import to_json
from tools.bench.results import Results, Run
from tools.bench.statistics import RatioEstimate, mean_ratio, unpaired_ratio
from tools.bench.text import aligned, exact, to_csv

ERROR_RATE = 0.05
"""Probability of any verdict "faster" or "slower" where nothing differs."""
THRESHOLD = 0.02
"""Differences below this are of no practical interest."""
MIN_RUNS = 3
SCHEMA = "srv6-stamp-bench-comparison"
SCHEMA_VERSION = 1


class Verdict(StrEnum):
    """Of B, seen from A."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "no difference"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True, slots=True)
class CellComparison:
    """One cell of both files."""

    key: CellKey
    runs_a: int
    runs_b: int
    ratio_a: float | None
    """To A's own baseline: the geometric mean of its runs."""
    ratio_b: float | None
    change: RatioEstimate | None
    """B's ratio divided by A's; None where one is unknown or 0."""
    verdict: Verdict
    reason: str
    """Why, in words."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All cells of both files."""

    cells: tuple[CellComparison, ...]
    confidence: float
    """Of each interval, such that all of them hold together with 95 %."""
    threshold: float
    warnings: tuple[str, ...]
    """What else differs between the files."""

    def count(self, verdict: Verdict) -> int:
        """Return the number of cells with a verdict."""
        return sum(cell.verdict is verdict for cell in self.cells)

    @property
    def exit_status(self) -> int:
        """0: nothing is slower; 1: something is; 2: nothing could be compared."""
        if self.count(Verdict.SLOWER):
            return 1
        return 2 if self.count(Verdict.UNKNOWN) == len(self.cells) else 0


def compare(
    a: Results, b: Results, *, threshold: float = THRESHOLD, error_rate: float = ERROR_RATE
) -> Comparison:
    """Compare B with A."""
    keys = list(dict.fromkeys(cell.key for results in (a, b) for cell in results.cells))
    refusal = _not_the_same_measurement(a, b)
    obstacles = {key: refusal or _obstacle(a.runs(key), b.runs(key)) for key in keys}
    comparable = sum(obstacle is None for obstacle in obstacles.values())
    confidence = 1 - error_rate / max(1, comparable)
    return Comparison(
        cells=tuple(
            _compare_cell(key, a.runs(key), b.runs(key), obstacles[key], confidence, threshold)
            for key in keys
        ),
        confidence=confidence,
        threshold=threshold,
        warnings=_warnings(a, b),
    )


def _not_the_same_measurement(a: Results, b: Results) -> str | None:
    """Say why the rates of two files do not mean the same; None where they do."""
    one, other = a.header.settings, b.header.settings
    for name, then, now in (
        ("permitted loss", one.search.loss_ratio, other.search.loss_ratio),
        ("data packets' size", one.data_packet_bytes, other.data_packet_bytes),
        ("STAMP packets' size", one.stamp_packet_bytes, other.stamp_packet_bytes),
    ):
        if then != now:
            return f"the {name} is {then} in A, {now} in B"
    return None


def _warnings(a: Results, b: Results) -> tuple[str, ...]:
    """Name what differs, and may be why ratios do."""
    one, other = a.header, b.header
    pairs = [
        ("CPU", one.machine.cpu_model, other.machine.cpu_model),
        ("cores", one.machine.cores, other.machine.cores),
        ("kernel", one.kernel, other.kernel),
        ("trial", one.settings.trial_duration_ns, other.settings.trial_duration_ns),
        ("resolution", one.settings.search.resolution, other.settings.search.resolution),
        ("pinning", one.settings.pinning, other.settings.pinning),
    ]
    return tuple(f"{name}: {then} in A, {now} in B" for name, then, now in pairs if then != now)


def _obstacle(a: Sequence[Run], b: Sequence[Run]) -> str | None:
    """Say why a cell cannot be compared; None where it can."""
    if not a or not b:
        return f"not measured in {'B' if a else 'A'}"
    for name, runs in (("A", a), ("B", b)):
        if len(runs) < MIN_RUNS:
            return f"fewer than {MIN_RUNS} runs in {name}: {len(runs)}"
        if any(run.bounded_by_bed for run in runs):
            return f"bounded by the bed in {name}"
        if any(run.ratio is None for run in runs):
            return f"no baseline in {name}"
    for name, runs, other in (("A", a, b), ("B", b, a)):
        zeros = sum(run.ratio == 0 for run in runs)
        # All or none: that is a clear difference, or clearly none, without any interval.
        separated = zeros == len(runs) and len({run.ratio == 0 for run in other}) == 1
        if zeros and not separated:
            return f"no trial passed in {zeros} of {len(runs)} runs in {name}"
    return None


def _compare_cell(
    key: CellKey,
    a: Sequence[Run],
    b: Sequence[Run],
    obstacle: str | None,
    confidence: float,
    threshold: float,
) -> CellComparison:
    ratios_a, ratios_b = _ratios(a), _ratios(b)
    mean_a, mean_b = mean_ratio(ratios_a), mean_ratio(ratios_b)
    positive = bool(ratios_a and ratios_b) and min(*ratios_a, *ratios_b) > 0
    change = unpaired_ratio(ratios_b, ratios_a, confidence) if positive else None
    if obstacle is not None:
        verdict, reason = Verdict.UNKNOWN, obstacle
    elif change is None:
        verdict, reason = _without_interval(ratios_a, ratios_b)
    else:
        verdict, reason = _judge(change, threshold)
    return CellComparison(
        key=key,
        runs_a=len(a),
        runs_b=len(b),
        ratio_a=None if mean_a is None else mean_a.ratio,
        ratio_b=None if mean_b is None else mean_b.ratio,
        change=change,
        verdict=verdict,
        reason=reason,
    )


def _ratios(runs: Sequence[Run]) -> list[float]:
    return [ratio for run in runs if (ratio := run.ratio) is not None]


def _without_interval(a: Sequence[float], b: Sequence[float]) -> tuple[Verdict, str]:
    """Judge a cell in which one side carries nothing in any run."""
    if max(*a, *b) == 0:
        return Verdict.SAME, "no trial passed in either"
    if max(b) == 0:
        return Verdict.SLOWER, "no trial passed in B"
    return Verdict.FASTER, "no trial passed in A"


def _judge(change: RatioEstimate, threshold: float) -> tuple[Verdict, str]:
    assert change.low is not None
    assert change.high is not None
    difference = abs(change.ratio - 1)
    if change.contains_one:
        seen = max(change.high / change.ratio, change.ratio / change.low) - 1
        return Verdict.SAME, f"differences below {seen:.1%} are not seen in these runs"
    if difference < threshold:
        return Verdict.SAME, f"{difference:.1%} is below the threshold of {threshold:.1%}"
    verdict = Verdict.FASTER if change.ratio > 1 else Verdict.SLOWER
    return verdict, f"by {difference:.1%}"


HEADER = ("CELL", "RUNS", "A", "B", "B / A", "INTERVAL", "VERDICT", "")


def table(comparison: Comparison) -> str:
    """Return the comparison for people."""
    rows = [
        (
            str(cell.key),
            f"{cell.runs_a}, {cell.runs_b}",
            _short(cell.ratio_a),
            _short(cell.ratio_b),
            _short(None if cell.change is None else cell.change.ratio),
            _interval(cell.change),
            str(cell.verdict),
            cell.reason,
        )
        for cell in comparison.cells
    ]
    counts = ", ".join(f"{comparison.count(verdict)} {verdict}" for verdict in Verdict)
    lines = [
        *(f"warning: {warning}" for warning in comparison.warnings),
        aligned(HEADER, rows, "lrrrrrll"),
        "",
        f"{len(comparison.cells)} cells of B against A: {counts}",
        f"A, B: rate to each one's own baseline; INTERVAL: {comparison.confidence:.2%} each, "
        f"{1 - ERROR_RATE:.0%} together",
    ]
    return "\n".join(lines)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:#.4g}"


def _interval(change: RatioEstimate | None) -> str:
    if change is None or change.low is None or change.high is None:
        return "-"
    return f"{change.low:.3f}..{change.high:.3f}"


def document(comparison: Comparison) -> dict[str, object]:
    """Return the comparison for programs: the fields of `Comparison`, and what follows of them."""
    content: dict[str, object] = to_json(comparison)
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "exit_status": comparison.exit_status,
        "counts": {str(verdict): comparison.count(verdict) for verdict in Verdict},
        **content,
    }


def csv(comparison: Comparison) -> str:
    """Return the comparison with a line for each cell."""
    header = (
        *("role", "system", "share", "metric", "runs_a", "runs_b", "ratio_a", "ratio_b"),
        *("change", "change_low", "change_high", "p_value", "verdict", "reason"),
    )
    return to_csv(header, [_csv_row(cell) for cell in comparison.cells])


def _csv_row(cell: CellComparison) -> tuple[str, ...]:
    change = cell.change
    estimate = (
        (None, None, None, None)
        if change is None
        else (change.ratio, change.low, change.high, change.p_value)
    )
    return (
        *(str(cell.key.role), cell.key.system, format_share(cell.key.share), str(cell.key.metric)),
        *(str(cell.runs_a), str(cell.runs_b), exact(cell.ratio_a), exact(cell.ratio_b)),
        *map(exact, estimate),
        str(cell.verdict),
        cell.reason,
    )
