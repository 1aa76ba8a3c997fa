"""Records of single measurements, and the ring that carries them between processes.

Rules that hold here:

- One producer appends, one consumer fetches; neither ever waits for the other.
- The oldest records are overwritten when the ring is full. What was overwritten
  before it was fetched is counted, exactly.
- Indices are 64 bits and only grow, so an index never names two records.
- A record is written before the head moves past it: a producer that is killed
  leaves no half of a record behind. That a consumer in another process sees the
  two in this order relies on total store order (x86-64).
"""

from __future__ import annotations

import ctypes
import enum
import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class TimestampMethod(enum.Enum):
    """Where a timestamp is taken."""

    UNKNOWN = "unknown"
    USERSPACE = "userspace"
    """The clock is read by the program."""

    KERNEL_SOFTWARE = "kernel-software"
    """In the kernel, as the packet leaves or enters the driver."""

    HARDWARE = "hardware"
    """By the network interface. No engine has it yet; the model names it."""

    code: int
    """The small integer that stands for it in binary layouts."""

    @classmethod
    def from_code(cls, code: int) -> TimestampMethod:
        """ValueError for an unknown code."""
        if not 0 <= code < len(_METHODS):
            raise ValueError(f"timestamp method code {code} is unknown")
        return _METHODS[code]


_METHODS = tuple(TimestampMethod)
for _code, _method in enumerate(_METHODS):
    _method.code = _code


class RecordFlag(enum.IntFlag):
    """What else is known about a record."""

    SENDER_SYNCHRONIZED = 1
    """S bit of the Session-Sender's Error Estimate, as reflected."""

    REFLECTOR_SYNCHRONIZED = 2
    """S bit of the Session-Reflector's Error Estimate."""


class Record(NamedTuple):
    """The four timestamps of one packet and its reply; nanoseconds since 1970 UTC.

    Delays are signed: clocks that are not synchronised make one-way delays negative.
    """

    sequence: int
    """Session-Sender's sequence number, unwrapped to 64 bits."""

    t1_ns: int
    """Sent by the Session-Sender."""

    t2_ns: int
    """Received by the Session-Reflector."""

    t3_ns: int
    """Sent by the Session-Reflector."""

    t4_ns: int
    """Received by the Session-Sender."""

    reflector_sequence: int
    """As in the reply, 32 bits."""

    sender_ttl: int
    """TTL or Hop Limit with which the Session-Reflector received the packet."""

    t1_method: int
    """`TimestampMethod.code`."""

    t4_method: int
    """`TimestampMethod.code`."""

    flags: int
    """`RecordFlag` bits."""

    @property
    def forward_ns(self) -> int:
        return self.t2_ns - self.t1_ns

    @property
    def backward_ns(self) -> int:
        return self.t4_ns - self.t3_ns

    @property
    def round_trip_ns(self) -> int:
        """Without the time that the Session-Reflector took."""
        return (self.t4_ns - self.t1_ns) - (self.t3_ns - self.t2_ns)


RECORD = struct.Struct("=QqqqqIBBBB")
"""Binary layout of a `Record`, its fields in order, in native byte order."""


RECORD_DTYPE = np.dtype(
    [
        ("sequence", np.uint64),
        ("t1_ns", np.int64),
        ("t2_ns", np.int64),
        ("t3_ns", np.int64),
        ("t4_ns", np.int64),
        ("reflector_sequence", np.uint32),
        ("sender_ttl", np.uint8),
        ("t1_method", np.uint8),
        ("t4_method", np.uint8),
        ("flags", np.uint8),
    ]
)
"""The same layout, for arrays of records."""


class RingHeader(ctypes.Structure):
    """What producer and consumer tell each other."""

    _fields_ = (
        ("head", ctypes.c_uint64),
        ("base", ctypes.c_uint64),
        ("fetched", ctypes.c_uint64),
        ("dropped", ctypes.c_uint64),
        ("forgiven", ctypes.c_uint64),
        ("capacity", ctypes.c_uint64),
        ("claimed", ctypes.c_uint64),
    )

    head: int
    """Producer: index of the next record."""

    base: int
    """Producer: records before this index have been cleared."""

    fetched: int
    """Consumer: index of the next record to fetch."""

    dropped: int
    """Consumer: records that were overwritten before they were fetched."""

    forgiven: int
    """Producer: `dropped` when the records were last cleared."""

    capacity: int
    """Records that are kept; set once."""

    claimed: int
    """Producer: while many are appended at once, what `head` is going to be."""


