"""The report: the paper's figures and tables with ours at their side.

`table`, `csv` and `summary` give the same results as text and for programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from matplotlib.figure import Figure

from tools.bench.cell import Metric, Role
from tools.bench.paper import FIGURES
from tools.bench.report.bars import data_traffic, stamp_traffic
from tools.bench.report.distributions import footprints, schedule_errors, timestamp_errors
from tools.bench.report.lines import by_share
from tools.bench.report.markdown import render
from tools.bench.report.style import save
from tools.bench.report.tables import DATA, STAMP, costs, csv, summary, table
from tools.bench.results import Results

__all__ = ["FORMATS", "csv", "summary", "table", "with_table", "write_report"]

FORMATS = ("png", "svg")
TABLE_BEGINS, TABLE_ENDS = "<!-- stamp-bench report -->\n", "<!-- end -->\n"


def write_report(
    results: Results, directory: Path, formats: Sequence[str] = FORMATS
) -> tuple[Path, ...]:
    """Write report.md and its figures; the Markdown shows those of the first format.

    The same results give the same bytes. Raises OSError where the folder cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files, figures = [], {}
    for name, caption, draw in _figures(results):
        files += [save(draw(), directory / f"{name}.{kind}") for kind in formats]
        figures[name] = (caption, f"{name}.{formats[0]}")
    report = directory / "report.md"
    report.write_text(render(results, figures), encoding="utf-8")
    return (report, *files)


def with_table(text: str, results: Results) -> str:
    """Return a document with the table of the ends of the scale between its two marks.

    Raises ValueError where they are not there, each once and in order.
    """
    before, begins, rest = text.partition(TABLE_BEGINS)
    _, ends, after = rest.partition(TABLE_ENDS)
    if not ends or TABLE_BEGINS in rest or TABLE_ENDS in after:
        raise ValueError(f"no place for the table: {TABLE_BEGINS.strip()} … {TABLE_ENDS.strip()}")
    return f"{before}{begins}\n{costs(results)}\n\n{ends}{after}"


def _figures(results: Results) -> Iterator[tuple[str, str, Callable[[], Figure]]]:
    """Yield name, caption, and how to draw it, of each figure that there is something for."""

    def title(number: str) -> str:
        return f"Fig. {number}: {FIGURES[number]}"

    def measured(role: Role, *shares: Decimal) -> bool:
        keys = [cell.key for cell in results.cells if cell.key.metric is Metric.PDR]
        return any(key.role is role and (not shares or key.share in shares) for key in keys)

    if measured(Role.COLLECTOR, DATA):
        yield "fig12", title("12"), lambda: data_traffic(results, Role.COLLECTOR, title("12"))
    if measured(Role.REFLECTOR, DATA):
        yield "fig13", title("13"), lambda: data_traffic(results, Role.REFLECTOR, title("13"))
    if measured(Role.COLLECTOR, STAMP) or measured(Role.REFLECTOR, STAMP):
        yield "fig14", title("14"), lambda: stamp_traffic(results, title("14"))
    if measured(Role.COLLECTOR):
        yield "fig15", title("15"), lambda: by_share(results, Role.COLLECTOR, title("15"))
    if measured(Role.REFLECTOR):
        yield "fig16", title("16"), lambda: by_share(results, Role.REFLECTOR, title("16"))
    extras = results.extras
    if extras.timestamp_error:
        yield (
            "timestamp_error",
            "Distribution of the errors of timestamps",
            lambda: timestamp_errors(extras.timestamp_error),
        )
    if extras.schedule_error:
        yield (
            "schedule_error",
            "Distribution of the errors of the Session-Sender's schedule",
            lambda: schedule_errors(extras.schedule_error),
        )
    if extras.footprint:
        yield (
            "footprint",
            "Memory and CPU against the number of sessions",
            lambda: footprints(extras.footprint),
        )
