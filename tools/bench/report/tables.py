"""Results as text: for people, for programs, and as the Markdown tables of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

from tools.bench.cell import CellKey, Role, format_share
from tools.bench.extras import Extras, Quantiles, quantile_ns
from tools.bench.jsonform import to_json
from tools.bench.paper import SHARES, Table, Value
from tools.bench.report.series import DAGGER, DAGGER_MEANS, Point, point, systems_of
from tools.bench.results import Results
from tools.bench.statistics import Bound, Bounded, RatioEstimate, Summary, mean_ratio, summarize
from tools.bench.text import aligned, exact, markdown, to_csv
from tools.lab.units import format_ns

UNKNOWN = "-"
DATA, STAMP = Decimal(0), Decimal(100)
"""Shares at the ends of the scale: traffic of one kind only."""
BARE_PROGRAMS = {"xdp-tx": "bare `XDP_TX`", "xdp-drop": "bare `XDP_DROP`"}
QUANTILES = (0.01, 0.5, 0.99, 0.999)


def table(results: Results) -> str:
    """Return all cells for people, those that were skipped with the reason."""
    shown = [point(results, cell.key) for cell in results.cells]
    rows = [_row(cell) for cell in shown]
    rows += [
        (str(skipped.key), "0", *[UNKNOWN] * 7, f"not measured: {skipped.reason}")
        for skipped in results.skipped
    ]
    header = (
        *("CELL", "RUNS", "KPPS", "SD", "CV", "BASELINE"),
        *("MEDIAN RATIO", "MEAN RATIO", "95 % CI", "PAPER'S RATIO"),
    )
    lines = [aligned(header, rows, "lrrrrrrrrl")]
    if any(cell.bounded for cell in shown):
        lines += ["", f"{DAGGER_MEANS} in at least one run; medians say what that makes of them"]
    lines += [f"note: {note}" for note in results.notes]
    return "\n".join(lines)


def _row(cell: Point) -> tuple[str, ...]:
    paper = UNKNOWN if cell.paper is None else _ratio(cell.paper.ratio)
    return (
        str(cell.key),
        str(cell.kpps.runs),
        kpps(cell.kpps.mean) + (DAGGER if cell.rate_bounded else ""),
        kpps(cell.kpps.sd),
        percent(cell.kpps.cv),
        kpps(cell.baseline_kpps.mean) + (DAGGER if cell.baseline_bounded else ""),
        median_ratio(cell.median_ratio, _ratio),
        _mean_ratio(cell),
        interval(cell.ratio),
        paper,
    )


def _mean_ratio(cell: Point) -> str:
    if cell.ratio is None:
        return UNKNOWN
    return _ratio(cell.ratio.ratio) + (DAGGER if cell.bounded else "")


def median_ratio(median: Bounded | None, form: Callable[[float], str]) -> str:
    """Return a median in a form, with what is known of the true one."""
    if median is None:
        return UNKNOWN
    match median.bound:
        case Bound.NONE:
            return form(median.value)
        case Bound.BOTH:
            return "not known"
        case bound:
            return f"{bound} {form(median.value)}"


def csv(results: Results) -> str:
    """Return a line for each run of each cell; rates in packets per second."""
    header = (
        *("role", "system", "share", "metric", "run", "started", "pps", "baseline_pps", "ratio"),
        *("ratio_bound", "median_ratio", "median_ratio_bound"),
        *("bounded_by_bed", "reason", "trials"),
    )
    medians = {cell.key: point(results, cell.key).median_ratio for cell in results.cells}
    rows = [
        (
            *(str(cell.key.role), cell.key.system, format_share(cell.key.share)),
            *(str(cell.key.metric), str(index), run.started, exact(run.system.pps)),
            exact(None if run.baseline is None else run.baseline.pps),
            *_with_bound(run.bounded_ratio),
            *_with_bound(medians[cell.key]),
            "true" if run.bounded_by_bed else "false",
            run.system.reason,
            str(len(run.system.trials)),
        )
        for cell in results.cells
        for index, run in enumerate(cell.runs)
    ]
    return to_csv(header, rows)


def _with_bound(ratio: Bounded | None) -> tuple[str, str]:
    return ("", "") if ratio is None else (exact(ratio.value), str(ratio.bound))


def summary(results: Results) -> list[dict[str, Any]]:
    """Return for programs what `table` returns for people: an object for each cell."""
    return [_summary_of(point(results, cell.key)) for cell in results.cells]


def _summary_of(cell: Point) -> dict[str, Any]:
    ratio, median = cell.ratio, cell.median_ratio
    return {
        "key": to_json(cell.key),
        "kpps": to_json(cell.kpps),
        "baseline_kpps": to_json(cell.baseline_kpps),
        "median_ratio": None if median is None else median.value,
        "median_ratio_bound": None if median is None else str(median.bound),
        "mean_ratio": None if ratio is None else to_json(ratio),
        "rate_bounded": cell.rate_bounded,
        "baseline_bounded": cell.baseline_bounded,
    }


def costs(results: Results) -> str:
    """Return the README's table: medians at the ends of the scale, the paper's in brackets."""
    rows = []
    for role in (Role.REFLECTOR, Role.COLLECTOR):
        for system in systems_of(results, role):
            ends = [point(results, CellKey(role, system, share)) for share in (DATA, STAMP)]
            if all(cell.missing for cell in ends):
                continue
            runs = dict.fromkeys(str(cell.kpps.runs) for cell in ends if not cell.missing)
            name = BARE_PROGRAMS.get(system) or f"`{system}`"
            rows.append((f"{role} {name}", *map(_cost, ends), ", ".join(runs)))
    return markdown(("", "data only", "STAMP only", "runs"), rows, "lrrr")


def _cost(cell: Point) -> str:
    if cell.median_ratio is None:
        return ""
    paper = "" if cell.paper is None else f" ({_brief(cell.paper.ratio)})"
    return median_ratio(cell.median_ratio, _brief) + paper


def _brief(ratio: float) -> str:
    return f"{ratio:.2f}" if 0.1 <= ratio < 2 else f"{ratio:.2g}"


def in_short(results: Results) -> str:
    """Return the ends of the scale: ratios with data traffic only, and with STAMP only."""
    header = (
        *("role", "system", "data only: ratio", "95 % CI", "paper"),
        *("STAMP only: ratio", "95 % CI", "paper"),
    )
    rows = [
        (
            str(role),
            system,
            *_short_cells(point(results, CellKey(role, system, DATA))),
            *_short_cells(point(results, CellKey(role, system, STAMP))),
        )
        for role in (Role.COLLECTOR, Role.REFLECTOR)
        for system in systems_of(results, role)
    ]
    return markdown(header, rows, "llrrrrrr")


def _short_cells(cell: Point) -> tuple[str, str, str]:
    ours = "not measured" if cell.missing else UNKNOWN
    if cell.ratio is not None:
        ours = f"**{_mean_ratio(cell)}**"
    paper = UNKNOWN if cell.paper is None else _ratio(cell.paper.ratio)
    return ours, interval(cell.ratio), paper


def beside_paper(table_of_paper: Table, baseline: Summary, cells: Sequence[Point]) -> str:
    """Return one of the paper's tables with ours at its side; `cells` in the order of `SHARES`."""
    header = (
        *("STAMP", "paper kpps", "CV", "CI95/Avg", "ratio"),
        *("ours kpps", "CV", "CI95/Avg", "ratio", "95 % CI", "runs"),
    )
    rows = [("baseline", *_paper_cells(table_of_paper.baseline, 1.0), *_baseline_cells(baseline))]
    for share, value, cell in zip(SHARES, table_of_paper.values, cells, strict=True):
        ratio = value.avg_kpps / table_of_paper.ratio_baseline_kpps
        rows.append((f"{format_share(share)} %", *_paper_cells(value, ratio), *_our_cells(cell)))
    return markdown(header, rows, "l" + "r" * 10)


