"""The maps of sessions that are collected in the driver, and their control program.

Maps of many sessions are made together, with rooms for sessions that are still to come: a
program that finds a room empty, with nobody's address in it, hands replies up.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.addresses import packed
from dataplane.arena import Arena
from dataplane.bpf.maps import F_INNER_MAP, ArrayMap, MapOfMaps
from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_PASS, Exchange, update_element
from dataplane.config import ReflectorMode, SenderSession
from dataplane.engines.xdp.collector_layouts import (
    BREAKS_AT,
    COLLECTION,
    COMMAND,
    COMMANDS,
    DIRECTIONS,
    HIGHEST_AT,
    NEXT_SEQUENCE_AT,
    RECEIVED_AT,
    SLOT,
    CollectionFlag,
    Command,
    Outcome,
    codes,
)
from dataplane.engines.xdp.sums import Copied, copied
from dataplane.stamp.packet import OPEN
from dataplane.statistics import INT64_MAX

LOCK_ATTEMPTS = 1_000
"""Times that the control program tries its luck; each time it spins for a while."""

_SLOT_HEAD = struct.Struct("@QqQ")
"""Time of sending, T1 to use, tag. The tag comes last, as it is written."""

_COMMAND = struct.Struct("=" + codes(COMMAND))
_FIELDS = dict.fromkeys(COMMAND.names or (), 0)
_OUTCOME_AT = COMMAND.fields["outcome"][1] if COMMAND.fields else 0

_OUTCOMES = list(Outcome)
_UINT32 = struct.Struct("=I")
_RANGE = struct.Struct("=QQ")
"""struct command_range."""

_UDP = 17


class LockError(Exception):
    """A session's lock could not be had: no program gives it back."""


class Room:
    """The maps of one session, which the programs have."""

    def __init__(self, ssid: int, window: int, arena: Arena | None) -> None:
        """Zeros, which no program has yet. Raises OSError where there is no memory."""
        self.ssid = ssid
        self.collection = ArrayMap(COLLECTION, 1, arena=arena)
        try:
            self.slots = ArrayMap(SLOT, window, F_INNER_MAP, arena)
        except OSError:
            self.collection.let_go()
            self.collection.close()
            raise
        self.outer: tuple[MapOfMaps, ...] = ()

    def let_go(self) -> None:
        """Of the descriptors."""
        self.slots.let_go()
        self.collection.let_go()

    def close(self) -> None:
        """Take the maps from the programs."""
        for outer in self.outer:
            outer.remove(self.ssid)
        self.slots.close()
        self.collection.close()


def make_rooms(
    module: BpfModule, windows: Mapping[int, int], arena: Arena | None = None
) -> dict[int, Room]:
    """Rooms by SSID, given to the programs of `module`, none of which is in use; `windows`
    are theirs, in sequence numbers. In the `arena` if there is one.

    Raises OSError where there is no memory for all of them, and there is none of them then.
    """
    collections, slots = (
        MapOfMaps(module.map_fd(name)) for name in ("collections", "collection_slots")
    )
    rooms: dict[int, Room] = {}
    try:
        for ssid, window in windows.items():
            rooms[ssid] = Room(ssid, window, arena)
        # A program that finds a collection finds its slots.
        slots.put({ssid: room.slots.fd for ssid, room in rooms.items()})
        for room in rooms.values():
            room.outer = (slots,)
        collections.put({ssid: room.collection.fd for ssid, room in rooms.items()})
        for room in rooms.values():
            room.outer = (collections, slots)
    except OSError:
        for room in rooms.values():
            room.close()
        raise
    finally:
        for room in rooms.values():
            room.let_go()
    return rooms


def take_away(module: BpfModule, rooms: Sequence[Room]) -> None:
    """Take these rooms from the programs of `module`, at once. They find one that is always
    empty instead, which takes far less time than to leave them none."""
    for name, empty in (("collections", "no_collection"), ("collection_slots", "no_slots")):
        # What cannot be replaced has been removed.
        with suppress(OSError):
            replacement = module.map_fd(empty)
            MapOfMaps(module.map_fd(name)).put({room.ssid: replacement for room in rooms})
    for room in rooms:
        room.outer = ()


class Commands:
    """What `SessionMaps.command` does, for many sessions at once."""

    def __init__(self, module: BpfModule) -> None:
        self._commands: npt.NDArray[Any] = module.array("commands", COMMAND)
        program = module.load("controls")
        update_element(module.map_fd("next_controls"), _UINT32.pack(0), _UINT32.pack(program))
        self._control = Exchange(program, _RANGE.size)

    def carry_out(
        self, ssids: npt.NDArray[np.intp], what: npt.ArrayLike, **fields: npt.ArrayLike
    ) -> None:
        """`what`, and the `fields` of `COMMAND`, are of all or of each of the sessions, each of
        which has maps. Raises LockError and OSError."""
        for first in range(0, len(ssids), COMMANDS):
            part = slice(first, first + COMMANDS)
            wanted = np.zeros(len(ssids[part]), COMMAND)
            wanted["ssid"], wanted["outcome"] = ssids[part], Outcome.BUSY
            for name, values in {"flags": what, **fields}.items():
                wanted[name] = np.broadcast_to(values, len(ssids))[part]
            self._insist(wanted)

    def _insist(self, wanted: npt.NDArray[Any]) -> None:
        for _ in range(LOCK_ATTEMPTS):
            commands = self._commands[: len(wanted)]
            commands[:] = wanted
            done = 0
            while done < len(wanted):
                _RANGE.pack_into(self._control.packet, 0, done, len(wanted))
                self._control.run()
                done = _RANGE.unpack_from(self._control.packet)[0]
            wanted = wanted[commands["outcome"] == Outcome.BUSY]
            if not len(wanted):
                return
        raise LockError(f"the lock of session {wanted['ssid'][0]} is not given back")


