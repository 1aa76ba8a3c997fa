"""Counterparts of the paper's Figs. 12-14: bars for traffic of one kind only."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tools.bench.cell import NO_SYSTEM, Metric, Role
from tools.bench.report.series import (
    PAPER_NAMES,
    Point,
    mean_baseline_kpps,
    missing_notes,
    points,
    systems_of,
)
from tools.bench.report.style import (
    PAPER_ALPHA,
    QUIET_COLOUR,
    colours,
    footnote,
    new_figure,
    tidy,
)
from tools.bench.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 0.36
"""Of a bar; groups are 1 apart."""
DATA_ONLY, STAMP_ONLY = Decimal(0), Decimal(100)


def data_traffic(results: Results, role: Role, title: str) -> Figure:
    """Draw what a role costs data traffic while there is no STAMP packet (Fig. 12 or 13)."""
    shown = _shown(results, role, DATA_ONLY)
    figure = new_figure(8.4, 5.0, title)
    axes = figure.subplots()
    _draw_baseline(axes, mean_baseline_kpps(shown))
    _draw_groups(axes, shown, first=1)
    axes.set_ylim(0, 1.25)
    _finish(axes, [NO_SYSTEM, *(p.key.system for p in shown)])
    figure.legend(handles=_legend(shown), loc="outside right upper", frameon=False, fontsize=9)
    footnote(figure, _notes(shown))
    return figure


def stamp_traffic(results: Results, title: str) -> Figure:
    """Draw what each role carries when there are only STAMP packets (Fig. 14), log scale."""
    figure = new_figure(11.5, 5.4, title)
    everything: list[Point] = []
    panels = figure.subplots(1, 2, sharey=True)
    for axes, role, letter in zip(panels, (Role.COLLECTOR, Role.REFLECTOR), "ab", strict=True):
        shown = _shown(results, role, STAMP_ONLY)
        axes.set_yscale("log")
        axes.axhline(1.0, color=QUIET_COLOUR, linewidth=1.0, linestyle=":")
        _draw_groups(axes, shown, first=0)
        _finish(axes, [p.key.system for p in shown])
        axes.set_title(f"({letter}) {role}", loc="left", fontsize=11, fontweight="bold")
        everything += shown
    panels[1].set_ylabel("")
    low = min((ratio for p in everything for ratio in _ratios(p) if ratio > 0), default=0.1)
    panels[0].set_ylim(low / 3, 30)
    figure.legend(
        handles=_legend(everything), loc="outside upper right", ncols=3, frameon=False, fontsize=9
    )
    footnote(figure, _notes(everything))
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


def _draw_baseline(axes: Axes, kpps: float | None) -> None:
    colour = colours([])[NO_SYSTEM]
    if kpps is None:
        _say_missing(axes, -WIDTH / 2)
    else:
        axes.bar(-WIDTH / 2, 1.0, WIDTH * 0.94, color=colour)
        _label(axes, -WIDTH / 2, 1.0, f"1\n{_kpps(kpps)}")
    _draw_paper(axes, WIDTH / 2, 1.0, 1030.0, colour)
    axes.axhline(1.0, color=QUIET_COLOUR, linewidth=1.0, linestyle=":")


def _draw_groups(axes: Axes, shown: Sequence[Point], first: int) -> None:
    colour_of = colours([p.key.system for p in shown])
    for position, cell in enumerate(shown, first):
        colour = colour_of[cell.key.system]
        x = position if cell.paper is None else position - WIDTH / 2
        if cell.ratio is None:
            _say_missing(axes, x)
        else:
            _draw_ours(axes, x, cell, colour)
        if cell.paper is not None:
            x = position + WIDTH / 2
            _draw_paper(axes, x, cell.paper.ratio, cell.paper.kpps, colour)


def _draw_ours(axes: Axes, x: float, cell: Point, colour: str) -> None:
    assert cell.ratio is not None
    ratio, low, high = cell.ratio.ratio, cell.ratio.low, cell.ratio.high
    face = "white" if cell.bounded else colour
    axes.bar(x, ratio, WIDTH * 0.94, color=face, edgecolor=colour, linewidth=1.4)
    top = ratio
    if low is not None and high is not None:
        error = [[ratio - low], [high - ratio]]
        axes.errorbar(x, ratio, yerror_or_none(error), color="#1b1b1e", capsize=3, linewidth=1.2)
        top = high
    mark = "≥ " if cell.bounded else ""
    kpps = "" if cell.kpps.mean is None else f"\n{_kpps(cell.kpps.mean)}"
    _label(axes, x, top, f"{mark}{_ratio(ratio)}{kpps}", bold=True)


def yerror_or_none(error: list[list[float]]) -> list[list[float]]:
    """Return error bars that rounding has not made negative."""
    return [[max(0.0, value) for value in side] for side in error]


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
    _label(axes, x, ratio, f"{_ratio(ratio)}\n{_kpps(kpps)}", colour=QUIET_COLOUR)


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
    )


def _say_missing(axes: Axes, x: float) -> None:
    axes.annotate(
        "not measured",
        (x, 0.02),
        xycoords=("data", "axes fraction"),
        rotation=90,
        ha="center",
        va="bottom",
        fontsize=9,
        color=QUIET_COLOUR,
        style="italic",
    )


def _finish(axes: Axes, systems: Sequence[str]) -> None:
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
    axes.set_ylabel("PDR@0.5 % as ratio to own baseline")
    tidy(axes, "y")


def _legend(shown: Sequence[Point]) -> list[Patch]:
    handles = [
        Patch(facecolor=QUIET_COLOUR, label="this bench, 95 % CI"),
        Patch(facecolor="white", edgecolor=QUIET_COLOUR, hatch="////", label="paper"),
    ]
    if any(cell.bounded for cell in shown):
        handles.append(Patch(facecolor="white", edgecolor=QUIET_COLOUR, label="bounded by the bed"))
    return handles


def _notes(shown: Sequence[Point]) -> list[str]:
    missing = missing_notes(shown)
    return ["Not measured: " + "; ".join(missing)] if missing else []


def _ratio(ratio: float) -> str:
    return f"{ratio:.3f}" if ratio >= 0.1 else f"{ratio:.2g}"


def _kpps(kpps: float) -> str:
    return f"{kpps:.0f} kpps" if kpps >= 10 else f"{kpps:.3g} kpps"
