"""Counters of a Session-Reflector, in one mapped file.

The host process writes, the plugin reads. What a session has counted, and the
sequence number that a stateful one comes to next, outlive the host process.
Every field is written by one store of at most 64 bits, so none is ever torn;
fields of one session may be of moments a packet apart. What a forgotten session
has counted moves to the role, whose totals therefore never go backwards; a
reader that meets such a move reads again.
"""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.config import IPAddress
from dataplane.mapped_file import MappedFile, StoreError
from dataplane.measurement import TimestampMethod
from dataplane.session_state import DISCARD_INDEX, DISCARD_SLOTS
from dataplane.stamp.errors import DiscardReason

MAGIC = b"STAMPrfl"
LAYOUT_VERSION = 4

_SEQUENCE = 0xFFFFFFFF

NUMBERS_LEFT_OUT = 1 << 24
"""Of a session after a writer that was killed: more than a driver gives in seconds, and more
than packets of a session are lost until it has a successor. A Session-Sender then finds
more numbers passed over than packets lost, and takes none of these for lost on the way
back (see `dataplane.loss`), where a smaller step would look like just that."""

_READ_ATTEMPTS = 1_000
"""Of a snapshot beside a writer that forgets sessions. A move takes microseconds,
so that only a writer that died within one uses them up."""


class HandedUp(enum.IntEnum):
    """Why an engine that serves packets in the driver left one to user space; the
    value is its place in `ReflectorRoleState.handed_up`."""

    FRAGMENT = 0
    SRH_TLV = 1
    LENGTH = 2
    SHORT = 3
    TRAILER = 4
    CHECKSUM = 5
    LINK_LOCAL = 6
    IPV4_OPTIONS = 7
    NEXT_HOP = 8
    TOO_BIG = 9
    HEAD_ROOM = 10
    IPV6_OPTIONS = 11

    @property
    def label(self) -> str:
        """Its stable name."""
        return self.name.lower().replace("_", "-")


HANDED_UP_SLOTS = 16


class ReflectorHeader(ctypes.Structure):
    _fields_ = (
        ("magic", ctypes.c_char * 8),
        ("layout_version", ctypes.c_uint32),
        ("capacity", ctypes.c_uint32),
    )

    magic: bytes
    layout_version: int
    capacity: int


class ReflectorRoleState(ctypes.Structure):
    """Counts of the role: requests without a configured session, those of
    sessions that are no more, and discards of all."""

    _fields_ = (
        ("received", ctypes.c_uint64),
        ("reflected", ctypes.c_uint64),
        ("next_sequence", ctypes.c_uint64),
        ("last_received_ns", ctypes.c_int64),
        ("start_time_ns", ctypes.c_int64),
        ("version", ctypes.c_uint64),
        ("former_received", ctypes.c_uint64),
        ("former_reflected", ctypes.c_uint64),
        ("former_last_received_ns", ctypes.c_int64),
        ("discards", ctypes.c_uint64 * DISCARD_SLOTS),
        ("driver_answered", ctypes.c_uint64),
        ("handed_up", ctypes.c_uint64 * HANDED_UP_SLOTS),
        ("t2_method", ctypes.c_uint8),
        ("t3_method", ctypes.c_uint8),
        ("numbers_behind", ctypes.c_uint8),
    )

    received: int
    """Requests without a configured session that were accepted."""

    reflected: int
    """Replies to them."""

    next_sequence: int
    last_received_ns: int
    start_time_ns: int
    version: int
    """Odd while the counts of a session move to the role."""

    former_received: int
    """Requests that were accepted by sessions which have been forgotten since."""

    former_reflected: int
    former_last_received_ns: int
    discards: ctypes.Array[ctypes.c_uint64]
    """By `DISCARD_INDEX`."""

    driver_answered: int
    """Of the replies, those of an engine's program in the driver."""

    handed_up: ctypes.Array[ctypes.c_uint64]
    """Packets that it left to user space, by `HandedUp`."""

    t2_method: int
    t3_method: int
    numbers_behind: int
    """Not 0 while `next_sequence` of sessions is that of a counter elsewhere, a moment ago."""

    def discard(self, reason: DiscardReason, packets: int = 1) -> None:
        """Count requests that are not answered."""
        self.discards[DISCARD_INDEX[reason]] += packets

    def take(self, count: int) -> int:
        """The first of the next `count` sequence numbers, which are used now."""
        first = self.next_sequence & _SEQUENCE
        self.next_sequence = first + count & _SEQUENCE
        return first


