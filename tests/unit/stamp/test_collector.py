from pathlib import Path

import pytest

from dataplane.config import DelayMode, ReflectorMode, SsidZeroAction
from dataplane.measurement import Record, TimestampMethod
from dataplane.stamp.collector import Collector, Ignored, window_of
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.session_sender import SessionSender
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, encode_timestamp
from dataplane.statistics import LossSummary
from dataplane.store import SessionStore
from tests.unit.stamp.network import (
    BACKWARD_LOST,
    ESTIMATE,
    FINE,
    FORWARD_LOST,
    MS,
    REFLECTOR,
    SENDER,
    TURNAROUND_NS,
    UNIX_NS,
    Fate,
    Network,
    S,
    reply,
    session,
)


def receive(
    collector: Collector, data: bytes, now_ns: int = 5 * MS
) -> Record | Ignored | DiscardReason:
    return collector.receive(
        data, source=REFLECTOR, source_port=862, t4_ns=UNIX_NS + now_ns, now_ns=now_ns
    )


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return Network.make(tmp_path)


def test_record_of_a_reply(network: Network) -> None:
    network.clock_offset_ns = -10 * MS
    network.send([FINE])
    network.run()
    (record,) = network.store.fetch(10)
    assert record == Record(
        sequence=0,
        t1_ns=UNIX_NS,
        t2_ns=UNIX_NS - 8 * MS,
        t3_ns=UNIX_NS - 8 * MS + TURNAROUND_NS,
        t4_ns=UNIX_NS + 5 * MS + TURNAROUND_NS,
        reflector_sequence=0,
        sender_ttl=250,
        t1_method=TimestampMethod.USERSPACE.code,
        t4_method=TimestampMethod.USERSPACE.code,
        flags=3,
    )
    snapshot = network.store.snapshot()
    assert snapshot.forward.last_ns == -8 * MS
    assert snapshot.backward is not None
    assert snapshot.backward.last_ns == 13 * MS
    assert snapshot.round_trip is not None
    assert snapshot.round_trip.percentiles == {50.0: 5 * MS, 95.0: 5 * MS, 99.0: 5 * MS}
    assert (snapshot.reflector_synchronized, snapshot.reflector_error_ns) == (
        True,
        ESTIMATE.error_ns,
    )


def test_one_way_has_forward_delay_alone(tmp_path: Path) -> None:
    network = Network.make(tmp_path, delay_mode=DelayMode.ONE_WAY)
    network.send([FINE] * 150)
    network.run()
    snapshot = network.store.snapshot()
    assert snapshot.forward.mean_ns == 2 * MS
    assert (snapshot.backward, snapshot.round_trip) == (None, None)
    assert (snapshot.intervals[0].backward, snapshot.intervals[0].round_trip) == (None, None)


def test_timestamps_are_read_in_the_formats_of_their_ends(network: Network) -> None:
    """T1 by the Session-Sender's Z bit, T2 and T3 by the Session-Reflector's."""
    network.collector.sent(0, UNIX_NS, 0)
    ntp = ErrorEstimate.from_error_ns(1_000, False, TimestampFormat.NTP)
    data = reply(
        0, 0, UNIX_NS, 0, 0,
        error_estimate=ntp,
        receive_timestamp=encode_timestamp(UNIX_NS + 1 * MS, TimestampFormat.NTP),
        timestamp=encode_timestamp(UNIX_NS + 2 * MS, TimestampFormat.NTP),
    )  # fmt: skip
    record = receive(network.collector, data)
    assert isinstance(record, Record)
    assert record[1:5] == (UNIX_NS, UNIX_NS + MS, UNIX_NS + 2 * MS, UNIX_NS + 5 * MS)
    assert network.store.snapshot().reflector_synchronized is False


def test_refined_t1_replaces_the_echoed_one(network: Network) -> None:
    collector = network.collector
    collector.sent(0, UNIX_NS, 0)
    assert collector.refine_t1(0, UNIX_NS + 777)
    record = receive(collector, reply(0, 0, UNIX_NS, UNIX_NS + MS, UNIX_NS + MS))
    assert isinstance(record, Record)
    assert (record.t1_ns, record.forward_ns) == (UNIX_NS + 777, MS - 777)
    assert network.store.snapshot().t1_method is TimestampMethod.KERNEL_SOFTWARE
    assert not collector.refine_t1(0, UNIX_NS)
    assert not collector.refine_t1(1, UNIX_NS)


