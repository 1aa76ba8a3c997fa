"""What every program is told of the node that it runs on: the maps of node.h."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.addresses import packed
from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import delete_element, update_element
from dataplane.clock import ClockStatus
from dataplane.config import IPAddress
from dataplane.engines.driver import layouts
from dataplane.engines.driver.interfaces import Device, Place, SourceValidation
from dataplane.engines.driver.layouts import InterfaceFlag, LocalFlag
from dataplane.stamp.timestamp import NS_PER_S, TimestampFormat

_VALIDATION = {
    SourceValidation.NONE: InterfaceFlag(0),
    SourceValidation.STRICT: InterfaceFlag.STRICT,
    SourceValidation.LOOSE: InterfaceFlag.LOOSE,
}


class NodeTables:
    """The maps of one loaded program. Where one is full, OSError: E2BIG is raised."""

    def __init__(self, module: BpfModule) -> None:
        self._clock = module.array("clocks", layouts.CLOCK)
        self._locals = Mirror(module.map_fd("locals"))
        self._interfaces = Mirror(module.map_fd("interfaces"))

    def set_clock(self, status: ClockStatus) -> None:
        """What timestamps need to know beside CLOCK_TAI."""
        self._clock["tai_offset_s"] = status.tai_offset_s
        self._clock["error_estimate"] = status.error_estimate(TimestampFormat.NTP).encode()

    def set_locals(self, known: Mapping[IPAddress, LocalFlag]) -> None:
        """Addresses and SIDs of this node, all of them."""
        if self._locals.set(
            {
                packed(address): int(flags).to_bytes(4, sys.byteorder)
                for address, flags in known.items()
            }
        ):
            self._changed()

    def set_interfaces(self, devices: Mapping[Place, Device], generic: Container[int] = ()) -> None:
        """Network devices by where their frames arrive. `generic` are the interfaces
        that have the program in generic mode."""
        if self._interfaces.set(
            {
                _interface_key(place): _interface_value(device, place.ifindex in generic)
                for place, device in devices.items()
            }
        ):
            self._changed()

    def _changed(self) -> None:
        """The node is not what it was: for programs that remember something about it."""

    def fix_clock(self, *readings_ns: int) -> None:
        """For a program with FIXED_CLOCK: what it reads for one packet, in the order of
        reading, in nanoseconds since 1970 UTC."""
        offset_ns = int(self._clock["tai_offset_s"][0]) * NS_PER_S
        for reading, time_ns in enumerate(readings_ns):
            self._clock["fixed_ns"][0, reading] = time_ns + offset_ns


class Mirror:
    """A hash map with a copy of what is in it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._entries: dict[bytes, bytes] = {}

    def set(self, entries: dict[bytes, bytes]) -> bool:
        """Whether anything had to change. Raises OSError: E2BIG where it is full; what has
        been changed by then is known all the same."""
        if entries == self._entries:
            return False
        for key in self._entries.keys() - entries.keys():
            delete_element(self._fd, key)
            del self._entries[key]
        for key, value in entries.items():
            if self._entries.get(key) != value:
                update_element(self._fd, key, value)
                self._entries[key] = value
        return True


class Ports:
    """UDP ports that a program looks for: a map of `PORT_WORDS` words, a bit for each."""

    def __init__(self, words: npt.NDArray[Any]) -> None:
        self._words = words
        self._users: Counter[int] = Counter()

    def add(self, port: int) -> None:
        """Somebody listens there."""
        self._users[port] += 1
        self._mark(port)

    def remove(self, port: int) -> None:
        """One of those who listened there does no more."""
        self._users[port] -= 1
        self._mark(port)

    def _mark(self, port: int) -> None:
        word, place = divmod(port, 64)
        bit = np.uint64(1 << place)
        if self._users[port]:
            self._words[word] |= bit
        else:
            self._words[word] &= ~bit


def _interface_key(place: Place) -> bytes:
    """As a program looks a device up: interface, and protocol and identifier of VLANs."""
    key = np.zeros((), layouts.INTERFACE_KEY)
    key["ifindex"] = place.ifindex
    for index, vlan in enumerate(place.vlans):
        key["vlan"][index] = vlan.protocol << 16 | vlan.identifier
    return key.tobytes()


def _interface_value(device: Device, generic: bool) -> bytes:
    """What a program, in generic mode or not, knows of a device."""
    flags = _VALIDATION[device.source_validation]
    if device.takes_srh:
        flags |= InterfaceFlag.SRV6
    if device.requires_hmac:
        flags |= InterfaceFlag.SIGNED
    value = np.zeros((), layouts.INTERFACE)
    value["ifindex"] = device.index
    value["flags"] = int(flags | (InterfaceFlag.GENERIC if generic else 0))
    value["mac"] = np.frombuffer(device.mac, np.uint8)
    return value.tobytes()
