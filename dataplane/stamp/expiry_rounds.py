"""What `Collector.expire` does, for many sessions at once.

The sessions are rows of one `SessionTable`; those with stateful Session-Reflectors, and
those with more than one interval that is over, are left to be worked on one by one. A
property test holds this against `Collector.expire`.
"""

from __future__ import annotations

from dataplane.session_state import Counters
from dataplane.stamp.collector_rounds import losses_due, settle_round
from dataplane.stamp.interval_rounds import close_over
from dataplane.stamp.sender_rounds import Rows
from dataplane.stamp.session_table import (
    END_NS,
    FATES,
    MASK,
    SETTLED,
    STATE,
    STATEFUL,
    SessionTable,
)
from dataplane.stamp.state_words import COUNTERS_AT, begin_write, end_write, word_of
from dataplane.stamp.window import LOST

_LOST = COUNTERS_AT + word_of(Counters, "lost")


def expire_over(table: SessionTable, rows: Rows, as_of_ns: int) -> None:
    """Time out what is due, and close intervals, in their order, as far as that goes
    together."""
    columns = table.columns
    rows = rows[(columns[STATEFUL][rows] == 0) & (columns[STATE][rows] != 0)]
    lose_round(table, rows, as_of_ns)
    rows = rows[columns[END_NS][rows] <= as_of_ns]
    if len(rows):
        close_over(table, rows, as_of_ns)
        lose_round(table, rows, as_of_ns)


def lose_round(table: SessionTable, rows: Rows, as_of_ns: int) -> None:
    """Time out packets that are lost by then, and in the current interval, of sessions with
    stateless Session-Reflectors."""
    columns, arena = table.columns, table.arena
    while True:
        lost_ns = losses_due(table, rows)
        rows = rows[(lost_ns <= as_of_ns) & (lost_ns <= columns[END_NS][rows])]
        if not len(rows):
            return
        words, state = arena.words, columns[STATE][rows]
        versions = begin_write(words, state)
        settled = columns[SETTLED][rows]
        arena.bytes[columns[FATES][rows] + (settled & columns[MASK][rows])] = LOST
        words[state + _LOST] += 1
        settle_round(table, rows)
        end_write(words, state, versions)
