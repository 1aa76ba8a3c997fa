"""The counters of a Session-Reflector that two paths serve.

The plugin reads one `ReflectorStore`. Here it is kept: what earlier processes have
counted, what the program in the driver counts, and what the userspace engine behind
it counts in a store of its own. Sequence numbers are the driver's alone, since both
paths take them from there.

The driver's counter dies with the process, and the store is behind it. It says so from
before the first number is given until the last is stored: whoever opens it after a process
that was killed leaves out more numbers than can have been given.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.clock import wall_ns
from dataplane.config import Reflector, ReflectorSession
from dataplane.engines.xdp.reflector_tables import ReflectorTables
from dataplane.mapped_file import StoreError
from dataplane.measurement import TimestampMethod
from dataplane.reflector_store import (
    ReflectorRoleState,
    ReflectorSessionState,
    ReflectorStore,
)
from dataplane.session_state import DISCARD_INDEX
from dataplane.stamp.session_reflector import SessionKey

DRIVER_METHOD = TimestampMethod.KERNEL_SOFTWARE
"""Of T2 and T3 alike: the program reads the kernel's clock for each."""

CAPACITY_MIN = 64
"""Sessions that the store has room for at least; it grows where that is not enough."""


@dataclass(slots=True)
class _Earlier:
    """What a session had counted when this process took over."""

    received: int = 0
    reflected: int = 0
    last_received_ns: int = 0
    next_sequence: int = 0
    t2_method: int = TimestampMethod.UNKNOWN.code
    t3_method: int = TimestampMethod.UNKNOWN.code


