"""Processes that outlive their parent: started, recognised, ended.

A process is known by its id and its start time together (`/proc/PID/stat`,
field 22), so that a recycled id is never signalled. The process itself writes
both to its identity file before it becomes the program, so that even a parent
that dies in between leaves no unknown process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tools.lab.errors import LabError

TOKEN_VARIABLE = "STAMP_LAB_TOKEN"
"""Environment variable that marks a laboratory's processes."""

TERMINATE_GRACE_S = 5.0
KILL_GRACE_S = 5.0
LOG_TAIL_LINES = 15

_LAUNCH = 'cat "/proc/$$/stat" >"$0.tmp" && mv "$0.tmp" "$0" && exec "$@"'

_children: dict[int, subprocess.Popen[bytes]] = {}


class ProcessId(NamedTuple):
    """A process, whatever happens to its number later."""

    pid: int
    start_ticks: int
    """Clock ticks between boot and start."""


def spawn(
    argv: Sequence[str], identity_file: Path, log_file: Path, environment: Mapping[str, str]
) -> None:
    """Start a program in a session of its own; its output goes to `log_file`.

    Raises LabError when it did not get as far as writing its identity.
    """
    with log_file.open("ab") as log:
        child = subprocess.Popen(
            ["sh", "-c", _LAUNCH, str(identity_file), *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(environment),
            start_new_session=True,
        )
    _children[child.pid] = child
    if not _wait_for(identity_file.exists, 5.0):
        raise LabError(f"{identity_file.stem} did not start: {log_tail(log_file)}")


def read_identity(identity_file: Path) -> ProcessId | None:
    """Return who wrote the file; None when nobody did."""
    try:
        return _parse_stat(identity_file.read_text(encoding="utf-8", errors="replace"))[0]
    except FileNotFoundError:
        return None


def is_alive(process: ProcessId) -> bool:
    """Whether this very process still runs; a zombie does not."""
    found = _look_up(process.pid)
    return found is not None and found[0] == process and found[1] not in "ZX"


def wait_ready(
    name: str, ready: Callable[[], bool], identity_file: Path, log_file: Path, timeout_s: float
) -> None:
    """Wait until `ready()`; LabError with the end of its log when it died or took too long."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        identity = read_identity(identity_file)
        if identity is None or not is_alive(identity):
            raise LabError(f"{name} ended before it was ready: {log_tail(log_file)}")
        if time.monotonic() > deadline:
            raise LabError(f"{name} was not ready within {timeout_s:g} s: {log_tail(log_file)}")
        time.sleep(0.02)


def log_tail(log_file: Path) -> str:
    """The last lines of a log, or a note that there are none."""
    try:
        lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    return "\n".join(lines[-LOG_TAIL_LINES:]) or "(its log is empty)"


def identify(pid: int) -> ProcessId | None:
    """Return the process that has this number now; None when there is none."""
    found = _look_up(pid)
    return found[0] if found else None


def family(roots: Iterable[ProcessId]) -> set[ProcessId]:
    """Return the living among `roots`, and all their descendants."""
    children: dict[int, list[ProcessId]] = {}
    for process, _, parent in _all_processes():
        children.setdefault(parent, []).append(process)
    found: set[ProcessId] = set()
    frontier = [root for root in roots if is_alive(root)]
    while frontier:
        process = frontier.pop()
        if process not in found:
            found.add(process)
            frontier += children.get(process.pid, [])
    return found


def marked(token: str) -> set[ProcessId]:
    """Return the processes whose environment carries a laboratory's token.

    An sshd that serves one of them is included: it has no environment of its
    own, and outlives the listening sshd if that one is killed.
    """
    wanted = f"{TOKEN_VARIABLE}={token}".encode()
    found: set[ProcessId] = set()
    for process, _, parent in _all_processes():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue
        if wanted not in environment.split(b"\0"):
            continue
        found.add(process)
        with contextlib.suppress(OSError):
            if Path(f"/proc/{parent}/comm").read_text(encoding="utf-8").startswith("sshd"):
                server = identify(parent)
                found |= {server} if server else set()
    return found


def own_line() -> set[int]:
    """Process ids of this process and its ancestors."""
    line: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in line:
        line.add(pid)
        found = _look_up(pid)
        pid = found[2] if found else 0
    return line


def end(processes: Iterable[ProcessId]) -> list[ProcessId]:
    """Terminate processes, kill those that stay; return those that even then remain."""
    handles: dict[ProcessId, int] = {}
    for process in processes:
        try:
            handle = os.pidfd_open(process.pid)
        except ProcessLookupError:
            _reap(process.pid)
            continue
        # The handle now holds the number, so what is checked is what is signalled.
        if is_alive(process):
            handles[process] = handle
        else:
            os.close(handle)
            if identify(process.pid) == process:
                _reap(process.pid)
    remaining = dict(handles)
    try:
        for number, grace_s in (
            (signal.SIGTERM, TERMINATE_GRACE_S),
            (signal.SIGKILL, KILL_GRACE_S),
        ):
            for handle in remaining.values():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            _wait_for_exits(remaining, grace_s)
    finally:
        for handle in handles.values():
            os.close(handle)
    return list(remaining)


def _wait_for_exits(remaining: dict[ProcessId, int], grace_s: float) -> None:
    deadline = time.monotonic() + grace_s
    while remaining:
        timeout_s = deadline - time.monotonic()
        if timeout_s <= 0:
            return
        readable, _, _ = select.select(list(remaining.values()), [], [], timeout_s)
        for process in [p for p, handle in remaining.items() if handle in readable]:
            del remaining[process]
            _reap(process.pid)


def _reap(pid: int) -> None:
    child = _children.pop(pid, None)
    if child is not None:
        child.wait()


def _wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _look_up(pid: int) -> tuple[ProcessId, str, int] | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _parse_stat(stat)


def _parse_stat(stat: str) -> tuple[ProcessId, str, int]:
    # The name, in parentheses, may itself hold blanks and parentheses.
    number, rest = stat.split(" ", 1)
    fields = rest.rsplit(")", 1)[1].split()
    return ProcessId(int(number), int(fields[19])), fields[0], int(fields[1])


def _all_processes() -> list[tuple[ProcessId, str, int]]:
    numbers = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    return [found for number in numbers if (found := _look_up(number)) is not None]
