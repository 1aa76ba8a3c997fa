"""How an engine's sender sessions collect replies."""

from __future__ import annotations

import logging
from typing import Protocol

from dataplane.arena import Arena
from dataplane.config import SenderSession
from dataplane.stamp.collector import Collector
from dataplane.stamp.session_table import SessionTable
from dataplane.store import SessionStore, StoreError

log = logging.getLogger(__name__)


class Collecting(Protocol):
    """Belongs to the thread of the sessions' loop."""

    @property
    def table(self) -> SessionTable | None:
        """The sessions that are worked on together: their stores are in its arena."""

    def problem(self) -> str | None:
        """What keeps sessions from running now."""

    def prepare(self, resumed: bool) -> None:
        """Raises StoreError where no collector can be made yet; a session that is to be
        resumed waits instead, for what it has collected is not to be lost."""

    def collector(
        self, config: SenderSession, store: SessionStore, now_ns: int, resumed: bool
    ) -> Collector:
        """Raises StoreError."""

    def opened(self, port: int) -> None:
        """A transport has been opened on this UDP port."""

    def closed(self, port: int) -> None:
        """It has been closed."""


class CollectingHere:
    """By the engine itself, from what its transports receive."""

    def __init__(self) -> None:
        self._table: SessionTable | None = None
        try:
            self._table = SessionTable(Arena())
        except OSError as error:
            log.warning("sessions are worked on one by one: no range of addresses: %s", error)

    @property
    def table(self) -> SessionTable | None:
        return self._table

    def problem(self) -> str | None:
        return None

    def prepare(self, resumed: bool) -> None:
        pass

    def collector(
        self, config: SenderSession, store: SessionStore, now_ns: int, resumed: bool
    ) -> Collector:
        try:
            return Collector(config, store, now_ns=now_ns, resumed=resumed, table=self._table)
        except (MemoryError, OSError) as error:
            raise StoreError(f"{store.path}: no memory for the session: {error}") from error

    def opened(self, port: int) -> None:
        pass

    def closed(self, port: int) -> None:
        pass
