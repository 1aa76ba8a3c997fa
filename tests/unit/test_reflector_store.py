"""Counters of a Session-Reflector: they never go backwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplane.loss import LossAttribution
from dataplane.mapped_file import MappedFile, StoreError
from dataplane.reflector_store import NUMBERS_LEFT_OUT, ReflectorStore


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


def opened_again(path: Path, *, numbers_behind: int) -> int:
    """The number of a session, whose 7 was stored by a writer that was killed then."""
    store = ReflectorStore.create(path, 1)
    store.allocate(7, None).next_sequence = 7
    store.role.numbers_behind = numbers_behind
    store.close()
    ReflectorStore.open(path, writable=False).close()
    for _ in range(2):
        store = ReflectorStore.open(path, writable=True)
        number = store.allocate(7, None).next_sequence
        store.close()
    return number


def test_numbers_that_may_have_been_given_are_left_out(tmp_path: Path) -> None:
    assert opened_again(tmp_path / "r", numbers_behind=1) == 7 + NUMBERS_LEFT_OUT
    assert opened_again(tmp_path / "r", numbers_behind=0) == 7


def test_no_loss_is_told_from_numbers_that_were_left_out() -> None:
    """While the Session-Reflector was away a million packets were lost, in whatever
    direction; losses after that have theirs again."""
    loss = LossAttribution(window=1_000)

    def settle(number: int, sequence: int) -> None:
        loss.settle_received(loss.observe(number, sequence), sequence, sequence)

    settle(0, 0)
    settle(1, 1)
    for _ in range(1_000_000):
        loss.settle_lost()
    again = 1_000_002
    for packet in range(3):
        settle(2 + NUMBERS_LEFT_OUT + packet, again + packet)
    assert (loss.forward, loss.backward, loss.pending) == (0, 0, 0)
    loss.settle_lost()
    settle(2 + NUMBERS_LEFT_OUT + 4, again + 4)
    assert (loss.forward, loss.backward) == (0, 1)
