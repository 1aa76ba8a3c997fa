"""What the paper has not measured, as data: times are nanoseconds.

Sorted quantiles stand for distributions: they are small, lose nothing at the ends,
and a CDF is drawn from them as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PROBABILITIES = (
    0.0,
    *(0.001, 0.005, 0.01, 0.02),
    *(percent / 100 for percent in range(5, 100, 5)),
    *(0.98, 0.99, 0.995, 0.999, 1.0),
)
"""Of the quantiles that are kept: dense where distributions have tails."""


@dataclass(frozen=True, slots=True)
class Quantile:
    """The value that a share of all samples does not exceed."""

    probability: float
    ns: int

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"a probability is from 0 to 1, not {self.probability}")


Quantiles = tuple[Quantile, ...]


def quantiles_of(
    samples_ns: Sequence[int] | npt.NDArray[np.int64],
    probabilities: Sequence[float] = PROBABILITIES,
) -> Quantiles:
    """Return quantiles that are samples themselves (the nearest-rank above); none of nothing."""
    values = np.asarray(samples_ns, dtype=np.int64)
    if not values.size:
        return ()
    found = np.quantile(values, probabilities, method="inverted_cdf")
    return tuple(Quantile(p, int(ns)) for p, ns in zip(probabilities, found, strict=True))


def quantile_ns(quantiles: Quantiles, probability: float) -> int | None:
    """Return one of the quantiles that were kept; None for another one."""
    return next((q.ns for q in quantiles if abs(q.probability - probability) < 1e-9), None)


def _check_sorted(quantiles: Quantiles) -> None:
    pairs = [(q.probability, q.ns) for q in quantiles]
    if any(b[0] <= a[0] or b[1] < a[1] for a, b in itertools.pairwise(pairs)):
        raise ValueError("quantiles are not in order")


@dataclass(frozen=True, slots=True)
class PacketCost:
    """Time that an XDP program takes for one packet, by `BPF_PROG_RUN`."""

    name: str
    """What is measured: "reflector", "data packet past the reflector"."""
    program: str
    segments: int
    """Segments of the packet's SRH; 0 without one."""
    ns_per_packet: tuple[float, ...]
    """Of each run, itself a mean over many repeats."""


@dataclass(frozen=True, slots=True)
class TimestampError:
    """How far the timestamps of an engine are from those of a capture of the same packets."""

    label: str
    """Engine and timestamp: "userspace T2"."""
    method: str
    """What it is compared with, in words."""
    count: int
    quantiles: Quantiles
    """Engine minus capture: signed."""

    def __post_init__(self) -> None:
        _check_sorted(self.quantiles)


@dataclass(frozen=True, slots=True)
class ScheduleError:
    """How late the Session-Sender sends."""

    engine: str
    sessions: int
    rate_pps: float
    """Of all sessions together."""
    count: int
    """Packets sent."""
    skipped: int
    """Packets that were due and not sent."""
    quantiles: Quantiles
    """Departure minus schedule: signed."""
    drift_ppb: float | None = None
    """By how much that grows with time, in parts per billion; None where it is not known."""

    def __post_init__(self) -> None:
        _check_sorted(self.quantiles)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a number of sessions costs; None where it is not known."""

    engine: str
    sessions: int
    rate_pps: float | None
    """Packets of all sessions together."""
    rss_bytes: int | None
    """Resident memory of the engine's process."""
    store_bytes: int | None
    """Memory that outlives the process: records and statistics."""
    cpu_percent: float | None
    """Of one core."""


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """How long a request of the management takes."""

    name: str
    """From where to where: "edit-config to the first packet of the last session"."""
    sessions: int
    durations_ns: tuple[int, ...]
    """Of each try."""


@dataclass(frozen=True, slots=True)
class DataTraffic:
    """What data traffic keeps while a system is there and has nothing to do."""

    system: str
    role: str
    ratios: tuple[float, ...]
    """Of each pair of turns: forwarded with the system to forwarded without."""

    def __post_init__(self) -> None:
        if any(ratio <= 0 for ratio in self.ratios):
            raise ValueError("a ratio is not positive")


Extra = PacketCost | DataTraffic | TimestampError | ScheduleError | Footprint | ControlPlane


@dataclass(frozen=True, slots=True)
class Extras:
    """All of them, by kind."""

    packet_cost: tuple[PacketCost, ...] = ()
    data_traffic: tuple[DataTraffic, ...] = ()
    timestamp_error: tuple[TimestampError, ...] = ()
    schedule_error: tuple[ScheduleError, ...] = ()
    footprint: tuple[Footprint, ...] = ()
    control_plane: tuple[ControlPlane, ...] = ()

    def with_added(self, extra: Extra) -> Extras:
        """Return these and another; it takes the place of one of the same name."""
        field, identity = _KINDS[type(extra)]
        kept = [
            old
            for old in getattr(self, field)
            if any(getattr(old, key) != getattr(extra, key) for key in identity)
        ]
        content: dict[str, Any] = {name: getattr(self, name) for name, _ in _KINDS.values()}
        return Extras(**{**content, field: (*kept, extra)})


_KINDS: dict[type, tuple[str, tuple[str, ...]]] = {
    PacketCost: ("packet_cost", ("name", "program", "segments")),
    DataTraffic: ("data_traffic", ("system", "role")),
    TimestampError: ("timestamp_error", ("label", "method")),
    ScheduleError: ("schedule_error", ("engine", "sessions", "rate_pps")),
    Footprint: ("footprint", ("engine", "sessions", "rate_pps")),
    ControlPlane: ("control_plane", ("name", "sessions")),
}
"""Field of each kind, and what tells two of a kind apart."""
