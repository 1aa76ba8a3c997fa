"""When the many sessions of one port send, and when it is time to look for losses.

Their deadlines are columns of a `SessionTable`: one timer wakes the port when the
first of them cannot wait any longer, or when a whole flight is due, and whatever is due
then goes along.

A flight costs nearly as much with few packets as with many. Where flights follow each
other so fast that they would take up the thread, they wait for more packets: as long as
`REST` flights take, unless a packet would leave later than by `LATENESS` times its slack,
or by `LATENESS_MAX_NS`, if that is more than its slack.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from dataplane.clock import monotonic_ns
from dataplane.engines.common.loop import SPIN_NS, Loop
from dataplane.stamp.sender_rounds import Range, Rows
from dataplane.stamp.session_table import (
    DUE_NS,
    END_NS,
    EXPIRY_SLACK_NS,
    LATEST_NS,
    NEVER,
    ROWS,
    SLACK_NS,
    TIMEOUT_NS,
    SessionTable,
)

FLIGHT = 128
"""Packets that leave in one go. More may be due when this process was held up: queues on
the way are short, and replies have their turn in between."""

REST = 2
LATENESS = 10
LATENESS_MAX_NS = 10_000_000

EXPIRING = 512
"""Sessions that are looked after together before packets get their turn."""

SLICE = 16
"""Sessions that are looked after one by one before that: each may take 0.1 ms."""


class Schedule:
    """Rows of the sessions of a port; belongs to the thread of its loop."""

    def __init__(
        self,
        loop: Loop,
        table: SessionTable,
        send: Callable[[], None],
        expire_together: Callable[[Rows, int, int], int],
        expire: Callable[[int, int], None],
        next_timers: Callable[[Range, int], npt.NDArray[np.int64]],
    ) -> None:
        """`send` is called where packets are `due`; `expire_together` with sessions that have
        something to expire, when the last of that was due which cannot wait any longer, and the
        time, to do what can be done together; it returns as of when. `expire` is called for
        each, by SSID, that still has something then. `next_timers` of their `Collecting` tells
        which have."""
        self._table = table
        self._send = send
        self._expire_together = expire_together
        self._expire = expire
        self._next_timers = next_timers
        self._planned = np.zeros(ROWS, np.bool_)
        """By row, to have them in order at once while thousands come and go."""

        self._range: Range | None = None
        self._expiring: Rows = np.zeros(0, np.intp)
        """Sessions that are to be looked after one by one, in slices: to find out which
        takes as long as to look after several."""

        self._send_timer = loop.timer(lambda _now_ns: send())
        self._expiry_timer = loop.timer(self._look)

    def send_at(self, ssid: int, due_ns: int | None, slack_ns: int) -> None:
        """None: not at all."""
        cells = self._table.cells
        cells[SLACK_NS, ssid] = slack_ns
        cells[DUE_NS, ssid] = NEVER if due_ns is None else due_ns
        cells[LATEST_NS, ssid] = NEVER if due_ns is None else due_ns + slack_ns
        self._keep(ssid)
        if due_ns is not None:
            self._wake(due_ns + slack_ns, min(slack_ns, SPIN_NS))
            lost_ns = due_ns + slack_ns + int(cells[TIMEOUT_NS, ssid])
            self._expiry_timer.no_later_than(lost_ns, SPIN_NS)

    def watch(self, ssid: int, due_ns: int | None, slack_ns: int) -> None:
        """`due_ns` is when the session has something to expire next, as things stand."""
        self._table.cells[EXPIRY_SLACK_NS, ssid] = slack_ns
        self._keep(ssid)
        if due_ns is not None:
            self._expiry_timer.no_later_than(due_ns + slack_ns - SPIN_NS, SPIN_NS)

    def forget(self, ssid: int) -> None:
        if self._planned[ssid]:
            self._planned[ssid] = False
            self._range = None
            self._table.cells[[DUE_NS, LATEST_NS], ssid] = NEVER

    def close(self) -> None:
        self._send_timer.at(None)
        self._expiry_timer.at(None)

    def due(self, now_ns: int) -> Rows:
        """The sessions whose packets may leave now; of many, those that wait longest.

        Those with an interval to close before wait until one of them cannot any longer: to
        close few costs nearly as much as to close many.
        """
        columns = self._table.columns
        due_ns = columns[DUE_NS]
        found = self._picked(due_ns[self._all()] <= now_ns)
        over = columns[END_NS][found] <= now_ns
        if over.any() and columns[LATEST_NS][found[over]].min() > now_ns + SPIN_NS:
            found = found[~over]
        if len(found) > FLIGHT:
            found = found[np.argpartition(due_ns[found], FLIGHT)[:FLIGHT]]
            found.sort()
        return found

    @property
    def slack_ns(self) -> int:
        """The least of any session."""
        slack_ns = self._table.columns[SLACK_NS][self._all()]
        return int(slack_ns.min()) if slack_ns.size else 0

    def overdue_ns(self, rows: Rows, now_ns: int) -> int:
        """For how long the first of these has been late; negative where none is yet."""
        return now_ns - int(self._table.columns[LATEST_NS][rows].min())

    def arm(self, flight_ns: int = 0) -> None:
        """To be called when what was due has been sent, which took `flight_ns`."""
        rows, columns = self._all(), self._table.columns
        due_ns, latest_ns = columns[DUE_NS][rows], columns[LATEST_NS][rows]
        if not latest_ns.size:
            return
        first = int(latest_ns.argmin())
        first_ns = int(latest_ns[first])
        if first_ns == NEVER:
            return
        slack_ns = first_ns - int(due_ns[first])
        if flight_ns:
            most_ns = max(0, min(LATENESS * slack_ns, LATENESS_MAX_NS) - slack_ns)
            rested_ns = monotonic_ns() + REST * flight_ns
            first_ns = max(first_ns, min(rested_ns, first_ns + most_ns))
        until_ns = due_ns[(due_ns < first_ns) & (due_ns < columns[END_NS][rows])]
        if len(until_ns) > FLIGHT:
            # More would not leave with it.
            first_ns = int(np.partition(until_ns, FLIGHT - 1)[FLIGHT - 1])
        self._wake(first_ns, min(slack_ns, SPIN_NS))

    def _wake(self, latest_ns: int, early_ns: int) -> None:
        """Whoever has slack is not waited for in a busy loop."""
        self._send_timer.no_later_than(latest_ns - early_ns, early_ns)

    def _keep(self, ssid: int) -> None:
        if not self._planned[ssid]:
            self._planned[ssid] = True
            self._range = None

    def _all(self) -> Range:
        if self._range is None:
            rows = self._planned.nonzero()[0]
            whole = len(rows) and rows[-1] - rows[0] == len(rows) - 1
            self._range = slice(int(rows[0]), int(rows[-1]) + 1) if whole else rows
        return self._range

    def _look(self, now_ns: int) -> None:
        if not len(self._expiring):
            self._find_expiring(now_ns)
        some, self._expiring = self._expiring[:SLICE], self._expiring[SLICE:]
        if len(some):
            # Others may have been gone or looked after since they were found.
            some = some[self._planned[some]]
            for ssid in some[self._next_timers(some, now_ns) <= now_ns].tolist():
                self._expire(ssid, now_ns)
        if len(self._expiring):
            self._expiry_timer.at(now_ns)
            return
        _, latest_ns = self._expiries(now_ns)
        if not latest_ns.size:
            return
        rows, columns = self._all(), self._table.columns
        # Packets that are yet to be sent cannot be lost before that.
        next_ns = now_ns + int((columns[TIMEOUT_NS][rows] + columns[EXPIRY_SLACK_NS][rows]).min())
        self._expiry_timer.at(min(next_ns, int(latest_ns.min())) - SPIN_NS, SPIN_NS)

    def _find_expiring(self, now_ns: int) -> None:
        """Do what can be done together, where something cannot wait any longer; sessions that
        still have something to expire then are `_expiring`."""
        due_ns, latest_ns = self._expiries(now_ns)
        pressing = latest_ns - SPIN_NS <= now_ns
        # Most intervals end when a packet is due, and are closed when that leaves.
        if not pressing.any():
            return
        due = np.flatnonzero(due_ns <= now_ns)
        if len(due) > EXPIRING:
            # Those that have waited longest; for others there is another turn at once.
            due = due[np.argpartition(latest_ns[due], EXPIRING)[:EXPIRING]]
            due.sort()
        expiring, last_ns = self._rows_at(due), int(due_ns[pressing].max())
        as_of_ns = self._expire_together(expiring, last_ns, now_ns)
        self._expiring = expiring[self._next_timers(expiring, now_ns) <= as_of_ns]

    def _expiries(self, now_ns: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """When each session has something to expire, and when that cannot wait any longer."""
        rows = self._all()
        due_ns = self._next_timers(rows, now_ns)
        slack_ns = self._table.columns[EXPIRY_SLACK_NS][rows]
        return due_ns, np.where(due_ns == NEVER, NEVER, due_ns + slack_ns)

    def _picked(self, which: npt.NDArray[np.bool_]) -> Rows:
        return self._rows_at(which.nonzero()[0])

    def _rows_at(self, found: npt.NDArray[np.intp]) -> Rows:
        rows = self._all()
        return found + rows.start if isinstance(rows, slice) else rows[found]
