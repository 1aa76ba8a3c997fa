"""From a Session-Reflector's configuration to the maps of its program.

A session that is equal in two configurations keeps its slot, and with it what it
counts; one that has changed gets another, so that the program changes over from one
packet to the next.
"""

from __future__ import annotations

import errno
import os
import struct
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.addresses import packed
from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import delete_element, lookup_per_cpu, update_element
from dataplane.config import Reflector, ReflectorMode, ReflectorSession
from dataplane.engines.driver.layouts import ADDRESS_BYTES
from dataplane.engines.driver.tables import NodeTables
from dataplane.engines.xdp import reflector_layouts as layouts
from dataplane.engines.xdp.reflector_layouts import (
    ReflectorFlag,
    SessionFlag,
    SsidFlag,
)
from dataplane.reflector_store import HandedUp
from dataplane.session_state import DISCARD_INDEX
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.rate_limit import BURST_NS
from dataplane.stamp.session_reflector import SessionKey
from dataplane.stamp.timestamp import NS_PER_S, TimestampFormat

_NO_ADDRESS = bytes(ADDRESS_BYTES)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the program has done with STAMP packets, on all CPUs."""

    answered: int
    handed_up: dict[HandedUp, int]
    discarded: dict[DiscardReason, int]


@dataclass(frozen=True, slots=True)
class SessionCounts:
    answered: int
    next_sequence: int
    last_received_ns: int


class ReflectorTables(NodeTables):
    """The maps of one loaded reflector."""

    def __init__(self, module: BpfModule) -> None:
        super().__init__(module)
        self._sessions_fd = module.map_fd("sessions")
        self._counts_fd = module.map_fd("reflector_counts")
        self._config = module.array("reflector_configs", layouts.REFLECTOR_CONFIG)
        self._states = module.array("session_states", layouts.SESSION_STATE)
        self._ssids = module.array("ssids", np.uint64)
        self._ssid_sessions: Counter[tuple[int, SsidFlag]] = Counter()
        self._slots: dict[SessionKey, int] = {}
        self._sessions: dict[SessionKey, ReflectorSession] = {}
        self._vacant = deque(range(1, layouts.SESSIONS_MAX))
        self._former = SessionCounts(0, 0, 0)
        self._next_hops_fd = module.map_fd("next_hops")
        self._answered = np.zeros(layouts.SESSIONS_MAX, np.uint64)

    @property
    def slots(self) -> dict[SessionKey, int]:
        """Where each session counts."""
        return self._slots

    def _changed(self) -> None:
        self.renew_next_hops()

    def renew_next_hops(self) -> None:
        """Have the FIB asked again for every session."""
        self._config["epoch"] += np.uint32(1)

    def set_config(self, reflector: Reflector, flags: ReflectorFlag) -> None:
        """What holds for all sessions. `flags` are those that `reflector` does not say."""
        config = np.zeros((), layouts.REFLECTOR_CONFIG)
        if reflector.source_address is not None:
            flags |= ReflectorFlag.ONE_ADDRESS
            config["address"] = np.frombuffer(packed(reflector.source_address), np.uint8)
        if reflector.enabled:
            flags |= ReflectorFlag.ENABLED
        if not reflector.require_configured_session:
            flags |= ReflectorFlag.ANY_SESSION
        config["port"] = reflector.udp_port
        config["epoch"] = self._config["epoch"][0]
        config["flags"] = int(flags)
        interval_ns = NS_PER_S // reflector.rate_limit if reflector.rate_limit else 0
        config["rate_burst_ns"] = BURST_NS
        config["rate_interval_ns"] = interval_ns
        if config != self._config[0]:
            self._config[0] = config
            self.renew_next_hops()

    def disable(self) -> None:
        """Have the program pass everything on."""
        self._config["flags"] = 0

    def set_sessions(
        self,
        sessions: Mapping[SessionKey, ReflectorSession],
        resumed: Callable[[SessionKey], int],
    ) -> None:
        """Serve `sessions`. `resumed` is the number that a stateful session has come
        to in an earlier process. Raises OSError: E2BIG where there are too many; those
        that have been reached by then are served."""
        for key in self._sessions.keys() - sessions.keys():
            delete_element(self._sessions_fd, session_key(key))
            self._announce(key, -1)
            del self._sessions[key]
            self._release(self._slots.pop(key))
        for key, session in sessions.items():
            if self._sessions.get(key) == session:
                continue
            if not self._vacant:
                raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
            slot = self._vacant[0]
            self._states[slot] = np.zeros((), layouts.SESSION_STATE)
            if key not in self._sessions:
                self._states[slot]["next_sequence"] = resumed(key)
            update_element(self._sessions_fd, session_key(key), session_value(session, slot))
            self._vacant.popleft()
            if key not in self._sessions:
                self._announce(key, 1)
            self._sessions[key] = session
            # In place: others ask meanwhile, from their threads.
            former = self._slots.get(key)
            self._slots[key] = slot
            if former is not None:
                self._release(former)

    def _announce(self, key: SessionKey, more: int) -> None:
        """One more session of this kind with this SSID, or one less."""
        ssid, address = key
        flag = SsidFlag.ANY_SENDER if address is None else SsidFlag.ONE_SENDER
        kind = ssid, flag
        self._ssid_sessions[kind] += more
        word, place = divmod(ssid, layouts.SSIDS_IN_WORD)
        bit = np.uint64(int(flag) << 2 * place)
        if self._ssid_sessions[kind]:
            self._ssids[word] |= bit
        else:
            self._ssids[word] &= ~bit

    def _release(self, slot: int) -> None:
        former, state = self._former, self._states[slot]
        self._former = SessionCounts(
            former.answered + int(state["answered"]),
            0,
            max(former.last_received_ns, int(state["last_received_ns"])),
        )
        # At the far end: a packet may be under way that still counts there.
        self._vacant.append(slot)

    def session_counts(self, key: SessionKey | None) -> SessionCounts:
        """Of a session, or of requests without one. KeyError: no such session."""
        state = self._states[0 if key is None else self._slots[key]]
        return SessionCounts(
            int(state["answered"]), int(state["next_sequence"]), int(state["last_received_ns"])
        )

    @property
    def former(self) -> SessionCounts:
        """Of all sessions that have been served and are no more."""
        return self._former

    def states(self) -> npt.NDArray[Any]:
        """What every slot counts; a copy."""
        return self._states.copy()

    def next_hop_macs(self) -> set[bytes]:
        """Link-layer addresses that sessions with replies since the last call use."""
        before, self._answered = self._answered, self._states["answered"].copy()
        return {
            np.frombuffer(hop, layouts.NEXT_HOP)[0]["destination_mac"].tobytes()
            for slot in np.flatnonzero(self._answered != before).tolist()
            for hop in lookup_per_cpu(
                self._next_hops_fd, struct.pack("=I", slot), layouts.NEXT_HOP.itemsize
            )
        }

    def counted(self) -> bytes:
        """What differs whenever the program has counted a packet since."""
        return b"".join(self._counters())

    def _counters(self) -> list[bytes]:
        """`struct reflector_counters` of each CPU."""
        return lookup_per_cpu(self._counts_fd, bytes(4), layouts.REFLECTOR_COUNTERS.itemsize)

    def counts(self) -> Counts:
        """Everything the program has counted since it was loaded."""
        total = np.zeros((), layouts.REFLECTOR_COUNTERS)
        for cpu in self._counters():
            here = np.frombuffer(cpu, layouts.REFLECTOR_COUNTERS)[0]
            for name in layouts.REFLECTOR_COUNTERS.names or ():
                total[name] += here[name]
        return Counts(
            int(total["answered"]),
            {reason: int(total["handed_up"][reason]) for reason in HandedUp},
            {
                reason: int(total["discarded"][index])
                for reason, index in DISCARD_INDEX.items()
                if index < layouts.DISCARD_REASONS
            },
        )


def session_key(key: SessionKey) -> bytes:
    """As the program looks a session up."""
    ssid, address = key
    value = np.zeros((), layouts.SESSION_KEY)
    value["address"] = np.frombuffer(_NO_ADDRESS if address is None else packed(address), np.uint8)
    value["ssid"] = ssid
    return value.tobytes()


def session_value(session: ReflectorSession, slot: int) -> bytes:
    """What the program knows of a session."""
    value = np.zeros((), layouts.SESSION)
    value["slot"] = slot
    value["sender_port"] = session.sender_udp_port or 0
    value["flags"] = int(_session_flags(session))
    value["segments"] = len(session.segments)
    for index, segment in enumerate(reversed(session.segments)):
        value["segment"][index] = np.frombuffer(segment.packed, np.uint8)
    return value.tobytes()


def _session_flags(session: ReflectorSession) -> SessionFlag:
    flags = SessionFlag(0)
    if session.enabled:
        flags |= SessionFlag.ENABLED
    if session.mode is ReflectorMode.STATEFUL:
        flags |= SessionFlag.STATEFUL
    if session.timestamp_format is not None:
        flags |= SessionFlag.FORMAT
    if session.timestamp_format is TimestampFormat.PTPV2:
        flags |= SessionFlag.PTP
    return flags
