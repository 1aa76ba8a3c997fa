"""How well a Session-Sender keeps its schedule: departure minus due time, and drift.

When a packet left is what a capture on the Session-Sender's interface says, just before
the driver. When it was due follows from the start of its session's run, which the
engine tells, and the interval. A Session-Reflector answers from the other core.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from dataplane.clock import monotonic_ns, wall_ns
from dataplane.config import STAMP_PORT, Node, Sender, SenderSession
from dataplane.session_state import Counters
from tools.bench.bed import Settings as BedSettings
from tools.bench.beyond.capture import Capture
from tools.bench.beyond.packets import Packets, select
from tools.bench.beyond.pair import DEVICE, READY_TIMEOUT_S, HostEnd, Pair, possible_interval_us
from tools.bench.beyond.schedule_fit import (
    ClockReading,
    ClockSetError,
    drift_ppb,
    errors_ns,
    wall_offset_ns,
)
from tools.bench.errors import BenchError
from tools.bench.extras import ScheduleError, quantiles_of

READINGS = 1_000
"""Of both clocks, before and after a run."""

DRIFT_SKIPPED_MAX = 0.1
"""Share of all slots: an engine that skips more says nothing about drift."""

HOPELESS = 0.5
"""Share of all slots: an engine that skips more is not given more to do."""

LOSS_TIMEOUT_MS = 500
SLACK_S = 15.0
"""How much longer than planned a run may take before it is given up."""


@dataclass(frozen=True, slots=True)
class Case:
    """Some sessions of one rate."""

    sessions: int
    rate_pps: int
    """Of each session; less where the engine needs a longer interval."""


CASES = (Case(1, 1_000), Case(100, 100), Case(1_000, 100))
"""The last takes an engine in Python half of a core: what it skips is of interest."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured; each case takes `duration_s` and some two seconds more."""

    cases: tuple[Case, ...] = CASES
    duration_s: int = 3
    bed: BedSettings = field(default_factory=BedSettings)


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of all sessions of a case."""

    interval_us: int
    requests: Packets
    """As they left, in that order."""

    starts_ns: Mapping[int, int]
    """By SSID: CLOCK_MONOTONIC when the first packet was due."""

    counters: Mapping[int, Counters]
    """By SSID."""

    offset_ns: int
    """CLOCK_REALTIME minus CLOCK_MONOTONIC."""


def measure(engine: str, settings: Settings | None = None) -> Iterator[ScheduleError]:
    """Yield each case.

    Raises BenchError at the first that the engine cannot run, and before one that
    follows on a case in which most was skipped: more says nothing new.
    """
    settings = settings or Settings()
    for case in settings.cases:
        found = error_of(engine, _run(engine, case, settings))
        yield found
        if found.skipped > HOPELESS * (found.skipped + found.count) and case != settings.cases[-1]:
            raise BenchError(
                f"engine {engine} skipped {found.skipped} of {found.skipped + found.count} "
                f"packets at {found.rate_pps:g} packets/s: higher rates are not tried"
            )


def error_of(engine: str, ran: Ran) -> ScheduleError:
    """Compare departures with the schedule.

    Raises BenchError where the capture has not seen what the engine says it has sent.
    """
    interval_ns = ran.interval_us * 1_000
    sent = sum(counters.sent - counters.send_errors for counters in ran.counters.values())
    if len(ran.requests) != sent:
        raise BenchError(
            f"engine {engine} says that it sent {sent} packets, "
            f"the capture has seen {len(ran.requests)}"
        )
    requests = ran.requests[np.argsort(ran.requests["ssid"], kind="stable")]
    departures = requests["ns"] - ran.offset_ns
    ssids, firsts = np.unique(requests["ssid"], return_index=True)
    ends = [*firsts[1:].tolist(), len(requests)]
    errors = np.empty(len(requests), np.int64)
    for ssid, first, end in zip(ssids.tolist(), firsts.tolist(), ends, strict=False):
        errors[first:end] = errors_ns(
            departures[first:end], ran.starts_ns[ssid], interval_ns, ran.counters[ssid].skipped
        )
    skipped = sum(counters.skipped for counters in ran.counters.values())
    keeps_up = skipped <= DRIFT_SKIPPED_MAX * (skipped + len(errors))
    return ScheduleError(
        engine=engine,
        sessions=len(ran.starts_ns),
        rate_pps=len(ran.starts_ns) * 1e6 / ran.interval_us,
        count=len(errors),
        skipped=skipped,
        quantiles=quantiles_of(errors),
        drift_ppb=drift_ppb(departures, errors) if keeps_up else None,
    )


def _run(engine: str, case: Case, settings: Settings) -> Ran:
    ssids = range(1, case.sessions + 1)
    interval_us = possible_interval_us(engine, 1_000_000 // case.rate_pps)
    room = int(case.sessions * (case.rate_pps * settings.duration_s + 1) * 1.1)
    readings = _readings()
    with Pair(settings.bed) as pair:
        pair.reflect_any()
        sending = pair.run(pair.sender, engine)
        capture = pair.keep(Capture(pair.sender.namespace, DEVICE, STAMP_PORT, room, replies=False))
        sessions = {
            ssid: SenderSession(
                ssid,
                pair.reflector.address,
                pair.sender.address,
                interval_us=interval_us,
                duration_s=settings.duration_s,
                loss_timeout_ms=LOSS_TIMEOUT_MS,
            )
            for ssid in ssids
        }
        node = Node(sender=Sender(engine=engine, interfaces=(DEVICE,), sessions=sessions))
        starts = _start(sending, node, case.sessions)
        sending.await_completion(settings.duration_s + LOSS_TIMEOUT_MS / 1e3 + SLACK_S)
        counters = sending.counters(ssids)
        requests = select(capture.packets(), request=True, outgoing=True)
    try:
        offset_ns, _ = wall_offset_ns([*readings, *_readings()])
    except ClockSetError as error:
        raise BenchError(str(error)) from error
    return Ran(interval_us, requests, starts, counters, offset_ns)


def _start(sending: HostEnd, node: Node, sessions: int) -> dict[int, int]:
    """Run `node`; return when each session's first packet was due.

    That is known for as long as the session runs, and the first may have completed its
    run before the last has been started.
    """
    found: dict[int, int] = {}

    def complete() -> bool:
        for ssid, status in sending.statuses().items():
            if status.run_started_ns is not None:
                found[ssid] = status.run_started_ns
        if applying.done():
            applying.result()
        return len(found) == sessions

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        applying = pool.submit(sending.apply, node)
        sending.wait(complete, f"not all of {sessions} sessions start", READY_TIMEOUT_S)
    return found


def _readings() -> list[ClockReading]:
    return [ClockReading(monotonic_ns(), wall_ns(), monotonic_ns()) for _ in range(READINGS)]
