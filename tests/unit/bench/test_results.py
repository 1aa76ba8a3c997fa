"""Results survive the disk, whatever happens in between."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bench.samples import HEADER, make_extras, make_results, run, side
from tools.bench import results as results_module
from tools.bench.cell import BASELINE, CellKey, Role
from tools.bench.extras import ControlPlane, Extras
from tools.bench.grid import PLANS
from tools.bench.results import (
    Results,
    ResultsError,
    ResultsFile,
    Side,
    combine,
    decode,
    encode,
    load,
)
from tools.bench.search import Metric, SearchSettings, Trial, make_search, run_search

KEY = CellKey(Role.REFLECTOR, "userspace", Decimal("0.001"))
OTHER = CellKey(Role.COLLECTOR, "xdp", Decimal(100))


def document(results: Results) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(encode(results))
    return content


def test_there_and_back() -> None:
    results = replace(make_results(runs=2), extras=make_extras(), notes=("one",))
    results = results.with_skipped(KEY, "no such engine").with_run(BASELINE, run(5e5, None))
    assert decode(encode(results)) == results


def test_the_document_is_what_other_programs_expect() -> None:
    content = document(Results(HEADER).with_run(KEY, run(500.5, 1000.0)))
    assert (content["schema"], content["version"]) == ("srv6-stamp-bench", 1)
    assert content["header"]["versions"]["bcc"] is None
    (cell,) = content["cells"]
    assert cell["key"] == {
        "role": "reflector",
        "system": "userspace",
        "share": "0.001",
        "metric": "pdr",
    }
    assert cell["runs"][0]["system"]["pps"] == 500.5
    assert cell["runs"][0]["baseline"]["pps"] == 1000.0


def test_benches_are_combined_but_their_runs_are_not() -> None:
    extras = make_extras()
    later = replace(HEADER, created="2027-01-01T00:00:00Z", command="stamp-bench run")
    first = Results(HEADER).with_run(KEY, run(1e5)).with_skipped(OTHER, "broken")
    first = replace(first, extras=Extras(footprint=extras.footprint[:1]))
    other = Results(later).with_run(KEY, run(2e5)).with_run(OTHER, run(3e5))
    other = replace(other, extras=extras, notes=("noisy",))
    found = combine([("a.json", first), ("b.json", other)])
    assert found.header == HEADER
    assert [r.system.pps for key in (KEY, OTHER) for r in found.runs(key)] == [1e5, 3e5]
    assert not found.skipped
    assert found.extras == replace(extras, footprint=extras.footprint[:1])
    assert found.notes == (
        "what the others have not is from b.json: 2027-01-01T00:00:00Z, version 0.1.0, "
        "`stamp-bench run`",
        "b.json: noisy",
    )
    assert combine([("a.json", first)]) == first
    assert combine([("a.json", Results(later)), ("b.json", first)]).why_skipped(OTHER) == "broken"


def test_each_run_is_one_line() -> None:
    text = encode(make_results([KEY], runs=3))
    assert sum('"started"' in line for line in text.splitlines()) == 3
    assert document(Results(HEADER))["cells"] == []


def test_a_ratio_needs_a_baseline() -> None:
    assert run(500.0, 1000.0).ratio == 0.5
    assert run(0.0, 1000.0).ratio == 0.0
    assert run(500.0, None).ratio is None
    assert run(500.0, 0.0).ratio is None


def test_a_bounded_baseline_bounds_the_ratio() -> None:
    bounded = replace(run(500.0), baseline=side(1000.0, bounded=True))
    assert bounded.bounded_by_bed
    assert not run(500.0).bounded_by_bed
    assert run(500.0, bounded=True).bounded_by_bed


def test_a_search_is_kept_with_its_trials() -> None:
    search = make_search(Metric.PDR, SearchSettings())
    outcome = run_search(search, lambda rate: Trial(rate, rate, min(rate, 500), 10**9))
    kept = Side.of(outcome)
    assert (kept.pps, kept.reason) == (outcome.pps, "found")
    assert kept.trials == outcome.trials


def test_what_is_missing_of_a_plan() -> None:
    plan = [(KEY, 0), (OTHER, 0), (KEY, 1), (OTHER, 1)]
    results = Results(HEADER)
    assert results.missing(plan) == plan
    results = results.with_run(KEY, run(5.0))
    assert results.missing(plan) == [(OTHER, 0), (KEY, 1), (OTHER, 1)]
    results = results.with_run(OTHER, run(5.0)).with_run(OTHER, run(5.0))
    assert results.missing(plan) == [(KEY, 1)]


def test_what_was_measured_after_all_is_not_skipped() -> None:
    results = Results(HEADER).with_skipped(KEY, "a").with_skipped(KEY, "b")
    assert results.why_skipped(KEY) == "b"
    assert len(results.skipped) == 1
    assert results.with_run(KEY, run(5.0)).why_skipped(KEY) is None


def test_extras_of_the_same_name_are_replaced() -> None:
    first = ControlPlane("get", 10, (5,))
    extras = Results(HEADER).extras.with_added(first).with_added(ControlPlane("get", 20, (6,)))
    extras = extras.with_added(replace(first, durations_ns=(7,)))
    assert [(c.sessions, c.durations_ns) for c in extras.control_plane] == [(20, (6,)), (10, (7,))]


def test_the_file_is_whole_after_every_run(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    making = ResultsFile.create(file, HEADER)
    assert load(file) == Results(HEADER)
    making.add_run(KEY, run(5.0))
    making.skip(OTHER, "bcc is not installed")
    making.add_extra(ControlPlane("get", 10, (5,)))
    making.add_note("noisy")
    making.add_note("noisy")
    assert load(file) == making.results
    assert making.results.notes == ("noisy",)
    assert making.missing(PLANS["quick"].pairs())
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "results.json"
    making = ResultsFile.create(file, HEADER)
    making.add_run(KEY, run(5.0))
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        making.add_run(KEY, run(6.0))
    assert file.read_bytes() == before
    assert len(making.results.runs(KEY)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_killed_bench_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    ResultsFile.resume(file, HEADER).add_run(KEY, run(5.0))
    later = replace(HEADER, created="2027-01-01T00:00:00Z", command="stamp-bench run --resume")
    again = ResultsFile.resume(file, later)
    assert again.results.header == HEADER
    again.add_run(KEY, run(6.0))
    assert [r.system.pps for r in load(file).runs(KEY)] == [5.0, 6.0]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            replace(HEADER, kernel="6.19.0"),
            r'\$\.header\.kernel: was "6\.18\.0" when the bench began, now "6\.19\.0"',
        ),
        (
            replace(HEADER, settings=replace(HEADER.settings, trial_duration_ns=5)),
            r"\$\.header\.settings\.trial_duration_ns: was 250000000 when .* now 5",
        ),
        (
            replace(HEADER, versions={**HEADER.versions, "bcc": "0.26"}),
            r'\$\.header\.versions\.bcc: was null when the bench began, now "0\.26"',
        ),
    ],
)
def test_another_bench_does_not_go_on(tmp_path: Path, header: Any, message: str) -> None:
    file = tmp_path / "results.json"
    ResultsFile.create(file, HEADER)
    with pytest.raises(ResultsError, match=f"^{file}: {message}$"):
        ResultsFile.resume(file, header)


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    ResultsFile.create(file, HEADER)
    with pytest.raises(ResultsError, match="exists already"):
        ResultsFile.create(file, HEADER)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "f.json: not JSON: "),
        ("[]", '$.schema: not a results file, which says "srv6-stamp-bench"'),
        ('{"schema": "other"}', '$.schema: not a results file, which says "srv6-stamp-bench"'),
        (
            '{"schema": "srv6-stamp-bench", "version": 2}',
            "$.version: version 2 is not known, only version 1",
        ),
        (
            '{"schema": "srv6-stamp-bench", "version": true}',
            "$.version: version true is not known, only version 1",
        ),
        ('{"schema": "srv6-stamp-bench", "version": 1}', "$: key 'header' is missing"),
        ('{"schema": "srv6-stamp-bench", "x": NaN}', "f.json: not JSON: NaN is no number"),
    ],
)
def test_what_is_no_results_file(text: str, message: str) -> None:
    with pytest.raises(ResultsError) as caught:
        decode(text, "f.json")
    assert str(caught.value).startswith("f.json: ")
    assert message in str(caught.value)


def test_a_place_deep_in_the_file_is_named() -> None:
    content = document(make_results([KEY, OTHER], runs=2))
    content["cells"][1]["runs"][1]["system"]["pps"] = "fast"
    with pytest.raises(ResultsError) as caught:
        decode(json.dumps(content), "f.json")
    assert str(caught.value) == (
        'f.json: $.cells[1].runs[1].system.pps: expected a number, not "fast"'
    )
    content = document(make_results([KEY], runs=1))
    content["cells"][0]["key"]["share"] = "101"
    with pytest.raises(ResultsError, match=r"\$\.cells\[0\]\.key: a share is a number from 0"):
        decode(json.dumps(content))
    content["cells"][0]["key"]["share"] = "1"
    content["cells"].append(content["cells"][0])
    with pytest.raises(ResultsError, match="reflector userspace 1 % PDR is there twice"):
        decode(json.dumps(content))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="No such file"):
        load(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ResultsError, match=r"binary\.json: 'utf-8' codec"):
        load(tmp_path / "binary.json")


def test_saving_needs_no_more_than_the_folder(tmp_path: Path) -> None:
    results_module.save(tmp_path / "a.json", Results(HEADER))
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644