class SessionMaps:
    """A room, taken by a session."""

    def __init__(
        self,
        module: BpfModule,
        room: Room,
        config: SenderSession,
        next_sequence: int,
        parity: int,
        origins_ns: list[int],
    ) -> None:
        self._ssid = config.ssid
        self._control = Exchange(module.load("control"), COMMAND.itemsize)
        self.room, self._collection, self._slots = room, room.collection, room.slots
        self._words = self._collection.memory.cast("Q")
        self.state: npt.NDArray[Any] = self._collection.values[0]
        """`struct collection`, shared with the programs."""
        self.slots: npt.NDArray[Any] = self._slots.values
        """`struct slot` by sequence number, modulo the window."""
        self.histograms: list[list[npt.NDArray[np.uint32]]] = [
            [self.state["histogram"][parity][delay] for delay in range(DIRECTIONS)]
            for parity in range(2)
        ]
        """By parity of the interval and by direction."""
        self.copied = Copied()
        """What the program had counted when it was last asked to COPY."""
        self._mask = len(self.slots) - 1
        self._fill(config, next_sequence, parity, origins_ns)

    @property
    def places(self) -> tuple[int, int]:
        """Of the slots and of `state` in the arena, in words of 8 bytes."""
        return self._slots.place // 8, self._collection.place // 8

    def _fill(
        self, config: SenderSession, next_sequence: int, parity: int, origins_ns: list[int]
    ) -> None:
        state = self.state
        state["next_sequence"] = state["settled"] = next_sequence
        state["boundary"] = INT64_MAX << 1 | parity
        state["interval_ns"] = config.computation_interval_s * 1_000_000_000
        state["timeout_ns"] = config.loss_timeout_ms * 1_000_000
        state["mask"] = self._mask
        state["origin_ns"] = origins_ns
        state["reflector_port"] = config.reflector_udp_port
        state["local_port"] = config.sender_udp_port
        if config.reflector_mode is ReflectorMode.STATEFUL:
            state["flags"] = int(CollectionFlag.STATEFUL)
        reflector, local = packed(config.reflector_address), packed(config.source_address)
        pseudo = reflector + local + struct.pack("!II", 8 + OPEN.length, _UDP)
        state["pseudo"] = np.frombuffer(pseudo, np.uint32).sum(dtype=np.uint64)
        # Replies are taken in from here on.
        state["local"] = np.frombuffer(local, np.uint8)
        state["reflector"] = np.frombuffer(reflector, np.uint8)

    @property
    def received(self) -> int:
        """Records so far."""
        return self._words[RECEIVED_AT]

    @property
    def origins_ns(self) -> list[int]:
        """What intervals that begin are about, by direction; 0: their first sample."""
        origins: list[int] = self.state["origin_ns"].tolist()
        return origins

    def received_before(self, breaks: int) -> int:
        """The sequence number up to which all replies have come; 0 unless the program
        has counted so many breaks."""
        # It counts a break before it raises `highest`.
        highest = self._words[HIGHEST_AT]
        return highest if self._words[BREAKS_AT] == breaks else 0

    def know_earliest_t1(self, t1_ns: int) -> None:
        """T1 of no packet is before it; to be called before it is `sent`."""
        self.state["earliest_t1_ns"] = t1_ns

    def sent(self, sequence: int, now_ns: int) -> None:
        """Packet `sequence` is under way; its place must be free."""
        at = (sequence & self._mask) * SLOT.itemsize
        _SLOT_HEAD.pack_into(self._slots.memory, at, now_ns, 0, sequence << 1)
        self._words[NEXT_SEQUENCE_AT] = sequence + 1

    def sent_many(self, first: int, packets: int, now_ns: int) -> None:
        """The same of `packets` packets, which the window has room for."""
        sequences = np.arange(first, first + packets, dtype=np.uint64)
        at = sequences & np.uint64(self._mask)
        self.slots["sent_ns"][at] = now_ns
        self.slots["t1_ns"][at] = 0
        self.slots["tag"][at] = sequences << np.uint64(1)
        self._words[NEXT_SEQUENCE_AT] = first + packets

    def take_back(self, sequence: int) -> None:
        """The packet sent last has not been sent."""
        self._words[NEXT_SEQUENCE_AT] = sequence

    def refine_t1(self, sequence: int, t1_ns: int) -> bool:
        """Whether the packet's reply had not been taken in yet."""
        slot = self.slots[sequence & self._mask]
        if slot["tag"] != sequence << 1:
            return False
        slot["t1_ns"] = t1_ns
        return True

    def command(self, what: Command, **fields: int) -> Outcome:
        """Have something done under the lock; `fields` are those of `COMMAND`.

        Raises LockError and OSError.
        """
        values = _FIELDS | {"ssid": self._ssid, "flags": int(what)} | fields
        control = self._control
        for _ in range(LOCK_ATTEMPTS):
            _COMMAND.pack_into(control.packet, 0, *values.values())
            if control.run() != XDP_PASS:
                raise LockError(f"session {self._ssid} has no maps")
            outcome: Outcome = _OUTCOMES[_UINT32.unpack_from(control.packet, _OUTCOME_AT)[0]]
            if outcome is not Outcome.BUSY:
                if what & Command.COPY:
                    self.copied = copied(self._collection.memory)
                return outcome
        raise LockError(f"the lock of session {self._ssid} is not given back")

    def close(self) -> None:
        """Take the maps from the programs."""
        self.room.close()
