"""Counters of a Session-Reflector: they never go backwards."""

from __future__ import annotations

from pathlib import Path

from dataplane.reflector_store import ReflectorStore


def test_what_a_forgotten_session_counted_stays_with_the_role(tmp_path: Path) -> None:
    store = ReflectorStore.create(tmp_path / "r", 2)
    first = store.allocate(1, None)
    first.received, first.reflected, first.last_received_ns = 7, 5, 99
    store.allocate(2, None).received = 3
    store.free(1, None)
    snapshot = store.snapshot()
    assert (snapshot.received, snapshot.reflected) == (10, 5)
    assert snapshot.last_received_ns == 99
    assert snapshot.unconfigured_received == 0
    # A session that comes back counts from zero, the role goes on.
    assert store.allocate(1, None).received == 0
    assert store.snapshot().received == 10
    store.close()
