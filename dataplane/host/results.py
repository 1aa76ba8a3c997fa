"""Reading what the sessions have measured, without asking the host process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dataplane.engines.base import EngineError, reflector_store_path, session_store_path
from dataplane.measurement import Record
from dataplane.reflector_store import ReflectorSnapshot, ReflectorStore
from dataplane.session_state import SessionSnapshot
from dataplane.store import SessionStore, StoreError


class Results:
    """The stores of one state folder, mapped when they are first asked for.

    All methods may be called from any thread. A store that the host has
    replaced, because its session has changed, is noticed by its inode.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._lock = threading.Lock()
        self._stores: dict[int, tuple[int, SessionStore]] = {}
        self._reflector: tuple[int, ReflectorStore] | None = None

    def snapshot(self, ssid: int, records: int = 0) -> SessionSnapshot:
        """The session as it stands, with its latest `records` records. Raises EngineError."""
        with self._look(ssid) as store:
            return store.snapshot(records)

    def fetch(self, ssid: int, maximum: int) -> list[Record]:
        """Take records that were not fetched before, oldest first. Raises EngineError."""
        with self._look(ssid) as store:
            return store.fetch(maximum)

    def discard(self, ssid: int, maximum: int | None = None) -> int:
        """Take records without looking at them; how many. Raises EngineError."""
        with self._look(ssid) as store:
            return len(store.fetch(store.records.capacity if maximum is None else maximum))

    def reflector(self) -> ReflectorSnapshot | None:
        """The Session-Reflector's counters; None where there is none."""
        with self._lock:
            path = reflector_store_path(self._state_dir)
            inode = _inode(path)
            if self._reflector is not None and self._reflector[0] != inode:
                self._reflector[1].close()
                self._reflector = None
            if inode is None:
                return None
            if self._reflector is None:
                try:
                    self._reflector = inode, ReflectorStore.open(path, writable=False)
                except StoreError as error:
                    raise EngineError(str(error)) from error
            return self._reflector[1].snapshot()

    def open_ssids(self) -> tuple[int, ...]:
        """Sessions whose stores are mapped."""
        with self._lock:
            return tuple(self._stores)

    def forget(self, ssids: Iterable[int]) -> None:
        """Unmap the stores of sessions that are gone, and remove their files."""
        with self._lock:
            for ssid in list(ssids):
                self._drop(ssid)
                session_store_path(self._state_dir, ssid).unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Unmap and remove every store of the folder."""
        with self._lock:
            for ssid in list(self._stores):
                self._drop(ssid)
            if self._reflector is not None:
                self._reflector[1].close()
                self._reflector = None
            for path in self._state_dir.glob("*.store*"):
                path.unlink(missing_ok=True)

    @contextmanager
    def _look(self, ssid: int) -> Iterator[SessionStore]:
        """Its store without what one look into it makes, which is 4 KB for each session."""
        with self._lock:
            store = self._store(ssid)
            try:
                yield store
            finally:
                store.rest()

    def _store(self, ssid: int) -> SessionStore:
        path = session_store_path(self._state_dir, ssid)
        inode = _inode(path)
        known = self._stores.get(ssid)
        if known is not None and known[0] == inode:
            return known[1]
        self._drop(ssid)
        if inode is None:
            raise EngineError(f"session {ssid} has no results")
        try:
            store = SessionStore.open(path, writable=True)
        except StoreError as error:
            raise EngineError(str(error)) from error
        self._stores[ssid] = inode, store
        return store

    def _drop(self, ssid: int) -> None:
        known = self._stores.pop(ssid, None)
        if known is not None:
            known[1].close()


def _inode(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None