class ReflectorSessionState(ctypes.Structure):
    """One session's counters; see `SessionState` of the session reflector."""

    _fields_ = (
        ("used", ctypes.c_uint8),
        ("address_version", ctypes.c_uint8),
        ("ssid", ctypes.c_uint16),
        ("next_sequence", ctypes.c_uint32),
        ("address", ctypes.c_uint8 * 16),
        ("received", ctypes.c_uint64),
        ("reflected", ctypes.c_uint64),
        ("last_received_ns", ctypes.c_int64),
        ("t2_method", ctypes.c_uint8),
        ("t3_method", ctypes.c_uint8),
    )

    used: int
    address_version: int
    """4, 6, or 0 for any sender."""

    ssid: int
    next_sequence: int
    address: ctypes.Array[ctypes.c_uint8]
    received: int
    reflected: int
    last_received_ns: int
    t2_method: int
    t3_method: int

    def take(self, count: int) -> int:
        """The first of the next `count` sequence numbers, which are used now."""
        first = self.next_sequence
        self.next_sequence = first + count & _SEQUENCE
        return first

    @property
    def key(self) -> tuple[int, IPAddress | None]:
        address = bytes(self.address)
        if self.address_version == 4:
            return self.ssid, IPv4Address(address[:4])
        return self.ssid, IPv6Address(address) if self.address_version else None


_ROW: np.dtype[Any] = np.dtype(ReflectorSessionState)


@dataclass(frozen=True, slots=True)
class ReflectorSessionSnapshot:
    received: int
    reflected: int
    next_sequence: int
    last_received_ns: int | None
    """Unix time; None before the first request."""

    t2_method: TimestampMethod
    """Of the latest request; UNKNOWN before the first."""

    t3_method: TimestampMethod
    """Of the latest reply; UNKNOWN before the first."""


@dataclass(frozen=True, slots=True)
class ReflectorSnapshot:
    """A Session-Reflector as it stands."""

    received: int
    """Requests accepted, with and without a configured session, by former sessions too."""

    reflected: int
    unconfigured_received: int
    """Requests accepted without a configured session."""

    unconfigured_reflected: int
    last_received_ns: int | None
    """Unix time, of any request; None before the first."""

    start_time_ns: int | None
    discards: dict[DiscardReason, int]
    driver_answered: int
    """Of the replies, those that were made in the driver."""

    handed_up: dict[HandedUp, int]
    sessions: dict[tuple[int, IPAddress | None], ReflectorSessionSnapshot]


