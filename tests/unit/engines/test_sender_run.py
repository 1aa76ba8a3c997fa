"""One session of a port: what it does when the port goes away."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from dataplane.clock import Clock, monotonic_ns, wall_ns
from dataplane.config import SenderSession
from dataplane.engines.base import EngineContext, OperState, session_store_path
from dataplane.engines.common.collecting import CollectingHere
from dataplane.engines.common.loop import Loop
from dataplane.engines.common.plan import EARLY_NS
from dataplane.engines.common.run import SenderRun
from dataplane.engines.common.transport import Datagram
from dataplane.measurement import TimestampMethod
from dataplane.store import SessionStore
from tests.unit.stamp.network import reply

MS = 1_000_000
US, PEER = IPv6Address("fd00::1"), IPv6Address("fd00::2")


class Port:
    """A port that can lose its address."""

    t1_method = TimestampMethod.USERSPACE
    emptied_ns = 0
    schedule = None

    def __init__(self) -> None:
        self.missing: str | None = None
        self.sent: list[int] = []
        self.drained = 0
        self.held: list[int] = []

    def problem(self) -> str | None:
        return self.missing

    def dress(self, run: SenderRun) -> OSError | None:
        return None

    def enqueue(self, run: SenderRun) -> None: ...

    def hold(self, due_ns: int) -> None:
        self.held.append(due_ns)

    def transmit(self, run: SenderRun, sequence: int, payload: bytes, t1_ns: int) -> OSError | None:
        self.sent.append(sequence)
        return None

    def drain(self) -> None:
        self.drained += 1

    def ending(self, run: SenderRun) -> None: ...

    def changed(self, ssid: int) -> None: ...

    def lane_of(self, config: SenderSession) -> int:
        return 0


@pytest.fixture
def run_of_port(tmp_path: Path) -> Iterator[tuple[SenderRun, Port]]:
    loop, port = Loop("test"), Port()
    loop.start()
    context = EngineContext(state_dir=tmp_path, emit=lambda _event: None)
    run = SenderRun(
        SenderSession(7, PEER, US), "test", loop, Clock(), context, port, CollectingHere()
    )
    yield run, port
    loop.call(run.close)
    loop.close()


def test_a_session_that_has_failed_sends_nothing_though_its_packet_was_due(
    run_of_port: tuple[SenderRun, Port],
) -> None:
    run, port = run_of_port
    now_ns = monotonic_ns()
    assert run.create(True, now_ns)
    run.begin(now_ns, now_ns, "")
    run.send(now_ns)
    assert port.sent == [0]
    port.missing = "cannot bind [fd00::1]:49862: Cannot assign requested address"
    run.attempt(now_ns, "")
    run.send(now_ns)
    assert not run.prepare(memoryview(bytearray(44)), 0, now_ns, 0)
    assert port.sent == [0]
    assert run.status.oper_state is OperState.FAILED
    assert run.status.last_error == port.missing
    port.missing = None
    run.attempt(now_ns, "recovered")
    run.send(now_ns + 3_000_000_000)
    assert port.sent == [0, 1]
    collector = run.collector
    assert collector is not None
    assert collector.next_sequence == 2


def test_intervals_in_which_a_session_had_failed_are_suspect(
    run_of_port: tuple[SenderRun, Port], tmp_path: Path
) -> None:
    run, port = run_of_port
    run.config = dataclasses.replace(
        run.config, interval_us=100_000, computation_interval_s=1, loss_timeout_ms=100
    )
    start_ns = monotonic_ns()
    assert run.create(True, start_ns)
    run.begin(start_ns, start_ns, "")
    for tenth in range(70):
        now_ns = start_ns + tenth * 100 * MS
        port.missing = "the interface is gone" if 19 <= tenth < 41 else None
        run.freshen(now_ns)
        run.attempt(now_ns, "")
        run.send(now_ns)
    store = SessionStore.open(session_store_path(tmp_path, 7), writable=False)
    assert [i.number for i in store.intervals if i.suspect] == [2, 3, 4, 5]
    store.close()


def test_a_packet_that_is_begun_early_is_counted_as_if_it_were_due(
    run_of_port: tuple[SenderRun, Port],
) -> None:
    run, port = run_of_port
    now_ns = monotonic_ns()
    assert run.create(True, now_ns)
    run.begin(now_ns, now_ns, "")
    interval_ns, timeout_ns = run.config.interval_us * 1_000, run.config.loss_timeout_ms * MS
    run.send(now_ns + 1)
    assert port.held == []
    collector = run.collector
    assert collector is not None
    # What comes of the first one is out of the way.
    run.freshen(now_ns + 1 + timeout_ns + 1)
    due_ns = now_ns + interval_ns
    assert run.due_ns == due_ns
    run.send(due_ns - EARLY_NS)
    assert (port.sent, port.held) == ([0, 1], [due_ns])
    assert run.due_ns == due_ns + interval_ns
    assert collector.next_timer_ns() == due_ns + timeout_ns + 1


def test_the_timer_of_a_session_fires_in_time_for_a_packet_to_be_made(tmp_path: Path) -> None:
    armed_ns: list[int | None] = []

    def timer(callback: Callable[[int], None]) -> object:
        own = callback.__name__ == "<lambda>"
        return SimpleNamespace(
            at=armed_ns.append if own else lambda _at_ns: None,
            no_later_than=lambda _at_ns, _slack_ns: None,
        )

    context = EngineContext(state_dir=tmp_path, emit=lambda _event: None)
    run = SenderRun(
        *(SenderSession(7, PEER, US), "test", cast(Loop, SimpleNamespace(timer=timer)), Clock()),
        *(context, Port(), CollectingHere()),
    )
    now_ns = monotonic_ns()
    assert run.create(True, now_ns)
    run.begin(now_ns, now_ns + MS, "")
    assert armed_ns[-1] == now_ns + MS - EARLY_NS
    run.close()
    assert armed_ns[-1] is None


@pytest.mark.parametrize("what", [SenderRun.freshen, SenderRun.clear])
def test_a_run_is_complete_whoever_notices_its_last_loss(
    run_of_port: tuple[SenderRun, Port], what: Callable[[SenderRun, int], None]
) -> None:
    run, _ = run_of_port
    run.config = dataclasses.replace(run.config, packet_count=1)
    now_ns = monotonic_ns()
    assert run.create(True, now_ns)
    run.begin(now_ns, now_ns, "")
    run.send(now_ns)
    run.freshen(now_ns)
    assert run.status.oper_state is OperState.RUNNING
    what(run, now_ns + run.config.loss_timeout_ms * MS + 1)
    assert run.status.oper_state is OperState.COMPLETED


def test_no_packet_is_lost_before_what_has_arrived_was_read(
    run_of_port: tuple[SenderRun, Port],
) -> None:
    run, port = run_of_port
    now_ns = monotonic_ns()
    assert run.create(True, now_ns)
    run.begin(now_ns, now_ns, "")
    run.send(now_ns)
    run.freshen(now_ns + 1)
    assert port.drained == 0
    run.freshen(now_ns + run.config.loss_timeout_ms * MS + 1)
    assert port.drained == 1


@pytest.mark.parametrize("together", [False, True])
def test_an_interval_ends_once_what_has_arrived_in_it_was_read(
    run_of_port: tuple[SenderRun, Port],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    together: bool,
) -> None:
    """Though it is a packet that is due which finds that it is over."""
    run, port = run_of_port
    run.config = dataclasses.replace(run.config, computation_interval_s=1, loss_timeout_ms=500)
    began_ns = monotonic_ns() - 1_200 * MS
    assert run.create(True, began_ns)
    run.start_by_itself(began_ns)
    run.send(began_ns)
    collector = run.collector
    assert collector is not None
    end_ns = collector.interval_end_ns
    assert end_ns < monotonic_ns()
    # Some has been read lately, but not yet what came last.
    port.emptied_ns = end_ns - 600 * MS
    t1_ns = wall_ns()
    data = reply(0, 0, t1_ns, t1_ns, t1_ns)

    def drain() -> None:
        if not port.drained:
            arrived_ns = began_ns + 400 * MS
            datagram = Datagram(data, str(PEER), 862, 0, None, 0, b"", 1, t1_ns, True)
            run.receive(datagram, PEER, monotonic_ns(), arrived_ns)
        port.drained += 1

    monkeypatch.setattr(port, "drain", drain)
    if together:
        assert run.prepare(memoryview(bytearray(44)), 0, monotonic_ns(), wall_ns())
    else:
        run.send(monotonic_ns())
    assert collector.next_sequence == 2
    store = SessionStore.open(session_store_path(tmp_path, 7), writable=False)
    [closed] = store.snapshot().intervals
    assert (closed.sent, closed.received, closed.loss.round_trip, closed.late) == (1, 1, 0, 0)
    store.close()