class RecordRing:
    """A ring of records over a writable buffer of `size_of(capacity)` bytes.

    A buffer of zeros is an empty ring, to be given a capacity with `format`.
    One slot more than `capacity` exists: the one being overwritten is never
    among those that a consumer may read.
    """

    __slots__ = ("_header", "_slots", "_view")

    def __init__(self, buffer: memoryview) -> None:
        """ValueError where the buffer does not fit the capacity that it declares."""
        self._header = RingHeader.from_buffer(buffer)
        capacity = self._header.capacity
        if capacity < 1 or len(buffer) < self.size_of(capacity):
            raise ValueError(f"record ring of {len(buffer)} bytes cannot hold {capacity} records")
        self._slots = capacity + 1
        self._view = buffer[ctypes.sizeof(RingHeader) : self.size_of(capacity)]

    @staticmethod
    def size_of(capacity: int) -> int:
        """Bytes of a ring that keeps `capacity` records."""
        return ctypes.sizeof(RingHeader) + (capacity + 1) * RECORD.size

    @classmethod
    def format(cls, buffer: memoryview, capacity: int) -> RecordRing:
        """Make an empty ring of a buffer of zeros. ValueError as for the constructor."""
        RingHeader.from_buffer(buffer).capacity = capacity
        return cls(buffer)

    @property
    def capacity(self) -> int:
        return self._slots - 1

    @property
    def head(self) -> int:
        """Records appended since the ring was formatted."""
        return self._header.head

    @property
    def fetched(self) -> int:
        """Index of the next record to fetch, if it is still there."""
        return self._header.fetched

    @property
    def dropped(self) -> int:
        """Records lost to the consumer so far, those included that it is yet to miss."""
        header = self._header
        oldest = self._oldest
        return max(0, header.dropped - header.forgiven) + max(
            0, oldest - max(header.fetched, header.base)
        )

    @property
    def pending(self) -> int:
        """Records that `fetch` would give now."""
        header = self._header
        return header.head - max(header.fetched, header.base, self._oldest)

    @property
    def _oldest(self) -> int:
        """Records before this index are overwritten, or about to be."""
        header = self._header
        return max(header.head, header.claimed - 1) - self.capacity

    def append(self, record: Record) -> None:
        """Producer: add the newest record."""
        header = self._header
        head = header.head
        RECORD.pack_into(self._view, head % self._slots * RECORD.size, *record)
        header.head = head + 1

    def extend(self, records: npt.NDArray[Any], before: int = 0) -> None:
        """Producer: add the newest records, in order, as an array of `RECORD_DTYPE`.

        `before` more came before them, which have no place any more: ValueError where
        `records` are fewer than are kept.
        """
        header = self._header
        if before and len(records) < self.capacity:
            raise ValueError(f"{before} records in front of {len(records)} still have a place")
        head, count = header.head, before + len(records)
        header.claimed = head + count
        kept = records[max(0, len(records) - self.capacity) :].tobytes()
        first = (head + max(0, count - self.capacity)) % self._slots * RECORD.size
        room = min(len(kept), self._slots * RECORD.size - first)
        self._view[first : first + room] = kept[:room]
        self._view[: len(kept) - room] = kept[room:]
        header.head = head + count

    def clear(self) -> None:
        """Producer: forget all records and count drops from 0; none of this counts as dropped."""
        self._header.forgiven = self._header.dropped
        self._header.base = self._header.head

    def fetch(self, maximum: int) -> list[Record]:
        """Consumer: take at most `maximum` records, the oldest first."""
        header = self._header
        wanted = max(header.fetched, header.base)
        start = max(wanted, min(header.head, self._oldest))
        end = min(header.head, start + max(0, maximum))
        records = self._copy(start, end)
        kept = min(end, max(start, self._oldest))
        header.dropped += kept - wanted
        header.fetched = end
        return records[kept - start :]

    def latest(self, count: int) -> list[Record]:
        """The newest `count` records, the oldest of them first; fetches nothing."""
        header = self._header
        head = header.head
        start = max(header.base, min(head, self._oldest), head - max(0, count))
        records = self._copy(start, head)
        kept = min(head, max(start, self._oldest))
        return records[kept - start :]

    def _copy(self, start: int, end: int) -> list[Record]:
        size = RECORD.size
        first, last = start % self._slots, end % self._slots
        if start >= end:
            return []
        if first < last:
            data = bytes(self._view[first * size : last * size])
        else:
            data = bytes(self._view[first * size :]) + bytes(self._view[: last * size])
        return list(map(Record._make, RECORD.iter_unpack(data)))
