"""One range of addresses for the memory of many sessions, so that arrays reach across them.

Files are mapped side by side into the range, and small pieces of plain memory are
given out from it. `words` and its like span all of it: one array operation reads or
writes a field of as many sessions as one likes, wherever each has its own.

Addresses cost nothing until memory is put behind them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

SIZE = 1 << 36
"""Bytes of address space: a million sessions with a thousand records each."""

HEAP = 1 << 34
"""Of these, for plain memory, from the beginning on."""

HEAP_STEP = 1 << 18
"""Bytes of plain memory that are made accessible at once."""

PAGE = mmap.PAGESIZE

_NO_ACCESS = 0
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)

_ACCESS = mmap.PROT_READ | mmap.PROT_WRITE
_NOTHING = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE


def in_pages(size: Any) -> Any:
    """The size in whole pages, of an integer or of each in an array."""
    return -(-size // PAGE) * PAGE


class Arena:
    """Belongs to one thread. Places are byte offsets, multiples of 8.

    Raises OSError from the constructor where there is no such range of addresses, and
    from whatever needs memory where there is none.
    """

    def __init__(self, size: int = SIZE, heap: int = HEAP) -> None:
        self._base = _mapped(None, size, _NO_ACCESS, _NOTHING, -1)
        self._size = size
        self._range = (ctypes.c_char * size).from_address(self._base)
        # Once nothing points into the range any more, it is given back.
        weakref.finalize(self._range, _libc.munmap, self._base, size)
        self.view = memoryview(self._range).cast("B")
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(self.view, np.uint8)
        self.halves: npt.NDArray[np.uint16] = self.bytes.view(np.uint16)
        self.quarters: npt.NDArray[np.uint32] = self.bytes.view(np.uint32)
        """Integers of 32 bits."""
        self.words: npt.NDArray[np.int64] = self.bytes.view(np.int64)
        self._pieces: dict[int, npt.NDArray[np.void]] = {}
        self._heap_used = self._heap_open = 0
        self._heap_end = self._files_used = heap
        self._free: dict[int, list[int]] = {}
        self._free_files: dict[int, list[int]] = {}

    def pieces(self, size: int) -> npt.NDArray[np.void]:
        """So many bytes at each place, by words: the piece after the first begins 8 bytes
        behind it. To pick pieces, and to put them, is far quicker than their words."""
        found = self._pieces.get(size)
        if found is None:
            count = (self._size - size) // 8 + 1
            piece = np.dtype((np.void, size))
            found = self._pieces[size] = np.ndarray((count,), piece, self.view, 0, (8,))
        return found

    def pick(self, at: npt.NDArray[np.int64], words: int) -> npt.NDArray[np.int64]:
        """A copy of so many words at each place, a row each."""
        return self.pieces(8 * words)[at].view(np.int64).reshape(len(at), words)

    def put(self, at: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> None:
        """As many words as a row has, at each place; the rows are in one piece."""
        self.pieces(8 * rows.shape[1])[at] = rows.view((np.void, 8 * rows.shape[1]))[:, 0]

    def allocate(self, size: int) -> int:
        """The place of so many zeros."""
        size = -(-size // 8) * 8
        free = self._free.get(size)
        if free:
            place = free.pop()
            self.bytes[place : place + size] = 0
            return place
        place, end = self._heap_used, self._heap_used + size
        if end > self._heap_end:
            raise MemoryError("the range of addresses for sessions is used up")
        while self._heap_open < end:
            step = min(HEAP_STEP, self._heap_end - self._heap_open)
            if _libc.mprotect(self._base + self._heap_open, step, _ACCESS):
                _raise()
            self._heap_open += step
        self._heap_used = end
        return place

    def free(self, place: int, size: int) -> None:
        """What `allocate` gave for this size is not used any more."""
        self._free.setdefault(-(-size // 8) * 8, []).append(place)

    def map(self, descriptor: int, size: int) -> int:
        """The place of the first `size` bytes of a file, which are shared with whoever
        maps it as well."""
        size = in_pages(size)
        free = self._free_files.get(size)
        place = free[-1] if free else self._files_used
        if place + size > self._size:
            raise OSError(12, os.strerror(12))
        _mapped(self._base + place, size, _ACCESS, mmap.MAP_SHARED | _MAP_FIXED, descriptor)
        if free:
            free.pop()
        else:
            self._files_used += size
        return place

    def unmap(self, place: int, size: int) -> None:
        """Put zeros, which are nobody else's, in the place of a file."""
        size = in_pages(size)
        _mapped(self._base + place, size, _ACCESS, _NOTHING | _MAP_FIXED, -1)
        self._free_files.setdefault(size, []).append(place)


def _mapped(address: int | None, size: int, protection: int, flags: int, descriptor: int) -> int:
    found = _libc.mmap(address, size, protection, flags, descriptor, 0)
    if found is None or found == _FAILED:
        _raise()
    return int(found)


def _raise() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
