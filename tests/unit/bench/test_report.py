"""Figures and tables: everything that was measured is there, and nothing that was not."""

from __future__ import annotations

import csv as csv_module
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from tests.unit.bench.samples import HEADER, make_extras, make_results, run
from tools.bench.cell import BASELINE, CellKey, Metric, Role
from tools.bench.extras import DataTraffic, Extras
from tools.bench.grid import PLANS
from tools.bench.paper import SHARES
from tools.bench.report import csv, summary, table, tables, with_table, write_report
from tools.bench.report.bars import data_traffic, stamp_traffic
from tools.bench.report.distributions import footprints, schedule_errors, timestamp_errors
from tools.bench.report.lines import by_share
from tools.bench.report.markdown import render
from tools.bench.report.series import (
    missing_notes,
    point,
    points,
    shares_of,
    systems_of,
)
from tools.bench.report.style import COLOURS
from tools.bench.results import Results, combine, load

ROOT = Path(__file__).resolve().parent.parent.parent.parent

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

FULL = PLANS["full"].cells
USERSPACE = PLANS["full"].only(systems={"userspace"}).cells
STAMP_ONLY = CellKey(Role.REFLECTOR, "xdp", Decimal(100))
LISTENER = CellKey(Role.REFLECTOR, "other-1.0", Decimal(100))
FIGURES = {f"fig{number}": ("caption", f"fig{number}.png") for number in range(12, 17)}


@pytest.fixture(scope="module")
def full() -> Results:
    return replace(make_results(bounded={STAMP_ONLY}), extras=make_extras())


@pytest.fixture(scope="module")
def userspace() -> Results:
    results = make_results(USERSPACE)
    for key in FULL:
        if key.system == "xdp":
            results = results.with_skipped(key, "bcc is not installed")
    return results


def solid_bars(figure: Figure, panel: int = 0) -> list[Rectangle]:
    """Our bars: those of the paper are hatched."""
    patches = figure.axes[panel].patches
    return [p for p in patches if isinstance(p, Rectangle) and p.get_hatch() is None]


def hatched_bars(figure: Figure, panel: int = 0) -> list[Rectangle]:
    patches = figure.axes[panel].patches
    return [p for p in patches if isinstance(p, Rectangle) and p.get_hatch() is not None]


def texts(figure: Figure) -> list[str]:
    return [
        child.get_text()
        for axes in figure.axes
        for child in axes.get_children()
        if isinstance(child, Annotation)
    ]


def footnote(figure: Figure) -> str:
    return figure.get_supxlabel() or ""


def test_a_point_is_a_cell_of_ours_beside_the_paper_s(full: Results) -> None:
    cell = point(full, STAMP_ONLY)
    assert cell.kpps.runs == 5
    assert cell.ratio is not None
    assert cell.paper is not None
    assert cell.ratio.ratio == pytest.approx(cell.paper.ratio, rel=0.05)
    assert cell.bounded
    assert cell.missing is None
    runs = full.runs(STAMP_ONLY)
    assert cell.kpps.mean == pytest.approx(sum(r.system.pps for r in runs) / 5e3)


def test_a_point_that_was_not_measured_says_why(userspace: Results) -> None:
    assert point(userspace, STAMP_ONLY).missing == "bcc is not installed"
    scapy = point(userspace, replace(STAMP_ONLY, system="scapy"))
    assert scapy.missing == "not part of this bench"
    assert scapy.kpps.mean is None
    assert scapy.ratio is None


def test_the_paper_has_only_pdr(full: Results) -> None:
    assert point(full, replace(STAMP_ONLY, metric=Metric.NDR)).paper is None


def test_other_listeners_and_shares_are_shown_too() -> None:
    results = make_results([LISTENER, replace(LISTENER, share=Decimal("0.002"))], runs=2)
    assert systems_of(results, Role.REFLECTOR) == ["scapy", "userspace", "xdp", "other-1.0"]
    assert systems_of(results, Role.COLLECTOR) == ["scapy", "userspace", "xdp"]
    assert shares_of(results, Role.REFLECTOR) == sorted([*SHARES, Decimal("0.002")])


def test_what_is_missing_is_said_in_few_words(userspace: Results) -> None:
    shown = [
        cell
        for system in ("scapy", "userspace", "xdp", "xdp-tx")
        for cell in points(userspace, Role.REFLECTOR, system, SHARES, Metric.PDR)
    ]
    assert missing_notes(shown) == [
        "reflector scapy at all shares: not part of this bench",
        "reflector xdp at all shares: bcc is not installed",
    ]
    assert missing_notes(shown[:2]) == [
        "reflector scapy at 0, 0.001 %: not part of this bench",
    ]


