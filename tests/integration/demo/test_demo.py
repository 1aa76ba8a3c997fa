"""The demonstration as a whole: lab, NETCONF, measurement, verdict, files."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tools.demo import cli
from tools.demo.truth import MeasuredPath, measured_paths
from tools.lab import kernel
from tools.lab.errors import NoSuchLabError
from tools.lab.lab import Lab
from tools.lab.plan import LabPlan
from tools.lab.state import SHM_FOLDER
from tools.lab.topology import Topology

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

ROOT = Path(__file__).parents[3]
DURATION_S = 2
PACKETS = 200


@pytest.fixture
def lab_name() -> Iterator[str]:
    name = f"d{uuid.uuid4().hex[:8]}"
    yield name
    try:
        Lab.attach(name).down()
    except NoSuchLabError:
        return


def remains(name: str) -> list[str]:
    """What is left of a lab on this machine."""
    spaces = [space for space in kernel.existing_namespaces() if f"-{name}-" in space]
    files = [entry.name for entry in SHM_FOLDER.iterdir() if f".{name}." in entry.name]
    return spaces + files


def command(name: str, folder: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "tools.demo", "--name", name, "--output", str(folder)]
    return [*words, *more]


def test_the_demonstration_agrees(lab_name: str, tmp_path: Path) -> None:
    arguments = ["--duration", str(DURATION_S), "--json", str(tmp_path / "table.json")]
    done = subprocess.run(
        command(lab_name, tmp_path / "out", *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT OK" not in done.stdout
    assert "delay line's own error" in done.stdout
    document = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert document["agrees"] is True
    first, second = document["paths"]
    assert (first["sent"], second["sent"]) == (PACKETS, PACKETS)
    assert second["delay"]["forward"]["injected_ns"] == 20_000_000
    assert second["loss"]["forward"]["line_lost"] is not None
    with (tmp_path / "out/records.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for path in (first, second):
        ours = [row for row in rows if row["path"] == path["name"]]
        assert len(ours) == path["received"]
        mean_ns = sum(int(row["forward_delay"]) for row in ours) / len(ours)
        assert abs(mean_ns - path["delay"]["forward"]["mean_ns"]) <= 1_000
    assert (tmp_path / "out/delay.png").read_bytes().startswith(b"\x89PNG")
    assert remains(lab_name) == []


def test_another_truth_is_noticed(
    lab_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def two_ms_more(topology: Topology, plan: LabPlan) -> tuple[MeasuredPath, ...]:
        first, *others = measured_paths(topology, plan)
        delay_ns = first.forward.delay_ns + 2_000_000
        return (replace(first, forward=replace(first.forward, delay_ns=delay_ns)), *others)

    monkeypatch.setattr(cli, "measured_paths", two_ms_more)
    arguments = ["--name", lab_name, "--output", str(tmp_path), "--duration", str(DURATION_S)]
    assert cli.main(arguments) == cli.EXIT_DISAGREES
    output = capsys.readouterr().out
    assert "NOT OK: forward delay off by -" in output
    assert "the measurement does NOT agree with what was injected: via-core1" in output


def test_a_lab_that_stays_can_be_read_with_the_printed_command(
    lab_name: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        command(lab_name, tmp_path, "--duration", "1", "--keep"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("  /")]
    gets = [words for words in printed if words[0].endswith("netconf-console2")]
    assert len(gets) == 3
    answer = subprocess.run(gets[-1], capture_output=True, text=True, timeout=30, check=True)
    assert "<samples>100</samples>" in answer.stdout
    assert "<results-available>" not in answer.stdout
    down = next(words for words in printed if words[1] == "down")
    subprocess.run(down, timeout=60, check=True, capture_output=True)
    assert remains(lab_name) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(
    lab_name: str, tmp_path: Path, number: signal.Signals
) -> None:
    # A shell's background job, as which these tests may run, hands down an ignored SIGINT.
    fresh = ["env", "--default-signal=INT"]
    with subprocess.Popen(
        [*fresh, *command(lab_name, tmp_path, "--duration", "600")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if " sent, " in line:
                break
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=60)
    assert demo.returncode == cli.EXIT_INTERRUPTED
    assert errors == "demo: interrupted\n"
    assert remains(lab_name) == []


def test_a_lab_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topology = tmp_path / "wrong.yaml"
    topology.write_text("nodes: {}\nlinks: []\n", encoding="utf-8")
    assert cli.main(["--topology", str(topology), "--output", str(tmp_path)]) == cli.EXIT_LAB
    assert capsys.readouterr().err.startswith("demo: ")
