"""What a laboratory has on this machine, on disk before it is there.

RUN_FOLDER/LAB/state.json is rewritten (atomically) before each effect, so that `down`
knows everything after a crash at any moment. The folder itself is the claim to
the name: creating it is atomic.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.lab.errors import LabBusyError, LabError, LabExistsError, NoSuchLabError

RUN_FOLDER = Path("/run/srv6-stamp-lab")
SHM_FOLDER = Path("/dev/shm")
STATE_VERSION = 1


@dataclass(slots=True)
class ProcessRecord:
    """One process that was, or was about to be, started."""

    name: str
    """"stampd", "netconfd", "sshd", "delay-line"."""
    node: str | None
    """None for the delay line, which belongs to no node."""
    folder: str
    """Where its identity and log files are."""

    @property
    def identity_file(self) -> Path:
        """Written by the process itself when it starts."""
        return Path(self.folder) / f"{self.name}.pid"

    @property
    def log_file(self) -> Path:
        """Its output and errors."""
        return Path(self.folder) / f"{self.name}.log"


@dataclass(slots=True)
class LabState:
    """Everything that `down` has to undo, and what `status` has to know."""

    name: str
    token: str
    """Random; in the environment of every process of this laboratory."""
    boot_id: str
    topology: str
    """The text of the topology file."""
    daemons: bool
    complete: bool = False
    """Whether `up` got to its end."""
    namespaces: list[str] = field(default_factory=list)
    repositories: dict[str, str] = field(default_factory=dict)
    """Node → sysrepo shared memory prefix."""
    ports: dict[str, int] = field(default_factory=dict)
    """Node → TCP port of its sshd on 127.0.0.1."""
    processes: list[ProcessRecord] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The laboratory's run folder."""
        return RUN_FOLDER / self.name

    def node_folder(self, node: str) -> Path:
        """A node's run folder."""
        return self.folder / node

    def repository_folder(self, node: str) -> Path:
        """A node's sysrepo repository."""
        return self.node_folder(node) / "sysrepo"

    @property
    def line_config_file(self) -> Path:
        """What the delay line reads."""
        return self.folder / "delay-line.json"

    @property
    def line_status_file(self) -> Path:
        """What the delay line writes."""
        return self.folder / "delay-line-status.json"

    @property
    def client_key_file(self) -> Path:
        """The private key that every node's sshd accepts."""
        return self.folder / "client_key"

    @property
    def this_boot(self) -> bool:
        """Whether recorded process ids can still mean anything."""
        return self.boot_id == current_boot_id()

    def save(self) -> None:
        """Replace the file."""
        temporary = self.folder / "state.tmp"
        document = {"version": STATE_VERSION, **asdict(self)}
        temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
        temporary.replace(self.folder / "state.json")


def current_boot_id() -> str:
    """The kernel's name for this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def claim(name: str) -> None:
    """Take a name; LabExistsError when it is taken."""
    RUN_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        (RUN_FOLDER / name).mkdir(mode=0o700)
    except FileExistsError:
        raise LabExistsError(
            f"lab {name!r} already exists: see `stamp-lab status --name {name}`, "
            f"or remove it with `stamp-lab down --name {name}`"
        ) from None


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Keep other `up`s and `down`s of this laboratory out.

    Raises NoSuchLabError when it is not there, LabBusyError when one is at work.
    """
    try:
        descriptor = os.open(RUN_FOLDER / name, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise NoSuchLabError(f"no lab {name!r} is up") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabBusyError(f"another up or down of lab {name!r} is at work") from None
        yield
    finally:
        os.close(descriptor)


def load(name: str) -> LabState | None:
    """Read a laboratory's state; None when `up` died before it had any effect.

    Raises NoSuchLabError when there is no such laboratory, LabError for a file
    of another version.
    """
    folder = RUN_FOLDER / name
    if not folder.is_dir():
        raise NoSuchLabError(f"no lab {name!r} is up")
    try:
        document = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if document.pop("version") != STATE_VERSION:
        raise LabError(f"{folder / 'state.json'}: made by another version of stamp-lab")
    document["processes"] = [ProcessRecord(**record) for record in document["processes"]]
    return LabState(**document)


def forget(name: str) -> None:
    """Remove a laboratory's run folder, state.json last, and RUN_FOLDER when empty."""
    folder = RUN_FOLDER / name
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != "state.json":
            entry.unlink()
    (folder / "state.json").unlink(missing_ok=True)
    folder.rmdir()
    with contextlib.suppress(OSError):
        RUN_FOLDER.rmdir()


def remove_shared_memory(prefix: str) -> None:
    """Remove the shared memory files that begin with `prefix`."""
    for entry in SHM_FOLDER.iterdir():
        if entry.name.startswith(prefix):
            entry.unlink(missing_ok=True)
