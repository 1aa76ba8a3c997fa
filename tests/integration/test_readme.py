"""The README's tour, typed as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.lab.takedown import take_down

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text()


def tour(records: Path) -> str:
    chapter = README.split("## A tour in five minutes")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", chapter, re.DOTALL)
    assert len(blocks) == 8
    # Where no other run writes.
    blocks = [block.replace("/tmp/records.csv", str(records)) for block in blocks]
    # The reader's shell finds the programs in .venv, this one where pytest runs.
    commands = "".join(blocks).replace(". .venv/bin/activate\n", "")
    # The one that is refused fails, as it should.
    refused = "--edit-config docs/tour/bad.xml"
    assert commands.count(refused) == 1
    commands = commands.replace(refused, f"{refused} && exit 1 || true")
    return f"set -e\n{commands}"


def test_the_tour(tmp_path: Path) -> None:
    programs = str(Path(sys.executable).parent)
    # Of its own name: the reader's lab may be up.
    name = f"tour-{os.getpid():x}"
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "STAMP_LAB_NAME": name,
    }
    try:
        done = subprocess.run(
            ["bash", "-c", tour(tmp_path / "records.csv")],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        take_down(name)
    assert done.returncode == 0, done.stderr
    assert f"lab {name}: healthy" in done.stdout
    assert done.stdout.count("<ok ") == 2
    assert "/reflector-address: the reflector address ff02::1 is not a unicast" in done.stdout
    assert "<round-trip>" in done.stdout
    forward_ms = re.search(r"forward: mean ([\d.]+) ms", done.stdout)
    backward_ms = re.search(r"backward: mean ([\d.]+) ms", done.stdout)
    assert forward_ms is not None
    assert backward_ms is not None
    # The line never sends early; how late it is depends on the machine.
    assert 20 <= float(forward_ms[1]) < 40
    assert 8 <= float(backward_ms[1]) < 28
    assert done.stdout.count("packet ") == 5
    closed = re.search(r"interval \d+ of session 1 is closed\nforward: (\d+) packets", done.stdout)
    assert closed is not None
    assert int(closed[1]) > 0
    assert re.search(r"^SSID +PATH .* OPER STATE +DIRECTION .*P99 ms", done.stdout, re.MULTILINE)
    rows = r"^1 +by-core2 +fd00:0:2::1 +running +(?:forward|backward|round-trip) "
    assert len(re.findall(rows, done.stdout, re.MULTILINE)) == 3
    header, *records = (tmp_path / "records.csv").read_text().splitlines()
    assert header.startswith("sequence,reflector_sequence,t1,t2,t3,t4,")
    assert len(records) > 5
    assert '"sent": "' in done.stdout
    assert done.stdout.count('"mean": "') == 3
    assert done.stdout.count('"sequence": "') == 2
    assert f"lab {name} is down" in done.stdout
