"""Kernel headers for bcc, which compiles BPF programs on the machine that runs them.

The headers of the running kernel serve where they are installed. Where they are
not, because no package has them, those of another version do: an XDP program
touches no structure of the kernel but its stable interface. Debian splits its
headers into two folders with one tree, which `view` puts together again.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

MODULES = Path("/lib/modules")
SOURCES = Path("/usr/src")

_MACHINE = re.compile(r"-(amd64|cloud-amd64|rt-amd64|arm64|cloud-arm64)$")
_PARTS = ("include", "arch/x86/include", "arch/arm64/include")


class HeadersError(Exception):
    """There are no kernel headers; the text names the package to install."""


def running_kernel_has_headers(modules: Path = MODULES) -> bool:
    """Whether bcc finds headers by itself."""
    return (modules / os.uname().release / "build" / "include" / "linux").is_dir()


@contextlib.contextmanager
def view(modules: Path = MODULES, sources: Path = SOURCES) -> Iterator[Path | None]:
    """A folder for `BCC_KERNEL_SOURCE`, gone afterwards; None where bcc needs none.

    Raises HeadersError.
    """
    if running_kernel_has_headers(modules):
        yield None
        return
    folders = _debian_folders(sources)
    with tempfile.TemporaryDirectory(prefix="kernel-headers-") as name:
        merged = Path(name)
        for part in _PARTS:
            for folder in folders:
                _link_children(folder / part, merged / part)
        yield merged


def _debian_folders(sources: Path) -> tuple[Path, Path]:
    """The architecture's and the common folder of the newest version installed."""
    for folder in sorted(sources.glob("linux-headers-*"), key=_version, reverse=True):
        common = folder.with_name(_MACHINE.sub("-common", folder.name))
        if common != folder and common.is_dir():
            return folder, common
    raise HeadersError(
        f"no kernel headers: install linux-headers-{os.uname().release}, "
        "or linux-headers-amd64 where the running kernel has no such package"
    )


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", folder.name)))


def _link_children(source: Path, destination: Path) -> None:
    if not source.is_dir():
        return
    destination.mkdir(parents=True, exist_ok=True)
    for child in source.iterdir():
        link = destination / child.name
        if not link.is_symlink():
            link.symlink_to(child)