class ReflectorStore:
    """The file of a Session-Reflector; make one with `create` or `open`."""

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self.capacity = _checked_capacity(file)
        at = ctypes.sizeof(ReflectorHeader)
        self.role = ReflectorRoleState.from_buffer(file.view, at)
        at += ctypes.sizeof(ReflectorRoleState)
        self._table = (ReflectorSessionState * self.capacity).from_buffer(file.view, at)
        self._slots: dict[tuple[int, IPAddress | None], ReflectorSessionState] = {
            slot.key: slot for slot in self._table if slot.used
        }
        self._vacant = [slot for slot in reversed(self._table) if not slot.used]
        if file.writable:
            self.role.version += self.role.version & 1
            self._leave_out_numbers()

    @classmethod
    def create(cls, path: Path, capacity: int) -> ReflectorStore:
        """Put an empty store for `capacity` sessions in place, and open it writable."""
        header = ReflectorHeader(magic=MAGIC, layout_version=LAYOUT_VERSION, capacity=capacity)
        MappedFile.create(path, bytes(header), _size(capacity))
        return cls.open(path, writable=True)

    @classmethod
    def open(cls, path: Path, writable: bool) -> ReflectorStore:
        """Raises `StoreError` where it cannot be opened or is not such a store."""
        file = MappedFile(path, writable)
        try:
            return cls(file)
        except StoreError:
            file.close()
            raise

    def _leave_out_numbers(self) -> None:
        """A writer that was killed may have given more than are here."""
        if self.role.numbers_behind:
            for slot in self._slots.values():
                slot.take(NUMBERS_LEFT_OUT)
            self.role.numbers_behind = 0

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def keys(self) -> set[tuple[int, IPAddress | None]]:
        """Sessions that this process has allocated, or found when it opened the store."""
        return set(self._slots)

    @property
    def contents(self) -> bytes:
        """All counters, as they are in the file; what has changed differs."""
        return bytes(self._file.view)

    def rows(self) -> npt.NDArray[Any]:
        """All slots as they are now, used or not, with the fields of
        `ReflectorSessionState`; a copy."""
        return np.frombuffer(bytes(memoryview(self._table)), _ROW)

    def key_at(self, row: int) -> tuple[int, IPAddress | None] | None:
        """The session of a row; None where there is none."""
        slot = self._table[row]
        return slot.key if slot.used else None

    def allocate(self, ssid: int, sender_address: IPAddress | None) -> ReflectorSessionState:
        """The state of a session, as it was left if the session is known.

        Raises `StoreError` where no slot is free.
        """
        known = self._slots.get((ssid, sender_address))
        if known is not None:
            return known
        if not self._vacant:
            raise StoreError(f"{self.path}: full, it holds {self.capacity} sessions")
        slot: ReflectorSessionState = self._vacant.pop()
        ctypes.memset(ctypes.addressof(slot), 0, ctypes.sizeof(slot))
        slot.ssid = ssid
        if sender_address is not None:
            slot.address_version = sender_address.version
            packed = sender_address.packed
            slot.address[: len(packed)] = list(packed)
        slot.used = 1
        self._slots[ssid, sender_address] = slot
        return slot

    def free(self, ssid: int, sender_address: IPAddress | None) -> None:
        """Forget a session, whose counts become the role's; KeyError where it is not known."""
        slot = self._slots.pop((ssid, sender_address))
        role = self.role
        role.version += 1
        role.former_received += slot.received
        role.former_reflected += slot.reflected
        role.former_last_received_ns = max(role.former_last_received_ns, slot.last_received_ns)
        slot.used = 0
        role.version += 1
        self._vacant.append(slot)

    def grown(self, capacity: int) -> ReflectorStore:
        """A store with the same counts and more room, in the place of this one, which is
        closed. It is whole before it is there. Raises `StoreError`."""
        path = self.path
        new = ReflectorStore.create(path.with_name(f".{path.name}.grown"), capacity)
        try:
            _copy(self.role, new.role)
            for key in self.keys:
                _copy(self.allocate(*key), new.allocate(*key))
            new._file.rename(path)
        except StoreError:
            new.close()
            new.unlink()
            raise
        self.close()
        return new

    def snapshot(self) -> ReflectorSnapshot:
        """All counters, read from the file."""
        for _ in range(_READ_ATTEMPTS):
            version = self.role.version
            snapshot = self._read()
            if not version & 1 and version == self.role.version:
                break
        return snapshot

    def _read(self) -> ReflectorSnapshot:
        role = ReflectorRoleState.from_buffer_copy(self._file.view, ctypes.sizeof(ReflectorHeader))
        sessions = {
            slot.key: ReflectorSessionSnapshot(
                received=slot.received,
                reflected=slot.reflected,
                next_sequence=slot.next_sequence,
                last_received_ns=slot.last_received_ns or None,
                t2_method=TimestampMethod.from_code(slot.t2_method),
                t3_method=TimestampMethod.from_code(slot.t3_method),
            )
            for slot in self._table
            if slot.used
        }
        latest = [session.last_received_ns or 0 for session in sessions.values()]
        latest += [role.last_received_ns, role.former_last_received_ns]
        return ReflectorSnapshot(
            received=sum((session.received for session in sessions.values()), role.received)
            + role.former_received,
            reflected=sum((session.reflected for session in sessions.values()), role.reflected)
            + role.former_reflected,
            unconfigured_received=role.received,
            unconfigured_reflected=role.reflected,
            last_received_ns=max(latest) or None,
            start_time_ns=role.start_time_ns or None,
            discards={reason: role.discards[index] for reason, index in DISCARD_INDEX.items()},
            driver_answered=role.driver_answered,
            handed_up={reason: role.handed_up[reason] for reason in HandedUp},
            sessions=sessions,
        )

    def close(self) -> None:
        """Let go of the file; no state taken from the store may be used then."""
        self._slots.clear()
        self._vacant.clear()
        for name in ("role", "_table"):
            self.__dict__.pop(name, None)
        self._file.close()

    def unlink(self) -> None:
        """Remove the file, if it is still there."""
        self._file.unlink()


def _copy(source: ctypes.Structure, destination: ctypes.Structure) -> None:
    ctypes.memmove(
        ctypes.addressof(destination), ctypes.addressof(source), ctypes.sizeof(destination)
    )


def _size(capacity: int) -> int:
    return (
        ctypes.sizeof(ReflectorHeader)
        + ctypes.sizeof(ReflectorRoleState)
        + capacity * ctypes.sizeof(ReflectorSessionState)
    )


def _checked_capacity(file: MappedFile) -> int:
    size = len(file.view)
    if size < ctypes.sizeof(ReflectorHeader) or bytes(file.view[: len(MAGIC)]) != MAGIC:
        raise StoreError(f"{file.path}: not a reflector store")
    header = ReflectorHeader.from_buffer_copy(file.view)
    if header.layout_version != LAYOUT_VERSION:
        raise StoreError(
            f"{file.path}: layout version is {header.layout_version}, not {LAYOUT_VERSION}"
        )
    if size != _size(header.capacity):
        raise StoreError(f"{file.path}: {size} bytes long, not {_size(header.capacity)}")
    return int(header.capacity)
