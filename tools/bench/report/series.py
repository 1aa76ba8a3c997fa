"""What figures and tables show, as numbers: each cell of ours beside the paper's."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from tools.bench.cell import NO_SYSTEM, CellKey, Metric, Role, format_share
from tools.bench.grid import ENGINES
from tools.bench.paper import SHARES, TABLES, Reference, reference
from tools.bench.results import Results
from tools.bench.statistics import (
    Bounded,
    RatioEstimate,
    Summary,
    mean_ratio,
    median,
    summarize,
)

NOT_IN_BENCH = "not part of this bench"
DAGGER = "†"
DAGGER_MEANS = f"{DAGGER} bounded by the bed"
DAGGER_OF_RATIO_MEANS = f"{DAGGER_MEANS}: the rate, or its baseline's"
PAPER_NAMES = {"scapy": "basic", "userspace": "optimised", "xdp": "eBPF"}
"""What the paper calls an implementation of the same kind."""


@dataclass(frozen=True, slots=True)
class Point:
    """One cell: what was measured, or why it was not, and what the paper has."""

    key: CellKey
    kpps: Summary
    """Of the runs; without any, it was not measured."""
    baseline_kpps: Summary
    """Of the baselines beside the runs."""
    ratio: RatioEstimate | None
    """To the baseline, pair by pair; None without any."""
    median_ratio: Bounded | None
    """Of the runs' ratios, and what is known of the true one."""
    rate_bounded: bool
    """In at least one run the bed was the limit of the system: its rate is a lower bound."""
    baseline_bounded: bool
    """The same of the baseline."""
    missing: str | None
    """Why there are no runs; None where there are."""
    paper: Reference | None
    """Of the paper, PDR only."""

    @property
    def bounded(self) -> bool:
        """Whether the ratio is not the system's: the bed was the limit of either rate."""
        return self.rate_bounded or self.baseline_bounded


def ratio_label(results: Results) -> str:
    """Return what figures show."""
    loss_percent = 100 * results.header.settings.search.loss_ratio
    return f"PDR@{loss_percent:g} % as ratio to own baseline"


def point(results: Results, key: CellKey) -> Point:
    """Return what is known of a cell."""
    runs = results.runs(key)
    ratios = [ratio for run in runs if (ratio := run.ratio) is not None]
    baselines = [run.baseline for run in runs if run.baseline is not None]
    return Point(
        key=key,
        kpps=summarize([run.system.pps / 1e3 for run in runs]),
        baseline_kpps=summarize([baseline.pps / 1e3 for baseline in baselines]),
        ratio=mean_ratio(ratios),
        median_ratio=median([found for run in runs if (found := run.bounded_ratio) is not None]),
        rate_bounded=any(run.system.bounded_by_bed for run in runs),
        baseline_bounded=any(baseline.bounded_by_bed for baseline in baselines),
        missing=None if runs else results.why_skipped(key) or NOT_IN_BENCH,
        paper=reference(key.role, key.system, key.share) if key.metric is Metric.PDR else None,
    )


def points(
    results: Results, role: Role, system: str, shares: Iterable[Decimal], metric: Metric
) -> list[Point]:
    """Return one row of the grid."""
    return [point(results, CellKey(role, system, share, metric)) for share in shares]


def systems_of(results: Results, role: Role) -> list[str]:
    """Return the paper's three systems, and whatever else was measured in this role."""
    found = [cell.key.system for cell in results.cells if cell.key.role is role]
    return [system for system in dict.fromkeys((*ENGINES, *found)) if system != NO_SYSTEM]


def shares_of(results: Results, role: Role) -> list[Decimal]:
    """Return the paper's shares, and whatever else was measured in this role, in order."""
    return sorted({*SHARES, *(cell.key.share for cell in results.cells if cell.key.role is role)})


def mean_baseline_kpps(shown: Sequence[Point]) -> float | None:
    """Return the mean of all baselines beside these cells; None without any."""
    known = [(p.baseline_kpps.mean, p.baseline_kpps.runs) for p in shown]
    runs = sum(count for mean, count in known if mean is not None)
    if not runs:
        return None
    return sum(mean * count for mean, count in known if mean is not None) / runs


def paper_baseline_kpps(role: Role) -> float:
    """Return the mean of the baselines that the paper's ratios of one role are taken to."""
    return statistics.fmean(table.ratio_baseline_kpps for table in TABLES if table.role is role)


def missing_notes(shown: Iterable[Point]) -> list[str]:
    """Say what was not measured and why, a line for each role, system and reason.

    Only of what the paper has measured: nobody misses the rest.
    """
    grouped: dict[tuple[Role, str, str], list[Decimal]] = {}
    for cell in shown:
        if cell.missing is not None and cell.paper is not None:
            group = (cell.key.role, cell.key.system, cell.missing)
            grouped.setdefault(group, []).append(cell.key.share)
    return [
        f"{role} {system} at {_list_shares(shares)}: {reason}"
        for (role, system, reason), shares in grouped.items()
    ]


def _list_shares(shares: Sequence[Decimal]) -> str:
    if len(set(shares)) == len(SHARES):
        return "all shares"
    return ", ".join(map(format_share, sorted(set(shares)))) + " %"
