"""What sessions cost: memory and processor time of an engine that sends one packet a second each.

The process is the data plane's host process, as in operation, with its children if
it has any. Its processor time is all that the kernel charges to it, packets included
that the kernel receives and sends on its account. A Session-Reflector of the
reference engine answers from the other core.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dataplane.clock import monotonic_ns
from dataplane.config import Node, Sender, SenderSession
from dataplane.session_state import Counters
from tools.bench.bed import Settings as BedSettings
from tools.bench.beyond.pair import DEVICE, HostEnd, Pair
from tools.bench.errors import BenchError
from tools.bench.extras import Footprint
from tools.lab import processes

SESSIONS = (1, 100, 1_000, 10_000)
INTERVAL_US = 1_000_000

SETTLE_S = 2.0
"""After all sessions run: they spread their first packets over a second."""

ANSWERED_MIN = 0.95
"""Share of the packets that have to be answered meanwhile: sessions that work are measured."""

WATCHED_MAX = 100
"""Sessions whose packets are counted for that. In the end, each has to have an answer."""

HOPELESS_PERCENT = 300.0
"""More of one core than this, at the cost that a session had before, is not tried; sessions
become cheaper in numbers, but not by that much."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Settings:
    sessions: tuple[int, ...] = SESSIONS
    sample_s: float = 5.0
    """How long processor time is counted."""

    bed: BedSettings = field(default_factory=BedSettings)


def measure(engine: str, settings: Settings | None = None) -> Iterator[Footprint]:
    """Yield each number of sessions.

    Raises BenchError at the first that the engine cannot run, that is not answered, or
    that is out of its reach by far.
    """
    settings = settings or Settings()
    percent_each = 0.0
    for count in settings.sessions:
        if count * percent_each > HOPELESS_PERCENT:
            raise BenchError(
                f"engine {engine}: {count} sessions are not tried, at {percent_each:.2g} % of "
                "a processor core for each"
            )
        found, cpu_percent = _measure(engine, count, settings)
        percent_each = cpu_percent / count
        yield found


def _measure(engine: str, count: int, settings: Settings) -> tuple[Footprint, float]:
    ssids = range(1, count + 1)
    with Pair(settings.bed) as pair:
        pair.reflect_any()
        sending = pair.run(pair.sender, engine)
        sessions = {
            ssid: SenderSession(
                ssid, pair.reflector.address, pair.sender.address, interval_us=INTERVAL_US
            )
            for ssid in ssids
        }
        sending.apply(Node(sender=Sender(engine=engine, interfaces=(DEVICE,), sessions=sessions)))
        sending.await_sessions(count)
        time.sleep(SETTLE_S)
        watched = ssids[:: -(-count // WATCHED_MAX)]
        before = sending.counters(watched)
        cpu_percent = _cpu_percent(sending.pid, settings.sample_s)
        _check_answers(sending, before)
        rss_bytes = sum(_of_family(sending.pid, resident_bytes).values())
        _check_all_answered(sending, ssids)
        found = Footprint(
            engine=engine,
            sessions=count,
            rate_pps=count * 1e6 / INTERVAL_US,
            rss_bytes=rss_bytes,
            store_bytes=sending.store_bytes(),
            cpu_percent=cpu_percent,
        )
        return found, cpu_percent


def _check_answers(sending: HostEnd, before: Mapping[int, Counters]) -> None:
    """Packets of these sessions have been answered since; one may be under way."""
    after = sending.counters(before)
    sent = sum(after[ssid].sent - then.sent for ssid, then in before.items())
    received = sum(after[ssid].received - then.received for ssid, then in before.items())
    if received + 1 < ANSWERED_MIN * sent:
        raise BenchError(
            f"engine {sending.engine}: of {sent} packets only {received} have an answer: "
            "either end may be overloaded"
        )


def _check_all_answered(sending: HostEnd, ssids: range) -> None:
    silent = [ssid for ssid, each in sending.counters(ssids).items() if not each.received]
    if silent:
        raise BenchError(
            f"engine {sending.engine}: {len(silent)} of {len(ssids)} sessions have no "
            f"answer, session {silent[0]} is one of them"
        )


def _cpu_percent(pid: int, sample_s: float) -> float:
    """Of one core. Processes that come or go meanwhile are left out."""
    start_ns = monotonic_ns()
    before = _of_family(pid, cpu_ns)
    time.sleep(sample_s)
    after = _of_family(pid, cpu_ns)
    elapsed_ns = monotonic_ns() - start_ns
    return 100 * sum(used - before[p] for p, used in after.items() if p in before) / elapsed_ns


def _of_family(pid: int, read: Callable[[int], int]) -> dict[int, int]:
    """A number of a process and of each of its descendants. Raises BenchError: no such process."""
    root = processes.identify(pid)
    found = {}
    for member in () if root is None else processes.family([root]):
        with contextlib.suppress(OSError):
            found[member.pid] = read(member.pid)
    if pid not in found:
        raise BenchError("the engine's process has died")
    return found


def cpu_ns(pid: int) -> int:
    """Processor time of all threads of a process so far. Raises OSError: no such process."""
    clock = ctypes.c_int()
    number = _libc.clock_getcpuclockid(pid, ctypes.byref(clock))
    if number:
        raise OSError(number, os.strerror(number))
    return time.clock_gettime_ns(clock.value)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, shared or not. Raises OSError: no such process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
