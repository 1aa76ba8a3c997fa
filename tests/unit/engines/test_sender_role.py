"""The Session-Sender role: what happens to sessions while others come, change and go."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from dataplane import clock
from dataplane.clock import REFRESH_NS, Clock, ClockStatus, monotonic_ns, wall_ns
from dataplane.config import IPAddress, Sender, SenderSession
from dataplane.engines.base import (
    Attachment,
    EngineContext,
    OperState,
    Report,
    Role,
    SenderStatusReport,
    session_store_path,
)
from dataplane.engines.common.batch import SMALL, Batch
from dataplane.engines.common.collecting import CollectingHere
from dataplane.engines.common.loop import Loop
from dataplane.engines.common.sender import START_NS, TOGETHER, SenderRole
from dataplane.engines.common.sender_port import CROWD, SenderPort
from dataplane.engines.common.transport import Datagram, Transport
from dataplane.session_state import SessionState
from dataplane.stamp.collector import Collector
from dataplane.stamp.packet import ReflectorPacket, SenderPacket
from dataplane.stamp.timestamp import TimestampFormat
from dataplane.store import SessionSnapshot, SessionStore, StoreError
from tests.unit.engines.test_sender_port import Batches, Queue, reply

US, PEER = IPv6Address("fd00::1"), IPv6Address("fd00::2")
RUNNING, STOPPED, DISABLED = OperState.RUNNING, OperState.STOPPED, OperState.DISABLED
STARTING, FAILED = OperState.STARTING, OperState.FAILED


class Silent(Queue):
    """A transport whose packets nobody answers."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def send(self, payload: bytes, *_: object) -> int:
        self.sent.append(payload)
        return 0

    def dress(self, *_: object) -> None: ...


class Node:
    """A role, and what it has reported."""

    def __init__(self, folder: Path, collecting: CollectingHere | None = None) -> None:
        self.loop = Loop("test")
        self.reports: list[SenderStatusReport] = []
        self.open: Callable[[], Transport] = Silent
        self.clock = clock = Clock()
        clock.refresh(monotonic_ns())
        context = EngineContext(folder, self._take)
        self.role = SenderRole(
            *("test", self.loop, clock, context, self._open), collecting or CollectingHere()
        )

    def _take(self, report: Report) -> None:
        if isinstance(report, SenderStatusReport):
            self.reports.append(report)

    def _open(self, _role: Role, _address: IPAddress, _port: int) -> Transport:
        return self.open()

    def steps(self, sender: Sender) -> Iterator[list[tuple[int, OperState | None]]]:
        """What each step has reported."""
        for _ in self.role.configure(sender, {}):
            yield self._reported()
        yield self._reported()

    def configure(self, sender: Sender) -> list[tuple[int, OperState | None]]:
        return [report for step in self.steps(sender) for report in step]

    def _reported(self) -> list[tuple[int, OperState | None]]:
        found = [(each.ssid, each.status and each.status.oper_state) for each in self.reports]
        self.reports.clear()
        return found


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.role.close()


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor is waited for."""
    monkeypatch.setattr(Loop, "register", lambda *_: None)
    monkeypatch.setattr(Loop, "unregister", lambda *_: None)


def sender(*ssids: int, dscp: int = 0, autostart: bool = True, enabled: bool = True) -> Sender:
    return Sender(
        enabled=enabled,
        sessions={s: SenderSession(s, PEER, US, dscp=dscp, autostart=autostart) for s in ssids},
    )


def test_new_sessions_begin_when_all_of_them_are_there(node: Node, tmp_path: Path) -> None:
    began = []
    for number, reported in enumerate(node.steps(sender(1, 2, 3))):
        began += reported
        assert len(list(tmp_path.iterdir())) == min(number + 1, 3)
        assert len(reported) == (3 <= number < 6)
    assert began == [(1, RUNNING), (2, RUNNING), (3, RUNNING)]


def test_none_of_them_sends_while_others_are_started(node: Node) -> None:
    begun_ns, ssids = monotonic_ns(), range(1, 101)
    node.configure(sender(*ssids))
    starts_ns = [node.role._runs[ssid].status.run_started_ns or 0 for ssid in ssids]
    assert min(starts_ns) >= begun_ns + len(ssids) * START_NS


class Roomy(CollectingHere):
    """Says how many sessions it is to make room for, and how many collectors that led to."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms_of: list[int] = []
        self.taken: list[int] = []

    @contextlib.contextmanager
    def rooms(self, sessions: Sequence[SenderSession]) -> Iterator[None]:
        self.rooms_of.append(len(sessions))
        self.taken.append(0)
        yield

    def collector(
        self, config: SenderSession, store: SessionStore, now_ns: int, resumed: bool
    ) -> Collector:
        self.taken[-1] += 1
        return super().collector(config, store, now_ns, resumed)


