"""A hash map of the kernel's with a copy of what is in it."""

from __future__ import annotations

import errno

import pytest

from dataplane.engines.driver import tables
from dataplane.engines.driver.tables import Mirror

CAPACITY = 2


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    """What is in the map, which has room for `CAPACITY` entries."""
    entries: dict[bytes, bytes] = {}

    def update(_fd: int, key: bytes, value: bytes) -> None:
        if key not in entries and len(entries) == CAPACITY:
            raise OSError(errno.E2BIG, "full")
        entries[key] = value

    monkeypatch.setattr(tables, "update_element", update)
    monkeypatch.setattr(tables, "delete_element", lambda _fd, key: entries.pop(key))
    return entries


def test_what_changes_is_changed(kernel: dict[bytes, bytes]) -> None:
    mirror = Mirror(0)
    assert mirror.set({b"a": b"1", b"b": b"2"})
    assert not mirror.set({b"a": b"1", b"b": b"2"})
    assert mirror.set({b"b": b"3"})
    assert kernel == {b"b": b"3"}


def test_a_map_that_is_full_is_known_as_it_is(kernel: dict[bytes, bytes]) -> None:
    mirror = Mirror(0)
    mirror.set({b"a": b"1", b"b": b"2"})
    with pytest.raises(OSError, match="full"):
        mirror.set({b"b": b"2", b"c": b"3", b"d": b"4"})
    assert mirror.set({b"e": b"5"})
    assert kernel == {b"e": b"5"}
