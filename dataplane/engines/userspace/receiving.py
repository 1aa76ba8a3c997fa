"""recvmmsg(2) into arrays: no Python object is made for a packet.

The kernel gives every packet of a socket the same control messages in the same
order, so where they stand is found out from one packet, and the others are
compared with it, all at once. A packet that has others is read by itself.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.clock import wall_ns
from dataplane.engines.common.batch import ROW, UNKNOWN_HOP_LIMIT, Batch
from dataplane.engines.userspace.families import IPV4, IPV6, NAME, Family

SO_TIMESTAMPING = 37

PAYLOAD_MAX = 1 << 16
"""Bytes; no UDP payload is longer."""

CONTROL = 256
"""Bytes of control messages that are taken in with a packet."""

MESSAGE = np.dtype(
    [
        ("name", np.uint64),
        ("name_length", np.uint32),
        ("pad1", np.uint32),
        ("vector", np.uint64),
        ("vector_length", np.uint64),
        ("control", np.uint64),
        ("control_length", np.uint64),
        ("flags", np.int32),
        ("pad2", np.uint32),
        ("length", np.uint32),
        ("pad3", np.uint32),
    ]
)
"""struct mmsghdr, of a 64-bit machine."""

VECTOR = np.dtype([("base", np.uint64), ("length", np.uint64)])
"""struct iovec."""

_HEADER = struct.Struct("=Qii")
"""struct cmsghdr: length with the header, level, type."""

_KINDS = {(socket.SOL_SOCKET, SO_TIMESTAMPING)} | {
    (family.level, kind)
    for family in (IPV6, IPV4)
    for kind in (family.address, family.hop_limit, family.traffic_class)
}
_LOCAL = 20
"""Bytes of the longer of the two messages with a local address."""

_NS_PER_S = 1_000_000_000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.recvmmsg.argtypes = (
    ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p,
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Where the control messages of a packet stand."""

    length: int
    """Bytes in all."""

    words: npt.NDArray[np.intp]
    """Indices, in 64-bit words, of what is the same for all packets."""

    expected: npt.NDArray[np.uint64]
    offsets: dict[tuple[int, int], int]
    """Byte offset of the value of each message, by level and type."""


