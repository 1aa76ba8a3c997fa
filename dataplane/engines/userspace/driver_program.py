"""The program that hands STAMP packets to AF_XDP sockets: loaded, with its maps."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from ipaddress import IPv6Address
from pathlib import Path

import numpy as np

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import delete_element, update_element
from dataplane.clock import ClockStatus
from dataplane.config import IPAddress
from dataplane.engines.userspace.driver_layouts import (
    ARRIVALS_CONFIG,
    PORT_WORDS,
    RECEIVER_KEY,
    RECEIVERS_MAX,
    ArrivalsFlag,
)
from dataplane.engines.userspace.xsk import XdpSocket
from dataplane.engines.xdp.interfaces import Device, Place
from dataplane.engines.xdp.layouts import CLOCK, LocalFlag
from dataplane.engines.xdp.tables import Mirror, interface_key, interface_value, packed

SOURCE = Path(__file__).with_name("driver.c")
FUNCTION = "receiver"


class DriverProgram:
    """Compiles for about a second when it is made. Raises BpfError and LoadError."""

    def __init__(self) -> None:
        self._module = BpfModule(SOURCE)
        try:
            self.fd = self._module.load(FUNCTION)
            self._module.free_compiler()
            self._clock = self._module.array("clocks", CLOCK)
            self._config = self._module.array("arrivals_configs", ARRIVALS_CONFIG)
            self._ports = self._module.array("receiver_ports", np.uint64)
        except Exception:
            self._module.close()
            raise
        self._locals = Mirror(self._module.map_fd("locals"))
        self._interfaces = Mirror(self._module.map_fd("interfaces"))
        self._receivers_fd = self._module.map_fd("receivers")
        self._sockets_fd = self._module.map_fd("sockets")
        self._vacant = list(range(RECEIVERS_MAX))
        self._on_port: Counter[int] = Counter()
        assert len(self._ports) == PORT_WORDS

    def map_fd(self, name: str) -> int:
        """The descriptor of a map, which belongs to this object."""
        return self._module.map_fd(name)

    def set_clock(self, status: ClockStatus) -> None:
        """What timestamps need to know beside CLOCK_TAI."""
        self._clock["tai_offset_s"] = status.tai_offset_s

    def set_locals(self, known: dict[IPAddress, LocalFlag]) -> None:
        """Addresses and SIDs of this node, all of them."""
        self._locals.set(
            {
                packed(address): int(flags).to_bytes(4, sys.byteorder)
                for address, flags in known.items()
            }
        )

    def set_interfaces(self, devices: Mapping[Place, Device], partial: bool) -> None:
        """Devices by where their frames arrive. `partial`: checksums may be left open by
        senders on this machine."""
        self._config["flags"] = ArrivalsFlag.PARTIAL if partial else 0
        self._interfaces.set(
            {interface_key(place): interface_value(device) for place, device in devices.items()}
        )

    def add(self, address: IPv6Address, port: int, sock: XdpSocket) -> int:
        """Give `sock` what arrives on its queue for an address (unspecified: any) and a port;
        what `remove` wants to know. Raises OSError: ENOSPC where there is no place."""
        index = self._vacant.pop() if self._vacant else -1
        place = index.to_bytes(4, sys.byteorder, signed=True)
        try:
            update_element(self._sockets_fd, place, sock.fileno().to_bytes(4, sys.byteorder))
            update_element(self._receivers_fd, _key(address, port, sock), place)
        except OSError:
            if index >= 0:
                self._vacant.append(index)
            raise
        self._on_port[port] += 1
        self._mark(port)
        return index

    def remove(self, address: IPv6Address, port: int, sock: XdpSocket, index: int) -> None:
        """What arrives passes on to the kernel again."""
        delete_element(self._receivers_fd, _key(address, port, sock))
        delete_element(self._sockets_fd, index.to_bytes(4, sys.byteorder))
        self._vacant.append(index)
        self._on_port[port] -= 1
        self._mark(port)

    def _mark(self, port: int) -> None:
        word, bit = divmod(port, 64)
        if self._on_port[port]:
            self._ports[word] |= np.uint64(1 << bit)
        else:
            self._ports[word] &= ~np.uint64(1 << bit)

    def close(self) -> None:
        """The kernel keeps the program for as long as it is attached."""
        self._module.close()


def _key(address: IPv6Address, port: int, sock: XdpSocket) -> bytes:
    value = np.zeros((), RECEIVER_KEY)
    value["address"] = np.frombuffer(packed(address), np.uint8)
    value["ifindex"], value["queue"] = sock.pool.ifindex, sock.pool.queue
    value["port"] = port
    return value.tobytes()
