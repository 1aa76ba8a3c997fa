"""The program that hands STAMP packets to AF_XDP sockets: loaded, with its maps."""

from __future__ import annotations

import sys
from ipaddress import IPv6Address
from pathlib import Path

import numpy as np

from dataplane.addresses import packed
from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import delete_element, update_element
from dataplane.engines.driver.tables import NodeTables, Ports
from dataplane.engines.userspace.driver_layouts import (
    ARRIVALS_CONFIG,
    RECEIVER_KEY,
    RECEIVERS_MAX,
    ArrivalsFlag,
)
from dataplane.engines.userspace.xsk import XdpSocket

SOURCE = Path(__file__).with_name("driver.c")
FUNCTION = "receiver"


class DriverProgram:
    """Compiles for about a second when it is made. Raises BpfError and LoadError."""

    def __init__(self) -> None:
        self._module = BpfModule(SOURCE)
        try:
            self.fd = self._module.load(FUNCTION)
            self._module.free_compiler()
            self.tables = NodeTables(self._module)
            self._config = self._module.array("arrivals_configs", ARRIVALS_CONFIG)
            self._ports = Ports(self._module.array("receiver_ports", np.uint64))
        except Exception:
            self._module.close()
            raise
        self._receivers_fd = self._module.map_fd("receivers")
        self._sockets_fd = self._module.map_fd("sockets")
        self._vacant = list(range(RECEIVERS_MAX))

    def map_fd(self, name: str) -> int:
        """The descriptor of a map, which belongs to this object."""
        return self._module.map_fd(name)

    def set_partial(self, partial: bool) -> None:
        """Whether checksums may be left open by senders on this machine."""
        self._config["flags"] = ArrivalsFlag.PARTIAL if partial else 0

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
        self._ports.add(port)
        return index

    def remove(self, address: IPv6Address, port: int, sock: XdpSocket, index: int) -> None:
        """What arrives passes on to the kernel again."""
        delete_element(self._receivers_fd, _key(address, port, sock))
        delete_element(self._sockets_fd, index.to_bytes(4, sys.byteorder))
        self._vacant.append(index)
        self._ports.remove(port)

    def close(self) -> None:
        """The kernel keeps the program for as long as it is attached."""
        self._module.close()


def _key(address: IPv6Address, port: int, sock: XdpSocket) -> bytes:
    value = np.zeros((), RECEIVER_KEY)
    value["address"] = np.frombuffer(packed(address), np.uint8)
    value["ifindex"], value["queue"] = sock.pool.ifindex, sock.pool.queue
    value["port"] = port
    return value.tobytes()
