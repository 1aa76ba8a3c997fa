"""The `userspace` engine: the shared event loop and roles, on UDP and AF_XDP sockets."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address

from dataplane.clock import Clock
from dataplane.config import IPAddress, Node
from dataplane.engines.base import Capabilities, EngineContext, Resume, Role
from dataplane.engines.common.batch import BATCH
from dataplane.engines.common.collecting import Collecting
from dataplane.engines.common.engine import LoopEngine
from dataplane.engines.userspace.driver_receiving import DriverReceiving
from dataplane.engines.userspace.receiving import Receiver
from dataplane.engines.userspace.sockets import UdpSocket

NAME = "userspace"

CAPABILITIES = Capabilities(
    address_families=frozenset({4, 6}), min_interval_us=1_000, max_segments=16
)


class UserspaceEngine(LoopEngine):
    """Receives in the driver where it may."""

    def __init__(self, context: EngineContext) -> None:
        clock, receiver = Clock(), Receiver(BATCH)

        def open_socket(role: Role, address: IPAddress, port: int) -> UdpSocket:
            if isinstance(address, IPv6Address):
                return self._driver.open(role, address, port, receiver)
            return _udp_socket(role, address, port, receiver)

        super().__init__(NAME, CAPABILITIES, context, clock, open_socket)
        self._driver = DriverReceiving(self._loop, clock, context.hook_claims)

    def configure(self, node: Node, resume: Mapping[int, Resume] | None = None) -> None:
        """See `Engine`. Runs that are resumed do not wait for the program."""
        self._driver.configure(node)
        if not resume:
            self._driver.wait()
        super().configure(node, resume)

    def close(self) -> None:
        self._driver.withdraw()
        super().close()

    def _let_go(self) -> None:
        self._driver.end()
        super()._let_go()


def create(context: EngineContext) -> LoopEngine:
    return UserspaceEngine(context)


def create_behind(context: EngineContext, collecting: Collecting | None = None) -> LoopEngine:
    """The engine behind a program of another one's in the driver: on UDP sockets alone.

    `collecting` is where that one collects the replies of this one's sessions.
    """
    receiver = Receiver(BATCH)

    def open_socket(role: Role, address: IPAddress, port: int) -> UdpSocket:
        return _udp_socket(role, address, port, receiver)

    return LoopEngine(NAME, CAPABILITIES, context, Clock(), open_socket, collecting)


def _udp_socket(role: Role, address: IPAddress, port: int, receiver: Receiver) -> UdpSocket:
    sender = role is Role.SENDER
    return UdpSocket(
        address, port, transmit_timestamps=sender, headers=not sender, receiver=receiver
    )
