"""What `DriverCollector.expire` does, for many sessions at once.

The sessions are rows of one `SessionTable`, their maps are in its arena. Done together is
what nearly all of thousands of sessions need: replies that have come in the order of their
packets are drained, an interval is closed, and packets are timed out; where losses are told
by direction, only as long as there are none. Where anything else has happened (a reply that
was overtaken), or sums do not fit into 64 bits, nothing is done, and the session is left to be
worked on by itself. A property test holds this against `DriverCollector.expire`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dataplane.arena import Arena
from dataplane.engines.xdp.collector_layouts import (
    BREAKS_AT,
    BUCKETS,
    DIRECTIONS,
    HISTOGRAM_AT,
    INTERVAL_SUMS,
    INTERVAL_THEN_AT,
    ORIGINS,
    ORIGINS_AT,
    RUNNING,
    RUNNING_THEN_AT,
    SLOT,
    TURNS_AT,
    Command,
    word_at,
)
from dataplane.engines.xdp.driver_rounds import (
    BREAKS_SEEN,
    CALM,
    COLLECTION_AT,
    COUNTED_AT,
    DRAINED,
    FIT,
    FOLDED_DUPLICATES,
    FOLDED_LATE,
    FOLDED_REORDERED,
    FOLDED_SAMPLES,
    FRESH_NS,
    NEWEST,
    NEWEST_NUMBER,
    SLOT_WORDS,
    SLOTS_AT,
    TOGETHER,
    TOGETHER_T3_NS,
    TURNS_SEEN,
)
from dataplane.engines.xdp.session_maps import Commands
from dataplane.engines.xdp.slots import records_of
from dataplane.histogram import SUB_BUCKETS, buckets_of, distances
from dataplane.histogram_store import BLOCK, BLOCKS_AT, DIRECTORY_AT, OCTAVE_BITS, OCTAVES
from dataplane.measurement import RECORD, RingHeader
from dataplane.session_state import Counters
from dataplane.stamp.collector_rounds import (
    begin_octaves,
    delays_at,
    evaluated,
    know_reflectors,
    origins_of,
    settle_round,
)
from dataplane.stamp.expiry_rounds import lose_round
from dataplane.stamp.interval_rounds import close_round
from dataplane.stamp.sender_rounds import Rows
from dataplane.stamp.session_table import (
    APART,
    END_NS,
    FATES,
    HISTOGRAMS,
    KIND,
    LENGTH_NS,
    MASK,
    NEXT,
    RING,
    SETTLED,
    SLOTS,
    STATE,
    TIMEOUT_NS,
    TIMES,
    SessionTable,
)
from dataplane.stamp.state_words import (
    CLOSED_AT,
    COUNTERS_AT,
    DELAY_STATE,
    DELAY_WORDS,
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
from dataplane.stamp.window import RECEIVED
from dataplane.statistics import INT64_MAX

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

TOGETHER_MAX = 512
"""Sessions that are worked on at once: arrays of a few milliseconds' work."""

_EXACT = 2.0**62
"""Products below this are exact in 64 bits, however they were rounded to find out."""

_RING_CLAIMED = word_of(RingHeader, "claimed")
_TAG = word_at(SLOT, "tag")
_SUMS_WORDS = INTERVAL_SUMS.itemsize // 8
_RUNNING_WORDS = RUNNING.itemsize // 8
_OCTAVE_WORDS = SUB_BUCKETS // 2
_BLOCK_WORDS = BLOCK.itemsize // 8
_DIRECTIONS = np.arange(DIRECTIONS)
_FOLDED = (
    ("samples", "received", FOLDED_SAMPLES),
    ("duplicates", "duplicates", FOLDED_DUPLICATES),
    ("late", "late", FOLDED_LATE),
    ("reordered", "reordered", FOLDED_REORDERED),
)
"""The program's count, the store's, and what the store has of it."""


