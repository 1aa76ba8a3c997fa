import os
import signal
import struct
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from dataplane.arena import PAGE
from dataplane.config import SenderSession
from dataplane.histogram import BUCKETS, SUB_BUCKETS
from dataplane.mapped_file import MappedFile
from dataplane.measurement import Record, TimestampMethod
from dataplane.reflector_store import ReflectorStore
from dataplane.session_state import SessionState
from dataplane.stamp.collector import Collector
from dataplane.stamp.errors import DiscardReason
from dataplane.store import SessionStore, StoreError
from tests.unit.stamp.network import FINE, FORWARD_LOST, MS, REFLECTOR, UNIX_NS, Network, reply
from tests.unit.stamp.network import session as make_session

RESUMED_NS = 200 * MS
KERNEL, USERSPACE = TimestampMethod.KERNEL_SOFTWARE, TimestampMethod.USERSPACE


@pytest.fixture
def config() -> SenderSession:
    return make_session()


def test_new_store_is_empty(tmp_path: Path, config: SenderSession) -> None:
    store = SessionStore.create(tmp_path / "s", config)
    snapshot = store.snapshot(10)
    assert (snapshot.sent, snapshot.received, snapshot.loss.round_trip) == (0, 0, 0)
    assert (snapshot.start_time_ns, snapshot.last_received_ns) == (None, None)
    assert (snapshot.reflector_synchronized, snapshot.local_error_ns) == (None, None)
    assert (snapshot.forward.samples, snapshot.forward.mean_ns) == (0, None)
    assert (snapshot.intervals, snapshot.records, store.fetch(5)) == ([], [], [])
    assert store.ssid == 7
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_create_replaces_and_unlink_removes(tmp_path: Path, config: SenderSession) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"something else")
    store = SessionStore.create(path, config)
    store.close()
    assert SessionStore.open(path, writable=False).matches(config)
    store.unlink()
    store.unlink()
    with pytest.raises(StoreError, match=f"^{path}: cannot be opened: No such file or directory$"):
        SessionStore.open(path, writable=False)


@pytest.mark.parametrize(
    "change",
    [
        {"ssid": 8},
        {"result_depth": 5},
        {"history_depth": 3},
        {"percentiles": (50.0,)},
        {"delay_mode": "other"},
        {"reflector_mode": "other"},
    ],
)
def test_matches(tmp_path: Path, config: SenderSession, change: dict[str, object]) -> None:
    store = SessionStore.create(tmp_path / "s", config)
    for key, value in change.items():
        if value == "other":
            enum = type(getattr(config, key))
            change[key] = next(member for member in enum if member is not getattr(config, key))
    assert store.matches(config)
    assert not store.matches(make_session(**change))


def test_what_is_not_a_store_is_refused(tmp_path: Path, config: SenderSession) -> None:
    path = tmp_path / "s"
    SessionStore.create(path, config).close()
    good = path.read_bytes()
    size = len(good)
    state = struct.unpack_from("=I", good, 12)[0]
    cases = [
        (b"x" + good[1:], "not a session store"),
        (good[:20], "not a session store"),
        (good[:8] + b"\x09\0\0\0" + good[12:], "layout version is 9, not 3"),
        (good[:12] + b"\x01\0\0\0" + good[16:], f"state of 1 bytes, not {state}"),
        (good[:-1], f"{size - 1} bytes long, not {size}"),
    ]
    for content, text in cases:
        path.write_bytes(content)
        with pytest.raises(StoreError) as caught:
            SessionStore.open(path, writable=False)
        assert str(caught.value) == f"{path}: {text}"


def test_folder_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(StoreError) as caught:
        SessionStore.create(path / "missing", make_session())
    assert str(caught.value) == f"{path}/missing: cannot be created: No such file or directory"


def test_reader_sees_what_is_written_and_cannot_fetch(tmp_path: Path) -> None:
    network = Network.make(tmp_path)
    reader = SessionStore.open(tmp_path / "session", writable=False)
    network.send([FINE] * 120)
    network.run()
    assert reader.snapshot(500) == network.store.snapshot(500)
    assert reader.snapshot().records_pending == 120
    with pytest.raises(StoreError, match=r"opened for reading only, records cannot be fetched$"):
        reader.fetch(1)


