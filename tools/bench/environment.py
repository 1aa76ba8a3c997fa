"""What a bench runs on: the machine, the kernel, and the versions of what takes part."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tools.bench.results import BenchSettings, Header, Machine

PACKAGES = ("numpy", "scapy", "sysrepo")
"""Python packages whose versions matter."""
PROJECT = "srv6-stamp"
ROOT = Path(__file__).resolve().parents[2]

RunCommand = Callable[[Sequence[str]], str | None]
"""Return what a command prints; None where it is absent or fails."""


def timestamp(now: datetime) -> str:
    """Return a time that is aware of its zone as a results file has it: ISO 8601, UTC."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe(command: str, settings: BenchSettings, now: datetime) -> Header:
    """Return the header of a results file; `now` is aware of its time zone."""
    return Header(
        command=command,
        created=timestamp(now),
        machine=machine(),
        kernel=platform.release(),
        versions=versions(),
        settings=settings,
    )


def machine(root: Path = Path("/")) -> Machine:
    """Return what /proc and /sys say; `root` is where they are."""
    processors = _read(root / "proc/cpuinfo")
    models = re.findall(r"^model name\s*:\s*(.+)$", processors, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    governor = _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    return Machine(
        cpu_model=models[0].strip() if models else None,
        cores=len(re.findall(r"^processor\s*:", processors, re.MULTILINE)) or None,
        memory_bytes=int(memory[1]) * 1024 if memory else None,
        governor=governor or None,
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def versions(run: RunCommand | None = None) -> dict[str, str | None]:
    """Return the versions of all that takes part; None for what is absent."""
    run = run or _run
    tool = run(["ip", "-V"])
    iproute2 = re.search(r"iproute2-([\w.]+)", tool or "")
    return {
        PROJECT: project_version(run),
        "python": platform.python_version(),
        "iproute2": iproute2[1] if iproute2 else None,
        **{name: _package_version(name) for name in PACKAGES},
        "bcc": _bcc_version(),
    }


def project_version(run: RunCommand) -> str | None:
    """Return the git revision, marked where files differ from it; else the package's version."""
    described = run(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"])
    return (described or "").strip() or _package_version(PROJECT)


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _bcc_version() -> str | None:
    """Debian's package says its version itself only, and may lack its library."""
    try:
        version = getattr(importlib.import_module("bcc"), "__version__", None)
    except (ImportError, OSError):
        return None
    return None if version is None else str(version)


def _run(command: Sequence[str]) -> str | None:
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout
