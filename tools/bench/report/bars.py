"""Counterparts of the paper's Figs. 12-14: bars for traffic of one kind only."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tools.bench.cell import NO_SYSTEM, Metric, Role
from tools.bench.report.series import (
    DAGGER,
    DAGGER_OF_RATIO_MEANS,
    PAPER_NAMES,
    Point,
    mean_baseline_kpps,
    missing_notes,
    paper_baseline_kpps,
    points,
    ratio_label,
    systems_of,
)
from tools.bench.report.style import (
    PAPER_ALPHA,
    QUIET_COLOUR,
    colours,
    error_bar,
    footnote,
    headline,
    new_figure,
    tidy,
)
from tools.bench.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 0.36
"""Of a bar; groups are 1 apart."""
LABELS = "Above the bars: ratio to the baseline, and packets per second."
DATA_ONLY, STAMP_ONLY = Decimal(0), Decimal(100)


def data_traffic(results: Results, role: Role, title: str) -> Figure:
    """Draw what a role costs data traffic while there is no STAMP packet (Fig. 12 or 13)."""
    shown = _shown(results, role, DATA_ONLY)
    figure = new_figure(9.0, 5.4)
    axes = figure.subplots()
    _draw_baseline(axes, mean_baseline_kpps(shown), paper_baseline_kpps(role))
    _draw_groups(axes, shown, first=1)
    highest = max((ratio for cell in shown for ratio in _ratios(cell)), default=1.0)
    axes.set_ylim(0, max(1.2, 1.2 * highest))
    _name_groups(axes, [NO_SYSTEM, *(cell.key.system for cell in shown)])
    axes.set_ylabel(ratio_label(results))
    headline(figure, title, _legend(shown), columns=3)
    footnote(figure, [LABELS, *_notes(shown)])
    return figure


def stamp_traffic(results: Results, title: str) -> Figure:
    """Draw what each role carries when there are only STAMP packets (Fig. 14), log scale."""
    figure = new_figure(12.5, 5.8)
    everything: list[Point] = []
    panels = figure.subplots(1, 2, sharey=True)
    for axes, role, letter in zip(panels, (Role.COLLECTOR, Role.REFLECTOR), "ab", strict=True):
        shown = _shown(results, role, STAMP_ONLY)
        axes.set_yscale("log")
        axes.axhline(1.0, color=QUIET_COLOUR, linewidth=1.0, linestyle=":")
        _draw_groups(axes, shown, first=0)
        _name_groups(axes, [cell.key.system for cell in shown])
        axes.set_title(f"({letter}) {role}", loc="left", fontsize=11, fontweight="bold")
        everything += shown
    panels[0].set_ylabel(ratio_label(results))
    ratios = [ratio for cell in everything for ratio in _ratios(cell) if ratio > 0]
    panels[0].set_ylim(min(ratios) / 3, 5 * max(ratios))
    headline(figure, title, _legend(everything), columns=3)
    footnote(figure, [LABELS, *_notes(everything)])
    return figure


def _shown(results: Results, role: Role, share: Decimal) -> list[Point]:
    """Return the paper's systems and the others that were measured at this share."""
    found = [
        cell
        for system in systems_of(results, role)
        for cell in points(results, role, system, [share], Metric.PDR)
    ]
    return [cell for cell in found if cell.missing is None or cell.paper is not None]


def _ratios(cell: Point) -> list[float]:
    ours = [] if cell.ratio is None else [cell.ratio.ratio]
    return ours if cell.paper is None else [*ours, cell.paper.ratio]


def _draw_baseline(axes: Axes, kpps: float | None, paper_kpps: float) -> None:
    colour = colours([])[NO_SYSTEM]
    if kpps is None:
        _say(axes, -WIDTH / 2, "not measured")
    else:
        axes.bar(-WIDTH / 2, 1.0, WIDTH * 0.94, color=colour)
        _label(axes, -WIDTH / 2, 1.0, f"1\n{_rate(kpps)}", bold=True)
    _draw_paper(axes, WIDTH / 2, 1.0, paper_kpps, colour)
    axes.axhline(1.0, color=QUIET_COLOUR, linewidth=1.0, linestyle=":")


