"""Figures of what the paper has not: errors of timestamps and of schedules, and footprint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from tools.bench.extras import Footprint, Quantiles, ScheduleError, TimestampError, quantile_ns
from tools.bench.report.style import (
    QUIET_COLOUR,
    colours,
    footnote,
    headline,
    new_figure,
    show_ns,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE_STYLES = ("-", "--", ":", "-.")
LINEAR_NS = 100
"""Errors below this are drawn linearly, around zero; above, logarithmically."""


def timestamp_errors(found: Sequence[TimestampError]) -> Figure:
    """Draw the distribution of each timestamp's error."""
    lines = []
    for e in found:
        engine, _, stamp = e.label.partition(" ")
        lines.append(_Line(engine, stamp, f"{e.label} ({e.count} packets)", e.quantiles))
    figure = _distribution("Error of timestamps against a capture", "engine minus capture", lines)
    methods = dict.fromkeys(e.method for e in found)
    footnote(
        figure,
        [
            f"Against {method}: {', '.join(e.label for e in found if e.method == method)}."
            for method in methods
        ],
    )
    return figure


def schedule_errors(found: Sequence[ScheduleError]) -> Figure:
    """Draw how late the Session-Sender was."""
    lines = [
        _Line(
            e.engine,
            str(e.sessions),
            f"{e.engine}, {e.sessions} sessions, {e.rate_pps:g} pps, {e.skipped} skipped",
            e.quantiles,
        )
        for e in found
    ]
    return _distribution("How late the Session-Sender sends", "departure minus schedule", lines)


class _Line(NamedTuple):
    """One distribution: its engine has a colour, and its case a style of line."""

    engine: str
    case: str
    label: str
    quantiles: Quantiles


def _distribution(title: str, what: str, lines: Sequence[_Line]) -> Figure:
    """Draw cumulative distributions; the tail is drawn by its complement, beside them."""
    figure = new_figure(12.0, 5.6)
    body, tail = figure.subplots(1, 2)
    colour_of = colours(list(dict.fromkeys(line.engine for line in lines)))
    cases = sorted({line.case for line in lines})
    lines = sorted(lines, key=lambda line: (list(colour_of).index(line.engine), line.case))
    for engine, case, label, quantiles in lines:
        style = LINE_STYLES[cases.index(case) % len(LINE_STYLES)]
        ns = [q.ns for q in quantiles]
        probability = [q.probability for q in quantiles]
        median = quantile_ns(quantiles, 0.5)
        text = label if median is None else f"{label}: median {show_ns(median)}"
        beyond = [(q.ns, 1 - q.probability) for q in quantiles if q.probability < 1]
        for axes, points in ((body, (ns, probability)), (tail, zip(*beyond, strict=True))):
            axes.plot(*points, color=colour_of[engine], linestyle=style, linewidth=2.0, label=text)
    for axes in (body, tail):
        axes.set_xscale("symlog", linthresh=LINEAR_NS)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda ns, _: show_ns(round(ns))))
        axes.tick_params(axis="x", labelsize=8.5, rotation=30)
        axes.set_xlabel(what)
        tidy(axes)
    body.set_ylabel("share of packets with at most this error")
    body.set_ylim(0, 1.01)
    body.axvline(0, color=QUIET_COLOUR, linewidth=1.0, linestyle=":")
    tail.set_ylabel("share of packets with a larger error")
    tail.set_yscale("log")
    tail.set_title("the tail", loc="left", fontsize=10, color=QUIET_COLOUR)
    headline(figure, title, body.get_lines()[: len(lines)], columns=2)
    return figure


def footprints(found: Sequence[Footprint]) -> Figure:
    """Draw memory and CPU against the number of sessions, both logarithmic."""
    figure = new_figure(12.0, 5.0)
    memory, cpu = figure.subplots(1, 2)
    engines = list(dict.fromkeys(entry.engine for entry in found))
    colour_of = colours(engines)
    for engine in engines:
        mine = sorted(
            (entry for entry in found if entry.engine == engine), key=lambda e: e.sessions
        )
        for axes, value, style, label in (
            (memory, lambda e: _mebibytes(e.rss_bytes), "-", f"{engine}: process"),
            (memory, lambda e: _mebibytes(e.store_bytes), "--", f"{engine}: store"),
            (cpu, lambda e: e.cpu_percent, "-", engine),
        ):
            _draw_against_sessions(axes, mine, value, style, label, colour_of[engine])
    memory.set_ylabel("memory (MiB)")
    cpu.set_ylabel("CPU (% of one core)")
    for axes in (memory, cpu):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("sessions")
        tidy(axes)
        if axes.get_lines():
            axes.legend(frameon=False, fontsize=8.5)
        else:
            axes.text(0.5, 0.5, "not known", transform=axes.transAxes, color=QUIET_COLOUR)
    headline(figure, "What sessions cost", [], columns=1)
    return figure


def _draw_against_sessions(
    axes: Axes,
    entries: Sequence[Footprint],
    value: Callable[[Footprint], float | None],
    style: str,
    label: str,
    colour: str,
) -> None:
    known = [(entry.sessions, y) for entry in entries if (y := value(entry)) is not None]
    if known:
        axes.plot(
            *zip(*known, strict=True),
            color=colour,
            linestyle=style,
            marker="o",
            markersize=4.5,
            label=label,
        )


def _mebibytes(count: int | None) -> float | None:
    return None if count is None else count / 2**20
