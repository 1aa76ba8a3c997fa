"""Departures against a schedule: which slot a packet belongs to, and how late it was.

Packets are due at `start + slot * interval`. A Session-Sender uses each slot at most
once, in order, and skips those that it is too late for; what it skipped in all is
known. Errors are signed: a packet that leaves early has a negative one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

EARLY_NS = 20_000
"""How much before it is due a packet may leave, and still be that slot's."""

DRIFT_PARTS = 10
"""Stretches of a run that the drift is fitted to."""

DRIFT_QUANTILE = 0.1
"""Of a stretch: how late the punctual packets are. Load shows in the others."""


class ClockReading(NamedTuple):
    """CLOCK_REALTIME, between two readings of CLOCK_MONOTONIC; nanoseconds."""

    before: int
    wall: int
    after: int


class ClockSetError(Exception):
    """CLOCK_REALTIME was set between the readings: nothing that it said compares."""


def wall_offset_ns(readings: Iterable[ClockReading]) -> tuple[int, int]:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC, and how far that may be off.

    The difference is constant until somebody sets the clock: slewing moves both
    (clock_gettime(2)). Each reading bounds it, and what all of them allow is narrower
    than any. Raises ClockSetError where they contradict each other.
    """
    pairs = [(reading.wall - reading.after, reading.wall - reading.before) for reading in readings]
    low, high = max(low for low, _ in pairs), min(high for _, high in pairs)
    if low > high:
        raise ClockSetError(f"the clock was set: its readings differ by {low - high} ns")
    return (low + high) // 2, (high - low + 1) // 2


def slots_of(
    departures_ns: npt.NDArray[np.int64], start_ns: int, interval_ns: int, skipped: int
) -> npt.NDArray[np.int64]:
    """The slot of each packet of one session's run, given in the order of sending.

    Without skipped slots that is the packet's number, however late or early it left.
    With them it is the latest slot that had begun, as `SessionSender` has it, or was
    about to: packets may leave `EARLY_NS` before they are due; a packet
    that left so late that yet another had begun is told by those behind it, which
    leave that slot to one of them. At most `skipped` are left out.
    """
    numbers = np.arange(len(departures_ns), dtype=np.int64)
    reached = (departures_ns + EARLY_NS - start_ns) // interval_ns - numbers
    left_out = np.minimum.accumulate(reached[::-1])[::-1]
    slots: npt.NDArray[np.int64] = numbers + np.clip(left_out, 0, skipped)
    return slots


def errors_ns(
    departures_ns: npt.NDArray[np.int64], start_ns: int, interval_ns: int, skipped: int
) -> npt.NDArray[np.int64]:
    """Departure minus schedule, of each packet of one session's run in the order of sending."""
    slots = slots_of(departures_ns, start_ns, interval_ns, skipped)
    errors: npt.NDArray[np.int64] = departures_ns - start_ns - slots * interval_ns
    return errors


def drift_ppb(times_ns: npt.NDArray[np.int64], errors: npt.NDArray[np.int64]) -> float | None:
    """By how much errors grow with time, in parts per billion; None for too few packets."""
    if len(times_ns) < 2 * DRIFT_PARTS:
        return None
    order = np.argsort(times_ns, kind="stable")
    parts = np.array_split(order, DRIFT_PARTS)
    x = np.array([np.median(times_ns[part] - times_ns[order[0]]) for part in parts])
    y = np.array([np.quantile(errors[part], DRIFT_QUANTILE) for part in parts])
    return float(np.polyfit(x, y, 1)[0] * 1e9)