def _paper_cells(value: Value, ratio: float) -> tuple[str, ...]:
    return (
        f"{value.avg_kpps:.2f}",
        f"{value.cv_percent:.2f} %",
        f"{value.ci95_percent:.2f} %",
        _ratio(ratio),
    )


def _baseline_cells(baseline: Summary) -> tuple[str, ...]:
    if not baseline.runs:
        return ("not measured", *[UNKNOWN] * 5)
    return (*_summary_cells(baseline, ""), "1", UNKNOWN, str(baseline.runs))


def _our_cells(cell: Point) -> tuple[str, ...]:
    if cell.missing is not None:
        return ("not measured", *[UNKNOWN] * 5)
    return (
        *_summary_cells(cell.kpps, DAGGER if cell.rate_bounded else ""),
        UNKNOWN if cell.ratio is None else f"**{_mean_ratio(cell)}**",
        interval(cell.ratio),
        str(cell.kpps.runs),
    )


def _summary_cells(summary: Summary, mark: str) -> tuple[str, ...]:
    return kpps(summary.mean) + mark, percent(summary.cv), percent(summary.ci95_ratio)


def other_cells(cells: Iterable[Point]) -> str:
    """Return cells that the paper has not."""
    header = ("cell", "kpps", "CV", "CI95/Avg", "ratio", "95 % CI", "runs")
    return markdown(header, [(str(cell.key), *_our_cells(cell)) for cell in cells], "lrrrrrr")


