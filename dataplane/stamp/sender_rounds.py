"""What `Collector.sent` and `SessionSender.send` do, for a packet of each of many sessions.

The sessions are rows of one `SessionTable`. A property test holds this against the two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.measurement import TimestampMethod
from dataplane.session_state import Counters, SessionHead
from dataplane.stamp.packet import OPEN
from dataplane.stamp.session_table import (
    APART,
    DUE_NS,
    EARLIEST_T1_NS,
    END_NS,
    END_SEQUENCE,
    END_SLOT,
    FATES,
    INTERVAL_NS,
    LATEST_NS,
    MASK,
    NEVER,
    NEXT,
    SEQUENCE,
    SETTLED,
    SKIPPED,
    SLACK_NS,
    SLOT,
    START_NS,
    STATE,
    TIMES,
    UNIX_OFFSET_NS,
    SessionTable,
)
from dataplane.stamp.state_words import (
    COUNTERS_AT,
    HEAD_AT,
    T1_METHOD_AT,
    begin_write,
    end_write,
    word_of,
)
from dataplane.stamp.window import UNDER_WAY

Rows = npt.NDArray[np.intp]
"""Of a table, each of them once."""

Range = Rows | slice
"""Rows in order. Of a column, the part for a slice is a view, whatever its size."""

PACKET = np.dtype(
    [("sequence", ">u4"), ("t1", ">u8"), ("estimate", ">u2"), ("ssid", ">u2"), ("rest", "V28")]
)
"""An open-mode Session-Sender packet (RFC 8762 §4.2.1, RFC 8972 §3)."""
assert PACKET.itemsize == OPEN.length

_WRAP = 0xFFFFFFFF


_NEXT_SEQUENCE = HEAD_AT + word_of(SessionHead, "next_sequence")
_LAST_SENT = HEAD_AT + word_of(SessionHead, "last_sent_ns")
_SENT = COUNTERS_AT + word_of(Counters, "sent")
_SKIPPED = COUNTERS_AT + word_of(Counters, "skipped")


def fit_to_send(table: SessionTable, rows: Rows, now_ns: int) -> npt.NDArray[np.bool_]:
    """Which of these sessions `send_round` can be used for."""
    columns = table.columns
    fit: npt.NDArray[np.bool_] = now_ns < columns[END_NS][rows]
    fit &= columns[NEXT][rows] - columns[SETTLED][rows] <= columns[MASK][rows]
    fit &= (columns[STATE][rows] != 0) & (columns[SEQUENCE][rows] == columns[NEXT][rows])
    return fit


def send_round(
    table: SessionTable, rows: Rows, packets: npt.NDArray[Any], now_ns: int, t1_ns: int
) -> None:
    """Announce the next packet of each session, and write its sequence number and SSID
    into `packets`, an array of `PACKET`. When the following one is due is in the table.

    As the two methods, this is for runs that are not complete.
    """
    columns, arena = table.columns, table.arena
    words, state = arena.words, columns[STATE][rows]
    versions = begin_write(words, state)
    sequence = columns[NEXT][rows]
    apart = columns[APART][rows].nonzero()[0]
    for row, oldest in zip(
        rows[apart].tolist(), (sequence - columns[MASK][rows] - 1)[apart].tolist(), strict=True
    ):
        table.collectors[row].forget(oldest)
    for row in rows[t1_ns < columns[EARLIEST_T1_NS][rows]].tolist():
        table.collectors[row].know_earliest_t1(t1_ns)
    place = sequence & columns[MASK][rows]
    arena.bytes[columns[FATES][rows] + place] = UNDER_WAY
    words[columns[TIMES][rows] + place] = now_ns
    packets["sequence"] = sequence & _WRAP
    packets["ssid"] = rows
    sequence += 1
    columns[NEXT][rows] = columns[SEQUENCE][rows] = words[state + _NEXT_SEQUENCE] = sequence
    words[state + _SENT] += 1
    words[state + _LAST_SENT] = t1_ns
    arena.bytes[8 * state + T1_METHOD_AT] = TimestampMethod.USERSPACE.code
    columns[UNIX_OFFSET_NS][rows] = t1_ns - now_ns
    slot, end_slot = columns[SLOT][rows], columns[END_SLOT][rows]
    start_ns, interval_ns = columns[START_NS][rows], columns[INTERVAL_NS][rows]
    current = np.maximum(slot, (now_ns - start_ns) // interval_ns)
    np.minimum(current, end_slot - 1, out=current)
    skipped = current - slot
    if skipped.any():
        columns[SKIPPED][rows] += skipped
        words[state + _SKIPPED] += skipped
    current += 1
    columns[SLOT][rows] = current
    due_ns = start_ns + current * interval_ns
    columns[DUE_NS][rows] = due_ns
    columns[LATEST_NS][rows] = due_ns + columns[SLACK_NS][rows]
    complete = (sequence >= columns[END_SEQUENCE][rows]) | (current >= end_slot)
    if complete.any():
        done = rows[complete]
        columns[DUE_NS][done] = columns[LATEST_NS][done] = NEVER
    end_write(words, state, versions)


def all_sent(table: SessionTable, rows: Rows) -> npt.NDArray[np.bool_]:
    """Which of these sessions have no run that is still to send."""
    columns = table.columns
    ended: npt.NDArray[np.bool_] = columns[SEQUENCE][rows] >= columns[END_SEQUENCE][rows]
    ended |= columns[SLOT][rows] >= columns[END_SLOT][rows]
    return ended
