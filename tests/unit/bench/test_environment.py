"""What the machine says of itself, and what it does not."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

from tests.unit.bench.samples import HEADER
from tools.bench import environment
from tools.bench.environment import describe, machine, project_version, versions
from tools.bench.results import Machine

CPUINFO = """\
processor\t: 0
model name\t: Example CPU @ 2.40GHz
cpu MHz\t\t: 2400.000

processor\t: 1
model name\t: Example CPU @ 2.40GHz
"""


def test_a_machine_that_says_everything(tmp_path: Path) -> None:
    governor = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("performance\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(CPUINFO)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16384 kB\nMemFree: 1 kB\n")
    assert machine(tmp_path) == Machine("Example CPU @ 2.40GHz", 2, 16 * 2**20, "performance")


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    assert machine(tmp_path) == Machine(None, None, None, None)


def test_this_machine() -> None:
    found = machine()
    assert found.cores
    assert found.memory_bytes
    assert found.memory_bytes > 2**20


def test_versions_of_what_is_there_and_of_what_is_not() -> None:
    def run(command: Sequence[str]) -> str | None:
        return "ip utility, iproute2-6.1.0, libbpf 1.1.0\n" if command[0] == "ip" else "abc-dirty\n"

    found = versions(run)
    assert found["srv6-stamp"] == "abc-dirty"
    assert found["iproute2"] == "6.1.0"
    assert found["numpy"] == np.__version__
    assert found["python"] == platform.python_version()
    assert versions(lambda _: None)["iproute2"] is None


def test_without_git_the_version_is_the_package_s() -> None:
    assert project_version(lambda _: None) == environment._package_version("srv6-stamp")
    assert environment._package_version("no-such-package") is None
    assert environment._run(["no-such-command"]) is None
    assert environment._run(["false"]) is None


def test_the_header_is_in_utc() -> None:
    now = datetime(2026, 1, 2, 4, 4, 5, tzinfo=timezone(timedelta(hours=1)))
    header = describe("stamp-bench run", HEADER.settings, now)
    assert header.created == "2026-01-02T03:04:05Z"
    assert header.kernel == platform.release()
    assert header.settings == HEADER.settings