def _draw_groups(axes: Axes, shown: Sequence[Point], first: int) -> None:
    colour_of = colours([p.key.system for p in shown])
    for position, cell in enumerate(shown, first):
        colour = colour_of[cell.key.system]
        x = position if cell.paper is None else position - WIDTH / 2
        if cell.ratio is None:
            _say(axes, x, "not measured")
        elif not cell.ratio.ratio:
            _say(axes, x, "no trial passed")
        else:
            _draw_ours(axes, x, cell, colour)
        if cell.paper is not None:
            x = position + WIDTH / 2
            _draw_paper(axes, x, cell.paper.ratio, cell.paper.kpps, colour)


def _draw_ours(axes: Axes, x: float, cell: Point, colour: str) -> None:
    assert cell.ratio is not None
    ratio = cell.ratio.ratio
    face = "white" if cell.bounded else colour
    axes.bar(x, ratio, WIDTH * 0.94, color=face, edgecolor=colour, linewidth=1.4)
    axes.errorbar(x, ratio, error_bar(cell.ratio), color="#1b1b1e", capsize=3, linewidth=1.2)
    mark = DAGGER if cell.bounded else ""
    rate = "" if cell.kpps.mean is None else f"\n{_rate(cell.kpps.mean)}"
    top = ratio if cell.ratio.high is None else cell.ratio.high
    _label(axes, x, top, f"{_ratio(ratio)}{mark}{rate}", bold=True)


def _draw_paper(axes: Axes, x: float, ratio: float, kpps: float, colour: str) -> None:
    axes.bar(
        x,
        ratio,
        WIDTH * 0.94,
        facecolor=(1, 1, 1, 0),
        edgecolor=colour,
        hatch="////",
        linewidth=1.0,
        linestyle="--",
        alpha=PAPER_ALPHA,
    )
    _label(axes, x, ratio, f"{_ratio(ratio)}\n{_rate(kpps)}", colour=QUIET_COLOUR)


def _label(
    axes: Axes, x: float, y: float, text: str, *, colour: str = "#1b1b1e", bold: bool = False
) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7.8,
        color=colour,
        fontweight="bold" if bold else "normal",
        # Over the line of the baseline.
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
    )


def _say(axes: Axes, x: float, text: str) -> None:
    """Write why there is no bar in its place."""
    axes.annotate(
        text,
        (x, 0.02),
        xycoords=("data", "axes fraction"),
        rotation=90,
        ha="center",
        va="bottom",
        fontsize=9,
        color=QUIET_COLOUR,
        style="italic",
    )


def _name_groups(axes: Axes, systems: Sequence[str]) -> None:
    names = [
        "baseline\nno STAMP"
        if system == NO_SYSTEM
        else f"{system}\npaper: {PAPER_NAMES[system]}"
        if system in PAPER_NAMES
        else system
        for system in systems
    ]
    axes.set_xticks(range(len(systems)), names, fontsize=9.5)
    axes.set_xlim(-0.6, len(systems) - 0.4)
    tidy(axes, "y")


def _legend(shown: Sequence[Point]) -> list[Patch]:
    known = any(cell.ratio is not None and cell.ratio.low is not None for cell in shown)
    handles = [
        Patch(facecolor=QUIET_COLOUR, label="this bench" + (", 95 % CI" if known else "")),
        Patch(facecolor="white", edgecolor=QUIET_COLOUR, hatch="////", label="paper"),
    ]
    if any(cell.bounded for cell in shown):
        handles.append(
            Patch(facecolor="white", edgecolor=QUIET_COLOUR, label=DAGGER_OF_RATIO_MEANS)
        )
    return handles


def _notes(shown: Sequence[Point]) -> list[str]:
    return [f"Not measured: {note}." for note in missing_notes(shown)]


def _ratio(ratio: float) -> str:
    return f"{ratio:.3f}" if ratio >= 0.1 else f"{ratio:#.2g}"


def _rate(kpps: float) -> str:
    """Return packets per second as briefly as a bar is wide."""
    if kpps >= 1000:
        return f"{kpps / 1000:.2f}M"
    return f"{kpps:#.3g}".rstrip(".") + "k" if kpps >= 1 else f"{1000 * kpps:.0f}"
