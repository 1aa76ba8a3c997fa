"""When the many sessions of one port send, and when it is time to look for losses.

Their deadlines are columns of a `SessionTable`: one timer wakes the port when the
first of them cannot wait any longer, and whatever is due then goes along.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from dataplane.engines.common.loop import SPIN_NS, Loop
from dataplane.stamp.sender_rounds import Rows
from dataplane.stamp.session_table import (
    DUE_NS,
    EXPIRY_SLACK_NS,
    NEVER,
    SLACK_NS,
    TIMEOUT_NS,
    SessionTable,
)

FLIGHT = 128
"""Packets that leave in one go. More may be due when this process was held up: queues on
the way are short, and replies have their turn in between."""

SLICE = 16
"""Sessions that are looked after before packets get their turn: each may take 0.1 ms."""


class Schedule:
    """Rows of the sessions of a port; belongs to the thread of its loop."""

    def __init__(
        self,
        loop: Loop,
        table: SessionTable,
        send: Callable[[], None],
        expire: Callable[[int, int], None],
        next_timers: Callable[[Rows, int], npt.NDArray[np.int64]],
    ) -> None:
        """`send` is called where packets are `due`; `expire` with the time for a session, by
        SSID, that has something to expire, which `next_timers` of its `Collecting` tells."""
        self._table = table
        self._send = send
        self._expire = expire
        self._next_timers = next_timers
        self._rows: dict[int, None] = {}
        self._array: Rows | None = None
        self._send_timer = loop.timer(lambda _now_ns: send())
        self._expiry_timer = loop.timer(self._look)

    def send_at(self, ssid: int, due_ns: int | None, slack_ns: int) -> None:
        """None: not at all."""
        cells = self._table.cells
        due = NEVER if due_ns is None else due_ns
        cells[DUE_NS, ssid], cells[SLACK_NS, ssid] = due, slack_ns
        self._keep(ssid)
        if due_ns is not None:
            self._wake(due_ns + slack_ns, min(slack_ns, SPIN_NS))

    def watch(self, ssid: int, due_ns: int | None, slack_ns: int) -> None:
        """`due_ns` is when the session has something to expire next, as things stand."""
        self._table.cells[EXPIRY_SLACK_NS, ssid] = slack_ns
        self._keep(ssid)
        if due_ns is not None:
            self._expiry_timer.no_later_than(due_ns + slack_ns - SPIN_NS, SPIN_NS)

    def forget(self, ssid: int) -> None:
        if ssid in self._rows:
            del self._rows[ssid]
            self._array = None
            self._table.cells[DUE_NS, ssid] = NEVER

    def close(self) -> None:
        self._send_timer.at(None)
        self._expiry_timer.at(None)

    def due(self, now_ns: int) -> Rows:
        """The sessions whose packets may leave now; of many, those that wait longest."""
        rows = self._all()
        due_ns = self._table.cells[DUE_NS, rows]
        found = np.flatnonzero(due_ns <= now_ns)
        if len(found) > FLIGHT:
            found = found[np.argsort(due_ns[found], kind="stable")[:FLIGHT]]
        chosen: Rows = rows[found]
        return chosen

    def first_due_ns(self, rows: Rows) -> int:
        return int(self._table.cells[DUE_NS, rows].min())

    def arm(self) -> None:
        """To be called when what was due has been sent."""
        rows = self._all()
        if not len(rows):
            return
        cells = self._table.cells
        due_ns = cells[DUE_NS, rows]
        latest_ns = due_ns + np.where(due_ns == NEVER, 0, cells[SLACK_NS, rows])
        first = int(np.argmin(latest_ns))
        if latest_ns[first] != NEVER:
            slack_ns = int(latest_ns[first] - due_ns[first])
            self._wake(int(latest_ns[first]), min(slack_ns, SPIN_NS))

    def _wake(self, latest_ns: int, early_ns: int) -> None:
        """Whoever has slack is not waited for in a busy loop."""
        self._send_timer.no_later_than(latest_ns - early_ns, early_ns)

    def _keep(self, ssid: int) -> None:
        if ssid not in self._rows:
            self._rows[ssid] = None
            self._array = None

    def _all(self) -> Rows:
        if self._array is None:
            self._array = np.fromiter(self._rows, np.intp, len(self._rows))
        return self._array

    def _look(self, now_ns: int) -> None:
        expiring = self._expiring(now_ns)
        for ssid in expiring[:SLICE]:
            self._expire(ssid, now_ns)
        if len(expiring) > SLICE:
            self._expiry_timer.at(now_ns)
            return
        rows = self._all()
        if not len(rows):
            return
        cells = self._table.cells
        slack_ns = cells[EXPIRY_SLACK_NS, rows]
        due_ns = self._next_timers(rows, now_ns)
        # Packets that are yet to be sent cannot be lost before that.
        next_ns = now_ns + int((cells[TIMEOUT_NS, rows] + slack_ns).min())
        latest_ns = np.min(due_ns + slack_ns, where=due_ns != NEVER, initial=next_ns)
        self._expiry_timer.at(int(latest_ns) - SPIN_NS, SPIN_NS)

    def _expiring(self, now_ns: int) -> list[int]:
        rows = self._all()
        found: list[int] = rows[self._next_timers(rows, now_ns) <= now_ns].tolist()
        return found
