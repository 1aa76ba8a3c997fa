"""The `userspace` engine: the shared event loop and roles, on UDP sockets."""

from __future__ import annotations

from dataplane.clock import Clock
from dataplane.config import IPAddress
from dataplane.engines.base import Capabilities, EngineContext, Role
from dataplane.engines.common.batch import BATCH
from dataplane.engines.common.collecting import Collecting
from dataplane.engines.common.engine import LoopEngine
from dataplane.engines.userspace.receiving import Receiver
from dataplane.engines.userspace.sockets import UdpSocket

NAME = "userspace"

CAPABILITIES = Capabilities(
    address_families=frozenset({4, 6}), min_interval_us=1_000, max_segments=16
)


def create(context: EngineContext, collecting: Collecting | None = None) -> LoopEngine:
    """`collecting` is where another engine collects the replies of this one's sessions."""
    receiver = Receiver(BATCH)

    def open_socket(role: Role, address: IPAddress, port: int) -> UdpSocket:
        sender = role is Role.SENDER
        return UdpSocket(
            address, port, transmit_timestamps=sender, headers=not sender, receiver=receiver
        )

    return LoopEngine(NAME, CAPABILITIES, context, Clock(), open_socket, collecting)