def test_replies_to_a_former_life_of_the_session_are_not_taken(network: Network) -> None:
    """Configured anew it begins with the same sequence numbers; both copies count."""
    collector = network.collector
    collector.sent(0, UNIX_NS, 0)
    former = reply(0, 0, UNIX_NS - 1, UNIX_NS, UNIX_NS)
    unexpected = DiscardReason.UNEXPECTED_SEQUENCE
    assert receive(collector, former) is unexpected
    assert isinstance(receive(collector, reply(0, 0, UNIX_NS, UNIX_NS, UNIX_NS)), Record)
    assert receive(collector, former) is unexpected
    assert network.store.snapshot().duplicates == 0


def test_a_clock_that_is_set_makes_no_reply_a_former_one(network: Network) -> None:
    collector = network.collector
    # Set forward while packet 0 is under way, and back while 1 is.
    times_ns = [UNIX_NS, UNIX_NS + 3_600 * S, UNIX_NS - 3_600 * S]
    for sequence, t1_ns in enumerate(times_ns):
        collector.sent(sequence, t1_ns, 0)
    for sequence, t1_ns in enumerate(times_ns):
        assert isinstance(receive(collector, reply(sequence, 0, t1_ns, t1_ns, t1_ns)), Record)


def test_discards_are_counted_by_reason(network: Network) -> None:
    collector = network.collector
    collector.sent(0, UNIX_NS, 0)
    good = reply(0, 0, UNIX_NS, UNIX_NS, UNIX_NS)
    zero = good[:12] + b"\x40\x00" + good[14:]
    results = [
        receive(collector, b""),
        receive(collector, good[:43]),
        receive(collector, zero),
        receive(collector, reply(0, 0, UNIX_NS, UNIX_NS, UNIX_NS, ssid=8)),
        receive(collector, reply(1, 0, UNIX_NS, UNIX_NS, UNIX_NS)),
        receive(collector, reply(2**31 + 5, 0, UNIX_NS, UNIX_NS, UNIX_NS)),
        collector.receive(good, source=SENDER, source_port=862, t4_ns=UNIX_NS, now_ns=0),
        collector.receive(good, source=REFLECTOR, source_port=863, t4_ns=UNIX_NS, now_ns=0),
    ]
    assert results == [
        DiscardReason.TRUNCATED,
        DiscardReason.TRUNCATED,
        DiscardReason.ZERO_MULTIPLIER,
        DiscardReason.SSID_MISMATCH,
        DiscardReason.UNEXPECTED_SEQUENCE,
        DiscardReason.UNEXPECTED_SEQUENCE,
        DiscardReason.WRONG_ADDRESS,
        DiscardReason.WRONG_PORT,
    ]
    snapshot = network.store.snapshot()
    assert sum(snapshot.discards.values()) == 8
    assert snapshot.discards[DiscardReason.TRUNCATED] == 2
    assert (snapshot.received, snapshot.in_flight) == (0, 1)
    assert not collector.ssid_zero_seen


@pytest.mark.parametrize("action", list(SsidZeroAction))
def test_ssid_zero(tmp_path: Path, action: SsidZeroAction) -> None:
    collector = Network.make(tmp_path, on_ssid_zero=action).collector
    collector.sent(0, UNIX_NS, 0)
    result = receive(collector, reply(0, 0, UNIX_NS, UNIX_NS, UNIX_NS, ssid=0))
    assert collector.ssid_zero_seen
    if action is SsidZeroAction.CONTINUE:
        assert isinstance(result, Record)
    else:
        assert result is DiscardReason.SSID_MISMATCH


def test_late_reply_stays_lost(network: Network) -> None:
    network.send([Fate(((2 * MS, (99 * MS,)),)), FINE])
    network.drain()
    snapshot = network.store.snapshot(10)
    assert (snapshot.late, snapshot.received, snapshot.loss.round_trip) == (1, 1, 1)
    assert [record.sequence for record in snapshot.records] == [1]
    assert snapshot.forward.samples == 1


def test_late_reply_counts_as_backward_loss(network: Network) -> None:
    network.send([FINE, Fate(((2 * MS, (99 * MS,)),)), FINE])
    network.drain()
    assert network.store.snapshot().loss == LossSummary(1, 0, 1, 0)


def test_duplicates_and_reordering(network: Network) -> None:
    network.send(
        [
            FINE,
            Fate(((2 * MS, (3 * MS, 4 * MS)),)),
            Fate(((2 * MS, (3 * MS,)), (5 * MS, (3 * MS,)))),
            Fate(((2 * MS, (25 * MS,)),)),
            FORWARD_LOST,
            FINE,
            FINE,
            BACKWARD_LOST,
            FINE,
        ]
    )
    network.drain()
    snapshot = network.store.snapshot(10)
    assert (snapshot.received, snapshot.duplicates, snapshot.reordered) == (7, 2, 1)
    assert snapshot.loss == LossSummary(2, 1, 1, 0)
    assert [record.sequence for record in snapshot.records] == [0, 1, 2, 5, 3, 6, 8]


