"""AF_XDP sockets that receive (Documentation/networking/af_xdp.rst of the kernel).

A `Pool` is memory for the frames of one queue of one interface. Sockets of the pool
share it: an XDP program says which of them a frame is for. The kernel copies frames
in, so that interfaces, and what else arrives there, are left as they are.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

CHUNK = 2_048
"""Bytes for each frame, of which the kernel keeps the first `HEADROOM`."""

HEADROOM = 256
FRAME_MAX = CHUNK - HEADROOM
"""Bytes of the longest frame."""

_AF_XDP = 44
_SOL_XDP = 283
_MMAP_OFFSETS, _RX_RING, _UMEM_REG, _FILL_RING, _COMPLETION_RING, _STATISTICS = 1, 2, 4, 5, 6, 7
_PAGE_RX_RING, _PAGE_FILL_RING = 0, 0x100000000
_SHARED_UMEM, _COPY = 1, 2

_DESCRIPTOR = np.dtype([("address", np.uint64), ("length", np.uint32), ("options", np.uint32)])
"""struct xdp_desc."""

_ADDRESS = struct.Struct("=HHIII")
"""struct sockaddr_xdp: family, flags, interface, queue, socket whose memory is shared."""

_MEMORY = struct.Struct("=QQIIII")
"""struct xdp_umem_reg: address, length, chunk size, headroom, flags, metadata length."""

_OFFSETS = struct.Struct("=16Q")
"""struct xdp_mmap_offsets: producer, consumer, descriptors, flags of each of four rings."""

_COUNTS = struct.Struct("=6Q")
"""struct xdp_statistics."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.bind.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)


class Ring:
    """A ring of descriptors that is shared with the kernel, and the two positions in it.

    Positions count without end, modulo 2**32. The side that writes descriptors moves
    `producer`, the other one `consumer`, in each case after the descriptors: a machine
    that does not keep loads and stores in order (any but x86) must not use this class.
    """

    def __init__(
        self, fd: int, page: int, offsets: tuple[int, ...], entries: int, dtype: npt.DTypeLike
    ) -> None:
        producer, consumer, descriptors = offsets[:3]
        kind = np.dtype(dtype)
        self._memory = mmap.mmap(fd, descriptors + entries * kind.itemsize, offset=page)
        self.producer = ctypes.c_uint32.from_buffer(self._memory, producer)
        self.consumer = ctypes.c_uint32.from_buffer(self._memory, consumer)
        self.descriptors: npt.NDArray[Any] = np.frombuffer(self._memory, kind, entries, descriptors)
        self.mask = entries - 1


class Pool:
    """Memory for frames that wait on one queue, and for those that are being read.

    Raises OSError: EINVAL where there is no such queue, EBUSY where somebody else has it,
    ENOBUFS where so much memory must not be locked.
    """

    def __init__(self, ifindex: int, queue: int, frames: int) -> None:
        """`frames` is a power of two. The interface is one of the calling thread's
        network namespace."""
        self.ifindex = ifindex
        self.queue = queue
        self.size = frames
        self._memory = mmap.mmap(-1, frames * CHUNK)
        self.frames: npt.NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8).reshape(
            frames, CHUNK
        )
        """A row a frame; it begins at `HEADROOM`."""

        self._socket = socket.socket(_AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        try:
            self._register()
            _bind(self._socket.fileno(), ifindex, queue, _COPY)
            offsets = _offsets(self._socket)[8:12]
            self._fill: Ring | None = Ring(
                self._socket.fileno(), _PAGE_FILL_RING, offsets, frames, np.uint64
            )
        except BaseException:
            self._socket.close()
            raise
        self._positions = np.arange(frames)
        self.give_back(np.arange(frames, dtype=np.uint64) * np.uint64(CHUNK))

    def _register(self) -> None:
        option = self._socket.setsockopt
        memory = _MEMORY.pack(self.frames.ctypes.data, len(self._memory), CHUNK, 0, 0, 0)
        option(_SOL_XDP, _UMEM_REG, memory)
        option(_SOL_XDP, _FILL_RING, self.size)
        # A pool must have both; what is never sent is never completed.
        option(_SOL_XDP, _COMPLETION_RING, 2)
        # A socket must have a ring to be bound; the program knows nothing of this one.
        option(_SOL_XDP, _RX_RING, 2)

    def fileno(self) -> int:
        return self._socket.fileno()

    def give_back(self, addresses: npt.NDArray[np.uint64]) -> None:
        """Frames that have been read; the kernel rounds addresses down to chunks. Nothing
        once the pool is closed: no frame is wanted any more."""
        fill = self._fill
        if fill is None:
            return
        position = fill.producer.value
        count = len(addresses)
        fill.descriptors[(position + self._positions[:count]) & fill.mask] = addresses
        fill.producer.value = position + count & 0xFFFFFFFF

    def close(self) -> None:
        """The kernel keeps the memory for sockets that still share it."""
        # A ring that is mapped keeps its socket alive.
        self._fill = None
        self._socket.close()


class XdpSocket:
    """One receiving socket of a pool. Raises OSError as `Pool` does."""

    def __init__(self, pool: Pool, entries: int) -> None:
        """`entries` is a power of two: frames that can wait."""
        self.pool = pool
        self.room = min(entries, pool.size)
        """Frames that can wait, if other sockets of the pool leave it to this one."""
        self._socket = socket.socket(_AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        try:
            self._socket.setsockopt(_SOL_XDP, _RX_RING, entries)
            offsets = _offsets(self._socket)[0:4]
            self._ring = Ring(self._socket.fileno(), _PAGE_RX_RING, offsets, entries, _DESCRIPTOR)
            _bind(self._socket.fileno(), pool.ifindex, pool.queue, _SHARED_UMEM, pool.fileno())
        except BaseException:
            self._socket.close()
            raise
        self._positions = np.arange(entries)

    def fileno(self) -> int:
        return self._socket.fileno()

    def waiting(self) -> int:
        """Frames that can be read."""
        ring = self._ring
        return ring.producer.value - ring.consumer.value & 0xFFFFFFFF

    def receive(self, count: int) -> npt.NDArray[np.uint64]:
        """Addresses, in the pool's memory, of the next `count` frames, at most `waiting`.

        They stay as they are until they are given back to the pool.
        """
        ring = self._ring
        position = ring.consumer.value
        at = (position + self._positions[:count]) & ring.mask
        addresses: npt.NDArray[np.uint64] = ring.descriptors["address"][at]
        ring.consumer.value = position + count & 0xFFFFFFFF
        return addresses

    def dropped(self) -> int:
        """Frames for this socket that there was no room for, so far."""
        found = self._socket.getsockopt(_SOL_XDP, _STATISTICS, _COUNTS.size)
        # What finds no free frame counts as dropped, and at the pool once more.
        dropped, _, _, ring_full, _, _ = _COUNTS.unpack(found)
        return int(dropped + ring_full)

    def close(self) -> None:
        """Frames that still wait are thrown away: others of the pool can have them. The
        program is to know nothing of the socket any more."""
        self.pool.give_back(self.receive(self.waiting()))
        # As for a pool.
        del self._ring
        self._socket.close()


def _bind(fd: int, ifindex: int, queue: int, flags: int, shared: int = 0) -> None:
    address = _ADDRESS.pack(_AF_XDP, flags, ifindex, queue, shared)
    if _libc.bind(fd, address, len(address)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _offsets(sock: socket.socket) -> tuple[int, ...]:
    found = sock.getsockopt(_SOL_XDP, _MMAP_OFFSETS, _OFFSETS.size)
    if len(found) != _OFFSETS.size:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return _OFFSETS.unpack(found)