def test_room_is_made_for_many_new_sessions_at_once(tmp_path: Path) -> None:
    collecting = Roomy()
    node = Node(tmp_path, collecting)
    node.configure(sender(1))
    node.configure(sender(*range(1, TOGETHER + 3)))
    assert collecting.rooms_of == collecting.taken == [1, TOGETHER, 1]
    node.role.close()


class Late(Roomy):
    """Can make no collectors at first."""

    ready = False
    refusal: str | None = None

    def pending(self) -> str | None:
        return None if self.ready or self.refusal else "not yet"

    def problem(self) -> str | None:
        return self.pending() or self.refusal

    def prepare(self, resumed: bool) -> None:
        if not self.ready:
            raise StoreError(self.problem())


def test_sessions_begin_when_collectors_can_be_made(tmp_path: Path) -> None:
    """As new ones do: room is made for many, and they do not start at the same moment."""
    collecting = Late()
    node = Node(tmp_path, collecting)
    ssids = range(1, TOGETHER + 3)
    stopped = dataclasses.replace(sender(1, autostart=False).sessions[1], ssid=TOGETHER + 3)
    config = sender(*ssids)
    config = dataclasses.replace(config, sessions=config.sessions | {stopped.ssid: stopped})
    assert set(node.configure(config)) == {(s, STARTING) for s in ssids} | {(stopped.ssid, STOPPED)}
    assert {run.status.last_error for run in node.role._runs.values()} == {None}
    node.role.tick(monotonic_ns())
    assert list(tmp_path.iterdir()) == []
    collecting.ready = True
    collecting.taken.clear()
    collecting.rooms_of.clear()
    for _ in node.role._mend(list(node.role._runs.values())):
        pass
    assert collecting.rooms_of == collecting.taken == [TOGETHER, 3]
    assert node._reported() == [(ssid, RUNNING) for ssid in ssids]
    starts = {run.due_ns for run in node.role._runs.values() if run.wants_to_run}
    assert len(starts) == len(ssids)
    node.role.clear(stopped.ssid)
    node.role.close()


def test_no_session_that_waits_for_collectors_has_an_error(tmp_path: Path) -> None:
    collecting = Late()
    node = Node(tmp_path, collecting)
    assert node.configure(sender(1, enabled=False)) == [(1, DISABLED)]
    assert node.configure(sender(1)) == [(1, STARTING)]
    assert node.configure(sender(1, dscp=1)) == [(1, STARTING)]
    assert node.configure(sender(1, dscp=1, autostart=False)) == [(1, STOPPED)]
    assert node.configure(sender(1, dscp=1)) == [(1, STARTING)]
    assert node.role._run(1).status.last_error is None
    collecting.refusal = "it cannot be made"
    mended = node.role._mend(list(node.role._runs.values()))
    assert [node._reported() for _ in mended][-1] == [(1, FAILED)]
    assert node.role._run(1).status.last_error == "it cannot be made"
    node.role.close()


def test_sessions_that_are_closed_are_not_woken_up(tmp_path: Path) -> None:
    collecting = Late()
    node = Node(tmp_path, collecting)
    node.configure(sender(1, 2))
    collecting.ready = True
    steps = node.role._mend(list(node.role._runs.values()))
    next(steps)
    node.role.close()
    assert list(steps) == []
    assert len(list(tmp_path.iterdir())) == 1


def test_no_step_takes_more_than_one_session_and_what_stays_runs_on(node: Node) -> None:
    stays = sender(1)
    node.configure(stays)
    node.configure(dataclasses.replace(stays, sessions=stays.sessions | sender(2, 3).sessions))
    changed = stays.sessions | sender(3, 4, dscp=1).sessions
    steps = list(node.steps(dataclasses.replace(stays, sessions=changed)))
    # 2 goes, 1 stays, 3 is replaced at a stroke, 4 is made, and begins.
    assert steps == [[(2, None)], [], [(3, RUNNING)], [], [(4, RUNNING)], []]