def test_overtaken_on_the_forward_path(network: Network) -> None:
    """A number that was passed over arrives later, so it was not lost."""
    slow_forth, slow_back = Fate(((20 * MS, (3 * MS,)),)), Fate(((1 * MS, (40 * MS,)),))
    network.send([FINE, slow_forth, slow_back, FORWARD_LOST, FINE])
    network.drain()
    assert network.store.snapshot().loss == LossSummary(1, 1, 0, 0)


def test_duplicate_whose_reply_is_lost_leaves_later_losses_to_be_told_apart(
    network: Network,
) -> None:
    """The number that nobody lost is given up once all that was under way is settled."""
    network.send([FINE, Fate(((2 * MS, (3 * MS,)), (4 * MS, ()))), FINE, FINE, FINE])
    network.run(S)
    network.send([FORWARD_LOST, FINE, BACKWARD_LOST, FINE])
    network.drain()
    assert network.store.snapshot().loss == LossSummary(2, 1, 1, 0)


def test_counter_of_an_existing_session(tmp_path: Path) -> None:
    """It starts anywhere, wraps, and says nothing about what precedes the first reply."""
    network = Network.make(tmp_path, counter=2**32 - 2)
    network.send([FORWARD_LOST, FINE, BACKWARD_LOST, FORWARD_LOST, FINE, FINE])
    network.drain()
    assert network.store.snapshot().loss == LossSummary(3, 1, 1, 1)


def test_trailing_losses_are_undetermined_until_the_next_reply(network: Network) -> None:
    network.send([FINE, FORWARD_LOST, FORWARD_LOST, BACKWARD_LOST])
    network.drain()
    assert network.store.snapshot().loss == LossSummary(3, 0, 0, 3)
    network.send([FINE])
    network.drain()
    assert network.store.snapshot().loss == LossSummary(3, 2, 1, 0)


def test_reflector_restart(network: Network) -> None:
    """What is open when the counter starts anew stays undetermined, the rest is exact."""
    network.send([FINE, FORWARD_LOST, FINE, BACKWARD_LOST, FORWARD_LOST])
    network.run(130 * MS)
    network.counter = 0
    network.send([FORWARD_LOST, FINE, FINE, BACKWARD_LOST, FINE])
    network.drain()
    assert network.store.snapshot().loss == LossSummary(5, 1, 1, 3)


def test_stateless_reflector_leaves_losses_undetermined(tmp_path: Path) -> None:
    network = Network.make(tmp_path, reflector_mode=ReflectorMode.STATELESS)
    network.send([FINE, FORWARD_LOST, BACKWARD_LOST, FINE])
    network.drain()
    assert network.store.snapshot().loss == LossSummary(2, None, None, 2)


def test_intervals_are_aligned_and_closed_by_time(network: Network) -> None:
    network.send([FINE] * 250)
    network.run(3 * S)
    assert network.closed == [1, 2, 3]
    intervals = network.store.intervals
    assert [i.start_time_ns - UNIX_NS for i in intervals] == [0, S, 2 * S]
    assert [i.end_time_ns - UNIX_NS for i in intervals] == [S, 2 * S, 3 * S]
    assert [(i.sent, i.received, i.suspect) for i in intervals] == [
        (100, 100, False),
        (100, 100, False),
        (50, 50, False),
    ]
    assert intervals[0].round_trip is not None
    assert intervals[0].round_trip.mean_ns == 5 * MS
    assert network.store.snapshot().forward.samples == 250


def test_interval_history_is_bounded(tmp_path: Path) -> None:
    network = Network.make(tmp_path, history_depth=2)
    network.send([FINE])
    network.run(5 * S)
    assert [i.number for i in network.store.intervals] == [4, 5]
    assert network.store.intervals[1].forward is not None
    assert network.store.intervals[1].forward.mean_ns is None


def test_losses_carried_over_an_interval_count_once(network: Network) -> None:
    """Lost in the first interval, attributed in the second."""
    network.send([FINE] * 80 + [FORWARD_LOST] * 40 + [FINE] * 10)
    network.run(2 * S)
    first, second = network.store.intervals
    assert first.loss.undetermined == first.loss.round_trip > 0
    assert second.loss == LossSummary(second.loss.round_trip, second.loss.round_trip, 0, 0)
    assert network.store.snapshot().loss == LossSummary(40, 40, 0, 0)