def packet_cost(extras: Extras) -> str:
    """Return what a packet costs, by `BPF_PROG_RUN`."""
    header = ("packet", "program", "segments", "ns per packet", "± 95 %", "median", "runs")
    rows = []
    for cost in extras.packet_cost:
        found = summarize(cost.ns_per_packet)
        rows.append(
            (
                cost.name,
                f"`{cost.program}`",
                str(cost.segments),
                *(_number(x) for x in (found.mean, found.ci95, found.median)),
                str(found.runs),
            )
        )
    return markdown(header, rows, "llrrrrr")


def data_traffic(extras: Extras) -> str:
    """Return what data traffic keeps beside a system that is idle."""
    header = ("system", "role", "ratio", "95 % CI", "median", "pairs")
    rows = []
    for entry in extras.data_traffic:
        estimate = mean_ratio(entry.ratios)
        median = summarize(entry.ratios).median
        rows.append(
            (
                *(entry.system, entry.role),
                UNKNOWN if estimate is None else f"**{_fine(estimate.ratio)}**",
                _fine_interval(estimate),
                UNKNOWN if median is None else _fine(median),
                str(len(entry.ratios)),
            )
        )
    return markdown(header, rows, "llrrrr")


def _fine(ratio: float) -> str:
    """With a digit more: what is left of data traffic is told in thousandths."""
    return f"{ratio:.4f}"


def _fine_interval(estimate: RatioEstimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return UNKNOWN
    return f"{_fine(estimate.low)}..{_fine(estimate.high)}"


def timestamp_error(extras: Extras) -> str:
    """Return quantiles of the errors of timestamps."""
    header = ("timestamp", "against", "packets", *_QUANTILE_HEADER)
    rows = [
        (e.label, e.method, str(e.count), *_quantile_cells(e.quantiles))
        for e in extras.timestamp_error
    ]
    return markdown(header, rows, "llr" + "r" * len(_QUANTILE_HEADER))


def schedule_error(extras: Extras) -> str:
    """Return quantiles of how late the Session-Sender was."""
    header = ("engine", "sessions", "pps", "packets", "skipped", *_QUANTILE_HEADER)
    rows = [
        (
            *(e.engine, str(e.sessions), f"{e.rate_pps:g}", str(e.count), str(e.skipped)),
            *_quantile_cells(e.quantiles),
        )
        for e in extras.schedule_error
    ]
    return markdown(header, rows, "lrrrr" + "r" * len(_QUANTILE_HEADER))


_QUANTILE_HEADER = ("min", *(f"p{q * 100:g}" for q in QUANTILES), "max")


def _quantile_cells(quantiles: Quantiles) -> list[str]:
    found = [quantile_ns(quantiles, q) for q in (0.0, *QUANTILES, 1.0)]
    return [UNKNOWN if ns is None else format_ns(ns) for ns in found]


def footprint(extras: Extras) -> str:
    """Return memory and CPU by engine and number of sessions."""
    header = ("engine", "sessions", "pps", "process MiB", "store MiB", "CPU %")
    rows = [
        (
            e.engine,
            str(e.sessions),
            UNKNOWN if e.rate_pps is None else f"{e.rate_pps:g}",
            *(_number(None if b is None else b / 2**20) for b in (e.rss_bytes, e.store_bytes)),
            _number(e.cpu_percent),
        )
        for e in extras.footprint
    ]
    return markdown(header, rows, "lrrrrr")


def control_plane(extras: Extras) -> str:
    """Return how long requests of the management take."""
    header = ("request", "sessions", "median", "min", "max", "tries")
    rows = []
    for entry in extras.control_plane:
        found = summarize([float(ns) for ns in entry.durations_ns])
        shown = (
            found.median,
            min(entry.durations_ns, default=None),
            max(entry.durations_ns or [0]),
        )
        texts = [UNKNOWN if ns is None or not found.runs else format_ns(ns) for ns in shown]
        rows.append((entry.name, str(entry.sessions), *texts, str(found.runs)))
    return markdown(header, rows, "lrrrrr")


def kpps(value: float | None) -> str:
    """Return a rate, with digits enough for small ones."""
    if value is None:
        return UNKNOWN
    return f"{value:.2f}" if value >= 10 or not value else f"{value:#.3g}"


def percent(ratio: float | None) -> str:
    """Return a ratio in percent."""
    return UNKNOWN if ratio is None else f"{100 * ratio:.2f} %"


def interval(estimate: RatioEstimate | None) -> str:
    """Return a confidence interval."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return UNKNOWN
    return f"{_ratio(estimate.low)}..{_ratio(estimate.high)}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.3f}" if ratio >= 0.1 or not ratio else f"{ratio:#.3g}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
