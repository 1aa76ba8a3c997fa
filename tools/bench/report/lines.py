"""Counterparts of the paper's Figs. 15 and 16: throughput against the share of STAMP packets.

Two panels of the same data: what is left for data traffic is seen on a linear
scale, what the slower systems come down to on a logarithmic one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tools.bench.cell import Metric, Role, format_share
from tools.bench.report.series import (
    DAGGER,
    DAGGER_OF_RATIO_MEANS,
    PAPER_NAMES,
    Point,
    mean_baseline_kpps,
    missing_notes,
    points,
    ratio_label,
    shares_of,
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

ZERO_GAP = 0.6
"""How far, in decades, a share of 0 is drawn left of the smallest other one."""
LINEAR_TOP = 1.25
HINT = ":"
"""Style of the lines that lead over shares that were not measured."""


def by_share(results: Results, role: Role, title: str) -> Figure:
    """Draw one role."""
    shares = shares_of(results, role)
    systems = systems_of(results, role)
    rows = {system: points(results, role, system, shares, Metric.PDR) for system in systems}
    figure = new_figure(10.5, 9.4)
    linear, logarithmic = figure.subplots(2, 1, sharex=True)
    colour_of = colours(systems)
    for axes in (linear, logarithmic):
        axes.axhline(1.0, color=QUIET_COLOUR, linewidth=1.0, linestyle=":")
        for system, row in rows.items():
            _draw_paper(axes, row, shares, colour_of[system])
            _draw_ours(axes, row, shares, colour_of[system])
        axes.set_ylabel(ratio_label(results))
        tidy(axes)
    linear.set_ylim(0, LINEAR_TOP)
    logarithmic.set_yscale("log")
    _label_shares(logarithmic, shares)
    everything = [cell for row in rows.values() for cell in row]
    _add_kpps_axis(linear, mean_baseline_kpps(everything))
    _add_kpps_axis(logarithmic, mean_baseline_kpps(everything))
    linear.set_title(
        f"linear, cut off at {LINEAR_TOP}; the whole range is in the lower plot",
        loc="left",
        fontsize=10,
        color=QUIET_COLOUR,
    )
    logarithmic.set_title("logarithmic", loc="left", fontsize=10, color=QUIET_COLOUR)
    handles = _legend(rows, colour_of)
    headline(figure, title, handles, columns=math.ceil(len(handles) / 2))
    notes = [f"Not measured: {note}." for note in missing_notes(everything)]
    # The first line is that of the baseline.
    if any(line.get_linestyle() == HINT for line in linear.get_lines()[1:]):
        notes.insert(0, "Dotted: from one share to the next that was measured.")
    footnote(figure, notes)
    return figure


def _positions(shares: Sequence[Decimal]) -> dict[Decimal, float]:
    """Return where each share is on the axis: its decimal logarithm, and 0 left of all."""
    positions = {share: math.log10(share) for share in shares if share > 0}
    if Decimal(0) in shares:
        positions[Decimal(0)] = min(positions.values(), default=0.0) - ZERO_GAP
    return positions


def _draw_ours(axes: Axes, row: Sequence[Point], shares: Sequence[Decimal], colour: str) -> None:
    position = _positions(shares)
    # A rate of 0 has no place on a logarithmic scale, and no line leads there or over a gap.
    ratios = [cell.ratio.ratio if cell.ratio and cell.ratio.ratio else math.nan for cell in row]
    places = [position[share] for share in shares]
    axes.plot(places, ratios, color=colour, linewidth=2.0, zorder=3)
    known = [(x, ratio) for x, ratio in zip(places, ratios, strict=True) if math.isfinite(ratio)]
    if 1 < len(known) < len(ratios):
        # Where shares between were not measured, a thin line shows only what belongs together.
        axes.plot(*zip(*known, strict=True), color=colour, linestyle=HINT, linewidth=1.0, zorder=2)
    for cell in row:
        if cell.ratio is None or not cell.ratio.ratio:
            continue
        axes.errorbar(
            position[cell.key.share],
            cell.ratio.ratio,
            error_bar(cell.ratio),
            color=colour,
            capsize=3,
            linewidth=1.2,
            marker=_marker(cell),
            markersize=5.5,
            markerfacecolor="white" if cell.bounded else colour,
            markeredgecolor=colour,
            zorder=4,
        )


def _marker(cell: Point) -> str:
    return "D" if cell.key.system not in PAPER_NAMES else "o"


def _draw_paper(axes: Axes, row: Sequence[Point], shares: Sequence[Decimal], colour: str) -> None:
    position = _positions(shares)
    found = [(position[cell.key.share], cell.paper.ratio) for cell in row if cell.paper is not None]
    axes.plot(
        [x for x, _ in found],
        [ratio for _, ratio in found],
        color=colour,
        linestyle="--",
        linewidth=1.3,
        marker="x",
        markersize=4.5,
        alpha=PAPER_ALPHA,
    )


def _label_shares(axes: Axes, shares: Sequence[Decimal]) -> None:
    positions = _positions(shares)
    axes.set_xticks(
        [positions[share] for share in shares],
        [format_share(share) for share in shares],
        fontsize=9,
    )
    low, high = min(positions.values()), max(positions.values())
    axes.set_xlim(low - 0.2, high + 0.2)
    axes.set_xlabel("STAMP packets among all packets (%), logarithmic; 0 apart")
    if Decimal(0) in positions and len(positions) > 1:
        axes.annotate(
            "//",
            (low + ZERO_GAP / 2, 0),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="center",
            fontsize=11,
            color=QUIET_COLOUR,
            annotation_clip=False,
        )


def _add_kpps_axis(axes: Axes, baseline_kpps: float | None) -> None:
    """Show what ratios are on this machine, on average."""
    if baseline_kpps is None:
        return
    right = axes.secondary_yaxis(
        "right",
        functions=(
            lambda ratio: np.asarray(ratio, float) * baseline_kpps,
            lambda kpps: np.asarray(kpps, float) / baseline_kpps,
        ),
    )
    right.set_ylabel(f"kpps at this bench's mean baseline of {baseline_kpps:.0f} kpps", fontsize=9)
    right.tick_params(labelsize=8.5)


def _legend(rows: dict[str, list[Point]], colour_of: dict[str, str]) -> list[Line2D]:
    """Return two entries for each of the paper's systems: they stand above each other."""
    handles = []
    for system, row in rows.items():
        colour = colour_of[system]
        if any(cell.ratio is not None for cell in row):
            handles.append(Line2D([], [], color=colour, marker=_marker(row[0]), label=system))
        else:
            handles.append(Line2D([], [], linestyle="none", label=f"{system}: not measured"))
        if any(cell.paper is not None for cell in row):
            handles.append(
                Line2D(
                    [],
                    [],
                    color=colour,
                    linestyle="--",
                    marker="x",
                    alpha=PAPER_ALPHA,
                    label=f"paper: {PAPER_NAMES[system]}",
                )
            )
    if any(cell.bounded for row in rows.values() for cell in row):
        handles.append(
            Line2D(
                [],
                [],
                color=QUIET_COLOUR,
                marker="o",
                markerfacecolor="white",
                linestyle="none",
                label=DAGGER_OF_RATIO_MEANS.removeprefix(DAGGER).strip(),
            )
        )
    return handles
