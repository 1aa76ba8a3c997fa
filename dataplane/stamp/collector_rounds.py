"""What `Collector.take` does, for a reply to each of many sessions at once.

The sessions are rows of one `SessionTable`. What is not as nearly all replies are (in
time and in order, to a packet under way, with delays that have a place in the histograms)
is left to be taken one by one. A property test holds this against
`Collector.receive`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.arena import Arena
from dataplane.histogram import SUB_BUCKETS, buckets_of, distances, origin_at
from dataplane.histogram_store import (
    BLOCK_WORDS,
    BLOCKS_AT,
    DIRECTORY_AT,
    OCTAVE_BITS,
    OCTAVES,
    needs_memory,
)
from dataplane.measurement import RECORD
from dataplane.session_state import (
    BACKWARD,
    DIRECTIONS,
    FORWARD,
    ROUND_TRIP,
    Counters,
    SessionHead,
    Synchronization,
)
from dataplane.stamp.sender_rounds import Range, Rows
from dataplane.stamp.session_table import (
    APART,
    DELAYS,
    END_NS,
    ESTIMATE,
    FATES,
    FIRST,
    HIGHEST,
    HISTOGRAMS,
    MASK,
    NEVER,
    NEXT,
    RING,
    SETTLED,
    SLOTS,
    STATE,
    STATEFUL,
    TAI_OFFSET_S,
    TIMEOUT_NS,
    TIMES,
    SessionTable,
)
from dataplane.stamp.state_words import (
    CLOSED_AT,
    COUNTERS_AT,
    DELAY_STATE,
    DELAY_WORDS,
    DELAYS_AT,
    HEAD_AT,
    INTERVAL_WORDS,
    LAST_RECEIVED_AT,
    RECORD_WORDS,
    RING_HEAD_AT,
    RING_WORDS,
    T1_METHOD_AT,
    T4_METHOD_AT,
    begin_write,
    end_write,
    word_of,
)
from dataplane.stamp.timestamp import ErrorEstimate
from dataplane.stamp.window import RECEIVED, UNDER_WAY
from dataplane.statistics import FAR_NS, INT64_MAX, DelayState

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_WRAP = 1 << 32
_HALF = 1 << 31

_RECEIVED = COUNTERS_AT + word_of(Counters, "received")
_ORIGIN = word_of(DelayState, "origin_ns")
_REFLECTOR_ERROR = HEAD_AT + word_of(SessionHead, "reflector_error_ns")
_REFLECTOR_SYNCHRONIZATION = 8 * HEAD_AT + SessionHead.reflector_synchronization.offset  # type: ignore[attr-defined]
_DIRECTIONS = np.arange(DIRECTIONS)
_AHEAD = np.arange(32)
"""Packets whose fate is looked at at once."""


def fit_for_round(
    table: SessionTable, rows: Rows, wire: Any, arrived_ns: Int64
) -> tuple[Mask, Int64]:
    """Which replies may be taken in together, as far as their packets decide that, and
    the sequence numbers of these, unwrapped.

    Each reply is of another session. `wire` has their fields; `arrived_ns` is T4 by the
    monotonic clock.
    """
    columns, arena = table.columns, table.arena
    newest, mask = columns[NEXT][rows] - 1, columns[MASK][rows]
    age = (newest - wire["sender_sequence"]) % _WRAP
    sequences = newest - age
    place = sequences & mask
    fit: Mask = (age <= mask) & (age < _HALF) & (sequences >= columns[FIRST][rows])
    fit &= arena.bytes[columns[FATES][rows] + place] == UNDER_WAY
    fit &= arrived_ns < columns[END_NS][rows]
    sent_ns = arena.words[columns[TIMES][rows] + place]
    fit &= arrived_ns <= sent_ns + columns[TIMEOUT_NS][rows]
    fit &= sequences > columns[HIGHEST][rows]
    fit &= columns[STATEFUL][rows] == 0
    offset_s = columns[TAI_OFFSET_S][rows]
    # They differ for a moment only, when the kernel has just been told.
    fit &= offset_s == offset_s[0]
    return fit, sequences


def refine_round(
    table: SessionTable, rows: Rows, sequences: Int64, records: npt.NDArray[Any]
) -> None:
    """Put a better T1 into the records, one of each session, where there is one."""
    apart = table.columns[APART][rows].nonzero()[0]
    for index, row, sequence in zip(
        apart.tolist(), rows[apart].tolist(), sequences[apart].tolist(), strict=True
    ):
        refined = table.collectors[row].refined_t1(sequence)
        if refined is not None:
            records["t1_ns"][index], records["t1_method"][index] = refined


def delays_of(records: npt.NDArray[Any]) -> Int64:
    """Forward, backward and round-trip delay of each."""
    delays = np.empty((len(records), DIRECTIONS), np.int64)
    np.subtract(records["t2_ns"], records["t1_ns"], out=delays[:, FORWARD])
    np.subtract(records["t4_ns"], records["t3_ns"], out=delays[:, BACKWARD])
    np.add(delays[:, FORWARD], delays[:, BACKWARD], out=delays[:, ROUND_TRIP])
    return delays


def places_in_histograms(
    table: SessionTable, rows: Rows, delays: Int64
) -> tuple[npt.NDArray[np.int64], Mask]:
    """Where each delay (a row of three for each session) is counted, in integers of 32
    bits, apart from the parity of the interval; and which sessions have a place for all,
    and none that is too far off to be worked on in 64 bits. Where they are the first of a
    session they say what its origins are."""
    at = table.columns[HISTOGRAMS][rows][:, None]
    parity = table.arena.words[table.columns[STATE][rows] + CLOSED_AT] & 1
    unused = ~evaluated(table, rows)
    near: Mask = np.all(np.abs(delays) <= FAR_NS, axis=1)
    origins = origins_of(table, rows, parity)
    first = (origins == 0) & ~unused & near[:, None]
    if first.any():
        origins[first] = origin_at(delays[first])
        table.arena.words[_origins_at(table, rows, parity)[first]] = origins[first]
    buckets = buckets_of(distances(delays, origins))
    directory = (at + DIRECTORY_AT) // 2 + _DIRECTIONS * OCTAVES + (buckets >> OCTAVE_BITS)
    entries = table.arena.halves[directory].astype(np.int64)
    new = (entries == 0) & ~unused & near[:, None]
    if new.any():
        _begin_octaves(table, at[:, 0], directory, new)
        entries = table.arena.halves[directory].astype(np.int64)
    places = (at + BLOCKS_AT) // 4 + (entries - 1) * BLOCK_WORDS + (buckets & SUB_BUCKETS - 1)
    known: Mask = ((entries != 0) | unused).all(axis=1) & near
    return places, known


def evaluated(table: SessionTable, rows: Rows) -> Mask:
    """Which delays of each session are, by direction."""
    used: Mask = table.columns[DELAYS][rows][:, None] > _DIRECTIONS
    return used


def delays_at(table: SessionTable, rows: Rows, parity: Int64) -> Int64:
    """Where the three `DelayState` of the intervals of this parity begin, in words."""
    at: Int64 = table.columns[STATE][rows] + DELAYS_AT + parity * INTERVAL_WORDS
    return at


def origins_of(table: SessionTable, rows: Rows, parity: Int64) -> Int64:
    """`DelayState.origin_ns` of each delay of these intervals."""
    origins: Int64 = table.arena.words[_origins_at(table, rows, parity)]
    return origins


def _origins_at(table: SessionTable, rows: Rows, parity: Int64) -> Int64:
    at: Int64 = delays_at(table, rows, parity)[:, None] + _DIRECTIONS * DELAY_WORDS + _ORIGIN
    return at


def _begin_octaves(table: SessionTable, at: Int64, directory: Int64, new: Mask) -> None:
    for direction in range(DIRECTIONS):
        mine = new[:, direction].nonzero()[0]
        begin_octaves(table.arena, at[mine], directory[mine, direction])


def begin_octaves(arena: Arena, at: Int64, directory: Int64) -> None:
    """As `HistogramStore.add` does with the first delay of an octave of each of these
    histograms, where there is memory for its block."""
    used = at // 8
    entries = arena.words[used] + 1
    ready = ~needs_memory(at, entries)
    arena.words[used[ready]] = entries[ready]
    arena.halves[directory[ready]] = entries[ready]


def take_round(
    table: SessionTable,
    rows: Rows,
    sequences: Int64,
    records: npt.NDArray[Any],
    delays: Int64,
    places: npt.NDArray[np.int64],
    estimates: npt.NDArray[np.uint16],
) -> None:
    """Take in replies that are fit, and have places in their histograms. `estimates` are
    their Error Estimates, wire values."""
    columns, arena = table.columns, table.arena
    words, state = arena.words, columns[STATE][rows]
    versions = begin_write(words, state)
    _append(table, rows, records)
    words[state + _RECEIVED] += 1
    words[state + LAST_RECEIVED_AT] = records["t4_ns"]
    arena.bytes[8 * state + T1_METHOD_AT] = records["t1_method"]
    arena.bytes[8 * state + T4_METHOD_AT] = records["t4_method"]
    know_reflectors(table, rows, estimates)
    columns[HIGHEST][rows] = sequences
    parity = words[state + CLOSED_AT] & 1
    used = evaluated(table, rows)
    at = delays_at(table, rows, parity)
    whole = arena.pick(at, DIRECTIONS * DELAY_WORDS)
    states, numbers = whole.view(DELAY_STATE), np.broadcast_to(sequences[:, None], used.shape)
    places = places + parity[:, None] * SUB_BUCKETS
    if used.all():
        _update(states, delays, numbers)
    else:
        some = states[used]
        _update(some, delays[used], numbers[used])
        states[used] = some
        places = places[used]
    arena.put(at, whole)
    arena.quarters[places] += 1
    mask = columns[MASK][rows]
    arena.bytes[columns[FATES][rows] + (sequences & mask)] = RECEIVED
    following = sequences + 1
    next_to_settle = sequences == columns[SETTLED][rows]
    columns[SETTLED][rows[next_to_settle]] = following[next_to_settle]
    more = next_to_settle & (following < columns[NEXT][rows])
    more &= arena.bytes[columns[FATES][rows] + (following & mask)] != UNDER_WAY
    if more.any():
        settle_round(table, rows[more])
    apart = columns[APART][rows].nonzero()[0]
    for row, sequence in zip(rows[apart].tolist(), sequences[apart].tolist(), strict=True):
        table.collectors[row].forget(sequence)
    end_write(words, state, versions)


def know_reflectors(table: SessionTable, rows: Rows, estimates: npt.NDArray[np.uint16]) -> None:
    """As `Collector` takes in the Error Estimate of a reply, a wire value."""
    known = table.columns[ESTIMATE]
    new = estimates != known[rows]
    if not new.any():
        return
    for estimate in set(estimates[new].tolist()):
        mine = rows[new & (estimates == estimate)]
        known[mine] = estimate
        state, decoded = table.columns[STATE][mine], ErrorEstimate.decode(estimate)
        table.arena.words[state + _REFLECTOR_ERROR] = min(decoded.error_ns, INT64_MAX)
        synchronization = Synchronization.of(decoded.synchronized).value
        table.arena.bytes[8 * state + _REFLECTOR_SYNCHRONIZATION] = synchronization


def settle_round(table: SessionTable, rows: Rows) -> None:
    """As `PacketFates._settle`, for sessions with stateless Session-Reflectors."""
    columns, fates = table.columns, table.arena.bytes
    while len(rows):
        settled = columns[SETTLED][rows]
        sequences = settled[:, None] + _AHEAD
        stop = sequences >= columns[NEXT][rows][:, None]
        places = columns[FATES][rows][:, None] + (sequences & columns[MASK][rows][:, None])
        stop |= fates[places] == UNDER_WAY
        ended = stop.any(axis=1)
        columns[SETTLED][rows] = settled + np.where(ended, stop.argmax(axis=1), len(_AHEAD))
        rows = rows[~ended]


def _append(table: SessionTable, rows: Rows, records: npt.NDArray[Any]) -> None:
    """As `RecordRing.append`."""
    words, ring = table.arena.words, table.columns[RING][rows]
    head = words[ring + RING_HEAD_AT]
    at = ring + RING_WORDS + head % table.columns[SLOTS][rows] * RECORD_WORDS
    table.arena.pieces(RECORD.size)[at] = records.view((np.void, RECORD.size))
    words[ring + RING_HEAD_AT] = head + 1


def _update(states: npt.NDArray[Any], values_ns: Int64, sequences: Int64) -> None:
    """As `DelayState.update` of each."""
    samples, mean, m2 = states["samples"], states["mean"], states["m2"]
    least_ns, most_ns = states["min_ns"], states["max_ns"]
    samples += 1
    first = samples == 1
    if first.any():
        for name in ("min_ns", "max_ns"):
            states[name][first] = values_ns[first]
        mean[first] = m2[first] = 0.0
    about_origin = (values_ns - states["origin_ns"]).astype(np.float64)
    difference = about_origin - mean
    mean += difference / samples
    m2 += difference * (about_origin - mean)
    np.minimum(least_ns, values_ns, out=least_ns)
    np.maximum(most_ns, values_ns, out=most_ns)
    states["last_ns"] = values_ns
    fresh = states["has_previous"] == 0
    newer = fresh | (sequences > states["previous_sequence"])
    pair = newer & ~fresh
    ipdv = np.where(pair, np.abs(values_ns - states["previous_ns"]), 0)
    states["ipdv_sum"] += ipdv
    states["pairs"] += pair
    np.maximum(states["ipdv_max_ns"], ipdv, out=states["ipdv_max_ns"])
    states["has_previous"] = 1
    np.copyto(states["previous_sequence"], sequences, where=newer)
    np.copyto(states["previous_ns"], values_ns, where=newer)


def losses_due(table: SessionTable, rows: Range) -> Int64:
    """When the oldest packet under way of each session is lost; `NEVER` for none."""
    columns = table.columns
    settled = columns[SETTLED][rows]
    place = columns[TIMES][rows] + (settled & columns[MASK][rows])
    lost_ns = table.arena.words[place] + columns[TIMEOUT_NS][rows]
    lost_ns += 1
    lost_ns[settled >= columns[NEXT][rows]] = NEVER
    return lost_ns


def next_expiries(table: SessionTable, rows: Range) -> Int64:
    """As `Collector.next_timer_ns` of each session; `NEVER` for None."""
    due_ns: Int64 = np.minimum(losses_due(table, rows), table.columns[END_NS][rows])
    return due_ns
