"""Which of the measurements beyond the grid a bench makes, and of which engines."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import cast

from dataplane.engines import registry
from tools.bench.bed import Settings as BedSettings
from tools.bench.beyond import (
    control_plane,
    data_traffic,
    footprint,
    packet_cost,
    schedule,
    timestamps,
)
from tools.bench.extras import Extra

Make = Callable[[], Iterator[Extra]]

QUICK_SESSIONS = (1, 100)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement: of one engine, or of none in particular."""

    kind: str
    engine: str | None
    make: Make

    def __str__(self) -> str:
        return self.kind if self.engine is None else f"{self.kind} of engine {self.engine}"


KINDS = ("packet-cost", "data-traffic", "timestamps", "schedule", "footprint", "control-plane")
LONG_KINDS = ("hour",)
"""What is measured only where it is asked for."""

QUICK_KINDS = ("packet-cost", "timestamps")


def measurements(
    kinds: Iterable[str], engines: Iterable[str], bed: BedSettings, *, quick: bool
) -> list[Measurement]:
    """What is to be measured, in order. Raises ValueError for a kind that there is not."""
    known = [name for name in engines if name in registry.ENGINES]
    found: list[Measurement] = []
    for kind in kinds:
        match kind:
            case "packet-cost":
                found.append(Measurement(kind, None, _packet_cost(bed, quick)))
            case "control-plane":
                found.append(Measurement(kind, None, _control_plane(quick)))
            case "data-traffic":
                subjects: list[str | None] = [None, *known]
                found += [Measurement(kind, one, _data_traffic(one, bed)) for one in subjects]
            case "timestamps" | "schedule" | "footprint":
                makers = {"timestamps": _timestamps, "schedule": _schedule, "footprint": _footprint}
                found += [Measurement(kind, name, makers[kind](name, bed, quick)) for name in known]
            case "hour":
                hour = schedule.Settings(schedule.CASES[:1], duration_s=3_600, bed=bed)
                found += [
                    Measurement(kind, name, functools.partial(schedule.measure, name, hour))
                    for name in known
                ]
            case _:
                every = ", ".join(KINDS + LONG_KINDS)
                raise ValueError(f"there is no measurement {kind}; there are: {every}")
    return found


def _packet_cost(bed: BedSettings, quick: bool) -> Make:
    repeat = packet_cost.Settings().repeat // (10 if quick else 1)
    return functools.partial(packet_cost.measure, packet_cost.Settings(repeat=repeat, bed=bed))


def _data_traffic(engine: str | None, bed: BedSettings) -> Make:
    return functools.partial(data_traffic.measure, engine, data_traffic.Settings(bed=bed))


def _control_plane(quick: bool) -> Make:
    sessions = QUICK_SESSIONS if quick else control_plane.SESSIONS
    return functools.partial(control_plane.measure, control_plane.Settings(sessions=sessions))


def _timestamps(engine: str, bed: BedSettings, quick: bool) -> Make:
    duration_s = 1.0 if quick else timestamps.Settings().duration_s
    settings = timestamps.Settings(duration_s=duration_s, bed=bed)
    return functools.partial(timestamps.measure, engine, settings)


def _schedule(engine: str, bed: BedSettings, quick: bool) -> Make:
    cases = schedule.CASES[:1] if quick else schedule.CASES
    return functools.partial(schedule.measure, engine, schedule.Settings(cases=cases, bed=bed))


def _footprint(engine: str, bed: BedSettings, quick: bool) -> Make:
    sessions = QUICK_SESSIONS if quick else footprint.SESSIONS
    settings = footprint.Settings(sessions=sessions, bed=bed)
    return functools.partial(footprint.measure, engine, settings)


def results_of(measurement: Measurement) -> Iterator[Extra]:
    """What a measurement yields; whatever it has begun is ended with this iterator."""
    with contextlib.closing(cast("Generator[Extra]", measurement.make())) as found:
        yield from found
