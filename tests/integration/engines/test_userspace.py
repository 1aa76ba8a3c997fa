"""The engine by itself, in this process, on a network of namespaces."""

from __future__ import annotations

import dataclasses
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from dataplane.config import (
    IPAddress,
    Node,
    Reflector,
    ReflectorMode,
    ReflectorSession,
    Sender,
    SenderSession,
    SsidZeroAction,
)
from dataplane.engines.base import (
    EngineContext,
    EngineError,
    OperState,
    ReflectorStatusReport,
    Report,
    SenderStatusReport,
    reflector_store_path,
    session_store_path,
)
from dataplane.engines.userspace.engine import create
from dataplane.measurement import TimestampMethod
from dataplane.reflector_store import ReflectorStore
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.timestamp import TimestampFormat
from dataplane.store import SessionStore
from tests.integration.engines.network import (
    BACK,
    FORTH,
    REFLECTOR,
    SENDER,
    Network,
    eventually,
    inside,
)

pytestmark = pytest.mark.integration

Sessions = dict[tuple[int, IPAddress | None], ReflectorSession]

SESSION = SenderSession(5, REFLECTOR, SENDER, interval_us=10_000)


class Running:
    def __init__(self, namespace: str, folder: Path) -> None:
        self.folder = folder
        self.reports: list[Report] = []
        with inside(namespace):
            self.engine = create(EngineContext(folder, self.reports.append))

    def states(self, ssid: int) -> list[OperState]:
        return [
            report.status.oper_state
            for report in self.reports
            if isinstance(report, SenderStatusReport)
            and report.ssid == ssid
            and report.status is not None
        ]

    def store(self, ssid: int) -> SessionStore:
        return SessionStore.open(session_store_path(self.folder, ssid), writable=False)


@pytest.fixture
def run(network: Network) -> Iterator[Callable[[str], Running]]:
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:
        running: list[Running] = []

        def start(namespace: str) -> Running:
            own = Path(folder) / str(len(running))
            own.mkdir()
            running.append(Running(namespace, own))
            return running[-1]

        yield start
        for each in running:
            each.engine.close()


def old_reflector(network: Network) -> socket.socket:
    with inside(network.reflector):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind((str(REFLECTOR), 862))
    sock.settimeout(5)
    return sock


def answer_without_ssid(sock: socket.socket) -> None:
    """As a peer that knows RFC 8762 and not RFC 8972."""
    request, address = sock.recvfrom(100)
    sequence, t1, error, _ssid = struct.unpack_from("!IQHH", request)
    reply = struct.pack("!IQHHQIQH2xB3x", sequence, t1, error, 0, t1, sequence, t1, error, 255)
    sock.sendto(reply, address)


@pytest.mark.parametrize("action", list(SsidZeroAction))
def test_ssid_zero(network: Network, run: Callable[[str], Running], action: SsidZeroAction) -> None:
    peer = old_reflector(network)
    sender = run(network.sender)
    session = dataclasses.replace(SESSION, on_ssid_zero=action)
    sender.engine.configure(Node(sender=Sender(sessions={5: session})))
    for _ in range(3):
        answer_without_ssid(peer)
        if action is SsidZeroAction.STOP:
            break
    store = sender.store(5)
    if action is SsidZeroAction.CONTINUE:
        eventually(lambda: store.snapshot().received == 3, "three replies are used")
        assert sender.states(5) == [OperState.RUNNING]
    else:
        eventually(lambda: OperState.STOPPED in sender.states(5), "the session stops")
        last = sender.reports[-1]
        assert isinstance(last, SenderStatusReport)
        assert last.status is not None
        assert last.status.last_error == "the Session-Reflector answers with SSID 0"
        assert store.snapshot().received == 0
    store.close()
    peer.close()


def test_rubbish_and_foreign_replies(network: Network, run: Callable[[str], Running]) -> None:
    peer = old_reflector(network)
    with inside(network.reflector):
        other = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sender = run(network.sender)
    sender.engine.configure(Node(sender=Sender(sessions={5: SESSION})))
    request, address = peer.recvfrom(100)
    ours = struct.pack("!IQHH28x", 0, 0, 1, 5)
    peer.sendto(b"", address)
    peer.sendto(ours[:20], address)
    peer.sendto(ours, address)
    other.sendto(ours, address)
    future = struct.pack("!IQHHQIQH2xB3x", 0, 0, 1, 5, 0, 77_777, 0, 1, 255)
    peer.sendto(future, address)
    store = sender.store(5)
    eventually(lambda: sum(store.snapshot().discards.values()) == 5, "five discards")
    discards = {reason: count for reason, count in store.snapshot().discards.items() if count}
    store.close()
    peer.close()
    other.close()
    assert request[14:16] == b"\0\5"
    assert discards == {
        DiscardReason.TRUNCATED: 2,
        DiscardReason.ZERO_MULTIPLIER: 1,
        DiscardReason.WRONG_PORT: 1,
        DiscardReason.UNEXPECTED_SEQUENCE: 1,
    }