def test_bars_of_data_traffic(full: Results) -> None:
    figure = data_traffic(full, Role.COLLECTOR, "title")
    assert len(solid_bars(figure)) == len(hatched_bars(figure)) == 4
    heights = [bar.get_height() for bar in solid_bars(figure)]
    expected = point(full, CellKey(Role.COLLECTOR, "scapy", Decimal(0))).ratio
    assert expected is not None
    assert heights[0] == 1.0
    assert heights[1] == expected.ratio
    assert [bar.get_height() for bar in hatched_bars(figure)] == pytest.approx(
        [1.0, 0.899, 0.896, 0.9855], abs=1e-3
    )


def test_bars_that_are_missing_are_absent_and_named(userspace: Results) -> None:
    figure = stamp_traffic(userspace, "title")
    for panel in (0, 1):
        assert len(solid_bars(figure, panel)) == 1
        assert len(hatched_bars(figure, panel)) == 3
    assert texts(figure).count("not measured") == 4
    assert "reflector xdp at 100 %: bcc is not installed" in footnote(figure)


def test_bars_that_the_bed_bounds_are_hollow(full: Results) -> None:
    bars = solid_bars(stamp_traffic(full, "title"), panel=1)
    faces = [to_hex(bar.get_facecolor()) for bar in bars]
    assert faces[2] == "#ffffff"
    assert "#ffffff" not in faces[:2] + faces[3:]
    assert sum("†" in text for text in texts(stamp_traffic(full, "title"))) == 1


def test_a_system_that_carries_nothing_has_no_bar_but_a_word() -> None:
    results = make_results([replace(STAMP_ONLY, system="scapy")], ratio=lambda _: 0.0)
    figure = stamp_traffic(results, "title")
    assert solid_bars(figure, panel=1) == []
    assert texts(figure).count("no trial passed") == 1


def solid_lines(figure: Figure) -> Iterator[Any]:
    for line in figure.axes[1].get_lines():
        if line.get_linestyle() == "-" and len(np.asarray(line.get_xdata())) > 2:
            yield np.asarray(line.get_ydata(), float)


def test_lines_show_every_share(full: Results) -> None:
    figure = by_share(full, Role.REFLECTOR, "title")
    ours = list(solid_lines(figure))
    assert len(ours) == 4
    assert [np.isfinite(line).sum() for line in ours] == [13, 13, 13, 1]
    ticks = " ".join(label.get_text() for label in figure.axes[1].get_xticklabels())
    assert ticks == "0 0.001 0.005 0.01 0.05 0.1 0.5 1 5 10 20 50 100"
    positions = figure.axes[1].get_xticks()
    assert list(positions) == sorted(positions)
    assert positions[1] == -3
    assert "Dotted" not in footnote(figure)


def test_lines_do_not_lead_over_what_is_missing() -> None:
    results = make_results(PLANS["quick"].cells, runs=1)
    figure = by_share(results, Role.REFLECTOR, "title")
    for line in solid_lines(figure):
        assert list(np.flatnonzero(np.isfinite(line))) == [0, 7, 12]
    # A hint from each to the next, which is no line.
    hints = [line for line in figure.axes[1].get_lines() if line.get_linestyle() == ":"]
    assert [len(np.asarray(line.get_xdata())) for line in hints] == [2, 3, 3, 3]
    assert "Dotted: from one share to the next that was measured." in footnote(figure)
    assert "reflector xdp at 0.001, 0.005, 0.01" in footnote(figure)


def test_the_report_is_written_and_written_again(full: Results, tmp_path: Path) -> None:
    files = write_report(full, tmp_path / "a")
    again = {file.name: file for file in write_report(full, tmp_path / "b", ["svg"])}
    assert files[0].name == "report.md"
    assert {f.stem for f in files[1:]} == {
        *("fig12", "fig13", "fig14", "fig15", "fig16"),
        *("timestamp_error", "schedule_error", "footprint"),
    }
    for file in files[1:]:
        if file.suffix == ".png":
            assert file.read_bytes().startswith(b"\x89PNG")
            assert f"({file.name})" in files[0].read_text()
        else:
            assert ET.parse(file).getroot().tag.endswith("svg")
            assert file.read_bytes() == again[file.name].read_bytes()