class _Sessions(NamedTuple):
    """Some sessions, and what the program had counted for them at one time."""

    rows: Rows
    parity: Int64
    """Of the current interval."""

    running: npt.NDArray[Any]
    sums: npt.NDArray[Any]
    """Of the current interval."""

    following: npt.NDArray[Any]
    """Of the next one."""

    def where(self, which: npt.NDArray[Any]) -> _Sessions:
        return _Sessions._make(each[which] for each in self)


class _Replies(NamedTuple):
    """Those of some sessions that wait to be taken in, in the order of their packets."""

    counts: Int64
    """By session."""

    end: Int64
    """By session: the sequence number behind the newest."""

    straight: Mask
    """By session: they answer all packets from the first on that is not settled."""

    owner: npt.NDArray[np.intp]
    """By reply: the index of its session."""

    sequences: Int64
    at: Int64
    """By reply: the place of its slot in the arena, in words."""


def expire_together(table: SessionTable, rows: Rows, commands: Commands, now_ns: int) -> None:
    """Drain what has come, and close the interval that is over, as far as that goes together.

    Raises LockError and OSError.
    """
    for first in range(0, len(rows), TOGETHER_MAX):
        _expire_some(table, rows[first : first + TOGETHER_MAX], commands, now_ns)


def _expire_some(table: SessionTable, rows: Rows, commands: Commands, now_ns: int) -> None:
    columns, words = table.columns, table.arena.words
    collection, stateful = columns[COLLECTION_AT][rows], _are_stateful(table, rows)
    fit = (columns[STATE][rows] != 0) & (columns[FIT][rows] != 0) & (columns[APART][rows] == 0)
    turns = table.arena.quarters[2 * collection + TURNS_AT]
    fit &= turns == columns[TURNS_SEEN][rows]
    fit &= ~stateful | (words[collection + BREAKS_AT] == columns[CALM][rows])
    fit &= now_ns - columns[LENGTH_NS][rows] < columns[END_NS][rows]
    rows = rows[fit]
    if not len(rows):
        return
    found = _asked(table, rows, commands, now_ns)
    found = found.where(_are_simple(table, found))
    found, replies = _waiting(table, found, now_ns)
    rows = found.rows
    state = columns[STATE][rows]
    begin_write(words, state)
    _fold(table, found)
    _take_in(table, found, replies)
    lose_round(table, rows, now_ns)
    columns[FRESH_NS][rows] = now_ns
    over = found.where(columns[END_NS][rows] <= now_ns)
    _close(table, over, commands, now_ns)
    lose_round(table, over.rows, now_ns)
    breaks = columns[BREAKS_SEEN][rows] = found.running["breaks"].astype(np.int64)
    settled = columns[SETTLED][rows] > columns[NEWEST][rows]
    columns[CALM][rows] = np.where(settled, breaks, -1)
    begin_write(words, state)
    begun = over._replace(parity=1 - over.parity, sums=over.following)
    simple = _are_simple(table, begun)
    _fold(table, begun.where(simple))
    end_write(words, state, begin_write(words, state))
    for row in begun.rows[~simple].tolist():
        table.collectors[row].drain(now_ns)


def _are_stateful(table: SessionTable, rows: Rows) -> Mask:
    kinds = np.array([kind.stateful for kind in table.kinds], np.bool_)
    stateful: Mask = kinds[table.columns[KIND][rows]]
    return stateful


def _asked(table: SessionTable, rows: Rows, commands: Commands, now_ns: int) -> _Sessions:
    """As `Command.COPY`. Where the interval is over, what comes counts in the next one from
    here on; it would do so anyway, for nothing comes before `now_ns` any more."""
    columns, arena = table.columns, table.arena
    parity = arena.words[columns[STATE][rows] + CLOSED_AT] & 1
    over = columns[END_NS][rows] <= now_ns
    commands.carry_out(
        rows,
        np.where(over, Command.COPY | Command.BOUNDARY, Command.COPY),
        now_ns=now_ns,
        boundary=(1 - parity).astype(np.uint64) | np.uint64(INT64_MAX << 1),
    )
    collection = columns[COLLECTION_AT][rows]
    running = arena.pick(collection + RUNNING_THEN_AT, _RUNNING_WORDS).view(RUNNING)[:, 0]
    sums, following = (
        arena.pick(collection + INTERVAL_THEN_AT + each * _SUMS_WORDS, _SUMS_WORDS).view(
            INTERVAL_SUMS
        )[:, 0]
        for each in (parity, 1 - parity)
    )
    return _Sessions(rows, parity, running, sums, following)