def test_a_configuration_that_stopped_half_way_is_taken_back(node: Node) -> None:
    old = sender(1, 2, 3)
    node.configure(old)
    half_way = node.role.configure(sender(2, 3, 4, 5, enabled=False), {})
    for _ in range(4):
        next(half_way)
    half_way.close()
    node.reports.clear()
    assert node.configure(old) == [(4, None), (2, RUNNING), (3, RUNNING), (1, RUNNING)]


def test_disabled_and_enabled(node: Node) -> None:
    node.configure(sender(1, 2))
    assert node.configure(sender(1, 2, enabled=False)) == [(1, DISABLED), (2, DISABLED)]
    assert node.configure(sender(1, 2, enabled=False, autostart=False)) == []
    assert node.configure(sender(1, 2, autostart=False)) == [(1, STOPPED), (2, STOPPED)]
    assert node.configure(sender(1, 2)) == [(1, RUNNING), (2, RUNNING)]


@pytest.mark.parametrize("count", [1, CROWD])
def test_what_is_gone_leaves_nothing_to_collect(node: Node, count: int) -> None:
    """The host keeps its garbage collector away from what lives long."""
    node.configure(sender(*range(1, count + 2)))
    runs = [weakref.ref(node.role._run(ssid)) for ssid in range(2, count + 2)]
    collectors = [weakref.ref(node.role._run(ssid).collector) for ssid in range(2, count + 2)]
    gc.disable()
    try:
        node.configure(sender(1))
        node.loop._heap.clear()
        assert [found for found in (*runs, *collectors) if found() is not None] == []
    finally:
        gc.enable()


def test_what_a_session_consists_of_has_no_dict(node: Node) -> None:
    """Of thousands these would take as much memory as all else of them."""
    node.configure(sender(1))
    run = node.role._run(1)
    collector, store, sending = run.collector, run._results._store, run._sender
    assert collector is not None
    assert store is not None
    assert sending is not None
    own = (run, run.config, run.status, run._plan, run._reports, run._results)
    own += (sending, collector, collector.row)
    own += (collector._window, collector._intervals, store, store._file)
    assert [each for each in own if hasattr(each, "__dict__")] == []


