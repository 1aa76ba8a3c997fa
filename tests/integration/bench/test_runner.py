"""A plan run into a results file: interleaved, resumable, with reasons for what is missing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from tools.bench import cli
from tools.bench.bed import Bed
from tools.bench.cell import CellKey, Metric, Role
from tools.bench.environment import describe
from tools.bench.errors import BenchError
from tools.bench.measure import TrialSettings
from tools.bench.results import BenchSettings, ResultsFile, Run, load
from tools.bench.runner import Runner, RunnerSettings
from tools.bench.search import SearchSettings, Trial
from tools.bench.shape import Shape
from tools.bench.systems import System, catalogue
from tools.lab.kernel import existing_namespaces

pytestmark = pytest.mark.integration

TRIAL = TrialSettings(duration_ns=20_000_000, shape=Shape(sessions=2))
SEARCH = SearchSettings(start_pps=1_000, ceiling_pps=2_000, resolution=0.5, max_trials=6)
CELLS = (
    CellKey(Role.REFLECTOR, "userspace", Decimal(10)),
    CellKey(Role.REFLECTOR, "imaginary", Decimal(10)),
    CellKey(Role.COLLECTOR, "userspace", Decimal(100)),
)
PLAN = [(key, run) for run in range(2) for key in CELLS]


class Watching:
    def __init__(self) -> None:
        self.told: list[str] = []

    def began(self, key: CellKey, run: int, done: int, total: int, left_ns: int | None) -> None:
        self.told.append(f"{key} {run} {done}/{total}")

    def trial(self, key: CellKey, trial: Trial) -> None:
        pass

    def ended(self, key: CellKey, run: Run) -> None:
        self.told.append(f"{key} ended")

    def skipped(self, key: CellKey, reason: str) -> None:
        self.told.append(f"{key} skipped: {reason}")


def begin(path: Path) -> ResultsFile:
    settings = BenchSettings(SEARCH, 20_000_000, 80, 146)
    return ResultsFile.resume(path, describe("a test", settings, datetime.now(UTC)))


def test_a_plan_is_run_and_resumed(bed: Bed, tmp_path: Path) -> None:
    path, watching = tmp_path / "results.json", Watching()
    settings = RunnerSettings(SEARCH, TRIAL)
    first = Runner(bed, begin(path), catalogue(TRIAL.shape, {}), settings, watching)
    first.run(PLAN[:3])
    assert watching.told == [
        "reflector userspace 10 % PDR 0 0/3",
        "reflector userspace 10 % PDR ended",
        "reflector imaginary 10 % PDR 0 1/3",
        "reflector imaginary 10 % PDR skipped: there is no engine imaginary in this version",
        "collector userspace 100 % PDR 0 2/3",
        "collector userspace 100 % PDR ended",
    ]
    second, file = Watching(), begin(path)
    Runner(bed, file, catalogue(TRIAL.shape, {}), settings, second).run(PLAN)
    assert [told for told in second.told if told.endswith("ended")] == [
        "reflector userspace 10 % PDR ended",
        "collector userspace 100 % PDR ended",
    ]
    results = load(path)
    assert [len(results.runs(key)) for key in CELLS] == [2, 0, 2]
    assert results.why_skipped(CELLS[1]) == "there is no engine imaginary in this version"
    for run in (*results.runs(CELLS[0]), *results.runs(CELLS[2])):
        assert run.baseline is not None
        assert run.baseline.trials
        assert run.system.trials


def test_a_system_that_fails_is_skipped(bed: Bed, tmp_path: Path) -> None:
    def broken(key: CellKey) -> System:
        raise BenchError(f"{key.system} is broken")

    watching = Watching()
    file = begin(tmp_path / "results.json")
    Runner(bed, file, broken, RunnerSettings(SEARCH, TRIAL), watching).run(PLAN)
    assert not file.results.cells
    assert file.results.why_skipped(CELLS[0]) == "userspace is broken"


def test_the_command_line_measures_shows_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    arguments = [
        *("run", "-o", str(path), "--role", "reflector", "--system", "userspace,xdp-tx"),
        *("--share", "100", "--runs", "1", "--duration", "0.02", "--resolution", "0.5"),
        *("--metric", Metric.MRR, "--extras", "none"),
    ]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "reflector userspace 100 % MRR" in shown
    assert "reflector xdp-tx 100 % MRR" in shown
    assert cli.main(["show", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [cell["key"]["system"] for cell in document["cells"]] == ["userspace", "xdp-tx"]
    assert cli.main(["show", str(path), "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert cli.main(["report", str(path), "-o", str(tmp_path / "report"), "--format", "svg"]) == 0
    assert not list((tmp_path / "report").glob("*.png"))
    assert (tmp_path / "report" / "report.md").exists()
    assert cli.main(["compare", str(path), str(path)]) == 2
    assert "cannot tell" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["run", "-o", "x.json", "--listener", "name"],
            "--listener takes NAME=COMMAND, not 'name'",
        ),
        (["run", "-o", "x.json", "--share", "100", "--system", "a/b"], "a system's name is"),
        (["run", "-o", "x.json", "--extras", "magic"], "there is no measurement magic; there are"),
        (["show", "missing.json"], "missing.json: "),
        (["report", "missing.json"], "a report goes into a folder (-o), or its table into a file"),
    ],
)
def test_wrong_command_lines(
    arguments: list[str],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = [
        *(sys.executable, "-m", "tools.bench", "run", "-o", str(tmp_path / "r.json")),
        *("--system", "userspace", "--extras", "none"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("260 runs are left, which take some ")
    # The bed stands once it has checked itself.
    assert process.stderr.readline().startswith("bed: ")
    namespaces = {name for name in existing_namespaces() if f"-{process.pid}-" in name}
    assert len(namespaces) == 2
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.endswith("stamp-bench: interrupted; what was measured is kept\n")
    assert not namespaces & existing_namespaces()