def _waiting(table: SessionTable, found: _Sessions, now_ns: int) -> tuple[_Sessions, _Replies]:
    """Those sessions of which the replies that have not been taken over yet came in the order
    of their packets; and these replies. Of a stateful Session-Reflector, only those whose
    packets have all been replied to so far, so that no loss is to be told by direction."""
    columns, words = table.columns, table.arena.words
    rows, running = found.rows, found.running
    settled, mask = columns[SETTLED][rows], columns[MASK][rows]
    count = running["received"].astype(np.int64) - columns[DRAINED][rows]
    first = np.maximum(columns[NEWEST][rows] + 1, settled)
    end = np.where(count > 0, running["highest"].astype(np.int64), first)
    owner, within = _runs(np.maximum(end - first, 0))
    sequences = first[owner] + within
    at = columns[SLOTS_AT][rows][owner] + (sequences & mask[owner]) * SLOT_WORDS
    came = words[at + _TAG] == sequences << 1 | 1
    owner, sequences, at = owner[came], sequences[came], at[came]
    in_order = np.bincount(owner, minlength=len(rows)) == count
    in_order &= running["turns"].astype(np.int64) == columns[TURNS_SEEN][rows]
    sent_ns = words[columns[TIMES][rows] + (end & mask)]
    calm = running["breaks"].astype(np.int64) == columns[CALM][rows]
    calm &= (end == columns[NEXT][rows]) | (now_ns <= sent_ns + columns[TIMEOUT_NS][rows])
    in_order &= calm | ~_are_stateful(table, rows)
    owners, mine = in_order.cumsum() - 1, in_order[owner]
    straight = (first == settled) & (end - first == count)
    return found.where(in_order), _Replies(
        *(count[in_order], end[in_order], straight[in_order]),
        *(owners[owner[mine]], sequences[mine], at[mine]),
    )


def _are_simple(table: SessionTable, found: _Sessions) -> Mask:
    """Where sums are about the origin that the store has, or is to have, and what is made of
    them fits into 64 bits."""
    delay, samples = found.sums["delay"], found.sums["samples"][:, None].astype(np.float64)
    known = origins_of(table, found.rows, found.parity)
    large: npt.NDArray[np.uint64]
    large = delay["squares_high"] | delay["squares_top"] | delay["ipdv_high"]
    simple: Mask = (known == 0) | (known == delay["origin_ns"])
    total = delay["sum_low"].astype(np.int64)
    simple &= delay["sum_high"].astype(np.int64) == total >> 63
    simple &= large == 0
    simple &= samples * delay["squares_low"] < _EXACT
    simple &= total.astype(np.float64) ** 2 < _EXACT
    simple |= ~evaluated(table, found.rows) | (samples == 0)
    fits: Mask = np.all(simple, axis=1)
    return fits


def _fold(table: SessionTable, found: _Sessions) -> None:
    """As `DriverIntervals.fold`."""
    columns, words = table.columns, table.arena.words
    rows, sums = found.rows, found.sums
    counters = columns[STATE][rows] + COUNTERS_AT
    new = sums["samples"].astype(np.int64) != columns[FOLDED_SAMPLES][rows]
    for theirs, ours, column in _FOLDED:
        counted = sums[theirs].astype(np.int64)
        words[counters + word_of(Counters, ours)] += counted - columns[column][rows]
        columns[column][rows] = counted
    found = found.where(new)
    if len(found.rows):
        _fold_delays(table, found)
        _fold_histograms(table, found)