def test_many_part_together(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """While they still have all that they collect with."""
    parted: list[list[int]] = []

    def parting(ssids: Sequence[int]) -> None:
        assert all(node.role._run(ssid).collector is not None for ssid in ssids)
        parted.append(list(ssids))

    monkeypatch.setattr(node.role._collecting, "parting", parting)
    node.configure(sender(*range(1, TOGETHER + 10)))
    assert not parted
    node.configure(sender(1, 2, 3))
    assert parted == [[*range(4, TOGETHER + 4)], [*range(TOGETHER + 4, TOGETHER + 10)]]
    node.role.close()
    assert parted[2:] == [[1, 2, 3]]


@pytest.mark.parametrize(
    "look",
    [
        lambda node: node.role.stop(7),
        lambda node: list(node.role.freshen()),
        lambda node: node.configure(sender(7, autostart=False)),
        lambda node: node.configure(sender(7, enabled=False)),
    ],
)
def test_replies_that_wait_are_taken_in_before_results_are_final(
    node: Node, look: Callable[[Node], object]
) -> None:
    node.configure(sender(7))
    run = node.role._run(7)
    run.send(monotonic_ns())
    queue = cast(SenderPort, run.port)._transport
    assert isinstance(queue, Silent)
    queue.waiting = [reply(wall_ns())]
    look(node)
    assert not queue.waiting
    assert run.collector is not None
    counters = run.collector._counters
    assert (counters.sent, counters.received, counters.unresolved) == (1, 1, 0)


class Apart(CollectingHere):
    """Its sessions are worked on one by one."""

    def __init__(self) -> None:
        super().__init__()
        self._table = None


@pytest.fixture
def status(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what the kernel is to know of the clock."""
    known = ClockStatus(synchronized=True, error_ns=1_000, tai_offset_s=0)

    def become(**changes: Any) -> None:
        nonlocal known
        known = dataclasses.replace(known, **changes)

    monkeypatch.setattr(clock, "read_clock_status", lambda: known)
    monkeypatch.setattr("dataplane.engines.common.sender_port.is_local", lambda _: True)
    return become


def a_second_later(node: Node) -> None:
    now_ns = node.clock._read_ns + REFRESH_NS
    node.clock.refresh(now_ns)
    node.role.tick(now_ns)


def answer(payload: bytes, received_ns: int) -> Datagram:
    """A reply that has taken no time, to a packet of session 7 or another."""
    test = SenderPacket.decode(payload)
    packet = ReflectorPacket(
        sequence=test.sequence,
        timestamp=test.timestamp,
        error_estimate=test.error_estimate,
        ssid=test.ssid,
        receive_timestamp=test.timestamp,
        sender_sequence=test.sequence,
        sender_timestamp=test.timestamp,
        sender_error_estimate=test.error_estimate,
        sender_ttl=255,
    )
    return reply(received_ns)._replace(data=packet.encode())


def snapshot(folder: Path, ssid: int) -> SessionSnapshot:
    store = SessionStore.open(session_store_path(folder, ssid), writable=False)
    try:
        return store.snapshot()
    finally:
        store.close()


@pytest.mark.parametrize("collecting", [CollectingHere, Apart])
def test_sessions_know_the_clock_as_it_was_a_second_ago(
    tmp_path: Path, status: Callable[..., None], collecting: type[CollectingHere]
) -> None:
    """Whether or not an interval has ended since."""
    node = Node(tmp_path, collecting())
    node.configure(sender(7, 8))
    for synchronized, error_ns in ((True, 1_000), (False, 16_000_000_000)):
        status(synchronized=synchronized, error_ns=error_ns)
        a_second_later(node)
        for ssid in (7, 8):
            known = snapshot(tmp_path, ssid)
            assert (known.local_synchronized, known.local_error_ns) == (synchronized, error_ns)
    node.role.close()


@pytest.mark.parametrize("collecting", [CollectingHere, Apart])
def test_a_packet_that_was_under_way_when_the_tai_offset_changed_has_no_delay(
    tmp_path: Path, status: Callable[..., None], collecting: type[CollectingHere]
) -> None:
    """What is sent later has the new offset, and its echoed T1 is read so."""
    node = Node(tmp_path, collecting())
    config = dataclasses.replace(
        sender(7).sessions[7], timestamp_format=TimestampFormat.PTPV2, interval_us=1_000_000
    )
    node.configure(Sender(sessions={7: config}))
    run = node.role._run(7)
    queue = cast(Silent, cast(SenderPort, run.port)._transport)
    for _ in range(2):
        run.send(monotonic_ns())
    status(tai_offset_s=37)
    a_second_later(node)
    run.send(monotonic_ns())
    for payload in queue.sent:
        run.receive(answer(payload, wall_ns()), PEER, monotonic_ns(), monotonic_ns())
    found = snapshot(tmp_path, 7)
    assert (found.sent, found.unresolved, found.received) == (3, 2, 1)
    assert 0 <= (found.round_trip.max_ns or 0) < 1_000_000_000
    assert run.collector is not None
    assert run.collector._intervals.current.suspect
    node.role.close()


class InBatches(Silent):
    """Has what waits at once."""

    limitation: str | None = None
    attachments: tuple[Attachment, ...] = ()
    room = 4_096
    sources = 1

    def receive_batch(self, batch: Batch) -> bool:
        batch.count = len(self.waiting)
        for row, datagram in enumerate(self.waiting):
            batch.data[row, : len(datagram.data)] = np.frombuffer(datagram.data, np.uint8)
            batch.length[row] = len(datagram.data)
            batch.source[row] = np.frombuffer(PEER.packed, np.uint64)
            batch.source_port[row] = datagram.source_port
            batch.received_ns[row] = datagram.received_ns
        batch.kernel_stamped[:] = True
        self.waiting.clear()
        return False

    def flooded(self, overrun: bool) -> None: ...

    def send_burst(self, *_: object) -> int:
        raise NotImplementedError

    def answer(self, *_: object) -> None: ...


@pytest.mark.parametrize("packets", [1, 2 * SMALL])
@pytest.mark.parametrize("transport", [Silent, InBatches])
@pytest.mark.parametrize("step_ns", [3_600_000_000_000, 1_000_000, -1_000_000, -3_600_000_000_000])
def test_a_packet_that_was_under_way_when_the_clock_was_set_has_no_delay(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step_ns: int,
    transport: type[Silent],
    packets: int,
) -> None:
    monkeypatch.setattr(Node, "_open", lambda *_: transport())
    node = Node(tmp_path)
    node.configure(sender(7, 8))
    runs = [node.role._run(ssid) for ssid in (7, 8)]
    queue = cast(Silent, cast(SenderPort, runs[0].port)._transport)

    def send() -> None:
        for run in runs:
            for _ in range(packets):
                run.send(monotonic_ns())

    def answered() -> None:
        queue.waiting = [answer(payload, clock.wall_ns()) for payload in queue.sent]
        queue.sent = []
        runs[0].port.drain()

    send()
    answered()
    send()
    common = "engines.common"
    for module in ("clock", *(f"{common}.{n}" for n in ("run", "sender_port", "batch_collection"))):
        monkeypatch.setattr(f"dataplane.{module}.wall_ns", lambda: time.time_ns() + step_ns)
    answered()
    for run in runs:
        assert run.collector is not None
        assert run.collector._intervals.current.suspect
        assert not any(delay.has_previous for delay in run.collector._intervals.delays)
    send()
    answered()
    for ssid in (7, 8):
        found = snapshot(tmp_path, ssid)
        assert (found.sent, found.received) == (3 * packets, 2 * packets)
        assert (found.unresolved, found.late) == (packets, packets)
        for delay in (found.forward, found.backward, found.round_trip):
            assert 0 <= (delay.min_ns or 0) <= (delay.max_ns or 0) < 500_000_000
    node.role.close()


def test_nothing_is_kept_that_looks_into_one_of_many_sessions(node: Node) -> None:
    """For each of ten thousand it would be more than all else."""
    node.configure(sender(*range(1, CROWD + 1)))
    assert _overlays() == 0
    (port,) = node.role._ports.values()
    for ssid in range(1, CROWD + 1):
        run = node.role._run(ssid)
        run.send(monotonic_ns())
        run.receive(reply(wall_ns(), ssid), PEER, monotonic_ns(), monotonic_ns())
    assert _overlays() == 0
    collector = port.runs[CROWD].collector
    assert collector is not None
    assert (collector.next_sequence, collector.in_flight) == (1, 0)


def _overlays() -> int:
    return sum(isinstance(each, SessionState) for each in gc.get_objects())


class Holding(Batches):
    """A transport that reflects what is sent, and holds the replies until they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[bytes] = []
        self.arrived_ns = 0

    def send_burst(self, *sent: Any) -> int:
        rows = sent[0]
        for row in rows:
            request = row.tobytes()
            self.held.append(
                request[:16] + request[4:12] + request[:14] + bytes([0, 0, 64, 0, 0, 0])
            )
        self.arrived_ns = wall_ns()
        return len(rows)

    def receive_batch(self, batch: Batch) -> bool:
        batch.count = count = len(self.held)
        if count:
            batch.data[:count, :44] = np.frombuffer(b"".join(self.held), np.uint8).reshape(-1, 44)
            batch.length[:count] = 44
            batch.source[:count] = np.frombuffer(PEER.packed, np.uint64)
            batch.source_port[:count] = 862
            batch.received_ns[:count] = self.arrived_ns
            self.held.clear()
        return False


def test_intervals_end_once_what_has_arrived_in_them_was_read(node: Node) -> None:
    """Though it is packets that are due together which find that they are over."""
    transport = Holding()
    sessions = {
        ssid: SenderSession(
            ssid, PEER, US, interval_us=10_000, computation_interval_s=1, loss_timeout_ms=500
        )
        for ssid in range(1, 11)
    }
    node.open = lambda: transport
    node.configure(Sender(engine="test", sessions=sessions))
    [port] = node.role._ports.values()
    rounds, rows = port._rounds, np.array(sorted(sessions), np.intp)
    assert rounds is not None
    rounds.send(transport, rows, port.runs)
    assert len(transport.held) == len(sessions)
    time.sleep(1.1)
    rounds.send(transport, rows, port.runs)
    for run in port.runs.values():
        assert run.collector is not None
        counters = run.collector._counters
        assert (counters.sent, counters.received, counters.lost, counters.late) == (2, 1, 0, 0)