@pytest.mark.parametrize(("until_ms", "suspects"), [(2_400, []), (4_500, [3, 4, 5])])
def test_intervals_are_suspect_if_nothing_has_been_sent_for_as_long_as_one_takes(
    network: Network, until_ms: int, suspects: list[int]
) -> None:
    """A timer closes them, as of a session that has failed."""
    collector = network.collector
    sender = SessionSender(network.config, start_ns=0, row=collector.row)
    for now_ms in range(0, 7_000, 10):
        network.run(now_ms * MS)
        if not 1_500 <= now_ms < until_ms:
            collector.sent(collector.next_sequence, UNIX_NS + now_ms * MS, now_ms * MS)
            sender.send(now_ms * MS, UNIX_NS, ESTIMATE)
    assert [i.number for i in network.store.intervals if i.suspect] == suspects


@pytest.mark.parametrize(
    ("until_ms", "suspects"), [(2_400, []), (2_600, [2, 3]), (4_500, [2, 3, 4, 5])]
)
def test_intervals_are_suspect_in_which_the_engine_was_held_up(
    network: Network, until_ms: int, suspects: list[int]
) -> None:
    """They end all at once, when it goes on."""
    collector = network.collector
    sender = SessionSender(network.config, start_ns=0, row=collector.row)
    for now_ms in (*range(0, 1_500, 10), *range(until_ms, 7_000, 10)):
        collector.expire(now_ms * MS)
        collector.sent(collector.next_sequence, UNIX_NS + now_ms * MS, now_ms * MS)
        sender.send(now_ms * MS, UNIX_NS, ESTIMATE)
    assert [i.number for i in network.store.intervals if i.suspect] == suspects


def test_intervals_are_suspect_in_which_a_session_was_held(network: Network) -> None:
    network.send([FINE] * 500)
    network.at(1_990 * MS, lambda: network.collector.hold(True))
    network.at(4_010 * MS, lambda: network.collector.hold(False))
    network.run(7 * S)
    assert [i.number for i in network.store.intervals if i.suspect] == [2, 3, 4, 5]


def test_a_session_that_sends_seldom_has_no_suspect_intervals(tmp_path: Path) -> None:
    network = Network.make(tmp_path, interval_us=3_000_000)
    sender = SessionSender(network.config, start_ns=0, row=network.collector.row)
    for number in range(4):
        network.run(number * 3 * S)
        network.collector.sent(number, UNIX_NS + number * 3 * S, number * 3 * S)
        sender.send(number * 3 * S, UNIX_NS, ESTIMATE)
    assert len(network.store.intervals) == 9
    assert not any(interval.suspect for interval in network.store.intervals)


def test_stop_closes_a_suspect_interval(network: Network) -> None:
    network.send([FINE] * 50)
    network.run(492 * MS)
    assert network.collector.stop(492 * MS) == [1]
    (interval,) = network.store.intervals
    assert (interval.suspect, interval.sent, interval.received, interval.unresolved) == (
        True,
        50,
        49,
        1,
    )
    assert network.collector.next_timer_ns() is None
    late = reply(49, 49, UNIX_NS, UNIX_NS, UNIX_NS)
    assert receive(network.collector, late, 493 * MS) is Ignored.LATE
    network.collector.start(2 * S, UNIX_NS + 2 * S)
    assert network.collector.next_sequence == 50
    assert network.collector.expire(3 * S) == [2]
    assert not network.store.intervals[1].suspect


def test_clear_goes_on_counting_what_is_under_way(network: Network) -> None:
    network.send([FINE] * 150)
    network.run(1_492 * MS)
    network.collector.clear(1_492 * MS)
    snapshot = network.store.snapshot(10)
    assert (snapshot.sent, snapshot.received, snapshot.in_flight) == (1, 0, 1)
    assert (snapshot.forward.samples, snapshot.intervals, snapshot.records) == (0, [], [])
    assert network.store.fetch(10) == []
    assert snapshot.discontinuity_time_ns == UNIX_NS + 1_492 * MS
    network.run(2 * S)
    snapshot = network.store.snapshot(10)
    assert (snapshot.sent, snapshot.received, snapshot.in_flight) == (1, 1, 0)
    assert [(i.number, i.suspect) for i in snapshot.intervals] == [(2, True)]
    assert snapshot.forward.percentiles[50.0] == 2 * MS


