"""A stand whose node receives in the driver."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from dataplane.bpf.syscall import XDP_FLAGS_DRV_MODE, attach_xdp
from dataplane.clock import read_clock_status
from dataplane.engines.common.batch import Batch
from dataplane.engines.driver.interfaces import Kernel
from dataplane.engines.userspace.arrivals import receive_arrivals
from dataplane.engines.userspace.demand import DEMAND_SETTING
from dataplane.engines.userspace.driver_program import DriverProgram
from dataplane.engines.userspace.sockets import UdpSocket
from dataplane.engines.userspace.xsk import Pool, XdpSocket
from tests.integration.engines.conformance.stand import MAIN, Stand
from tests.integration.engines.network import eventually, inside

PORT = 862
ANY, ANY_IPV4 = IPv6Address("::"), IPv4Address("0.0.0.0")
FRAMES = 64
"""Frames that can wait: few enough to be filled up."""


class Node:
    """What waits on a UDP socket of the node, and on an AF_XDP socket beside it."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Node:
        with inside(self.stand.node), contextlib.ExitStack() as closing:
            self.udp = UdpSocket(ANY, PORT)
            closing.callback(self.udp.close)
            self.udp_ipv4 = UdpSocket(ANY_IPV4, PORT)
            closing.callback(self.udp_ipv4.close)
            kernel = Kernel()
            closing.callback(kernel.close)
            found = kernel.devices((MAIN.device,))
            self.program = DriverProgram()
            closing.callback(self.program.close)
            self.program.tables.set_clock(read_clock_status())
            self.program.tables.set_locals(kernel.locals())
            self.devices = found.devices
            self.program.tables.set_interfaces(self.devices)
            self.pool = Pool(found.interfaces[0].index, 0, FRAMES)
            closing.callback(self.pool.close)
            self.xdp = self.open()
            closing.callback(self.xdp.close)
            self.place = self.program.add(ANY, PORT, self.xdp)
            self.index = socket.if_nametoindex(MAIN.device)
            self._closing = closing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def open(self) -> XdpSocket:
        """One more socket of the pool."""
        with inside(self.stand.node):
            return XdpSocket(self.pool, FRAMES)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Packets come to the AF_XDP socket, as far as the program takes them."""
        with inside(self.stand.node):
            link = attach_xdp(self.program.fd, self.index, XDP_FLAGS_DRV_MODE)
        try:
            yield
        finally:
            os.close(link)

    def in_driver(self, sock: XdpSocket | None = None) -> Batch:
        """What the program has handed over since the last call."""
        batch = Batch(2 * FRAMES)
        receive_arrivals(sock or self.xdp, batch)
        return batch

    def in_kernel(self, number: int, sock: UdpSocket | None = None) -> Batch:
        """The next packets of the UDP socket."""
        batch = Batch(number)

        def there() -> bool:
            (sock or self.udp).receive_batch(batch)
            return batch.count > 0

        eventually(there, "a packet at the UDP socket")
        assert batch.count == number
        return batch

    def nothing_in_kernel(self) -> bool:
        batch = Batch(1)
        for sock in (self.udp, self.udp_ipv4):
            sock.receive_batch(batch)
            if batch.count:
                return False
        return True


@pytest.fixture(autouse=True)
def always_in_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few packets come; and a busy machine takes its time to compile."""
    monkeypatch.setenv(DEMAND_SETTING, "0")
    monkeypatch.setattr("dataplane.engines.userspace.driver_receiving.WAIT_S", 60.0)


@pytest.fixture
def stand() -> Iterator[Stand]:
    with Stand() as built:
        yield built


@pytest.fixture
def node(stand: Stand) -> Iterator[Node]:
    with Node(stand) as built:
        yield built
