"""The report as one Markdown document."""

from __future__ import annotations

from collections.abc import Iterator

from tools.bench.cell import BASELINE, Metric
from tools.bench.paper import SHARES, TABLES, Table
from tools.bench.report import tables
from tools.bench.report.series import DAGGER_MEANS, missing_notes, point, points
from tools.bench.results import Results
from tools.bench.statistics import Summary, summarize
from tools.bench.text import markdown
from tools.lab.units import format_ns

READING = """\
Every rate is the PDR@{loss:g} %: the highest at which at most that share of all packets, data and
STAMP, is lost. A *ratio* is the rate divided by that of the *baseline*, H.Encaps forwarding without
any STAMP implementation, which is measured anew right before each run: ratios, not kpps, are what
two machines have in common. Intervals are Student's over the runs; those of ratios are of the
geometric mean of the pairs. The paper's own intervals are 16 % narrower than Student's would be
of its ten runs. {dagger_means} in at least one run. A rate is a lower bound then. So is a ratio
where it was the system's rate; where it was the baseline's, the true ratio may be lower, and
where it was both, it is not known."""

TABLE_V = """\
The paper's own baseline of this table is 10 % below those of all others and contradicts its text;
its ratios here are to that of Table IV."""


def render(results: Results, figures: dict[str, tuple[str, str]]) -> str:
    """Return the document; `figures` are captions and relative file names by name of figure."""
    return "\n\n".join(_blocks(results, figures)) + "\n"


def _blocks(results: Results, figures: dict[str, tuple[str, str]]) -> Iterator[str]:
    yield "# What measuring with STAMP costs, beside the paper"
    loss_percent = 100 * results.header.settings.search.loss_ratio
    yield READING.format(loss=loss_percent, dagger_means=DAGGER_MEANS)
    yield _setting(results)
    yield from (f"- {note}" for note in results.notes)
    if results.cells or results.skipped:
        yield from _grid(results, figures)
    yield from _extras(results, figures)


def _grid(results: Results, figures: dict[str, tuple[str, str]]) -> Iterator[str]:
    yield "## In short"
    yield tables.in_short(results)
    yield "## Figures"
    yield from (_figure(figures, name) for name in figures if name.startswith("fig"))
    yield from _paper_tables(results)
    yield from _other_cells(results)


def _figure(figures: dict[str, tuple[str, str]], name: str) -> str:
    caption, file = figures[name]
    return f"![{caption}]({file})"


def _setting(results: Results) -> str:
    header, settings = results.header, results.header.settings
    machine, search = header.machine, settings.search
    memory = machine.memory_bytes
    rows = [
        ("command", f"`{header.command}`"),
        ("begun", header.created),
        ("CPU", f"{machine.cpu_model or 'unknown'}, {machine.cores or 'unknown number of'} cores"),
        ("frequency governor", machine.governor or "none"),
        ("memory", "unknown" if memory is None else f"{memory / 2**30:.1f} GiB"),
        ("kernel", header.kernel),
        ("versions", ", ".join(f"{k} {v or '(absent)'}" for k, v in header.versions.items())),
        ("trial", f"{format_ns(settings.trial_duration_ns)}, {search.tries} tries before it fails"),
        ("resolution", f"{search.resolution:.2%}"),
        ("data packets", f"{settings.data_packet_bytes} bytes"),
        ("STAMP packets", f"{settings.stamp_packet_bytes} bytes"),
        ("pinning", ", ".join(f"{k}: core {v}" for k, v in settings.pinning.items()) or "none"),
        *((key, value) for key, value in settings.other.items()),
    ]
    return markdown(("", ""), rows, "ll")


def _paper_tables(results: Results) -> Iterator[str]:
    yield "## Tables I-VII"
    for table in TABLES:
        yield f"### Table {table.number}: {table.title}"
        row = points(results, table.role, table.system, SHARES, Metric.PDR)
        yield f"Ours: {table.role}, {table.system}."
        if table.number == "V":
            yield TABLE_V
        yield tables.beside_paper(table, _baseline(results, table), row)
        yield from (f"- Not measured: {note}." for note in missing_notes(row))


def _baseline(results: Results, table: Table) -> Summary:
    """Return the baselines beside the cells of a table of the paper."""
    return summarize(
        [
            run.baseline.pps / 1e3
            for cell in results.cells
            if (cell.key.role, cell.key.system, cell.key.metric)
            == (table.role, table.system, Metric.PDR)
            for run in cell.runs
            if run.baseline is not None
        ]
    )


def _other_cells(results: Results) -> Iterator[str]:
    others = [point(results, cell.key) for cell in results.cells]
    others = [cell for cell in others if cell.paper is None and cell.key != BASELINE]
    baseline = point(results, BASELINE)
    if baseline.missing is None:
        others.insert(0, baseline)
    skipped = [s for s in results.skipped if point(results, s.key).paper is None]
    if others or skipped:
        yield "## Cells that the paper has not"
    if others:
        yield tables.other_cells(others)
    yield from (f"- Not measured: {entry.key}: {entry.reason}." for entry in skipped)


def _extras(results: Results, figures: dict[str, tuple[str, str]]) -> Iterator[str]:
    extras = results.extras
    sections = (
        ("packet_cost", "Cost of a packet (`BPF_PROG_RUN`)", tables.packet_cost),
        ("data_traffic", "Data traffic beside an idle system", tables.data_traffic),
        ("timestamp_error", "Error of timestamps", tables.timestamp_error),
        ("schedule_error", "Schedule of the Session-Sender", tables.schedule_error),
        ("footprint", "Memory and CPU", tables.footprint),
        ("control_plane", "Control plane", tables.control_plane),
    )
    yield "## More than the paper"
    for name, title, render_table in sections:
        yield f"### {title}"
        if not getattr(extras, name):
            yield "Not measured: not part of this bench."
            continue
        if name in figures:
            yield _figure(figures, name)
        yield render_table(extras)