class Receiver:
    """Buffers for one batch at a time, of whichever socket."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._names = np.zeros((capacity, NAME), np.uint8)
        self._control = np.zeros((capacity, CONTROL), np.uint8)
        # Pages of it are touched, and so exist, only where a packet is long.
        self._rest = np.zeros((capacity, PAYLOAD_MAX - ROW), np.uint8)
        self._messages = np.zeros(capacity, MESSAGE)
        self._vectors = np.zeros((capacity, 2), VECTOR)
        self._layouts: dict[int, Layout] = {}
        self._used = capacity
        self._data: npt.NDArray[np.uint8] | None = None
        rows = np.arange(capacity, dtype=np.uint64)
        self._vectors["base"][:, 1] = _addresses(self._rest, rows)
        self._vectors["length"] = ROW, PAYLOAD_MAX - ROW
        messages = self._messages
        messages["name"] = _addresses(self._names, rows)
        messages["vector"] = _addresses(self._vectors, rows)
        messages["vector_length"] = 2
        messages["control"] = _addresses(self._control, rows)

    def receive(self, fd: int, batch: Batch, family: Family = IPV6) -> None:
        """What has arrived at a socket of `family`, as far as there is room for it here and in
        `batch`; `batch.count` is 0 where nothing has."""
        room = min(batch.capacity, self._capacity)
        if batch.data is not self._data:
            rows = np.arange(room, dtype=np.uint64)
            self._vectors["base"][:room, 0] = _addresses(batch.data, rows)
            self._data = batch.data
        messages = self._messages
        messages["name_length"][: self._used] = NAME
        messages["control_length"][: self._used] = CONTROL
        count = _libc.recvmmsg(fd, messages.ctypes.data, room, socket.MSG_DONTWAIT, None)
        batch.count = self._used = max(0, count)
        if count > 0:
            self._fill(batch, count, family)

    def _fill(self, batch: Batch, count: int, family: Family) -> None:
        messages = self._messages[:count]
        length = batch.length[:count]
        length[:] = messages["length"]
        family.read_names(self._names[:count], batch)
        batch.long.clear()
        for row in np.flatnonzero(length > ROW).tolist():
            rest = self._rest[row, : int(length[row]) - ROW]
            batch.long[row] = batch.data[row].tobytes() + rest.tobytes()
        self._read_control(batch, count, family)

    def _read_control(self, batch: Batch, count: int, family: Family) -> None:
        lengths = self._messages["control_length"][:count]
        words = self._control[:count].view(np.uint64)
        for _ in range(2):
            layout = self._layouts.get(family.domain)
            if layout is not None:
                regular = (lengths == layout.length) & (
                    words[:, layout.words] == layout.expected
                ).all(axis=1)
                if regular[0]:
                    break
            layout = layout_of(self._control[0, : int(lengths[0])].tobytes())
            self._layouts[family.domain] = layout
        assert layout is not None
        _read_columns(self._control[:count], layout, batch, family)
        for row in np.flatnonzero(~regular).tolist():
            control = self._control[row : row + 1]
            own = layout_of(control[0, : int(lengths[row])].tobytes())
            _read_columns(control, own, batch, family, row)


def layout_of(control: bytes) -> Layout:
    """Where control messages stand; of several of a kind the first counts."""
    words: list[int] = []
    expected: list[int] = []
    offsets: dict[tuple[int, int], int] = {}
    for at, length, level, kind in _control_messages(control):
        if (level, kind) in _KINDS:
            offsets.setdefault((level, kind), at + _HEADER.size)
        words += at // 8, at // 8 + 1
        expected += length, (kind & 0xFFFFFFFF) << 32 | level & 0xFFFFFFFF
    return Layout(len(control), np.array(words, np.intp), np.array(expected, np.uint64), offsets)


def _control_messages(control: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Offset, length, level and type of each."""
    at = 0
    while at + _HEADER.size <= len(control):
        length, level, kind = _HEADER.unpack_from(control, at)
        if not _HEADER.size <= length <= len(control) - at:
            return
        yield at, length, level, kind
        at += -(-length // 8) * 8


def _read_columns(
    control: npt.NDArray[np.uint8], layout: Layout, batch: Batch, family: Family, first: int = 0
) -> None:
    """What the rows of `control` say, into the rows of `batch` from `first` on."""
    count, offsets = len(control), layout.offsets
    rows = slice(first, first + count)

    def words(offset: int, dtype: Any, number: int) -> npt.NDArray[Any]:
        size = np.dtype(dtype).itemsize * number
        return np.ascontiguousarray(control[:, offset : offset + size]).view(dtype)

    at = offsets.get((family.level, family.address))
    if at is None:
        batch.destination[rows] = 0
        batch.interface[rows] = 0
    else:
        family.read_local(control[:, at : at + _LOCAL], batch, rows)
    at = offsets.get((family.level, family.hop_limit))
    batch.hop_limit[rows] = UNKNOWN_HOP_LIMIT if at is None else words(at, np.int32, 1)[:, 0]
    at = offsets.get((family.level, family.traffic_class))
    kind = family.traffic_class_type
    batch.traffic_class[rows] = 0 if at is None else words(at, kind, 1)[:, 0]
    received_ns, stamped = batch.received_ns[rows], batch.kernel_stamped[rows]
    at = offsets.get((socket.SOL_SOCKET, SO_TIMESTAMPING))
    if at is None:
        stamped[:] = False
    else:
        time = words(at, np.int64, 2)
        received_ns[:] = time[:, 0] * _NS_PER_S + time[:, 1]
        stamped[:] = received_ns != 0
    if not stamped.all():
        received_ns[~stamped] = wall_ns()


def _addresses(array: npt.NDArray[Any], rows: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Where the rows of an array are in memory."""
    return np.uint64(array.ctypes.data) + rows * np.uint64(array.strides[0])
