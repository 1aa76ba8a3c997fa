"""What `Intervals.roll` does at the end of one interval, for many sessions at once.

The sessions are rows of one `SessionTable`. A property test holds this against
`Collector.expire`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dataplane.arena import Arena
from dataplane.clock import ClockStatus
from dataplane.histogram import (
    QUARTILES,
    SAMPLES_TO_MOVE,
    SUB_BUCKETS,
    distances,
    middles_of,
    next_origins,
)
from dataplane.histogram_store import (
    BLOCK,
    BLOCKS_AT,
    BLOCKS_MAX,
    DIRECTORY_AT,
    OCTAVE_BITS,
    OCTAVES,
)
from dataplane.session_state import (
    DIRECTIONS,
    UNKNOWN_NS,
    Counters,
    IntervalState,
    SessionHead,
    SessionState,
    Synchronization,
    TotalState,
)
from dataplane.stamp.collector_rounds import losses_due
from dataplane.stamp.sender_rounds import Rows, all_sent
from dataplane.stamp.session_table import (
    END_NS,
    HELD,
    HISTOGRAMS,
    INTERVAL_NS,
    INTERVALS,
    KIND,
    LENGTH_NS,
    SLOT,
    START_NS,
    STATE,
    STATEFUL,
    TAI_OFFSET_S,
    UNIX_OFFSET_NS,
    Kind,
    SessionTable,
)
from dataplane.stamp.state_words import (
    CLOSED_AT,
    COUNTERS_AT,
    DELAY_WORDS,
    HEAD_AT,
    INTERVAL_WORDS,
    INTERVALS_AT,
    begin_write,
    end_write,
    word_of,
    words_of,
)
from dataplane.statistics import INT64_MAX, DelayState

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_LARGEST = np.nextafter(2.0**63, 0.0)

_LOCAL_ERROR = HEAD_AT + word_of(SessionHead, "local_error_ns")
_LOCAL_SYNCHRONIZATION = 8 * HEAD_AT + SessionHead.local_synchronization.offset  # type: ignore[attr-defined]
_COUNTERS_WORDS = words_of(Counters)
_TOTALS = word_of(SessionState, "total")
_TOTAL_WORDS = words_of(TotalState)
_OF_INTERVAL = {name: word_of(IntervalState, name) for name, _ in IntervalState._fields_}
_OF_DELAY = {name: word_of(DelayState, name) for name, _ in DelayState._fields_}
_PREVIOUS = [
    _OF_DELAY[name] for name in ("origin_ns", "previous_sequence", "previous_ns", "has_previous")
]
"""What the next interval begins with."""
_REPORTED = [
    word_of(Counters, name)
    for name in ("sent", "received", "duplicates", "reordered", "late", "unresolved", "lost")
]
"""In the order of an entry of the ring of intervals."""

_FRONT = 14
"""Words of an entry in front of its delays."""

_SUMMARY = 8
"""Words of a delay in front of its percentiles."""

_CURRENT = 0
_TOTAL = BLOCK["current"].itemsize // 8
"""Of a block, in words."""
assert 2 * BLOCKS_MAX % 8 == DIRECTORY_AT % 8 == 0
_DIRECTORY_WORDS = 2 * BLOCKS_MAX // 8
_BLOCK_WORDS = BLOCK.itemsize // 8


def fit_to_close(table: SessionTable, rows: Rows, as_of_ns: int | Int64) -> Mask:
    """Which of these sessions `close_round` can be used for: one interval is over, and no
    packet that was lost in it is yet to be counted."""
    columns = table.columns
    end_ns = columns[END_NS][rows]
    fit: Mask = (end_ns <= as_of_ns) & (columns[STATEFUL][rows] == 0) & (columns[STATE][rows] != 0)
    fit &= as_of_ns - columns[LENGTH_NS][rows] < end_ns
    fit &= losses_due(table, rows) > end_ns
    return fit


def close_over(table: SessionTable, rows: Rows, as_of_ns: int | Int64) -> None:
    """Close the intervals of those sessions that are fit for it."""
    fit = fit_to_close(table, rows, as_of_ns)
    over = rows[fit]
    kinds = table.columns[KIND][over]
    for kind in np.unique(kinds).tolist():
        mine = kinds == kind
        at_ns = as_of_ns if isinstance(as_of_ns, int) else as_of_ns[fit][mine]
        close_round(table, over[mine], table.kinds[kind], at_ns)


def close_round(table: SessionTable, rows: Rows, kind: Kind, as_of_ns: int | Int64) -> None:
    """Close the current interval of each of these sessions, of one kind, which are fit.

    Those with stateful Session-Reflectors have no losses that are still to be attributed.
    """
    columns, words = table.columns, table.arena.words
    state = columns[STATE][rows]
    versions = begin_write(words, state)
    number = words[state + CLOSED_AT] + 1
    new = number & 1
    closing, following = (
        state + INTERVALS_AT + parity * INTERVAL_WORDS for parity in (1 - new, new)
    )
    whole = table.arena.pick(closing, INTERVAL_WORDS)
    at = _OF_INTERVAL["delay"]
    delays = whole[:, at:].reshape(len(rows), DIRECTIONS, DELAY_WORDS)
    counters = table.arena.pick(state + COUNTERS_AT, _COUNTERS_WORDS)
    end_ns = columns[END_NS][rows]
    unix_ns = columns[UNIX_OFFSET_NS][rows] + end_ns
    width = _SUMMARY + len(kind.percentiles)
    entry = np.empty((len(rows), _FRONT + DIRECTIONS * width), np.int64)
    entry[:, 0], entry[:, 2] = number, unix_ns
    entry[:, 1] = whole[:, _OF_INTERVAL["start_ns"]]
    held_up = _held_up(table, rows, as_of_ns)
    entry[:, 3] = held_up | (whole[:, _OF_INTERVAL["suspect"]] != 0)
    at_start = _OF_INTERVAL["at_start"]
    since = counters - whole[:, at_start : at_start + _COUNTERS_WORDS]
    entry[:, 4:11] = since[:, _REPORTED]
    entry[:, 11:13] = 0
    if kind.stateful:
        entry[:, 11:13] = _attributed(whole, entry[:, 10])
    entry[:, 13] = entry[:, 10] - entry[:, 11] - entry[:, 12]
    summaries = entry[:, _FRONT:].reshape(len(rows), DIRECTIONS, width)
    _summarize(delays, summaries[:, :, :_SUMMARY])
    moves = _take_histograms(table, rows, new, delays, kind, summaries[:, :, _SUMMARY:])
    summaries[:, kind.directions :, 0] = 0
    summaries[:, kind.directions :, 1:] = UNKNOWN_NS
    place = columns[INTERVALS][rows] + number % kind.slots * entry.shape[1]
    table.arena.put(place, entry)
    _add_to_totals(table.arena, state + _TOTALS, new, delays[:, : kind.directions])
    _begin(table.arena, following, unix_ns, end_ns, columns[LENGTH_NS][rows], counters)
    words[following + _OF_INTERVAL["suspect"]] = held_up
    fresh = np.zeros((len(rows), kind.directions, DELAY_WORDS), np.int64)
    fresh[:, :, _PREVIOUS] = delays[:, : kind.directions, _PREVIOUS]
    table.arena.put(following + at, fresh.reshape(len(rows), -1))
    columns[END_NS][rows] = end_ns + columns[LENGTH_NS][rows]
    for index, direction, origin_ns in moves:
        collector = table.collectors[int(rows[index])]
        collector.move_origin(int(new[index]), direction, origin_ns)
    words[state + CLOSED_AT] = number
    end_write(words, state, versions)
    for row, closed in zip(rows.tolist(), number.tolist(), strict=True):
        table.collectors[row].closed_together(closed)


def set_local_clock(table: SessionTable, rows: Rows, status: ClockStatus) -> None:
    """As `Collector.set_local_clock` of each session; and the TAI offset."""
    words, state = table.arena.words, table.columns[STATE][rows]
    versions = begin_write(words, state)
    words[state + _LOCAL_ERROR] = min(status.error_ns, INT64_MAX)
    synchronization = Synchronization.of(status.synchronized).value
    table.arena.bytes[8 * state + _LOCAL_SYNCHRONIZATION] = synchronization
    table.columns[TAI_OFFSET_S][rows] = status.tai_offset_s
    end_write(words, state, versions)


def _held_up(table: SessionTable, rows: Rows, now_ns: int | Int64) -> Mask:
    """As `Intervals` has it."""
    columns = table.columns
    due_ns = columns[START_NS][rows] + columns[SLOT][rows] * columns[INTERVAL_NS][rows]
    held_up: Mask = now_ns - due_ns >= columns[LENGTH_NS][rows]
    held_up &= (due_ns < columns[END_NS][rows]) & ~all_sent(table, rows)
    held_up |= columns[HELD][rows] != 0
    return held_up


def _begin(
    arena: Arena, at: Int64, unix_ns: Int64, start_ns: Int64, length_ns: Int64, counters: Int64
) -> None:
    """As `SessionStore.close_interval` begins the interval at each place."""
    words = arena.words
    words[at + _OF_INTERVAL["start_ns"]] = unix_ns
    words[at + _OF_INTERVAL["start_monotonic_ns"]] = start_ns
    words[at + _OF_INTERVAL["end_monotonic_ns"]] = start_ns + length_ns
    for name in ("carried", "forward_lost", "backward_lost"):
        words[at + _OF_INTERVAL[name]] = 0
    arena.put(at + _OF_INTERVAL["at_start"], counters)


def _attributed(intervals: Int64, lost: Int64) -> Int64:
    """Forward and backward losses, as `loss_summary` has them."""
    found = intervals[:, [_OF_INTERVAL["forward_lost"], _OF_INTERVAL["backward_lost"]]]
    found[(found < 0).any(axis=1) | (found.sum(axis=1) > lost)] = 0
    return found


def _summarize(delays: Int64, summaries: Int64) -> None:
    """As `DelayState.summary`, in the order of `IntervalCodec`, without percentiles."""
    floats = delays.view(np.float64)
    samples, pairs = delays[..., _OF_DELAY["samples"]], delays[..., _OF_DELAY["pairs"]]
    summaries[..., 0] = samples
    for index, name in enumerate(("last_ns", "min_ns", "max_ns"), 1):
        summaries[..., index] = delays[..., _OF_DELAY[name]]
    mean, m2 = floats[..., _OF_DELAY["mean"]], floats[..., _OF_DELAY["m2"]]
    summaries[..., 4] = delays[..., _OF_DELAY["origin_ns"]] + _whole(mean)
    variance = np.maximum(m2, 0.0) / np.maximum(samples - 1, 1)
    summaries[..., 5] = _whole(np.sqrt(variance))
    jitter = floats[..., _OF_DELAY["ipdv_sum"]] / np.maximum(pairs, 1)
    summaries[..., 6] = _whole(jitter)
    summaries[..., 7] = delays[..., _OF_DELAY["ipdv_max_ns"]]
    summaries[..., 5][samples < 2] = UNKNOWN_NS
    summaries[..., 6:8][pairs == 0] = UNKNOWN_NS
    summaries[..., 1:][samples == 0] = UNKNOWN_NS


def _take_histograms(
    table: SessionTable, rows: Rows, new: Int64, delays: Int64, kind: Kind, percentiles: Int64
) -> list[tuple[int, int, int]]:
    """Put the percentiles of the closing intervals into `percentiles`, and close their
    histograms as `HistogramStore.close` does.

    Returns origins that are to be moved: index of the row, delay, and where to.
    """
    arena, at = table.arena, table.columns[HISTOGRAMS][rows]
    directories = arena.pick((at + DIRECTORY_AT) // 8, _DIRECTORY_WORDS).view(np.uint16)
    owner, entry = directories.nonzero()
    number = directories[owner, entry].astype(np.int64) - 1
    blocks = (at[owner] + BLOCKS_AT) // 8 + number * _BLOCK_WORDS
    parity = new[owner]
    half, full = SUB_BUCKETS // 2, SUB_BUCKETS
    packed = arena.pick(blocks + _CURRENT + (1 - parity) * half, half)
    counts = packed.view(np.uint32).astype(np.int64)
    totals = arena.pick(blocks + _TOTAL + (1 - parity) * full, full)
    arena.put(blocks + _TOTAL + parity * full, totals + counts)
    arena.put(blocks + _CURRENT + parity * half, np.zeros_like(packed))
    percentiles[:] = UNKNOWN_NS
    if not len(owner) or not kind.percentiles:
        return []
    # Of each delay of each session: where its samples begin and end among all of them.
    segments = np.arange(len(rows) * DIRECTIONS + 1)
    octaves = (owner * DIRECTIONS + entry // OCTAVES).searchsorted(segments)
    cumulative = np.concatenate(([0], counts.ravel().cumsum()))
    edges = cumulative[octaves * full]
    total = np.diff(edges)
    samples = delays[..., _OF_DELAY["samples"]].ravel()
    known = ((total > 0) & (samples > 0)).nonzero()[0]
    total, first = total[known], edges[known]
    origin, least, most, last = (
        delays[..., _OF_DELAY[name]].ravel()[known]
        for name in ("origin_ns", "min_ns", "max_ns", "last_ns")
    )
    wanted = -np.array((*kind.percentiles, *QUARTILES))[:, None]
    ranks = np.minimum(np.maximum((-(wanted * total // 100)).astype(np.int64), 1), total)
    where = cumulative[1:].searchsorted(first + ranks)
    octave = where >> OCTAVE_BITS
    buckets = (entry[octave] % OCTAVES << OCTAVE_BITS) + (where & full - 1)
    about = np.maximum(middles_of(buckets), distances(least, origin))
    found = origin + np.minimum(about, distances(most, origin))
    count = len(kind.percentiles)
    percentiles[known // DIRECTIONS, known % DIRECTIONS] = found[:count].T
    following = next_origins(found[count:], last, origin)
    enough = samples[known] >= SAMPLES_TO_MOVE
    return [
        (*divmod(int(known[at]), DIRECTIONS), int(following[at]))
        for at in np.flatnonzero(enough & (following != origin))
    ]


def _add_to_totals(arena: Arena, at: Int64, new: Int64, later: Int64) -> None:
    """As `DelayState.merge`: the totals of the other parity become those of parity `new`,
    with `later` added."""
    count, directions = later.shape[:2]
    words = directions * DELAY_WORDS
    old = arena.pick(at + (1 - new) * _TOTAL_WORDS, words).reshape(later.shape)
    floats, theirs = old.view(np.float64), later.view(np.float64)
    field = {name: old[..., place] for name, place in _OF_DELAY.items()}
    other = {name: later[..., place] for name, place in _OF_DELAY.items()}
    real = {name: (floats[..., _OF_DELAY[name]], theirs[..., _OF_DELAY[name]]) for name in _REAL}
    before, added = field["samples"].copy(), other["samples"]
    both = (before > 0) & (added > 0)
    samples = np.maximum(before + added, 1)
    shift = (other["origin_ns"] - field["origin_ns"]).astype(np.float64)
    difference = real["mean"][1] + shift - real["mean"][0]
    m2 = real["m2"][0] + (real["m2"][1] + difference * difference * before * added / samples)
    mean = real["mean"][0] + difference * added / samples
    np.copyto(real["m2"][0], m2, where=both)
    np.copyto(real["mean"][0], mean, where=both)
    np.copyto(real["ipdv_sum"][0], real["ipdv_sum"][0] + real["ipdv_sum"][1], where=both)
    for name in ("samples", "pairs"):
        np.copyto(field[name], field[name] + other[name], where=both)
    np.copyto(field["min_ns"], np.minimum(field["min_ns"], other["min_ns"]), where=both)
    for name in ("max_ns", "ipdv_max_ns"):
        np.copyto(field[name], np.maximum(field[name], other[name]), where=both)
    for name in ("last_ns", "previous_sequence", "previous_ns", "has_previous"):
        np.copyto(field[name], other[name], where=both)
    np.copyto(old, later, where=((before == 0) & (added > 0))[..., None])
    arena.put(at + new * _TOTAL_WORDS, old.reshape(count, words))


_REAL = ("mean", "m2", "ipdv_sum")


def _whole(values_ns: Float64) -> Int64:
    """As nanoseconds; what is beyond 64 bits becomes the largest that is not."""
    return np.minimum(np.rint(values_ns), _LARGEST).astype(np.int64)
