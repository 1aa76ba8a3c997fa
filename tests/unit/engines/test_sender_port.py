"""The port that sessions share: what it has read when, and what that says about lateness."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv6Address
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dataplane.clock import Clock, monotonic_ns, wall_ns
from dataplane.config import SenderSession
from dataplane.engines.base import Role
from dataplane.engines.common.loop import Loop
from dataplane.engines.common.run import SenderRun
from dataplane.engines.common.sender_port import SenderPort
from dataplane.engines.common.transport import Datagram
from dataplane.stamp.errors import DiscardReason

US, PEER = IPv6Address("fd00::1"), IPv6Address("fd00::2")
MS = 1_000_000


class Queue:
    """A transport with replies that wait."""

    def __init__(self) -> None:
        self.waiting: list[Datagram] = []

    def fileno(self) -> int:
        return 0

    def close(self) -> None: ...

    def receive(self) -> Datagram | None:
        return self.waiting.pop(0) if self.waiting else None

    def transmitted(self) -> Iterator[tuple[int, int]]:
        return iter(())

    def dropped(self) -> int:
        return 0


class Run:
    """A session that remembers when its replies arrived."""

    def __init__(self, ssid: int) -> None:
        self.config = SenderSession(ssid, PEER, US)
        self.collector = None
        self.arrived_ns: list[int] = []

    def receive(
        self, datagram: Datagram, source: IPv6Address, now_ns: int, arrived_ns: int
    ) -> None:
        self.arrived_ns.append(arrived_ns)


@pytest.fixture
def port() -> tuple[SenderPort, Queue, Run]:
    queue, run = Queue(), Run(7)
    loop = SimpleNamespace(
        register=lambda *_: None, overdue=lambda: True, timer=lambda _: SimpleNamespace()
    )

    def open_queue(role: Role, address: IPv6Address | None, port: int) -> Any:
        return queue

    discards: Counter[DiscardReason] = Counter()
    port = SenderPort(US, 49_862, cast(Loop, loop), Clock(), open_queue, discards)
    port.add(cast(SenderRun, run))
    assert port.problem() is None
    return port, queue, run


def reply(received_ns: int) -> Datagram:
    data = struct.pack("!IQHHQIQH2xB3x", 0, 0, 1, 7, 0, 0, 0, 1, 255)
    return Datagram(data, str(PEER), 862, 0, None, 0, US.packed, 1, received_ns, True)


def test_everything_that_has_arrived_is_taken_in_though_timers_wait(
    port: tuple[SenderPort, Queue, Run],
) -> None:
    sender, queue, run = port
    queue.waiting = [reply(wall_ns() - 50 * MS) for _ in range(20_000)]
    sender.drain()
    assert len(run.arrived_ns) == 20_000
    assert not queue.waiting


def test_what_arrives_meanwhile_does_not_keep_a_drain_going(
    port: tuple[SenderPort, Queue, Run],
) -> None:
    sender, queue, run = port
    queue.waiting = [reply(wall_ns() + 3_600_000 * MS) for _ in range(1_000)]
    sender.drain()
    assert len(run.arrived_ns) == 1


def test_a_reply_that_waited_is_as_old_as_its_timestamp_says(
    port: tuple[SenderPort, Queue, Run],
) -> None:
    sender, queue, run = port
    queue.waiting = [reply(wall_ns() - 50 * MS)]
    before_ns = monotonic_ns()
    sender.read()
    assert 40 * MS < before_ns - run.arrived_ns[0] <= 51 * MS


def test_a_wall_clock_that_was_set_makes_no_reply_older(
    port: tuple[SenderPort, Queue, Run],
) -> None:
    sender, queue, run = port
    before_ns = monotonic_ns()
    sender.read()
    assert sender.emptied_ns >= before_ns
    # The clock was set forward by an hour after this one had arrived.
    queue.waiting = [reply(wall_ns() - 3_600_000 * MS)]
    sender.read()
    assert run.arrived_ns[0] >= before_ns
