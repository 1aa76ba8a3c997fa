"""From the program's integers to the statistics of `dataplane.statistics`.

Sums are exact, so a mean and a variance are rounded once: they differ from those that
are updated packet by packet by rounding alone.
"""

from __future__ import annotations

from typing import Any

from dataplane.statistics import DelayState

_WORD = 1 << 64


def delay_state(sums: Any, direction: int, running: Any) -> DelayState:
    """Of `INTERVAL_SUMS` and `RUNNING`."""
    delay = sums["delay"][direction]
    state = DelayState()
    samples = int(sums["samples"])
    previous = int(running["previous_sequence"])
    if previous:
        state.previous_sequence = previous - 1
        state.previous_ns = int(running["previous_ns"][direction])
        state.has_previous = 1
    if not samples:
        return state
    total = _wide(delay, "sum", signed=True)
    state.samples = samples
    state.origin_ns = int(delay["origin_ns"])
    state.last_ns = int(delay["last_ns"])
    state.min_ns = int(delay["min_ns"])
    state.max_ns = int(delay["max_ns"])
    state.mean = total / samples
    squares = int(delay["squares_top"]) << 128 | _wide(delay, "squares")
    state.m2 = (samples * squares - total * total) / samples
    state.pairs = int(sums["pairs"])
    state.ipdv_sum = float(_wide(delay, "ipdv"))
    state.ipdv_max_ns = int(delay["ipdv_max_ns"])
    return state


def _wide(delay: Any, name: str, *, signed: bool = False) -> int:
    """A sum of 128 bits."""
    value = int(delay[f"{name}_high"]) << 64 | int(delay[f"{name}_low"])
    return value - _WORD * _WORD if signed and value >= _WORD * _WORD // 2 else value
