"""Array maps that are made while programs run, to be put into maps of maps."""

from __future__ import annotations

import mmap
import os
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.bpf.syscall import bpf

F_MMAPABLE = 1 << 10
F_INNER_MAP = 1 << 12
"""Maps of one map of maps may differ in how many entries they have."""

_MAP_CREATE = 0
_TYPE_ARRAY = 2
_KEY_SIZE = 4


class ArrayMap:
    """An array map in this process's memory, for as long as `values` or a map of maps lives.

    Raises OSError: ENOMEM where there is no memory for it.
    """

    def __init__(self, dtype: npt.DTypeLike, entries: int, flags: int = 0) -> None:
        """Zeros; the size of `dtype` has to be a multiple of 8 bytes."""
        kind = np.dtype(dtype)
        attributes = struct.pack(
            "=IIIII", _TYPE_ARRAY, _KEY_SIZE, kind.itemsize, entries, F_MMAPABLE | flags
        )
        self.fd = bpf(_MAP_CREATE, attributes)
        try:
            size = -(-entries * kind.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
            self.memory = memoryview(mmap.mmap(self.fd, size))
        except BaseException:
            os.close(self.fd)
            raise
        self.values: npt.NDArray[Any] = np.frombuffer(self.memory, kind, entries)

    def close(self) -> None:
        """Let go of the descriptor; the memory stays while somebody looks at it."""
        os.close(self.fd)
