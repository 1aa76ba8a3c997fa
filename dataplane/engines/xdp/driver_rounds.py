"""What `DriverCollector.sent` and `next_timer_ns` do, for many sessions at once.

The maps of the sessions are in the arena of their table. A property test holds this
against the two methods.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from dataplane.engines.xdp.collector_layouts import (
    BREAKS_AT,
    HIGHEST_AT,
    NEXT_SEQUENCE_AT,
    RECEIVED_AT,
    SLOT,
    word_at,
)
from dataplane.stamp.sender_rounds import Range, Rows
from dataplane.stamp.session_table import (
    END_NS,
    EXTRA,
    MASK,
    NEXT,
    SETTLED,
    TIMEOUT_NS,
    TIMES,
    SessionTable,
)

DRAIN_NS = 1_000_000_000
DRAIN_EACH_NS = 200_000
"""How old what a store says about replies may be: so long, or so long for each session,
if that is more. To drain one takes a tenth of a millisecond and more; together with many
others, a few microseconds."""

SLOTS_AT: Final = EXTRA
"""Place of the session's slots in the arena, in words."""
COLLECTION_AT: Final = EXTRA + 1
"""Likewise of its `struct collection`."""
FRESH_NS: Final = EXTRA + 2
"""When the store was up to date."""
DRAINED: Final = EXTRA + 3
"""Records that have been taken over."""
CALM: Final = EXTRA + 4
"""As long as the program has counted so many `breaks`, the replies to all packets from the
first that is not settled up to the `highest` have come; -1: some have not."""
FIT: Final = EXTRA + 5
"""Not 0: nothing but what the program has counted decides whether `expire_together` can be
used."""
NEWEST: Final = EXTRA + 6
"""The highest sequence number of those records; -1 before the first."""
NEWEST_NUMBER: Final = EXTRA + 7
"""The Session-Reflector's in the reply to it."""
FOLDED_SAMPLES: Final = EXTRA + 8
FOLDED_DUPLICATES: Final = EXTRA + 9
FOLDED_LATE: Final = EXTRA + 10
FOLDED_REORDERED: Final = EXTRA + 11
"""What the store has of the program's sums of the current interval."""
COUNTED_AT: Final = EXTRA + 12
"""Place in the arena, in words, of what it has of the program's histograms."""
TOGETHER: Final = EXTRA + 13
"""Packets that were settled together with others', which `LossAttribution` is to be told of."""
TOGETHER_T3_NS: Final = EXTRA + 14
"""Of the reply to the last of these."""
BREAKS_SEEN: Final = EXTRA + 15
TURNS_SEEN: Final = EXTRA + 16
"""Those that the program had counted with the records that have been taken over."""


SLOT_WORDS = SLOT.itemsize // 8
_SENT, _T1, _TAG = (word_at(SLOT, name) for name in ("sent_ns", "t1_ns", "tag"))


def age_ns(table: SessionTable | None) -> int:
    """How old what the stores of these sessions say about replies may be."""
    return max(DRAIN_NS, DRAIN_EACH_NS * len(table.collectors)) if table else DRAIN_NS


def announce_round(table: SessionTable, rows: Rows, now_ns: int) -> None:
    """Tell the program that the packet which `send_round` has just announced, of each
    of these sessions, is under way."""
    cells, words = table.cells, table.arena.words
    following = cells[NEXT, rows]
    sequence = following - 1
    at = cells[SLOTS_AT, rows] + (sequence & cells[MASK, rows]) * SLOT_WORDS
    words[at + _SENT] = now_ns
    words[at + _T1] = 0
    # The tag comes last, as in `SessionMaps.sent`.
    words[at + _TAG] = sequence << 1
    words[cells[COLLECTION_AT, rows] + NEXT_SEQUENCE_AT] = following
    settled = rows[cells[SETTLED, rows] == sequence]
    cells[FRESH_NS, settled] = now_ns


def stale(table: SessionTable, rows: Rows, now_ns: int) -> npt.NDArray[np.bool_]:
    """Of which sessions the program has counted what is not in the store, or may have, or
    that have something to expire."""
    cells, words = table.cells, table.arena.words
    collection = cells[COLLECTION_AT, rows]
    found: npt.NDArray[np.bool_] = next_looks(table, rows, now_ns) <= now_ns
    # Of copies and late replies alone the store hears when it is next brought up to date.
    found |= words[collection + RECEIVED_AT] != cells[DRAINED, rows]
    return found


def next_looks(table: SessionTable, rows: Range, now_ns: int) -> npt.NDArray[np.int64]:
    """As `DriverCollector.next_timer_ns` of each session; for one that has nothing to
    drain yet, no later than when it may have."""
    if isinstance(rows, slice):
        rows = np.arange(rows.start, rows.stop)
    cells, words = table.cells, table.arena.words
    collection, following = cells[COLLECTION_AT, rows], cells[NEXT, rows]
    settled, highest = cells[SETTLED, rows], words[collection + HIGHEST_AT]
    # The program counts a break before it raises `highest`.
    calm = words[collection + BREAKS_AT] == cells[CALM, rows]
    due_ns: npt.NDArray[np.int64] = cells[END_NS, rows]
    awaited = np.where(calm, np.maximum(settled, highest), settled)
    some = np.flatnonzero(awaited < following)
    mine = rows[some]
    at = cells[TIMES, mine] + (awaited[some] & cells[MASK, mine])
    due_ns[some] = np.minimum(due_ns[some], words[at] + cells[TIMEOUT_NS, mine] + 1)
    waiting = (settled < following) | (words[collection + RECEIVED_AT] != cells[DRAINED, rows])
    drain_ns = np.where(waiting, cells[FRESH_NS, rows], now_ns) + age_ns(table)
    np.minimum(due_ns, drain_ns, out=due_ns)
    return due_ns
