"""Delay against time as a picture: a row for each path, a column for each direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tools.demo.records import lost_packets
from tools.demo.verdict import DelayComparison, PathVerdict, delay_tolerance_ns
from tools.stamp_client import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DELAY_COLOUR = "#2a6f97"
TRUTH_COLOUR = "#d1495b"
LOST_COLOUR = "#1b1b1e"
GRID_COLOUR = "#d9dde3"
SCALE_PERCENTILES = (0.2, 99.8)
"""Delays beyond these are drawn at the edge, as triangles, so that the rest stays readable."""
REACH = 0.3
"""How far the scale reaches at least above the truth, in multiples of the tolerance."""


class Panel(NamedTuple):
    """What one panel shows; times in seconds since the first packet, delays in milliseconds."""

    time_s: np.ndarray
    delay_ms: np.ndarray
    lost_s: np.ndarray
    unknown_s: np.ndarray
    """Packets lost in a direction that is not known."""


def panel(records: Sequence[Record], direction: str, sent: int, interval_us: int) -> Panel:
    """Prepare one direction ("forward" or "backward") of one path."""
    field = f"{direction}_delay"
    pairs = [
        (record.sequence, delay)
        for record in records
        if (delay := getattr(record, field)) is not None
    ]
    values = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    lost = list(lost_packets(records, sent))
    interval_s = interval_us / 1e6
    return Panel(
        time_s=values[:, 0] * interval_s,
        delay_ms=values[:, 1] / 1e6,
        lost_s=np.array([p.sequence for p in lost if p.direction == direction]) * interval_s,
        unknown_s=np.array([p.sequence for p in lost if p.direction is None]) * interval_s,
    )


def scale_ms(delay_ms: np.ndarray, injected_ms: float, tolerance_ms: float) -> tuple[float, float]:
    """Return the lower and upper end of the delay axis: around the bulk and the truth."""
    # Nothing arrives before the lab lets it go: what is below the truth is of interest only
    # where something was measured there.
    low, high = injected_ms, injected_ms + REACH * tolerance_ms
    if delay_ms.size:
        bulk_low, bulk_high = np.percentile(delay_ms, SCALE_PERCENTILES)
        low, high = min(low, float(bulk_low)), max(high, float(bulk_high))
    # The marks of lost packets stand below.
    return low - 0.12 * (high - low), high + 0.05 * (high - low)


def draw(
    verdicts: Sequence[PathVerdict],
    records: Mapping[int, Sequence[Record]],
    interval_us: int,
    file: Path,
) -> None:
    """Write the picture as a PNG; `records` by SSID, in order of sequence."""
    figure = Figure(figsize=(13, 1.3 + 3.5 * len(verdicts)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        "Delay of SRv6 paths, measured with STAMP against what the lab injected",
        fontsize=15,
        fontweight="bold",
    )
    grid = figure.subplots(len(verdicts), 2, squeeze=False)
    for row, verdict in zip(grid, verdicts, strict=True):
        path = verdict.path
        ways = zip(row, verdict.delays[:2], (path.forward, path.backward), strict=True)
        for axes, delay, way in ways:
            shown = panel(records[path.ssid], delay.direction, verdict.sent, interval_us)
            _draw_panel(axes, shown, delay, verdict.sent * interval_us / 1e6)
            axes.set_title(
                f"{path.name}, {delay.direction}:  {' → '.join(way.hops)}",
                loc="left",
                fontsize=11,
                fontweight="bold",
                pad=22,
            )
    for axes in grid[-1]:
        axes.set_xlabel("time since the first packet (s)")
    figure.savefig(file, format="png")


def _draw_panel(axes: Axes, shown: Panel, delay: DelayComparison, length_s: float) -> None:
    injected_ms = delay.injected_ns / 1e6
    tolerance_ms = delay_tolerance_ns(delay.injected_ns) / 1e6
    low, high = scale_ms(shown.delay_ms, injected_ms, tolerance_ms)
    axes.set_ylim(low, high)
    axes.set_xlim(-0.01 * length_s, 1.01 * length_s)
    inside = (shown.delay_ms >= low) & (shown.delay_ms <= high)
    mean = "-" if delay.mean_ns is None else f"{delay.mean_ns / 1e6:.3f}"
    axes.plot(
        shown.time_s[inside],
        shown.delay_ms[inside],
        linestyle="none",
        marker=".",
        markersize=3.5,
        alpha=0.6,
        color=DELAY_COLOUR,
        label=f"measured: mean {mean} ms",
    )
    axes.axhline(
        injected_ms, color=TRUTH_COLOUR, linewidth=1.6, label=f"injected: {injected_ms:g} ms"
    )
    _draw_beyond(axes, shown, low, high)
    _draw_lost(axes, shown)
    axes.set_ylabel("delay (ms)")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(color=GRID_COLOUR, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    # Outside the panel: inside it would cover outliers.
    legend = axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=5,
        fontsize=8.5,
        handlelength=1.4,
        frameon=False,
        borderaxespad=0.1,
        borderpad=0.2,
        handletextpad=0.4,
        columnspacing=1.4,
        markerscale=1.4,
    )
    legend.set_in_layout(False)


def _draw_beyond(axes: Axes, shown: Panel, low: float, high: float) -> None:
    for beyond, edge, marker, extreme in (
        (shown.delay_ms > high, 0.985, "^", np.max),
        (shown.delay_ms < low, 0.015, "v", np.min),
    ):
        if not beyond.any():
            continue
        times = shown.time_s[beyond]
        axes.plot(
            times,
            np.full(times.size, edge),
            transform=axes.get_xaxis_transform(),
            linestyle="none",
            marker=marker,
            markersize=5,
            color=DELAY_COLOUR,
            label=f"{times.size} off the scale, to {extreme(shown.delay_ms[beyond]):.2f} ms",
        )


def _draw_lost(axes: Axes, shown: Panel) -> None:
    for times, colour, text in (
        (shown.lost_s, LOST_COLOUR, "lost"),
        (shown.unknown_s, "#8d99ae", "lost, direction unknown"),
    ):
        if not times.size:
            continue
        axes.plot(
            times,
            np.full(times.size, 0.05),
            transform=axes.get_xaxis_transform(),
            linestyle="none",
            marker="x",
            markersize=5,
            color=colour,
            label=f"{text}: {times.size}",
        )
