"""A reflector of the xdp engine that runs in a namespace, and what it is asked."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from dataplane.config import Node, Reflector, ReflectorMode, ReflectorSession, SenderSession
from dataplane.engines.base import (
    AttachmentMode,
    EngineContext,
    OperState,
    ReflectorStatus,
    ReflectorStatusReport,
    Report,
    reflector_store_path,
)
from dataplane.engines.driver.interfaces import Kernel
from dataplane.engines.xdp.engine import XdpEngine
from dataplane.reflector_store import ReflectorSnapshot, ReflectorStore
from tests.integration.engines.network import BACK, FORTH, REFLECTOR, SENDER, eventually, inside

SESSION = SenderSession(
    5,
    REFLECTOR,
    SENDER,
    segments=(FORTH,),
    interval_us=5_000,
    packet_count=200,
    reflector_mode=ReflectorMode.STATEFUL,
)
STATEFUL = ReflectorSession(5, SENDER, segments=(BACK,), mode=ReflectorMode.STATEFUL)
SERVED = Reflector(
    engine="xdp",
    interfaces=("vb",),
    sessions={session.key: session for session in (STATEFUL, ReflectorSession(6))},
)

BASE = struct.pack("!IQHH28x", 9, 1 << 60, 1, 0)


class Running:
    def __init__(self, namespace: str, folder: Path) -> None:
        self.folder = folder
        self.reports: list[Report] = []
        with inside(namespace):
            self.engine = XdpEngine(EngineContext(folder, self.reports.append))
        self.closed = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.engine.close()

    def serve(self, config: Reflector) -> None:
        self.engine.configure(Node(reflector=config))

    @property
    def status(self) -> ReflectorStatus | None:
        found = [r.status for r in self.reports if isinstance(r, ReflectorStatusReport)]
        return found[-1] if found else None

    def becomes(self, state: OperState) -> ReflectorStatus:
        eventually(
            lambda: self.status is not None and self.status.oper_state is state,
            f"the reflector is {state.value}",
            timeout_s=60,
        )
        assert self.status is not None
        return self.status

    def counted(self) -> ReflectorSnapshot:
        store = ReflectorStore.open(reflector_store_path(self.folder), writable=False)
        try:
            return store.snapshot()
        finally:
            store.close()


def attached(status: ReflectorStatus) -> list[tuple[str, AttachmentMode]]:
    return [(each.interface, each.mode) for each in status.attachments]


def program_on(namespace: str, device: str) -> int:
    """The id; 0 for none."""
    with inside(namespace):
        kernel = Kernel()
        found = kernel.devices((device,)).interfaces
        kernel.close()
    return found[0].program_id if found else 0


def ask(sock: socket.socket, ssid: int, payload: bytes) -> bytes:
    """The reply to a payload that has this SSID, as far as it is long enough for one."""
    sock.sendto(
        payload[:14] + struct.pack("!H", ssid)[: len(payload) - 14] + payload[16:],
        (str(REFLECTOR), 862),
    )
    return sock.recv(4_096)
