"""The port that sessions share: what it has read when, and what that says about lateness."""

from __future__ import annotations

import itertools
import select
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from dataplane.clock import Clock, monotonic_ns, wall_ns
from dataplane.config import IPAddress, SenderSession
from dataplane.engines.base import Attachment, Role
from dataplane.engines.common.batch import BATCH, BURST_MIN, Batch
from dataplane.engines.common.loop import Loop
from dataplane.engines.common.run import SenderRun
from dataplane.engines.common.schedule import Schedule
from dataplane.engines.common.send_lead import BLOCK
from dataplane.engines.common.sender_port import FLOOD_REST_NS, LATE_NS, SenderPort
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


class Batches(Queue):
    """A transport of batches, with several sources of them."""

    limitation: str | None = None
    attachments: tuple[Attachment, ...] = ()
    room: int = 4_096

    def __init__(self, sources: int = 1, *received_ns: int) -> None:
        super().__init__()
        self.sources = sources
        self.coming = list(received_ns)

    def receive_batch(self, batch: Batch) -> bool:
        """A packet that arrived then, of the next source; False once all have come."""
        batch.count = 0
        if not self.coming:
            return False
        datagram = reply(self.coming.pop(0))
        batch.count = 1
        batch.data[0, : len(datagram.data)] = np.frombuffer(datagram.data, np.uint8)
        batch.length[0] = len(datagram.data)
        batch.source[0] = np.frombuffer(PEER.packed, np.uint64)
        batch.received_ns[0] = datagram.received_ns
        return True

    def flooded(self, overrun: bool) -> None: ...

    def send_burst(self, *_: object) -> int:
        raise NotImplementedError

    def send(self, *_: object) -> int:
        raise NotImplementedError

    def dress(self, *_: object) -> None: ...

    def answer(self, *_: object) -> None: ...


class Run:
    """A session that remembers when its replies arrived, and what it was told."""

    def __init__(self, ssid: int) -> None:
        self.config = SenderSession(ssid, PEER, US)
        self.collector = None
        self.arrived_ns: list[int] = []
        self.errors: list[str] = []
        self.wants_to_run = True

    def note_error(self, text: str) -> None:
        self.errors.append(text)

    def receive(self, datagram: Datagram, source: IPAddress, now_ns: int, arrived_ns: int) -> None:
        self.arrived_ns.append(arrived_ns)


@pytest.fixture
def port() -> tuple[SenderPort, Queue, Run]:
    queue = Queue()
    sender, run = opened(queue)
    return sender, queue, run


def opened(queue: Queue) -> tuple[SenderPort, Run]:
    run = Run(7)
    loop = SimpleNamespace(
        register=lambda *_: None, overdue=lambda: True, timer=lambda _: SimpleNamespace()
    )

    def open_queue(role: Role, address: IPAddress, port: int) -> Any:
        return queue

    discards: Counter[DiscardReason] = Counter()
    port = SenderPort(US, 49_862, cast(Loop, loop), Clock(), open_queue, discards)
    port.add(cast(SenderRun, run))
    assert port.problem() is None
    return port, run


def reply(received_ns: int, ssid: int = 7) -> Datagram:
    data = struct.pack("!IQHHQIQH2xB3x", 0, 0, 1, ssid, 0, 0, 0, 1, 255)
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


def test_a_drain_ends_when_all_sources_in_turn_have_newer_packets() -> None:
    old_ns, new_ns = wall_ns() - 50 * MS, wall_ns() + 3_600_000 * MS
    queue = Batches(3, new_ns, new_ns, old_ns, new_ns, old_ns, *(new_ns,) * 10)
    sender, run = opened(queue)
    sender.drain()
    assert len(run.arrived_ns) == 8
    assert len(queue.coming) == 7


def test_sessions_are_told_once_what_a_transport_cannot_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = Batches()
    sender, run = opened(queue)
    monkeypatch.setattr("dataplane.engines.common.sender_port.is_local", lambda _: True)
    sender.look_after()
    assert run.errors == []
    queue.limitation = "packets are sent one by one: UDP segmentation offload is refused: Nope"
    for _ in range(3):
        sender.look_after()
    assert run.errors == [queue.limitation]