class SlowStore:
    """The userspace engine's store, which it may replace by a larger one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._store: ReflectorStore | None = None

    def current(self) -> ReflectorStore | None:
        """None where there is none."""
        try:
            inode = os.stat(self._path).st_ino
            if inode != self._inode:
                self.close()
                self._store = ReflectorStore.open(self._path, writable=False)
                self._inode = inode
        except (OSError, StoreError):
            self.close()
        return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store, self._inode = None, 0


class Ledger:
    """The store that is read. Raises StoreError where it has no room."""

    def __init__(self, path: Path, slow_path: Path) -> None:
        self._path = path
        self._slow = SlowStore(slow_path)
        self._sessions: dict[SessionKey, ReflectorSession] = {}
        self._store = self._open()
        self._store.role.numbers_behind = 1
        self._role = _copy_of(self._store.role)
        self._earlier = {key: _earlier(self._store.allocate(*key)) for key in self._store.keys}
        self._states: npt.NDArray[Any] | None = None
        self._rows: npt.NDArray[Any] | None = None
        self._row_of: dict[SessionKey, int] = {}
        self._folded: tuple[bytes, bytes] | None = None
        """What both paths had counted in all; None: everything is to be looked at."""

    def _open(self) -> ReflectorStore:
        if self._path.exists():
            return ReflectorStore.open(self._path, writable=True)
        store = ReflectorStore.create(self._path, CAPACITY_MIN)
        store.role.start_time_ns = wall_ns()
        return store

    def serve(self, config: Reflector) -> None:
        """Have the sessions of `config`, with fresh counters for those that have changed.

        What the others have counted is to be folded in first.
        """
        known = self._sessions
        stale = {
            key
            for key in self._store.keys
            if key not in config.sessions or (key in known and known[key] != config.sessions[key])
        }
        for key in stale:
            earlier = self._earlier.pop(key, _Earlier())
            self._role.former_received += earlier.received
            self._role.former_reflected += earlier.reflected
            self._role.former_last_received_ns = max(
                self._role.former_last_received_ns, earlier.last_received_ns
            )
            self._store.free(*key)
        if len(config.sessions) > self._store.capacity:
            self._store = self._store.grown(2 * len(config.sessions))
        for key in config.sessions:
            self._store.allocate(*key)
        self._sessions = dict(config.sessions)
        self._states = self._rows = self._folded = None

    def resumed(self, key: SessionKey) -> int:
        """The sequence number that a session came to in an earlier process."""
        earlier = self._earlier.get(key)
        return 0 if earlier is None else earlier.next_sequence

    def fold(self, tables: ReflectorTables) -> bool:
        """Bring the store up to date. Costs little where little has changed, and next to
        nothing where nothing has: data traffic has the same core. Returns whether there
        was anything."""
        slow = self._slow.current()
        # Read first: what is counted meanwhile is found by the next fold.
        counted = tables.counted(), b"" if slow is None else slow.contents
        if counted == self._folded:
            return False
        self._folded = counted
        self._fold_role(tables, slow)
        # The others are not served yet.
        for key in self._changed(tables, slow) & tables.slots.keys():
            self._fold_session(key, tables)
        return True

    def _changed(self, tables: ReflectorTables, slow: ReflectorStore | None) -> set[SessionKey]:
        states, rows = tables.states(), None if slow is None else slow.rows()
        before_states, before_rows = self._states, self._rows
        self._states, self._rows = states, rows
        if before_states is None or _shape(rows) != _shape(before_rows):
            self._row_of = {}
            self._note_rows(slow, range(0 if rows is None else len(rows)))
            return set(self._sessions)
        slots = set(np.flatnonzero(states != before_states).tolist())
        keys = {key for key, slot in tables.slots.items() if slot in slots} if slots else set()
        if rows is not None:
            keys |= self._note_rows(slow, np.flatnonzero(rows != before_rows).tolist())
        return keys & self._sessions.keys()

    def _note_rows(self, slow: ReflectorStore | None, rows: Iterable[int]) -> set[SessionKey]:
        """Whose rows of the slow store these are."""
        keys = set()
        for row in rows:
            key = None if slow is None else slow.key_at(row)
            if key is not None:
                self._row_of[key] = row
                keys.add(key)
        return keys

    def _fold_session(self, key: SessionKey, tables: ReflectorTables) -> None:
        earlier = self._earlier.get(key) or _Earlier()
        driver = tables.session_counts(key)
        slot = self._store.allocate(*key)
        row = self._row_of.get(key)
        behind = _Earlier()
        if row is not None and self._rows is not None:
            fields = self._rows[row]
            behind.received = int(fields["received"])
            behind.reflected = int(fields["reflected"])
            behind.last_received_ns = int(fields["last_received_ns"])
            behind.t2_method = int(fields["t2_method"])
            behind.t3_method = int(fields["t3_method"])
        slot.received = earlier.received + driver.answered + behind.received
        slot.reflected = earlier.reflected + driver.answered + behind.reflected
        in_user_space = max(earlier, behind, key=lambda path: path.last_received_ns)
        slot.last_received_ns = in_user_space.last_received_ns
        slot.t2_method, slot.t3_method = in_user_space.t2_method, in_user_space.t3_method
        if driver.last_received_ns > slot.last_received_ns:
            slot.last_received_ns = driver.last_received_ns
            slot.t2_method = slot.t3_method = DRIVER_METHOD.code
        slot.next_sequence = driver.next_sequence & 0xFFFFFFFF

    def _fold_role(self, tables: ReflectorTables, slow: ReflectorStore | None) -> None:
        earlier, role = self._role, self._store.role
        behind = ReflectorRoleState() if slow is None else slow.role
        counts, driver = tables.counts(), tables.session_counts(None)
        role.received = earlier.received + driver.answered + behind.received
        role.reflected = earlier.reflected + driver.answered + behind.reflected
        role.last_received_ns = max(
            earlier.last_received_ns, driver.last_received_ns, behind.last_received_ns
        )
        # Both paths may have served a session a moment longer than its slot was here.
        former = tables.former
        role.former_received = earlier.former_received + former.answered + behind.former_received
        role.former_reflected = earlier.former_reflected + former.answered + behind.former_reflected
        role.former_last_received_ns = max(
            earlier.former_last_received_ns,
            former.last_received_ns,
            behind.former_last_received_ns,
        )
        role.driver_answered = earlier.driver_answered + counts.answered
        for reason, packets in counts.handed_up.items():
            role.handed_up[reason] = earlier.handed_up[reason] + packets
        for why, index in DISCARD_INDEX.items():
            here = counts.discarded[why] + behind.discards[index]
            role.discards[index] = earlier.discards[index] + here

    def close(self) -> None:
        """Let go of the files; the counters stay on disk. No number is given any more, and
        the last that was is folded in."""
        self._slow.close()
        self._store.role.numbers_behind = 0
        self._store.close()

    def unlink(self) -> None:
        self._store.unlink()


def _earlier(slot: ReflectorSessionState) -> _Earlier:
    return _Earlier(
        slot.received,
        slot.reflected,
        slot.last_received_ns,
        slot.next_sequence,
        slot.t2_method,
        slot.t3_method,
    )


def _shape(rows: npt.NDArray[Any] | None) -> tuple[int, ...] | None:
    return None if rows is None else rows.shape


def _copy_of(role: ReflectorRoleState) -> ReflectorRoleState:
    return ReflectorRoleState.from_buffer_copy(role)
