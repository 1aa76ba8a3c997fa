"""One session of a port: what it does when the port goes away."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from dataplane.clock import Clock, monotonic_ns
from dataplane.config import SenderSession
from dataplane.engines.base import EngineContext, OperState, session_store_path
from dataplane.engines.common.collecting import CollectingHere
from dataplane.engines.common.loop import Loop
from dataplane.engines.common.run import SenderRun
from dataplane.measurement import TimestampMethod
from dataplane.store import SessionStore

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

    def problem(self) -> str | None:
        return self.missing

    def dress(self, run: SenderRun) -> OSError | None:
        return None

    def enqueue(self, run: SenderRun) -> None: ...

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
    run.start_by_itself(now_ns)
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


@pytest.mark.parametrize("what", [SenderRun.freshen, SenderRun.clear])
def test_a_run_is_complete_whoever_notices_its_last_loss(
    run_of_port: tuple[SenderRun, Port], what: Callable[[SenderRun, int], None]
) -> None:
    run, _ = run_of_port
    run.config = dataclasses.replace(run.config, packet_count=1)
    now_ns = monotonic_ns()
    assert run.create(True, now_ns)
    run.start_by_itself(now_ns)
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
    run.start_by_itself(now_ns)
    run.send(now_ns)
    run.freshen(now_ns + 1)
    assert port.drained == 0
    run.freshen(now_ns + run.config.loss_timeout_ms * MS + 1)
    assert port.drained == 1
