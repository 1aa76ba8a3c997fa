"""Fixed-size files that several processes map into their memory.

Best kept in a tmpfs: what is written there survives the process that wrote it,
and no write ever waits for a disk. Each open file costs a file descriptor, but for
those that an `Arena` has the mapping of.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

from dataplane.arena import Arena, in_pages


class StoreError(Exception):
    """A store cannot be made, opened or used; the text names its path."""


class MappedFile:
    """A mapping of a whole file. One that is not writable sees what others write."""

    __slots__ = ("_arena", "_inode", "_map", "_path", "_view", "place", "size", "writable")

    def __init__(self, path: Path, writable: bool, arena: Arena | None = None) -> None:
        """Raises `StoreError` where the file cannot be opened or mapped."""
        # A Path of its own would take four times as much memory as its text.
        self._path = os.fspath(path)
        self.writable = writable
        self.place: int | None = None
        """Where the file is in the arena, if there is one."""
        self._arena = arena
        try:
            descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                self._inode, self.size = status.st_ino, status.st_size
                self._open(descriptor)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StoreError(f"{path}: cannot be opened: {reason}") from error

    def _open(self, descriptor: int) -> None:
        if self._arena is not None:
            self.place = self._arena.map(descriptor, self.size)
            return
        # A private mapping of a shared file is read-only towards the
        # file, yet writable memory, which ctypes overlays insist on.
        access = mmap.ACCESS_WRITE if self.writable else mmap.ACCESS_COPY
        self._map = mmap.mmap(descriptor, 0, access=access)
        self._view = memoryview(self._map)

    @property
    def path(self) -> Path:
        return Path(self._path)

    @property
    def view(self) -> memoryview:
        """The whole file."""
        if self._arena is None:
            return self._view
        assert self.place is not None
        return self._arena.view[self.place : self.place + self.size]

    @staticmethod
    def create(path: Path, content: bytes, size: int, allocate: int | None = None) -> None:
        """Put a file of `size` bytes in place at once, zeros after `content`.

        Its memory is allocated here: a file system that is full shows as a
        `StoreError`, not as a process killed by a later write. Where `allocate` is
        given, this is true for so many bytes, in whole pages; what follows needs `reserve`.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o600)
            try:
                allocated = size if allocate is None else min(in_pages(allocate), size)
                os.posix_fallocate(descriptor, 0, allocated)
                os.truncate(descriptor, size)
                os.pwrite(descriptor, content, 0)
            finally:
                os.close(descriptor)
            temporary.rename(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise StoreError(f"{path}: cannot be created: {error.strerror}") from error

    def reserve(self, end: int, reserved: int) -> None:
        """Allocate the memory of the file's first `end` bytes, of which this has been done
        for the first `reserved`. Raises `StoreError`."""
        if in_pages(reserved) >= end:
            return
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_ino != self._inode:
                    raise StoreError(f"{self.path}: has been replaced")
                os.posix_fallocate(descriptor, 0, min(in_pages(end), self.size))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot grow: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the mapping; overlays that are still in use keep it alive, but for
        those in an arena, which are cut off."""
        if self._arena is not None:
            if self.place is not None:
                self._arena.unmap(self.place, self.size)
            self.place = None
            return
        with contextlib.suppress(BufferError):
            self._view.release()
            self._map.close()

    def rename(self, path: Path) -> None:
        """Put the file in the place of what is at `path`. Raises `StoreError`."""
        try:
            self.path.rename(path)
        except OSError as error:
            raise StoreError(f"{path}: cannot be replaced: {error.strerror}") from error
        self._path = os.fspath(path)

    def unlink(self) -> None:
        """Remove the file, if it is still there; open mappings stay valid."""
        self.path.unlink(missing_ok=True)
