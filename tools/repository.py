"""A sysrepo repository with the project's YANG modules in it.

Every network element of the lab and every test has one of its own: a folder
and a shared-memory prefix, which sysrepo takes from the environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
PROJECT_YANG = Path(__file__).resolve().parent.parent / "yang"

SYSTEM_YANG = Path("/usr/share/yang/modules")
PYANG_YANG = Path(sysconfig.get_path("data")) / "share/yang/modules/ietf"

STAMP_MODULE = "srv6-stamp"
STAMP_FEATURES = ("session-sender", "session-reflector", "engine-scapy", "engine-xdp")

NETCONF_MODULES = ("ietf-netconf-monitoring",)
"""Installed for the NETCONF server; sysrepo brings the others itself."""


class RepositoryError(Exception):
    """A repository cannot be made; the text carries what sysrepoctl said."""


def search_directories() -> list[Path]:
    """Folders with YANG modules, ours first, then those of Debian and pyang."""
    system = sorted(path for path in SYSTEM_YANG.glob("*") if path.is_dir())
    return [PROJECT_YANG, *system, *([PYANG_YANG] if PYANG_YANG.is_dir() else [])]


def find_module(name: str) -> Path:
    """The newest file of YANG module `name`. Raises RepositoryError."""
    for directory in search_directories():
        found = sorted([*directory.glob(f"{name}@*.yang"), *directory.glob(f"{name}.yang")])
        if found:
            return found[-1]
    searched = ", ".join(str(path) for path in search_directories())
    raise RepositoryError(f"no YANG module {name} in {searched}; run tools/setup.sh")


@dataclass(frozen=True, slots=True)
class Repository:
    """One sysrepo instance: where it lives, how to make it and remove it."""

    path: Path
    shm_prefix: str

    def environment(self) -> dict[str, str]:
        """The variables that make a process use this repository."""
        return {
            "SYSREPO_REPOSITORY_PATH": str(self.path),
            "SYSREPO_SHM_PREFIX": self.shm_prefix,
        }

    def create(self) -> None:
        """Make the repository and install all modules. Raises RepositoryError."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in NETCONF_MODULES:
            self.install(find_module(name))
        self.install(find_module(STAMP_MODULE), STAMP_FEATURES)

    def install(self, module: Path, features: Iterable[str] = ()) -> None:
        """Install one YANG module. Raises RepositoryError."""
        command = ["--install", str(module)]
        command += ["--search-dirs", ":".join(str(path) for path in search_directories())]
        for feature in features:
            command += ["--enable-feature", feature]
        self._sysrepoctl(command)

    def destroy(self) -> None:
        """Remove the repository and its shared memory, in whatever state it is."""
        shutil.rmtree(self.path, ignore_errors=True)
        # "sub" where a subscriber was killed.
        for path in [
            *SHARED_MEMORY.glob(f"{self.shm_prefix}_*"),
            *SHARED_MEMORY.glob(f"{self.shm_prefix}sub_*"),
        ]:
            path.unlink(missing_ok=True)

    def _sysrepoctl(self, arguments: Sequence[str]) -> None:
        done = subprocess.run(
            ["sysrepoctl", *arguments],
            env=os.environ | self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RepositoryError(
                f"sysrepoctl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}"
            )
