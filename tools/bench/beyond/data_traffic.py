"""What data traffic keeps while an engine is configured and has nothing to do.

The effect is of the size of what the machine itself does from one second to the next, so
it is not searched for: two beds stand side by side on the same cores, one with the
system and one without, and take turns of a fraction of a second. As much is offered as
keeps the core that forwards busy throughout; what comes through is compared turn by
turn. Half of the turns are taken with the beds' parts exchanged, and a row without any
system says how far the method can be believed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

from tools.bench.bed import Bed
from tools.bench.bed import Settings as BedSettings
from tools.bench.cell import NO_SYSTEM, Role
from tools.bench.errors import BenchError
from tools.bench.extras import DataTraffic
from tools.bench.measure import WAIT_TOLERANCE, Measurement, TrialSettings
from tools.bench.namespace import on_core
from tools.bench.shape import Shape
from tools.bench.systems import BareProgram, EngineSystem, Idle, System

PASSING = "xdp-pass"
"""A program that passes everything on: what the hook costs by itself."""

TRIES = 5
"""Turns that are thrown away because something else had the core, before one counts."""

PROBE_PPS = 10_000_000
OVERLOAD = 1.5
"""What is offered, as a multiple of what can be forwarded."""

SETTLE_S = 0.02

_DATA_ONLY = Decimal(0)


@dataclass(frozen=True, slots=True)
class Settings:
    pairs: int = 120
    """Turns of the bed with the system, and as many without."""

    duration_ns: int = 150_000_000
    bed: BedSettings = field(default_factory=BedSettings)


def measure(engine: str | None, settings: Settings | None = None) -> Iterator[DataTraffic]:
    """Yield both roles of an engine; of None, no system at all and a bare program.

    Raises BenchError where it cannot be measured here.
    """
    settings = settings or Settings()
    core = settings.bed.generator_core
    with on_core(core), contextlib.ExitStack() as stack:
        beds = [
            stack.enter_context(Bed(replace(settings.bed, tag=f"{settings.bed.tag}-{side}")))
            for side in ("left", "right")
        ]
        if engine is None:
            for system in (Idle(NO_SYSTEM), BareProgram(PASSING)):
                ratios = _ratios(beds, system, Role.FORWARDER, settings)
                yield DataTraffic(system.name, str(Role.FORWARDER), ratios)
            return
        shape = Shape()
        for role in (Role.REFLECTOR, Role.COLLECTOR):
            ratios = _ratios(beds, EngineSystem(engine, shape.sessions, shape.sids), role, settings)
            yield DataTraffic(engine, str(role), ratios)


def _ratios(beds: list[Bed], system: System, role: Role, settings: Settings) -> tuple[float, ...]:
    """Of each pair of turns, what was forwarded with the system to what was without."""
    trial = TrialSettings(settings.duration_ns)
    ratios: list[float] = []
    for with_it, without in (beds, beds[::-1]):
        plain = Measurement(without, Idle(), Role.FORWARDER, _DATA_ONLY, trial)
        measured = Measurement(with_it, system, role, _DATA_ONLY, trial)
        with plain.running(), measured.running():
            rate_pps = _overload_pps(plain)
            for turn in range(settings.pairs // 2):
                pair = {}
                for one in (plain, measured)[:: 1 if turn % 2 else -1]:
                    with contextlib.nullcontext() if one is measured else system.paused():
                        time.sleep(SETTLE_S)
                        pair[one is measured] = _forwarded_pps(one, rate_pps)
                ratios.append(pair[True] / pair[False])
    return tuple(ratios)


def _overload_pps(plain: Measurement) -> int:
    found = plain.observe(PROBE_PPS).trial.delivered_pps
    if not found:
        raise BenchError("the bed forwards nothing")
    return int(OVERLOAD * found)


def _forwarded_pps(measurement: Measurement, rate_pps: int) -> float:
    for _ in range(TRIES):
        seen = measurement.observe(rate_pps)
        if seen.counters["system-waited-ns"] <= WAIT_TOLERANCE * seen.trial.duration_ns:
            break
    if not seen.trial.delivered:
        raise BenchError(f"of {seen.trial.offered} data packets none was forwarded")
    return seen.trial.delivered_pps