def test_send_failure_frees_the_number(network: Network) -> None:
    collector = network.collector
    collector.sent(0, UNIX_NS, 0)
    collector.sent(1, UNIX_NS, 0)
    with pytest.raises(ValueError, match=r"^sequence 0 is not the last one sent$"):
        collector.send_failed(0)
    collector.send_failed(1)
    with pytest.raises(ValueError, match=r"^sequence 2 is not the next one, 1$"):
        collector.sent(2, UNIX_NS, 0)
    snapshot = network.store.snapshot()
    assert (snapshot.sent, snapshot.send_errors, snapshot.next_sequence) == (1, 1, 1)


def test_window_overflow_becomes_unresolved(tmp_path: Path) -> None:
    config = session()
    store = SessionStore.create(tmp_path / "session", config)
    collector = Collector(config, store, now_ns=0)
    collector.start(0, UNIX_NS)
    for sequence in range(window_of(config) + 3):
        collector.sent(sequence, UNIX_NS, 0)
    snapshot = store.snapshot()
    assert (snapshot.unresolved, snapshot.in_flight) == (3, window_of(config))
    assert receive(collector, reply(0, 0, UNIX_NS, UNIX_NS, UNIX_NS)) is Ignored.LATE


def test_sequence_numbers_wrap_on_the_wire(tmp_path: Path) -> None:
    config = session()
    store = SessionStore.create(tmp_path / "session", config)
    store.state.head.next_sequence = 2**32 - 1
    collector = Collector(config, store, now_ns=0)
    collector.start(0, UNIX_NS)
    for sequence in (2**32 - 1, 2**32):
        collector.sent(sequence, UNIX_NS, 0)
    for sequence in (2**32 - 1, 2**32):
        record = receive(collector, reply(sequence, 0, UNIX_NS, UNIX_NS, UNIX_NS))
        assert isinstance(record, Record)
        assert record.sequence == sequence


def test_resume_goes_on_with_the_run(network: Network, tmp_path: Path) -> None:
    """The file of a host that died: nothing is lost but the fate of what was under way."""
    network.send([FINE, FORWARD_LOST] * 26)
    network.run(505 * MS)
    before = network.store.snapshot()
    store = SessionStore.open(tmp_path / "session", writable=True)
    collector = Collector(network.config, store, now_ns=700 * MS, resumed=True)
    collector.start(700 * MS, UNIX_NS + 700 * MS)
    after = store.snapshot()
    assert (after.received, after.forward) == (before.received, before.forward)
    assert (after.unresolved, after.in_flight) == (before.in_flight, 0)
    assert before.in_flight > 0
    assert (collector.running, collector.next_sequence) == (True, before.sent)
    assert receive(collector, reply(50, 25, UNIX_NS, UNIX_NS, UNIX_NS), S) is Ignored.LATE
    assert collector.expire(S) == [1]
    assert store.intervals[0].suspect
    assert store.intervals[0].end_time_ns == UNIX_NS + S
    assert collector.expire(2 * S) == [2]
    assert not store.intervals[1].suspect


def test_resume_after_intervals_without_a_host(network: Network, tmp_path: Path) -> None:
    network.send([FINE] * 10)
    network.run(500 * MS)
    store = SessionStore.open(tmp_path / "session", writable=True)
    collector = Collector(network.config, store, now_ns=4_300 * MS, resumed=True)
    collector.start(4_300 * MS, UNIX_NS + 4_300 * MS)
    assert collector.expire(5 * S) == [1, 2]
    assert [(i.start_time_ns - UNIX_NS, i.end_time_ns - UNIX_NS) for i in store.intervals] == [
        (0, S),
        (4 * S, 5 * S),
    ]
    assert [i.suspect for i in store.intervals] == [True, True]


def test_taken_up_without_resuming_ends_the_run(network: Network, tmp_path: Path) -> None:
    network.send([FINE] * 10)
    network.run(500 * MS)
    store = SessionStore.open(tmp_path / "session", writable=True)
    collector = Collector(network.config, store, now_ns=600 * MS)
    assert not collector.running
    assert [(i.number, i.received, i.suspect) for i in store.intervals] == [(1, 10, True)]


def test_absurd_timestamps_of_a_peer_do_not_stop_a_session(network: Network) -> None:
    far_s = 1 << 31
    collector = network.collector
    for sequence, sign in ((0, -1), (1, 1)):
        now_ns = sequence * 10 * MS
        collector.sent(sequence, UNIX_NS + now_ns, now_ns)
        t4_ns = UNIX_NS + now_ns + MS
        absurd = reply(
            sequence, sequence, t4_ns, t4_ns + sign * far_s * S, t4_ns - sign * far_s * S
        )
        assert isinstance(receive(collector, absurd, now_ns + MS), Record)
    collector.expire(2 * S)
    (closed, *_) = network.store.snapshot().intervals
    assert closed.received == 2