def test_fetch_cursor_outlives_the_reader(tmp_path: Path) -> None:
    network = Network.make(tmp_path)
    network.send([FINE] * 10)
    network.run()
    first = SessionStore.open(tmp_path / "session", writable=True)
    assert [record.sequence for record in first.fetch(4)] == [0, 1, 2, 3]
    first.close()
    second = SessionStore.open(tmp_path / "session", writable=True)
    assert [record.sequence for record in second.fetch(99)] == [4, 5, 6, 7, 8, 9]


def test_nothing_is_lost_when_the_host_is_killed(tmp_path: Path, config: SenderSession) -> None:
    """A process that is killed by SIGKILL in the middle of collecting."""
    path = tmp_path / "s"
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        collector = Collector(config, SessionStore.create(path, config), now_ns=0)
        collector.start(0, UNIX_NS)
        for sequence in range(130):
            now_ns = sequence * 10 * MS
            t1_ns = UNIX_NS + now_ns
            collector.sent(sequence, t1_ns, now_ns)
            if sequence < 128:
                data = reply(sequence, sequence, t1_ns, t1_ns + MS, t1_ns + MS)
                collector.receive(
                    data, source=REFLECTOR, source_port=862, t4_ns=t1_ns + 2 * MS, now_ns=now_ns
                )
        os.write(writer, b"x")
        signal.pause()
    os.read(reader, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    store = SessionStore.open(path, writable=True)
    snapshot = store.snapshot()
    assert (snapshot.sent, snapshot.received, snapshot.in_flight) == (130, 128, 2)
    assert (snapshot.forward.samples, snapshot.forward.mean_ns) == (128, MS)
    assert len(snapshot.intervals) == 1
    fetched = store.fetch(1000)
    assert [record.sequence for record in fetched] == list(range(128))
    assert isinstance(fetched[0], Record)


def test_writer_that_died_while_writing(tmp_path: Path) -> None:
    """Readers say so, and the next host repairs and counts it."""
    network = Network.make(tmp_path)
    network.send([FINE] * 3)
    network.run()
    network.store.state.head.version |= 1
    reader = SessionStore.open(tmp_path / "session", writable=False)
    assert not reader.snapshot().consistent
    resumed = SessionStore.open(tmp_path / "session", writable=True)
    Collector(network.config, resumed, now_ns=RESUMED_NS, resumed=True)
    snapshot = reader.snapshot()
    assert (snapshot.consistent, snapshot.torn_writes, snapshot.received) == (True, 1, 3)


def test_clear_that_was_cut_short_is_repeated(tmp_path: Path) -> None:
    network = Network.make(tmp_path)
    network.send([FINE] * 3)
    network.run()
    network.store.state.head.version |= 1
    network.store.state.head.clearing = 1
    store = SessionStore.open(tmp_path / "session", writable=True)
    Collector(network.config, store, now_ns=RESUMED_NS, resumed=True)
    snapshot = store.snapshot(5)
    assert (snapshot.received, snapshot.forward.samples, snapshot.records) == (0, 0, [])
    assert snapshot.torn_writes == 0


def test_closing_an_interval_again_after_a_kill(tmp_path: Path) -> None:
    """Killed before the commit: what the first attempt left behind is not counted."""
    network = Network.make(tmp_path)
    network.send([FINE, FORWARD_LOST, FINE] * 100)
    network.run(2_500 * MS)
    state: SessionState = network.store.state
    whole = network.store.snapshot()
    closed = state.head.closed
    for _ in range(2):
        network.store.close_interval(0, next_start_monotonic_ns=0, next_end_monotonic_ns=0)
        state.head.closed = closed
    assert network.store.snapshot() == whole


def test_reflector_store_outlives_the_host(tmp_path: Path) -> None:
    path = tmp_path / "r"
    store = ReflectorStore.create(path, 3)
    keys = [(1, None), (1, IPv6Address("2001:db8::1")), (2, IPv4Address("192.0.2.1"))]
    for number, key in enumerate(keys, 1):
        state = store.allocate(*key)
        state.received = state.reflected = number
        state.next_sequence = number * 10
        state.last_received_ns = number * 100
        state.t2_method, state.t3_method = KERNEL.code, USERSPACE.code
    store.role.received += 5
    store.role.discard(DiscardReason.UNKNOWN_SESSION)
    with pytest.raises(StoreError, match=f"^{path}: full, it holds 3 sessions$"):
        store.allocate(3, None)
    resumed = ReflectorStore.open(path, writable=True)
    assert resumed.keys == set(keys)
    assert resumed.allocate(*keys[2]).next_sequence == 30
    snapshot = resumed.snapshot()
    assert (snapshot.received, snapshot.reflected, snapshot.last_received_ns) == (11, 6, 300)
    assert snapshot.discards[DiscardReason.UNKNOWN_SESSION] == 1
    assert snapshot.sessions[keys[1]].received == 2
    methods = snapshot.sessions[keys[1]].t2_method, snapshot.sessions[keys[1]].t3_method
    assert methods == (KERNEL, USERSPACE)
    resumed.free(*keys[0])
    assert resumed.allocate(3, None).received == 0
    assert set(ReflectorStore.open(path, writable=False).snapshot().sessions) == {
        (3, None),
        *keys[1:],
    }


def test_what_is_not_a_reflector_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r"
    ReflectorStore.create(path, 2).close()
    good = path.read_bytes()
    for content, text in (
        (b"", "cannot be opened: cannot mmap an empty file"),
        (b"x" * 40, "not a reflector store"),
        (good[:8] + b"\x09" + good[9:], "layout version is 9, not 4"),
        (good[:-1], f"{len(good) - 1} bytes long, not {len(good)}"),
    ):
        path.write_bytes(content)
        with pytest.raises(StoreError) as caught:
            ReflectorStore.open(path, writable=True)
        assert str(caught.value) == f"{path}: {text}"


def test_snapshots_beside_a_busy_writer(tmp_path: Path, config: SenderSession) -> None:
    """Each one that says it is consistent shows one moment between two packets."""
    store = SessionStore.create(tmp_path / "s", config)
    child = os.fork()
    if not child:
        collector = Collector(config, store, now_ns=0)
        collector.start(0, UNIX_NS)
        for sequence in range(8_000):
            now_ns = sequence * 10 * MS
            t1_ns = UNIX_NS + now_ns
            collector.sent(sequence, t1_ns, now_ns)
            data = reply(sequence, sequence, t1_ns, t1_ns + MS, t1_ns + MS)
            collector.receive(
                data, source=REFLECTOR, source_port=862, t4_ns=t1_ns + 2 * MS, now_ns=now_ns
            )
        os._exit(0)
    received, moments, finished = 0, 0, False
    while not finished:
        finished = os.waitpid(child, os.WNOHANG)[0] == child
        snapshot = store.snapshot()
        if not snapshot.consistent:
            continue
        moments += 1
        assert snapshot.received == snapshot.forward.samples >= received
        assert snapshot.sent - snapshot.received == snapshot.in_flight in (0, 1)
        assert [i.received for i in snapshot.intervals] == [100] * len(snapshot.intervals)
        received = snapshot.received
    assert (received, store.snapshot().intervals[-1].number) == (8_000, 79)
    assert moments > 1


def test_memory_grows_with_the_range_of_the_delays(tmp_path: Path) -> None:
    config = make_session(result_depth=1, history_depth=1)
    store = SessionStore.create(tmp_path / "store", config)
    before = (tmp_path / "store").stat().st_blocks
    assert before * 512 <= 16_384
    for bucket in range(0, BUCKETS, SUB_BUCKETS):
        store.histograms.add(0, 0, bucket)
    after = (tmp_path / "store").stat().st_blocks
    assert (after - before) * 512 >= 20_000
    reader = SessionStore.open(tmp_path / "store", writable=False)
    assert int(reader.histograms.total(0, 0)[1].sum()) == BUCKETS // SUB_BUCKETS
    reader.close()
    store.close()


def test_the_file_is_only_asked_for_memory_page_by_page(tmp_path: Path) -> None:
    path = tmp_path / "file"
    MappedFile.create(path, b"", 5 * PAGE, allocate=PAGE + 8)
    assert path.stat().st_blocks * 512 == 2 * PAGE
    file = MappedFile(path, writable=True)
    file.reserve(2 * PAGE + 8, PAGE + 8)
    assert path.stat().st_blocks * 512 == 3 * PAGE
    assert path.stat().st_size == 5 * PAGE
    path.unlink()
    file.reserve(3 * PAGE, 2 * PAGE + 8)
    with pytest.raises(StoreError, match="cannot grow"):
        file.reserve(3 * PAGE + 1, 3 * PAGE)
    file.close()
