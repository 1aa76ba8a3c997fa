"""The C library's memory allocator."""

from __future__ import annotations

import ctypes

_libc = ctypes.CDLL(None)


def give_back() -> None:
    """Return what is free to the system. What is needed for a moment to configure thousands
    of sessions, or to compile a program, would be kept for the next time."""
    _libc.malloc_trim(0)