def _fold_delays(table: SessionTable, found: _Sessions) -> None:
    """As `sums.delay_state` of each."""
    arena, at = table.arena, delays_at(table, found.rows, found.parity)
    whole = arena.pick(at, DIRECTIONS * DELAY_WORDS)
    delay, running = found.sums["delay"], found.running
    samples = found.sums["samples"].astype(np.int64)[:, None]
    total, squares = (delay[name].astype(np.int64) for name in ("sum_low", "squares_low"))
    states = np.zeros(delay.shape, DELAY_STATE)
    states["samples"] = samples
    for name in ("origin_ns", "last_ns", "min_ns", "max_ns", "ipdv_max_ns"):
        states[name] = delay[name]
    states["mean"] = total / samples
    states["m2"] = (samples * squares - total * total) / samples
    states["pairs"] = found.sums["pairs"][:, None]
    states["ipdv_sum"] = delay["ipdv_low"]
    previous = running["previous_sequence"].astype(np.int64)[:, None]
    states["has_previous"] = previous > 0
    states["previous_sequence"] = np.maximum(previous - 1, 0)
    states["previous_ns"] = np.where(previous > 0, running["previous_ns"], 0)
    used = evaluated(table, found.rows)
    whole.view(DELAY_STATE)[used] = states[used]
    arena.put(at, whole)


def _octaves(table: SessionTable, found: _Sessions) -> tuple[npt.NDArray[np.intp], Int64, Int64]:
    """Those that the delays of the current interval are in: of which of these sessions, of
    which direction, and which."""
    delay = found.sums["delay"]
    least, most = (
        (buckets_of(distances(delay[name], delay["origin_ns"])) >> OCTAVE_BITS).ravel()
        for name in ("min_ns", "max_ns")
    )
    counted = evaluated(table, found.rows) & (found.sums["samples"] > 0)[:, None]
    owner, within = _runs(np.where(counted.ravel(), most - least + 1, 0))
    return owner // DIRECTIONS, owner % DIRECTIONS, least[owner] + within


def _runs(lengths: Int64) -> tuple[npt.NDArray[np.intp], Int64]:
    """The index of each run, as often as it is long, and 0, 1, 2... within it."""
    owner = np.arange(len(lengths)).repeat(lengths)
    within: Int64 = np.arange(len(owner)) - (lengths.cumsum() - lengths)[owner]
    return owner, within