def test_reflector_grows_moves_and_goes(network: Network, run: Callable[[str], Running]) -> None:
    reflector, sender = run(network.reflector), run(network.sender)
    sender.engine.configure(Node(sender=Sender(sessions={5: SESSION})))
    first: Sessions = {(5, None): ReflectorSession(5)}
    reflector.engine.configure(Node(reflector=Reflector(sessions=first)))

    def reflected() -> int:
        store = ReflectorStore.open(reflector_store_path(reflector.folder), writable=False)
        try:
            return store.snapshot().sessions[5, None].reflected
        finally:
            store.close()

    eventually(lambda: reflected() > 5, "requests are answered")
    before = reflected()
    many: Sessions = first | {
        (ssid, SENDER): ReflectorSession(ssid, SENDER) for ssid in range(100, 400)
    }
    reflector.engine.configure(Node(reflector=Reflector(sessions=many)))
    eventually(lambda: reflected() > before + 5, "the count goes on in a larger store")
    changed: Sessions = many | {
        (5, None): ReflectorSession(5, segments=(IPv6Address("fc00:e::2"),))
    }
    reflector.engine.configure(Node(reflector=Reflector(sessions=changed)))
    assert reflected() < before
    reflector.engine.configure(Node(reflector=Reflector(enabled=False, sessions=changed)))
    last = reflector.reports[-1]
    assert isinstance(last, ReflectorStatusReport)
    assert last.status is not None
    assert last.status.oper_state is OperState.DISABLED
    reflector.engine.configure(Node())
    assert reflector.reports[-1] == ReflectorStatusReport(None, "not configured")
    assert not reflector_store_path(reflector.folder).exists()
    reflector.engine.ping()


def test_announced_packets_are_awaited(network: Network, run: Callable[[str], Running]) -> None:
    peer = old_reflector(network)
    sender = run(network.sender)
    slow = dataclasses.replace(SESSION, interval_us=60_000_000, loss_timeout_ms=60_000_000)
    sender.engine.configure(Node(sender=Sender(sessions={5: slow})))
    with pytest.raises(EngineError, match="session 6 does not exist"):
        sender.engine.announce(6, 1)
    first = sender.engine.announce(5, 3)
    assert sender.engine.announce(5, 1) == first + 3
    store = sender.store(5)
    for sequence in (first, first + 3, first + 4):
        reply = struct.pack("!IQHHQIQH2xB3x", sequence, 0, 1, 5, 1, sequence, 0, 1, 255)
        peer.sendto(reply, (str(SENDER), slow.sender_udp_port))
    eventually(
        lambda: store.snapshot().discards[DiscardReason.UNEXPECTED_SEQUENCE] == 1,
        "the packet beyond is unexpected",
    )
    assert store.snapshot().received == 2
    store.close()
    sender.engine.stop(5)
    with pytest.raises(EngineError, match="session 5 is not running"):
        sender.engine.announce(5, 1)
    peer.close()


def test_many_sessions_share_bursts(network: Network, run: Callable[[str], Running]) -> None:
    """A hundred sessions over two paths, and every packet is where it belongs."""
    reflector, sender = run(network.reflector), run(network.sender)
    paths = ((), (FORTH,))
    ssids = range(1, 101)
    served: Sessions = {
        (ssid, SENDER): ReflectorSession(
            ssid, SENDER, segments=(BACK,) if ssid % 2 else (), mode=ReflectorMode.STATEFUL
        )
        for ssid in ssids
    }
    reflector.engine.configure(Node(reflector=Reflector(sessions=served)))
    sessions = {
        ssid: SenderSession(
            ssid,
            REFLECTOR,
            SENDER,
            segments=paths[ssid % 2],
            interval_us=50_000,
            packet_count=20,
            reflector_mode=ReflectorMode.STATEFUL,
            timestamp_format=tuple(TimestampFormat)[ssid % 3 % 2],
            autostart=False,
        )
        for ssid in ssids
    }
    sender.engine.configure(Node(sender=Sender(sessions=sessions)))
    for ssid in ssids:
        sender.engine.start(ssid, None)
    # All are due at once after this.
    sender.engine._loop.call(lambda: time.sleep(0.06))
    eventually(
        lambda: all(sender.states(ssid)[-1] is OperState.COMPLETED for ssid in ssids),
        "all runs are complete",
    )
    methods = set()
    for ssid in ssids:
        store = sender.store(ssid)
        snapshot = store.snapshot(100)
        store.close()
        assert (snapshot.sent, snapshot.received, snapshot.loss.round_trip) == (20, 20, 0)
        assert [record.sequence for record in snapshot.records] == list(range(20))
        assert [record.reflector_sequence for record in snapshot.records] == list(range(20))
        methods |= {record.t1_method for record in snapshot.records}
        for record in snapshot.records:
            assert record.t1_ns < record.t2_ns < record.t3_ns < record.t4_ns
            assert record.sender_ttl == 254
    assert TimestampMethod.USERSPACE.code in methods
