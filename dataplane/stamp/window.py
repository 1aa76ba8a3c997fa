"""What is remembered of the packets that were sent last, by sequence number under a mask."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from dataplane.arena import Arena
from dataplane.config import SenderSession

MARGIN = 8

UNUSED, UNDER_WAY, RECEIVED, LOST, UNRESOLVED = range(5)
"""Fates of a packet."""


def window_of(config: SenderSession) -> int:
    """Sequence numbers that are remembered, a power of two."""
    under_way = -(-config.loss_timeout_ms * 1_000 // config.interval_us)
    return 1 << (2 * under_way + MARGIN - 1).bit_length()


class Window:
    """Fate and time of sending of `size` packets, in an arena or in memory of its own."""

    __slots__ = ("_arena", "_arrays", "_fates", "_times", "size", "times_at")

    def __init__(self, size: int, arena: Arena | None) -> None:
        """Raises MemoryError or OSError where the arena is full."""
        self.size = size
        self._arena = arena
        self.times_at = 0
        """Place of the times in the arena, in words of 8 bytes."""
        self._fates: bytearray | memoryview | None = None
        self._times: array[int] | memoryview | None = None
        self._arrays: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]] | None = None
        if arena is None:
            self._fates = bytearray(size)
            self._times = array("q", bytes(8 * size))
        else:
            self.times_at = arena.allocate(9 * size) // 8

    @property
    def fates_at(self) -> int:
        """Place of the fates in the arena, in bytes: they follow the times."""
        return 8 * (self.times_at + self.size)

    @property
    def fates(self) -> bytearray | memoryview:
        if self._fates is None:
            assert self._arena is not None
            self._fates = self._arena.view[self.fates_at : self.fates_at + self.size]
        return self._fates

    @property
    def times(self) -> array[int] | memoryview:
        """Of sending, by the monotonic clock."""
        if self._times is None:
            assert self._arena is not None
            at = 8 * self.times_at
            self._times = self._arena.view[at : at + 8 * self.size].cast("q")
        return self._times

    @property
    def arrays(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Fates and times. Sessions that never have runs go without."""
        if self._arrays is None:
            self._arrays = np.frombuffer(self.fates, np.uint8), np.frombuffer(self.times, np.int64)
        return self._arrays

    def rest(self) -> None:
        """Forget what can be made again."""
        if self._arena is not None:
            self._fates = self._times = self._arrays = None

    def close(self) -> None:
        """It is not used any more."""
        self.rest()
        if self._arena is not None:
            self._arena.free(8 * self.times_at, 9 * self.size)
            self._arena = None
