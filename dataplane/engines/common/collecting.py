"""How an engine's sender sessions collect replies."""

from __future__ import annotations

from typing import Protocol

from dataplane.config import SenderSession
from dataplane.stamp.collector import Collector
from dataplane.store import SessionStore


class Collecting(Protocol):
    """Belongs to the thread of the sessions' loop."""

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

    def problem(self) -> str | None:
        return None

    def prepare(self, resumed: bool) -> None:
        pass

    def collector(
        self, config: SenderSession, store: SessionStore, now_ns: int, resumed: bool
    ) -> Collector:
        return Collector(config, store, now_ns=now_ns, resumed=resumed)

    def opened(self, port: int) -> None:
        pass

    def closed(self, port: int) -> None:
        pass
