"""What changes with each packet of a session and is not in its store, a row each.

A row is of one session; the Session-Sender, the Collector and its intervals share it,
and look at it through `Cell`s. Sessions of one `SessionTable` can be worked on together:
their cells are columns, and their stores and windows are in the table's arena.
"""

from __future__ import annotations

import mmap
from array import array
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dataplane.arena import Arena

ROWS = 1 << 16
"""A row for each SSID."""

# The Collector's.
NEXT: Final = 0
"""Sequence number of the next packet."""
FIRST: Final = 1
"""Of the first one that this Collector knows of."""
SETTLED: Final = 2
HIGHEST: Final = 3
"""Sequence number above which replies are in order; -1 before the first."""
END_NS: Final = 4
"""From when on a reply belongs to the next interval."""
UNIX_OFFSET_NS: Final = 5
ESTIMATE: Final = 6
"""The Session-Reflector's latest Error Estimate as a wire value; -1 before the first."""
TAI_OFFSET_S: Final = 7
TIMEOUT_NS: Final = 8
MASK: Final = 9
"""The window minus one."""
APART: Final = 10
"""Not 0: something is known about single packets that is not in the window."""
STATEFUL: Final = 11
DELAYS: Final = 12
"""How many are evaluated."""
FATES: Final = 13
"""Place of the window's fates, in bytes."""
TIMES: Final = 14
"""Place of the window's times of sending, in words."""
STATE: Final = 15
"""0 where there is none any more."""
RING: Final = 16
HISTOGRAMS: Final = 17
"""Places of the store's parts, as `StorePlaces` has them."""
SLOTS: Final = 18
"""Of the ring of records."""

# The Session-Sender's.
SEQUENCE: Final = 19
"""Of the next packet."""
START_NS: Final = 20
INTERVAL_NS: Final = 21
SLOT: Final = 22
END_SLOT: Final = 23
"""At which the run is complete; `NEVER`."""
END_SEQUENCE: Final = 24
"""Likewise."""
SKIPPED: Final = 25

# The schedule's.
DUE_NS: Final = 26
"""When the next packet is due; `NEVER`."""
SLACK_NS: Final = 27
"""How late it may leave."""
EXPIRY_SLACK_NS: Final = 28
"""How late losses and ends of intervals may be noticed."""
LANE: Final = 29
"""What packets that share a burst have in common, as a number."""

LATEST_NS: Final = 30
"""When it cannot wait any longer: `DUE_NS` and the slack; `NEVER`."""

# The intervals'.
LENGTH_NS: Final = 31
INTERVALS: Final = 32
"""Place of the ring of closed ones, in words."""
KIND: Final = 33
"""Index into `SessionTable.kinds`."""

# The Collector's, as the first ones.
EARLIEST_T1_NS: Final = 34
"""Before which T1 of no packet was read; `NEVER` before the first."""

# The intervals', as those before.
HELD: Final = 35
"""Not 0: nothing is sent, and intervals are suspect."""

# The engine's own.
EXTRA: Final = 36
"""The first of those that an engine may use as it likes, if it has made the table with them."""

COLUMNS: Final = 56
"""With all of these."""

NEVER: Final = (1 << 63) - 1


class Kind(NamedTuple):
    """How a session's closed intervals are kept."""

    percentiles: tuple[float, ...]
    directions: int
    """Delays that are evaluated, from the first on."""

    slots: int
    """Of the ring of closed intervals."""

    stateful: bool
    """Whether losses are told by direction."""


class SessionTable:
    """Rows by SSID; belongs to one thread."""

    def __init__(self, arena: Arena, columns: int = EXTRA) -> None:
        self.arena = arena
        # Fresh pages: those of rows that are not used never exist.
        memory = mmap.mmap(-1, 8 * columns * ROWS)
        self.cells: npt.NDArray[np.int64] = np.frombuffer(memory, np.int64).reshape(columns, ROWS)
        self.columns: tuple[npt.NDArray[np.int64], ...] = tuple(self.cells)
        """The same; to pick rows of one of these is five times as fast as from `cells`."""
        self._view = memoryview(memory).cast("q", (columns, ROWS))
        self.collectors: dict[int, Any] = {}
        """By SSID."""
        self.kinds: list[Kind] = []
        self.untold: set[int] = set()
        """Sessions that have closed intervals which nobody has been told of."""

    def kind_of(self, kind: Kind) -> int:
        """Its index; there are few."""
        if kind not in self.kinds:
            self.kinds.append(kind)
        return self.kinds.index(kind)

    def row(self, ssid: int) -> Row:
        """The row of a new session, as one of zeros."""
        self.cells[:, ssid] = 0
        self.cells[[DUE_NS, LATEST_NS], ssid] = NEVER
        return Row(self._view, ssid, self)


class Row:
    """One session's."""

    __slots__ = ("cells", "index", "table")

    def __init__(self, cells: memoryview, index: int, table: SessionTable | None) -> None:
        self.cells = cells
        self.index = index
        self.table = table

    @classmethod
    def alone(cls) -> Row:
        """Of a session that no other is with."""
        return cls(
            memoryview(array("q", bytes(8 * COLUMNS))).cast("B").cast("q", (COLUMNS, 1)), 0, None
        )


def due_ns_of(row: Row) -> int:
    """When the next packet of a session's run is due; NEVER where all have been sent, or
    there is no run."""
    cells, at = row.cells, row.index
    slot: int = cells[SLOT, at]
    if cells[SEQUENCE, at] >= cells[END_SEQUENCE, at] or slot >= cells[END_SLOT, at]:
        return NEVER
    due_ns: int = cells[START_NS, at] + slot * cells[INTERVAL_NS, at]
    return due_ns


class Cell:
    """An attribute of an object with a `row` that is kept there."""

    def __init__(self, column: int) -> None:
        self._column = column

    def __get__(self, owner: Any, _kind: type) -> int:
        row: Row = owner.row
        value: int = row.cells[self._column, row.index]
        return value

    def __set__(self, owner: Any, value: int) -> None:
        row: Row = owner.row
        row.cells[self._column, row.index] = value
