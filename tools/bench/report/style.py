"""How all figures of the report look."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tools.bench.statistics import RatioEstimate
from tools.lab.units import format_ns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"none": "#5c677d", "scapy": "#d1495b", "userspace": "#2a6f97", "xdp": "#3a8f4d"}
OTHER_COLOURS = ("#8e5ea2", "#c77f1a", "#1b1b1e", "#14919b", "#a0522d")
GRID_COLOUR = "#d9dde3"
QUIET_COLOUR = "#6c757d"
"""Of what is said, not shown."""
PAPER_ALPHA = 0.55
"""The paper's marks are paler than ours."""


def colours(systems: Sequence[str]) -> dict[str, str]:
    """Return a colour for each system; the project's own keep theirs in all figures."""
    others = [system for system in systems if system not in COLOURS]
    found = dict(COLOURS)
    for index, system in enumerate(others):
        found[system] = OTHER_COLOURS[index % len(OTHER_COLOURS)]
    return found


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches."""
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def headline(figure: Figure, title: str, handles: Sequence[Artist], columns: int) -> None:
    """Write the title, and what marks mean beneath it: one block, so that neither covers."""
    figure.legend(
        handles=list(handles),
        title=title,
        title_fontproperties={"size": 14, "weight": "bold"},
        alignment="left",
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        columnspacing=1.6,
        # Long enough for a style of line to be seen.
        handlelength=2.8,
    )


def error_bar(ratio: RatioEstimate) -> list[list[float]] | None:
    """Return how far the interval reaches below and above, as matplotlib wants it."""
    if ratio.low is None or ratio.high is None:
        return None
    # Not below 0, to which rounding may bring an interval of no width.
    return [[max(0.0, ratio.ratio - ratio.low)], [max(0.0, ratio.high - ratio.ratio)]]


def tidy(axes: Axes, grid_axis: str = "both") -> None:
    """Leave only what is read."""
    axes.grid(axis=grid_axis, color=GRID_COLOUR, linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def footnote(figure: Figure, lines: Sequence[str]) -> None:
    """Write remarks below the figure; they are not covered by what is drawn."""
    width = round(13.5 * figure.get_figwidth())
    wrapped = [part for line in lines for part in textwrap.wrap(line, width)]
    if wrapped:
        figure.supxlabel(
            "\n".join(wrapped), x=0.01, ha="left", fontsize=8.5, color=QUIET_COLOUR, linespacing=1.4
        )


def show_ns(nanoseconds: float) -> str:
    """Return a duration in the unit that suits its size."""
    return format_ns(nanoseconds).replace("us", "µs")


def save(figure: Figure, file: Path) -> Path:
    """Write a figure in the format of the file's name; the same data give the same bytes.

    A figure is written once: its layout is settled in writing, and would be settled anew.
    """
    kind = file.suffix.removeprefix(".")
    metadata = {"svg": {"Date": None}, "png": {"Software": None}}.get(kind)
    with mpl.rc_context({"svg.hashsalt": file.stem}):
        figure.savefig(file, format=kind, metadata=metadata)
    return file