def _fold_histograms(table: SessionTable, found: _Sessions) -> None:
    """As `DriverIntervals._fold_counts`."""
    arena, columns = table.arena, table.columns
    owner, direction, octave = _octaves(table, found)
    rows, parity = found.rows[owner], found.parity[owner]
    within = direction * (BUCKETS // 2) + octave * _OCTAVE_WORDS
    theirs = columns[COLLECTION_AT][rows] + HISTOGRAM_AT + within
    counts = arena.pick(theirs + parity * (DIRECTIONS * BUCKETS // 2), _OCTAVE_WORDS)
    ours = columns[COUNTED_AT][rows] + within
    new = counts.view(np.uint32) - arena.pick(ours, _OCTAVE_WORDS).view(np.uint32)
    arena.put(ours, counts)
    at = columns[HISTOGRAMS][rows]
    directory = (at + DIRECTORY_AT) // 2 + direction * OCTAVES + octave
    some: Mask = np.any(new, axis=1)
    _begin_octaves(arena, at, directory, some)
    entries = arena.halves[directory].astype(np.int64)
    begun = entries > 0
    blocks = (at + BLOCKS_AT) // 8 + (entries - 1) * _BLOCK_WORDS + parity * _OCTAVE_WORDS
    blocks = blocks[begun & some]
    counted = arena.pick(blocks, _OCTAVE_WORDS).view(np.uint32) + new[begun & some]
    arena.put(blocks, counted.view(np.int64))
    for index in np.flatnonzero(some & ~begun).tolist():
        table.collectors[int(rows[index])].count_octave(
            *(int(parity[index]), int(direction[index])),
            *(int(octave[index]) << OCTAVE_BITS, new[index]),
        )


def _begin_octaves(arena: Arena, at: Int64, directory: Int64, some: Mask) -> None:
    """Of each histogram, which is `at` a place, one at a time."""
    missing = np.flatnonzero(some & (arena.halves[directory] == 0))
    while len(missing):
        _, first = np.unique(at[missing], return_index=True)
        begin_octaves(arena, at[missing[first]], directory[missing[first]])
        missing = np.delete(missing, first)


def _take_in(table: SessionTable, found: _Sessions, replies: _Replies) -> None:
    """As `DriverCollector._take_run` of all records that are waiting."""
    columns, arena, words = table.columns, table.arena, table.arena.words
    some = np.flatnonzero(replies.counts)
    if not len(some):
        return
    places = replies.sequences & columns[MASK][found.rows][replies.owner]
    arena.bytes[columns[FATES][found.rows][replies.owner] + places] = RECEIVED
    rows, count, end = found.rows[some], replies.counts[some], replies.end[some]
    kept = np.minimum(count, columns[SLOTS][rows] - 1)
    owner, within = _runs(kept)
    at = replies.at[(count.cumsum() - kept)[owner] + within]
    slots = arena.pick(at, SLOT_WORDS).view(SLOT)[:, 0]
    records = records_of(slots)
    ring = columns[RING][rows]
    head = words[ring + RING_HEAD_AT] + count
    words[ring + _RING_CLAIMED] = head
    places = ((head - kept)[owner] + within) % columns[SLOTS][rows][owner]
    at = ring[owner] + RING_WORDS + places * RECORD_WORDS
    arena.pieces(RECORD.size)[at] = records.view((np.void, RECORD.size))
    words[ring + RING_HEAD_AT] = head
    ends = kept.cumsum() - 1
    last = records[ends]
    know_reflectors(table, rows, slots["error_estimate"][ends])
    state = columns[STATE][rows]
    words[state + LAST_RECEIVED_AT] = last["t4_ns"]
    arena.bytes[8 * state + T1_METHOD_AT] = last["t1_method"]
    arena.bytes[8 * state + T4_METHOD_AT] = last["t4_method"]
    columns[DRAINED][rows] += count
    columns[NEWEST][rows] = end - 1
    columns[NEWEST_NUMBER][rows] = last["reflector_sequence"]
    columns[TOGETHER][rows] += count
    columns[TOGETHER_T3_NS][rows] = last["t3_ns"]
    straight = replies.straight[some]
    columns[SETTLED][rows[straight]] = end[straight]
    settle_round(table, rows[~straight])


def _close(table: SessionTable, over: _Sessions, commands: Commands, now_ns: int) -> None:
    """As `DriverIntervals.close`."""
    columns, arena, rows = table.columns, table.arena, over.rows
    kinds = columns[KIND][rows]
    for kind in np.unique(kinds).tolist():
        close_round(table, rows[kinds == kind], table.kinds[kind], now_ns)
    words = arena.words
    begin_write(words, columns[STATE][rows])
    begun = over._replace(parity=1 - over.parity)
    known = origins_of(table, begun.rows, begun.parity)
    theirs = words[columns[COLLECTION_AT][rows][:, None] + ORIGINS_AT + _DIRECTIONS]
    known = np.where(evaluated(table, rows) & (known != 0), known, theirs)
    moved = (known != theirs).any(axis=1)
    commands.carry_out(
        rows,
        np.where(moved, Command.ORIGIN, 0) | (Command.RESET | Command.BOUNDARY),
        parity=over.parity,
        boundary=columns[END_NS][rows] << 1 | begun.parity,
        **dict(zip(ORIGINS, known.T, strict=True)),
    )
    owner, direction, octave = _octaves(table, over)
    counted = columns[COUNTED_AT][rows][owner] + direction * (BUCKETS // 2)
    arena.put(counted + octave * _OCTAVE_WORDS, np.zeros((len(owner), _OCTAVE_WORDS), np.int64))
    for _, _, column in _FOLDED:
        columns[column][rows] = 0
