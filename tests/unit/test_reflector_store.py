"""Counters of a Session-Reflector: they never go backwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplane.mapped_file import MappedFile, StoreError
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


def test_a_store_that_grows_keeps_what_was_counted(tmp_path: Path) -> None:
    path = tmp_path / "reflector.store"
    store = ReflectorStore.create(path, 1)
    store.role.received = 3
    store.allocate(7, None).next_sequence = 11
    grown = store.grown(4)
    assert (grown.path, grown.capacity, [*tmp_path.iterdir()]) == (path, 4, [path])
    assert (grown.role.received, grown.allocate(7, None).next_sequence) == (3, 11)
    assert ReflectorStore.open(path, writable=False).snapshot().unconfigured_received == 3


def test_a_store_that_cannot_grow_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "reflector.store"
    store = ReflectorStore.create(path, 1)
    store.role.received = 3

    def full(self: MappedFile, path: Path) -> None:
        raise StoreError(f"{path}: cannot be replaced: No space left on device")

    monkeypatch.setattr(MappedFile, "rename", full)
    with pytest.raises(StoreError, match="cannot be replaced"):
        store.grown(4)
    assert [*tmp_path.iterdir()] == [path]
    assert store.role.received == 3