@pytest.mark.parametrize(
    ("results", "figures"),
    [
        (Results(HEADER), []),
        (make_results(runs=1), ["12", "13", "14", "15", "16"]),
        (make_results(USERSPACE, ratio=lambda _: 0.0), ["12", "13", "14", "15", "16"]),
        (make_results([LISTENER]), ["14", "16"]),
        (make_results([replace(STAMP_ONLY, share=Decimal(0))]), ["13", "16"]),
        (make_results([replace(STAMP_ONLY, metric=Metric.NDR)], ratio=lambda _: 1.0), []),
        (Results(HEADER).with_run(BASELINE, run(5e5, None)), []),
    ],
)
def test_whatever_was_measured_there_is_a_report_of(
    results: Results, figures: list[str], tmp_path: Path
) -> None:
    report, *files = write_report(results, tmp_path, ["png"])
    assert [file.name for file in files] == [f"fig{number}.png" for number in figures]
    assert re.findall(r"\]\(fig(\d+)\.png\)", report.read_text()) == figures
    assert table(results)
    assert csv(results)


def test_the_document_has_all_tables_and_reasons(userspace: Results) -> None:
    text = render(replace(userspace, notes=("the machine was noisy",)), FIGURES)
    for number in ("I", "II", "III", "IV", "V", "VI", "VII"):
        assert f"### Table {number}: " in text
    assert "- the machine was noisy" in text
    assert "| 100 % | 0.47 | 0.00 % | 0.00 % | 0.000456 | not measured | - |" in text
    assert text.count("- Not measured: collector xdp at all shares: bcc is not installed.") == 2
    assert "| reflector | xdp | not measured | - | 0.993 | not measured | - | 2.119 |" in text
    assert "bcc (absent)" in text
    assert text.count("Not measured: not part of this bench.") == 6


def test_the_document_marks_what_the_bed_bounds(full: Results) -> None:
    text = render(full, {**FIGURES, **{k: (k, k) for k in ("timestamp_error", "footprint")}})
    marked = [line for line in text.splitlines() if "†" in line and line.startswith("| 100 %")]
    assert len(marked) == 1
    assert "| reflector xdp-tx 100 % PDR | " in text
    assert "| reflector | `stamp_reflector` | 3 | " in text
    assert "| edit-config to first packet | 1000 | 4." in text
    assert "[userspace T2]" not in text
    assert "| userspace T2 | capture on veth | 2000 | " in text


