"""Array maps that are made while programs run, to be put into maps of maps."""

from __future__ import annotations

import functools
import mmap
import os
import struct
from array import array
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.arena import Arena
from dataplane.bpf.syscall import bpf, delete_element, lookup_element, map_id, update_elements

F_MMAPABLE = 1 << 10
F_INNER_MAP = 1 << 12
"""Maps of one map of maps may differ in how many entries they have."""

WAITERS = 128
"""Changes of maps of maps that the kernel may be busy with at once: some thousand a second."""

_MAP_CREATE = 0
_TYPE_ARRAY = 2
_KEY_SIZE = 4


class ArrayMap:
    """An array map in this process's memory, for as long as `values` or a map of maps lives.

    Raises OSError: ENOMEM where there is no memory for it.
    """

    def __init__(
        self, dtype: npt.DTypeLike, entries: int, flags: int = 0, arena: Arena | None = None
    ) -> None:
        """Zeros; the size of `dtype` has to be a multiple of 8 bytes. In an `arena` they are
        to be seen until `close`."""
        kind = np.dtype(dtype)
        attributes = struct.pack(
            "=IIIII", _TYPE_ARRAY, _KEY_SIZE, kind.itemsize, entries, F_MMAPABLE | flags
        )
        self.fd = bpf(_MAP_CREATE, attributes)
        try:
            self._size = -(-entries * kind.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
            if arena is None:
                self.place = 0
                self.memory = memoryview(mmap.mmap(self.fd, self._size))
            else:
                self.place = arena.map(self.fd, self._size)
                self.memory = arena.view[self.place : self.place + self._size]
        except BaseException:
            os.close(self.fd)
            raise
        self.values: npt.NDArray[Any] = np.frombuffer(self.memory, kind, entries)
        self._arena = arena

    def close(self) -> None:
        """Take the memory out of the arena. Without one it stays while somebody looks at it."""
        if self._arena is not None:
            self._arena.unmap(self.place, self._size)
            self._arena = None

    def let_go(self) -> None:
        """Of the descriptor: somebody else has the map."""
        os.close(self.fd)


@functools.cache
def _waiters() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(WAITERS, "bpf-map-of-maps")


class MapOfMaps:
    """An array of maps, of which others are made while programs run.

    A change is to be seen at once, but the kernel lets whoever has made it wait until no
    program can be at work that began before (synchronize_rcu), for 10 ms and more: once for
    many maps that are put, and for each that is removed. Here other threads wait, and a
    change is over as soon as it is to be seen.
    """

    def __init__(self, fd: int) -> None:
        """`fd` stays the caller's."""
        self._fd = fd

    def put(self, inner: Mapping[int, int]) -> None:
        """Give programs the maps with these descriptors, by index, in place of those that
        they may have.

        Raises OSError, and programs have none at any of these indices.
        """
        if not inner:
            return
        indices = list(inner)
        keys, values = _uint32(indices), _uint32(inner.values())
        change = _waiters().submit(update_elements, self._fd, keys, values, len(inner))
        # They are put in their order.
        last = indices[-1]
        wanted, key = _uint32([map_id(inner[last])]), _uint32([last])
        while self._found(key) != wanted and not change.done():
            pass
        try:
            _raise_of(change)
        except OSError:
            for index in indices:
                self.remove(index)
            raise

    def remove(self, index: int) -> None:
        """Take it away again; nothing where there is none. Raises OSError."""
        key = _uint32([index])
        change = _waiters().submit(delete_element, self._fd, key)
        while self._found(key) is not None and not change.done():
            pass
        _raise_of(change)

    def _found(self, key: bytes) -> bytes | None:
        """The kernel's number of the map there."""
        return lookup_element(self._fd, key, len(key))


def _raise_of(change: Future[Any]) -> None:
    if change.done():
        change.result()


def _uint32(values: Iterable[int]) -> bytes:
    return array("I", values).tobytes()
