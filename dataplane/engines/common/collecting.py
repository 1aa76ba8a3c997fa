"""How an engine's sender sessions collect replies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dataplane.arena import Arena
from dataplane.clock import Clock
from dataplane.config import SenderSession
from dataplane.stamp.collector import Collector
from dataplane.stamp.collector_rounds import next_expiries
from dataplane.stamp.expiry_rounds import expire_over
from dataplane.stamp.sender_rounds import Range, Rows
from dataplane.stamp.session_table import EXTRA, SessionTable
from dataplane.store import SessionStore, StoreError

log = logging.getLogger(__name__)


class Collecting(Protocol):
    """Belongs to the thread of the sessions' loop."""

    @property
    def table(self) -> SessionTable | None:
        """The sessions that are worked on together: their stores are in its arena."""

    def pending(self) -> str | None:
        """What is being made ready, and keeps sessions from running until then: no failure.
        What it leads to is a `problem`, or none."""

    def problem(self) -> str | None:
        """What keeps sessions from running now."""

    def prepare(self, resumed: bool) -> None:
        """Raises StoreError where no collector can be made yet; a session that is to be
        resumed waits instead, for what it has collected is not to be lost."""

    def set_clock(self, clock: Clock) -> None:
        """What timestamps need to know: once a second, and when it has changed."""

    def rooms(self, sessions: Sequence[SenderSession]) -> AbstractContextManager[None]:
        """Make what collectors of these sessions need, at once where that is quicker; what
        they have not taken when the context is left is given up. Two may be open at a time,
        for different sessions."""

    def collector(
        self, config: SenderSession, store: SessionStore, now_ns: int, resumed: bool
    ) -> Collector:
        """Raises StoreError."""

    def parting(self, ssids: Sequence[int]) -> None:
        """The collectors of these sessions are about to be closed, with all that they have:
        do at once what is quicker so."""

    def announced(self, rows: Rows, now_ns: int) -> None:
        """`send_round` has announced a packet of each of these sessions of the `table`."""

    def next_timers(self, rows: Range, now_ns: int) -> npt.NDArray[np.int64]:
        """As `Collector.next_timer_ns` of each of these sessions of the `table`; `NEVER`
        for None."""

    def expire_together(self, rows: Rows, as_of_ns: int) -> None:
        """As `Collector.expire` of each of these sessions of the `table`, as far as that goes
        together; closed intervals are told by the `table`."""

    def stale(self, rows: Rows, now_ns: int) -> npt.NDArray[np.bool_]:
        """Which of these sessions of the `table` have stores that are not up to date."""

    def opened(self, port: int) -> None:
        """A transport has been opened on this UDP port."""

    def closed(self, port: int) -> None:
        """It has been closed."""


def make_table(columns: int = EXTRA) -> SessionTable | None:
    """None where sessions can only be worked on one by one."""
    try:
        return SessionTable(Arena(), columns)
    except OSError as error:
        log.warning("sessions are worked on one by one: no range of addresses: %s", error)
        return None


class CollectingHere:
    """By the engine itself, from what its transports receive."""

    def __init__(self) -> None:
        self._table = make_table()

    @property
    def table(self) -> SessionTable | None:
        return self._table

    def pending(self) -> str | None:
        return None

    def problem(self) -> str | None:
        return None

    def prepare(self, resumed: bool) -> None:
        pass

    def set_clock(self, clock: Clock) -> None:
        pass

    def rooms(self, sessions: Sequence[SenderSession]) -> AbstractContextManager[None]:
        return nullcontext()

    def collector(
        self, config: SenderSession, store: SessionStore, now_ns: int, resumed: bool
    ) -> Collector:
        try:
            return Collector(config, store, now_ns=now_ns, resumed=resumed, table=self._table)
        except (MemoryError, OSError) as error:
            raise StoreError(f"{store.path}: no memory for the session: {error}") from error

    def parting(self, ssids: Sequence[int]) -> None:
        pass

    def announced(self, rows: Rows, now_ns: int) -> None:
        pass

    def next_timers(self, rows: Range, now_ns: int) -> npt.NDArray[np.int64]:
        assert self._table is not None
        return next_expiries(self._table, rows)

    def expire_together(self, rows: Rows, as_of_ns: int) -> None:
        assert self._table is not None
        expire_over(self._table, rows, as_of_ns)

    def stale(self, rows: Rows, now_ns: int) -> npt.NDArray[np.bool_]:
        assert self._table is not None
        return next_expiries(self._table, rows) <= now_ns

    def opened(self, port: int) -> None:
        pass

    def closed(self, port: int) -> None:
        pass
