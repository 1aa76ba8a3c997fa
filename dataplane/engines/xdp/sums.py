"""What the program has counted, and the statistics of `dataplane.statistics` made of it.

Sums are exact, so a mean and a variance are rounded once: they differ from those that
are updated packet by packet by rounding alone.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from dataplane.engines.xdp.collector_layouts import COLLECTION, DELAY_SUMS, DIRECTIONS, codes
from dataplane.statistics import DelayState

_WORD = 1 << 64


class DelaySums(NamedTuple):
    """`struct delay_sums`."""

    origin_ns: int
    last_ns: int
    min_ns: int
    max_ns: int
    sum_low: int
    sum_high: int
    squares_low: int
    squares_high: int
    squares_top: int
    ipdv_low: int
    ipdv_high: int
    ipdv_max_ns: int
    octave: int


class IntervalSums(NamedTuple):
    """`struct interval_sums`; the rest of its fields are `delays`."""

    samples: int = 0
    pairs: int = 0
    duplicates: int = 0
    late: int = 0
    reordered: int = 0
    delays: tuple[DelaySums, ...] = ()
    """By direction; empty where nothing has been counted."""


class Running(NamedTuple):
    """`struct running`."""

    received: int = 0
    highest: int = 0
    reordered: int = 0
    breaks: int = 0
    turns: int = 0
    next_number: int = 0
    previous_sequence: int = 0
    forward_previous_ns: int = 0
    backward_previous_ns: int = 0
    round_trip_previous_ns: int = 0

    def previous_ns(self, direction: int) -> int:
        """The latest delay that a pair can be made with."""
        return self[-DIRECTIONS + direction]


class Copied(NamedTuple):
    """What the control program has copied, at one time."""

    running: Running = Running()
    intervals: tuple[IntervalSums, IntervalSums] = (IntervalSums(), IntervalSums())
    """By parity."""


assert COLLECTION.fields is not None
_RUNNING_AT = COLLECTION.fields["running_then"][1]
_LAYOUT = struct.Struct(
    "=" + "".join(codes(COLLECTION.fields[n][0]) for n in ("running_then", "interval_then"))
)
_DELAY = len(DELAY_SUMS.names or ())
_HEAD = 6
_SUMS = _HEAD + DIRECTIONS * _DELAY


def copied(memory: memoryview) -> Copied:
    """Of `struct collection`."""
    values = _LAYOUT.unpack_from(memory, _RUNNING_AT)
    first = len(Running._fields)
    return Copied(
        Running._make(values[:first]),
        (_interval(values, first), _interval(values, first + _SUMS)),
    )


def _interval(values: tuple[int, ...], at: int) -> IntervalSums:
    delays: tuple[DelaySums, ...] = ()
    if values[at]:
        delays = tuple(
            DelaySums._make(values[start : start + _DELAY])
            for start in range(at + _HEAD, at + _SUMS, _DELAY)
        )
    samples, pairs, duplicates, late, reordered = values[at : at + _HEAD - 1]
    return IntervalSums(samples, pairs, duplicates, late, reordered, delays)


def delay_state(sums: IntervalSums, direction: int, running: Running) -> DelayState:
    """Of the samples, and the latest of all that a pair can be made with."""
    state = DelayState()
    samples = sums.samples
    if running.previous_sequence:
        state.previous_sequence = running.previous_sequence - 1
        state.previous_ns = running.previous_ns(direction)
        state.has_previous = 1
    if not samples:
        return state
    delay = sums.delays[direction]
    total = delay.sum_high << 64 | delay.sum_low
    if total >= _WORD * _WORD // 2:
        total -= _WORD * _WORD
    squares = (delay.squares_top << 64 | delay.squares_high) << 64 | delay.squares_low
    state.samples = samples
    state.origin_ns = delay.origin_ns
    state.last_ns = delay.last_ns
    state.min_ns = delay.min_ns
    state.max_ns = delay.max_ns
    state.mean = total / samples
    state.m2 = (samples * squares - total * total) / samples
    state.pairs = sums.pairs
    state.ipdv_sum = float(delay.ipdv_high << 64 | delay.ipdv_low)
    state.ipdv_max_ns = delay.ipdv_max_ns
    return state