def test_a_session_that_comes_later_is_told_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, later = Batches(), Run(8)
    sender, _ = opened(queue)
    monkeypatch.setattr("dataplane.engines.common.sender_port.is_local", lambda _: True)
    queue.limitation = "packets are sent one by one"
    sender.look_after()
    sender.add(cast(SenderRun, later))
    sender.look_after()
    assert later.errors == [queue.limitation]


def test_ssid_zero_is_the_one_running_sessions(port: tuple[SenderPort, Queue, Run]) -> None:
    sender, queue, run = port
    stopped = Run(8)
    stopped.wants_to_run = False
    sender.add(cast(SenderRun, stopped))
    queue.waiting = [reply(wall_ns(), ssid=0)]
    sender.drain()
    assert (len(run.arrived_ns), len(stopped.arrived_ns)) == (1, 0)
    run.wants_to_run = False
    queue.waiting = [reply(wall_ns(), ssid=0)]
    sender.drain()
    assert (len(run.arrived_ns), len(stopped.arrived_ns)) == (1, 0)
    assert sender.discards == {DiscardReason.UNKNOWN_SESSION: 1}


def test_running_sessions_are_told_once_that_ssid_zero_does_not_tell_them_apart(
    port: tuple[SenderPort, Queue, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, queue, run = port
    monkeypatch.setattr("dataplane.engines.common.sender_port.is_local", lambda _: True)
    other, stopped = Run(8), Run(9)
    stopped.wants_to_run = False
    for each in (other, stopped):
        sender.add(cast(SenderRun, each))
    # Another SSID that nobody has is no sign of a peer without RFC 8972.
    for ssid, told in ((77, 0), (0, 1), (0, 1)):
        queue.waiting = [reply(wall_ns(), ssid=ssid)]
        sender.drain()
        sender.look_after()
        assert [len(each.errors) for each in (run, other, stopped)] == [told, told, 0]
    assert run.arrived_ns == []


def test_an_error_queue_is_read_though_nothing_is_awaited(
    port: tuple[SenderPort, Queue, Run],
) -> None:
    sender, queue, _ = port
    left = [(0, wall_ns())]
    queue.transmitted = lambda: iter([left.pop()] if left else [])  # type: ignore[method-assign]
    assert not sender.read(select.EPOLLERR)
    assert not left


def test_packets_are_handed_over_earlier_by_the_least_that_others_took(
    port: tuple[SenderPort, Queue, Run],
) -> None:
    """They leave when they are due: never before that by more than that differs."""
    sender, queue, run = port
    took_ns, due_ns = 7_000, monotonic_ns() + 2 * MS
    sender.hold(due_ns)
    assert monotonic_ns() >= due_ns
    cast(Any, run).destination = str(PEER)
    identifiers = iter(range(BLOCK))
    queue.send = lambda *_: next(identifiers)  # type: ignore[attr-defined]
    t1_ns = wall_ns()
    for sequence in range(BLOCK):
        assert sender.transmit(cast(SenderRun, run), sequence, b"", t1_ns) is None
    queue.transmitted = lambda: iter(  # type: ignore[method-assign]
        [(identifier, t1_ns + took_ns + identifier) for identifier in range(BLOCK)]
    )
    refined: list[int] = []
    run.refine_t1 = lambda _sequence, sent_ns: refined.append(sent_ns)  # type: ignore[attr-defined]
    sender.read(select.EPOLLERR)
    assert refined[0] == t1_ns + took_ns
    now_ns = monotonic_ns()
    clock = itertools.count(now_ns, 1_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dataplane.engines.common.sender_port.monotonic_ns", lambda: next(clock))
        sender.hold(now_ns + 40_000)
    assert next(clock) == now_ns + 40_000 - took_ns + 1_000


def test_no_burst_is_sent_before_its_packets_are_due() -> None:
    sender, _ = opened(Batches())
    due_ns = monotonic_ns() + 2 * MS
    runs = [SimpleNamespace(due_ns=due_ns - number) for number in range(BURST_MIN)]
    sent_ns: list[int] = []
    cast(Any, sender)._due = runs
    cast(Any, sender)._rounds = None
    cast(Any, sender)._bursts.send = lambda *_: sent_ns.append(monotonic_ns())
    cast(Any, sender)._flush()
    assert sent_ns[0] >= due_ns


def test_of_runs_that_end_together_one_ends_at_each_step() -> None:
    posted: list[Callable[[], None]] = []
    begun: list[Iterator[None]] = []
    loop = SimpleNamespace(timer=lambda _: None, post=posted.append, begin=begun.append)
    port = SenderPort(US, 49_862, cast(Loop, loop), Clock(), cast(Any, None), Counter())
    ended: list[int] = []

    def run(ssid: int) -> SenderRun:
        return cast(SenderRun, SimpleNamespace(complete=lambda _now_ns: ended.append(ssid)))

    for ssid in (1, 2):
        port.ending(run(ssid))
    assert ended == []
    posted.pop()()
    next(begun[0])
    assert ended == [1]
    port.ending(run(3))
    assert list(begun[0]) == [None]
    assert ended == [1, 2]
    posted.pop()()
    assert list(begun[1]) == [None]
    assert ended == [1, 2, 3]
    assert not posted


def test_a_process_that_was_held_up_reads_once_what_has_waited() -> None:
    waiting = [wall_ns() - 50 * MS]
    queue = Batches(1, *waiting)
    sender, run = opened(queue)
    sent: list[int] = []
    run.send = sent.append  # type: ignore[attr-defined]
    sender._schedule = cast(
        Schedule,
        SimpleNamespace(
            due=lambda _now_ns: np.array([7]),
            overdue_ns=lambda _rows, _now_ns: 2 * LATE_NS,
            arm=lambda _flight_ns: None,
        ),
    )
    sender._flush_schedule()
    assert (len(run.arrived_ns), len(sent)) == (1, 1)
    # Whatever comes now has not waited, however late the packets still are.
    queue.coming.append(wall_ns())
    sender._flush_schedule()
    assert (len(run.arrived_ns), len(sent)) == (1, 2)


class Flood(Batches):
    """All replies at once."""

    def __init__(self) -> None:
        super().__init__()
        self.overruns: list[bool] = []

    def flooded(self, overrun: bool) -> None:
        self.overruns.append(overrun)

    def receive_batch(self, batch: Batch) -> bool:
        count = batch.count = len(self.coming)
        data = reply(0).data
        batch.data[:count, : len(data)] = np.frombuffer(data, np.uint8)
        batch.length[:count] = len(data)
        batch.source[:count] = np.frombuffer(PEER.packed, np.uint64)
        batch.received_ns[:count] = self.coming
        self.coming.clear()
        return False


@pytest.mark.parametrize(
    ("count", "apart_ns", "flood"),
    [(100, 2_000, True), (BATCH, 2_000, True), (100, MS, False), (10, 2_000, False)],
)
def test_replies_that_flood_in_gather(count: int, apart_ns: int, flood: bool) -> None:
    queue = Flood()
    sender, run = opened(queue)
    told: list[str] = []
    timers: list[int] = []
    loop = cast(Any, sender)._loop
    loop.flooded = lambda: told.append("flooded")
    loop.pause = lambda _fd: told.append("paused")
    loop.resume = lambda _fd: told.append("resumed")
    cast(Any, sender)._rest_timer.at = timers.append
    begun_ns = wall_ns() - count * apart_ns
    queue.coming = [begun_ns + number * apart_ns for number in range(count)]
    before_ns = monotonic_ns()
    assert sender.read() is False
    assert len(run.arrived_ns) == count
    assert told == (["flooded", "paused"] if flood else [])
    assert queue.overruns == ([count == BATCH] if flood else [])
    assert [before_ns < at_ns <= monotonic_ns() + FLOOD_REST_NS for at_ns in timers] == (
        [True] if flood else []
    )
    sender._wake()
    assert told[2:] == (["resumed"] if flood else [])