def test_one_run_has_no_interval(tmp_path: Path) -> None:
    text = render(make_results([STAMP_ONLY], runs=1), FIGURES)
    (line,) = (line for line in text.splitlines() if line.startswith("| 100 % | 2178.96"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[6:8] == ["-", "-"]
    assert cells[9:] == ["-", "1"]


def test_the_table_for_people(userspace: Results) -> None:
    lines = table(userspace).splitlines()
    assert lines[0].split()[:3] == ["CELL", "RUNS", "KPPS"]
    assert lines[1].startswith("reflector userspace 0 % PDR")
    assert lines[1].split()[-1] == "0.908"
    assert lines[-1].endswith("not measured: bcc is not installed")
    assert "†" not in table(userspace)
    assert "† bounded by the bed" in table(make_results([STAMP_ONLY], bounded={STAMP_ONLY}))


def test_what_is_bounded_is_marked_where_it_is() -> None:
    results = Results(HEADER)
    for pps in (5e5, 6e5, 9e5):
        results = results.with_run(STAMP_ONLY, run(pps, 5e5, bounded=pps == 9e5))
        results = results.with_run(LISTENER, run(pps, 5e5, baseline_bounded=pps == 9e5))
    _, *lines = table(results).splitlines()[:3]
    cells = [re.split(r"  +", line) for line in lines]
    # The third run is the highest, whatever it really is: the median is what it is.
    assert [row[2] for row in cells] == ["666.67†", "666.67"]
    assert [row[5] for row in cells] == ["500.00", "500.00†"]
    assert [row[6] for row in cells] == ["1.200", "at most 1.200"]
    assert all(row[7].endswith("†") for row in cells)
    results = results.with_run(STAMP_ONLY, run(1e6, 5e5, bounded=True))
    assert " at least 1.500 " in table(results)
    both = Results(HEADER).with_run(LISTENER, run(5e5, 5e5, bounded=True, baseline_bounded=True))
    assert " not known " in table(both)


def test_medians_are_the_same_for_people_and_programs() -> None:
    results = Results(HEADER)
    for pps in (5e5, 6e5, 9e5):
        results = results.with_run(STAMP_ONLY, run(pps, 5e5, bounded=pps < 9e5))
    assert " at least 1.200 " in table(results)
    rows = list(csv_module.DictReader(io.StringIO(csv(results))))
    assert [row["ratio_bound"] for row in rows] == ["at least", "at least", "exact"]
    assert {(row["median_ratio"], row["median_ratio_bound"]) for row in rows} == {
        ("1.2", "at least")
    }
    (cell,) = summary(results)
    assert (cell["median_ratio"], cell["median_ratio_bound"]) == (1.2, "at least")
    assert cell["key"]["system"] == "xdp"
    assert "| reflector `xdp` |  | at least 1.20 (2.1) | 3 |" in tables.costs(results)


def test_a_table_takes_its_place_in_a_document() -> None:
    text = "before\n\n<!-- stamp-bench report -->\nold\n<!-- end -->\n\nafter\n"
    results = Results(HEADER).with_run(STAMP_ONLY, run(6e5, 5e5))
    made = with_table(text, results)
    assert "| reflector `xdp` |  | 1.20 (2.1) | 1 |\n\n<!-- end -->\n\nafter\n" in made
    assert made.startswith("before\n\n<!-- stamp-bench report -->\n\n|  | data only | STAMP only |")
    assert "old" not in made
    assert with_table(made, results) == made


@pytest.mark.parametrize("text", ["", "<!-- end -->\n<!-- stamp-bench report -->\n"])
def test_a_document_without_a_place_for_the_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^no place for the table: <!-- stamp-bench report -->"):
        with_table(text, Results(HEADER))


def test_the_readme_says_what_its_results_files_say() -> None:
    readme = (ROOT / "README.md").read_text()
    (command,) = re.findall(r"^stamp-bench report .*--readme README\.md$", readme, re.MULTILINE)
    files = [ROOT / word for word in command.split() if word.endswith(".json")]
    results = combine([(file.name, load(file)) for file in files])
    assert with_table(readme, results) == readme


def test_csv_has_a_line_for_each_run(userspace: Results) -> None:
    rows = list(csv_module.DictReader(io.StringIO(csv(userspace))))
    assert len(rows) == 5 * len(USERSPACE)
    first = userspace.cells[0].runs[0]
    assert float(rows[0]["pps"]) == first.system.pps
    assert float(rows[0]["ratio"]) == first.ratio
    assert rows[0]["bounded_by_bed"] == "false"
    baseline = Results(HEADER).with_run(BASELINE, run(5.0, None))
    (row,) = csv_module.DictReader(io.StringIO(csv(baseline)))
    assert (row["baseline_pps"], row["ratio"]) == ("", "")


def test_distributions_have_a_line_for_each(full: Results) -> None:
    figure = timestamp_errors(full.extras.timestamp_error)
    assert "Against capture on veth: scapy T2, userspace T2, xdp T2." in footnote(figure)
    body, tail = figure.axes
    assert len(tail.get_lines()) == 3
    assert all(
        list(line.get_ydata()) == sorted(line.get_ydata())  # type: ignore[arg-type]
        for line in body.get_lines()[:3]
    )


def test_engines_are_told_by_colour_and_cases_by_the_style_of_the_line() -> None:
    found = make_extras().timestamp_error
    found += tuple(replace(e, label=e.label.replace("T2", "T3")) for e in found)
    drawn = timestamp_errors(found).axes[1].get_lines()
    seen = [(line.get_color(), line.get_linestyle()) for line in drawn]
    assert seen == [
        (COLOURS[engine], style)
        for engine in ("scapy", "userspace", "xdp")
        for style in ("-", "--")
    ]
    cases = make_extras().schedule_error
    cases += tuple(replace(e, sessions=1) for e in cases)
    drawn = schedule_errors(cases).axes[1].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in drawn}) == len(cases)


def test_a_footprint_that_is_not_known_has_no_line() -> None:
    known = make_extras().footprint
    unknown = tuple(replace(entry, store_bytes=None, cpu_percent=None) for entry in known)
    memory, cpu = footprints(unknown).axes
    assert len(memory.get_lines()) == 3
    assert not cpu.get_lines()


def test_what_data_traffic_keeps_is_told_in_thousandths() -> None:
    extras = Extras(data_traffic=(DataTraffic("xdp", "reflector", (0.98, 0.99, 1.0)),))
    row = tables.data_traffic(extras).splitlines()[2]
    assert row == "| xdp | reflector | **0.9900** | 0.9654..1.0151 | 0.9900 | 3 |"


def test_data_traffic_that_was_not_compared_has_no_ratio() -> None:
    extras = Extras(data_traffic=(DataTraffic("xdp", "reflector", ()),))
    assert tables.data_traffic(extras).splitlines()[2] == "| xdp | reflector | - | - | - | 0 |"
