"""What a bench ran on: machine, kernel, versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from tools.bench.results import BenchSettings, Header, Machine

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("numpy", "scapy", "sysrepo", "libyang")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def header(command: str, settings: BenchSettings) -> Header:
    """Everything about a bench that begins now."""
    return Header(
        command=command,
        created=now(),
        machine=_machine(),
        kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions=_versions(),
        settings=settings,
    )


def _machine() -> Machine:
    cpuinfo, meminfo = _read(Path("/proc/cpuinfo")) or "", _read(Path("/proc/meminfo")) or ""
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return Machine(
        cpu_model=model.group(1) if model else None,
        cores=os.cpu_count(),
        memory_bytes=int(memory.group(1)) * 1024 if memory else None,
        governor=_read(_GOVERNOR),
    )


def _versions() -> dict[str, str | None]:
    return {
        "srv6-stamp": _revision(),
        "python": platform.python_version(),
        "iproute2": _first_line("ip", "-V"),
        "bcc": _debian_version("python3-bpfcc"),
        **{name: _package(name) for name in _PACKAGES},
    }


def _revision() -> str | None:
    """Of the checkout, marked where it has been changed since; else of the package."""
    revision = _first_line(
        "git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12"
    )
    return revision or _package("srv6-stamp")


def _package(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _debian_version(package: str) -> str | None:
    return _first_line("dpkg-query", "-W", "-f", "${Version}", package)


def _first_line(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
