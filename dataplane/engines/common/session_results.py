"""What one sender session has measured: its store, and the Collector that fills it.

There may be neither, because the disk is full for instance: what is to be done to them is
left undone then.
"""

from __future__ import annotations

from pathlib import Path

from dataplane.clock import ClockStatus, wall_ns
from dataplane.config import SenderSession
from dataplane.engines.base import WANT_TO_RUN, Resume, session_store_path
from dataplane.engines.common.collecting import Collecting
from dataplane.engines.common.session_reports import SessionReports
from dataplane.stamp.collector import Collector
from dataplane.stamp.session_table import LANE
from dataplane.store import SessionStore, StoreError


class SessionResults:
    __slots__ = ("_collecting", "_folder", "_reports", "_ssid", "_store", "collector")

    def __init__(
        self, ssid: int, folder: Path, collecting: Collecting, reports: SessionReports
    ) -> None:
        self._ssid = ssid
        self._folder = folder
        self._collecting = collecting
        self._reports = reports
        self._store: SessionStore | None = None
        self.collector: Collector | None = None

    @property
    def _path(self) -> Path:
        return session_store_path(self._folder, self._ssid)

    def open(self, config: SenderSession, lane: int, resume: Resume | None, now_ns: int) -> None:
        """With what the store on disk holds, if that is to be resumed and is this session's.
        Raises StoreError."""
        self._collecting.prepare(resumed=resume is not None)
        table = self._collecting.table
        arena = None if table is None else table.arena
        store, path = None, self._path
        if resume is not None and path.exists():
            store = SessionStore.open(path, writable=True, arena=arena)
            if not store.matches(config):
                store.close()
                store = None
        if store is None:
            store = SessionStore.create(path, config, arena)
        resumed = (
            resume is not None
            and resume.oper_state in WANT_TO_RUN
            and resume.run_started_ns is not None
        )
        try:
            self.collector = self._collecting.collector(config, store, now_ns, resumed)
        except StoreError:
            store.close()
            raise
        self._store = store
        if table is not None:
            table.cells[LANE, self._ssid] = lane

    def close(self) -> None:
        """The store stays on disk as it is."""
        if self.collector is not None:
            self.collector.close()
            self.collector = None
        if self._store is not None:
            self._store.close()
            self._store = None

    def remove(self) -> None:
        self.close()
        self._path.unlink(missing_ok=True)

    def expire(self, as_of_ns: int) -> None:
        """Time out what was due by then, and close intervals."""
        if self.collector is not None:
            self._reports.intervals_closed(self.collector.expire(as_of_ns))

    def stop(self, now_ns: int) -> None:
        """End the run, if there is one; packets under way become unresolved."""
        if self.collector is not None:
            self._reports.intervals_closed(self.collector.stop(now_ns))

    def tell_closed(self) -> None:
        if self.collector is not None:
            self._reports.intervals_closed(self.collector.take_closed())

    def know_clock(self, status: ClockStatus) -> None:
        if self.collector is not None:
            self.collector.tai_offset_s = status.tai_offset_s
            self.collector.set_local_clock(status.synchronized, status.error_ns)

    def hold(self, held: bool) -> None:
        """See `Collector.hold`; nothing where no run is open."""
        if self.collector is not None and self.collector.running:
            self.collector.hold(held)

    def count_send_error(self) -> None:
        if self._store is not None:
            self._store.state.head.counters.send_errors += 1

    def last_sent_ns(self, now_ns: int) -> int:
        """By the monotonic clock; never after now, though the wall clock may have been set."""
        assert self._store is not None
        return min(self._store.state.head.last_sent_ns - wall_ns() + now_ns, now_ns)
