"""Many sessions worked on together come out as if each had been worked on by itself."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.arena import Arena
from dataplane.clock import ClockStatus
from dataplane.config import DelayMode, ReflectorMode, SenderSession
from dataplane.stamp.collector import Collector
from dataplane.stamp.collector_rounds import next_expiries
from dataplane.stamp.expiry_rounds import expire_over
from dataplane.stamp.interval_rounds import close_over, set_local_clock
from dataplane.stamp.sender_rounds import PACKET, fit_to_send, send_round
from dataplane.stamp.session_sender import SessionSender
from dataplane.stamp.session_table import (
    DUE_NS,
    END_NS,
    LATEST_NS,
    LENGTH_NS,
    NEVER,
    SLACK_NS,
    STATEFUL,
    SessionTable,
)
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat
from dataplane.statistics import INT64_MAX
from dataplane.store import SessionStore
from tests.property.test_batch_collector import Arrival, Side, compare
from tests.unit.stamp.network import MS, UNIX_NS, S, reply, session

SESSIONS = 12
ERROR = ErrorEstimate(True, TimestampFormat.NTP, 0, 7)


@contextmanager
def sides(configs: list[SenderSession]) -> Iterator[tuple[Side, Side]]:
    """One by one, and together."""
    arena = Arena(1 << 28, 1 << 24)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("one", "many"):
            (Path(folder) / name).mkdir()
        many = Side(Path(folder) / "many", configs, SessionTable(arena))
        yield Side(Path(folder) / "one", configs), many
        for store in many.stores:
            store.close()


def configured(kinds: list[int]) -> list[SenderSession]:
    """Kinds of sessions: plain ones, one-way, stateful, and with small rings."""
    return [
        session(
            ssid=ssid,
            delay_mode=DelayMode.ONE_WAY if kind == 1 else DelayMode.TWO_WAY,
            reflector_mode=ReflectorMode.STATEFUL if kind == 2 else ReflectorMode.STATELESS,
            result_depth=3 if kind == 3 else 50,
            percentiles=(50.0,) if kind == 3 else (50.0, 95.0, 99.0),
            loss_timeout_ms=300 if kind in (2, 4) else 2_000,
        )
        for ssid, kind in enumerate(kinds, 1)
    ]


kinds = st.lists(st.integers(0, 4), min_size=SESSIONS, max_size=SESSIONS)
aligned = st.sampled_from([0, 300 * MS, 700 * MS])
"""So long before the end of an interval others end, or packets are lost that were sent at
another of these times."""

steps = st.lists(
    st.tuples(
        # Replies of each session, and one session that is out of the ordinary.
        st.integers(0, 3),
        st.integers(1, SESSIONS),
        st.sampled_from(
            ["", "", "lost", "lost", "twice", "behind", "far", "estimate", "refined", "old"]
        ),
        st.sampled_from([MS, 7 * MS + 13, 100 * MS, 700 * MS]),
        st.one_of(st.none(), st.builds(int.__add__, *(aligned, st.integers(-1, 1)))),
        st.integers(-3 * S, 3 * S),
    ),
    min_size=5,
    max_size=25,
)


@settings(max_examples=50)
@given(kinds, steps)
def test_replies_taken_in_rounds(kinds: list[int], steps: Any) -> None:
    with sides(configured(kinds)) as (one, many):
        now_ns, following = 0, [0] * (SESSIONS + 1)
        for count, odd, what, gap_ns, before_ns, offset_ns in steps:
            arrivals = []
            arrived_ns = now_ns + count * MS + gap_ns
            if before_ns is not None:
                arrived_ns += (-before_ns - arrived_ns) % S
            for number in range(count):
                for ssid in range(1, SESSIONS + 1):
                    for side in (one, many):
                        collector = side.collectors[ssid]
                        collector.sent(collector.next_sequence, UNIX_NS + now_ns, now_ns)
                        if what == "refined" and ssid % 2 == odd % 2:
                            collector.refine_t1(following[ssid], UNIX_NS + now_ns + 5)
                    sequence = following[ssid]
                    following[ssid] += 1
                    sent_ns = UNIX_NS + now_ns
                    what_now = what if ssid == odd else ""
                    if what == "lost" and ssid % 2 == odd % 2:
                        continue
                    if what_now == "behind":
                        sequence = max(0, sequence - 2)
                    t2_ns = sent_ns + offset_ns + ssid * MS
                    changes: dict[str, Any] = {"ssid": ssid}
                    if what_now == "far":
                        t2_ns += 1 << 40
                    if what_now == "estimate":
                        changes["error_estimate"] = ErrorEstimate(
                            True, TimestampFormat.PTPV2, number, 9
                        )
                    if what_now == "old":
                        sent_ns -= 60 * S
                    data = reply(sequence, sequence, sent_ns, t2_ns, t2_ns + 10, **changes)
                    at_ns = arrived_ns - max(0, odd - ssid)
                    arrivals += [Arrival(ssid, data, at_ns)] * (1 + (what_now == "twice"))
                now_ns += MS
            now_ns = arrived_ns
            arrivals.sort(key=lambda arrival: arrival.at_ns)
            for arrival in arrivals:
                one.single(arrival)
            many.together(arrivals)
            for side in (one, many):
                table = side.collectors[1].row.table
                if table is not None:
                    expire_together(table, side, now_ns)
                for collector in side.collectors.values():
                    collector.expire(now_ns)
                    collector.rest()
            compare(one, many)
            for ssid in range(1, SESSIONS + 1):
                theirs, ours = one.collectors[ssid], many.collectors[ssid]
                assert ours.refined_t1(following[ssid] - 1) == theirs.refined_t1(
                    following[ssid] - 1
                )


def test_the_first_replies_of_sessions_are_taken_in_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with sides(configured([0, 1, 3, 4] * 3)) as (one, many):
        arrivals = []
        for ssid in one.collectors:
            for side in (one, many):
                side.collectors[ssid].sent(0, UNIX_NS, 0)
            t2_ns = UNIX_NS + (ssid - 3) * MS
            data = reply(0, 0, UNIX_NS, t2_ns, t2_ns + 10, ssid=ssid)
            arrivals.append(Arrival(ssid, data, MS))
        for arrival in arrivals:
            one.single(arrival)
        with monkeypatch.context() as patch:
            patch.setattr(Collector, "take", None)
            many.together(arrivals)
        compare(one, many)


def test_origins_move_in_rounds() -> None:
    """To where delays are, in sessions of all kinds, whose paths change at different times."""
    chance = random.Random(7)
    with sides(configured([0, 1, 2, 3, 4] * 2)) as (one, many):
        origins: set[int] = set()
        for sequence in range(300):
            now_ns = sequence * 30 * MS
            arrivals = []
            table = many.collectors[1].row.table
            assert table is not None
            expire_over(table, np.array(sorted(many.collectors)), now_ns)
            for ssid in one.collectors:
                for side in (one, many):
                    side.collectors[ssid].sent(sequence, UNIX_NS + now_ns, now_ns)
                base_ns = (0 if (sequence + 7 * ssid) // 80 % 2 else 300 + ssid) * MS
                t2_ns = UNIX_NS + now_ns + base_ns + round(chance.expovariate(1 / 20_000))
                t2_ns += 40 * MS * (not sequence)
                data = reply(sequence, sequence, UNIX_NS + now_ns, t2_ns, t2_ns + 10, ssid=ssid)
                arrivals.append(Arrival(ssid, data, now_ns + ssid))
            for arrival in arrivals:
                one.single(arrival)
            many.together(arrivals)
            for side in (one, many):
                for collector in side.collectors.values():
                    collector.expire(now_ns + 20)
            compare(one, many)
            state = one.stores[0].state
            origins.add(state.interval[state.head.closed % 2].delay[0].origin_ns)
        assert len(origins) > 3


@settings(max_examples=50)
@given(
    kinds,
    st.lists(
        st.sampled_from([-600 * MS, -1, 0, 1, 300 * MS]), min_size=SESSIONS, max_size=SESSIONS
    ),
)
def test_intervals_are_closed_as_of_different_times(kinds: list[int], late_ns: list[int]) -> None:
    """Those are suspect in which a packet has been due for as long as a whole one takes."""
    with sides(configured(kinds)) as (one, many):
        for side in (one, many):
            for ssid, collector in side.collectors.items():
                SessionSender(session(ssid=ssid), start_ns=S // 2, row=collector.row)
        table = many.collectors[1].row.table
        assert table is not None
        rows = np.array(sorted(many.collectors))
        as_of_ns = S // 2 + S + np.array(late_ns)
        close_over(table, rows, as_of_ns)
        stateless = table.columns[STATEFUL][rows] == 0
        assert (table.columns[END_NS][rows] > as_of_ns)[stateless].all()
        for side in (one, many):
            for ssid, at_ns in zip(rows.tolist(), as_of_ns.tolist(), strict=True):
                side.collectors[ssid].expire(at_ns)
        compare(one, many)


@pytest.mark.parametrize("error_ns", [16 * S, INT64_MAX + 1])
def test_all_sessions_are_told_of_the_clock_together(error_ns: int) -> None:
    with sides(configured([0, 1, 2])) as (one, many):
        table = many.collectors[1].row.table
        assert table is not None
        set_local_clock(table, np.array([1, 3]), ClockStatus(True, error_ns, 37))
        for ssid in (1, 3):
            one.collectors[ssid].set_local_clock(True, error_ns)
        compare(one, many)
        offsets = [collector.tai_offset_s for collector in many.collectors.values()]
        assert offsets == [37, 0, 37]


def expire_together(table: SessionTable, side: Side, now_ns: int) -> None:
    """Only stateful sessions, and what was idle for more than an interval, need more."""
    rows = np.array(sorted(side.collectors))
    once = table.columns[END_NS][rows] + table.columns[LENGTH_NS][rows] > now_ns
    expire_over(table, rows, now_ns)
    done = once & (table.columns[STATEFUL][rows] == 0)
    assert (next_expiries(table, rows[done]) > now_ns).all()


@settings(max_examples=80)
@given(
    kinds,
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(-1, 1), st.sets(st.integers(1, SESSIONS))),
        max_size=30,
    ),
    st.integers(1, 40),
    st.integers(1, 3),
)
def test_packets_sent_in_rounds(
    kinds: list[int], turns: list[tuple[int, int, set[int]]], packet_count: int, duration_s: int
) -> None:
    configs = configured(kinds)
    ends: list[dict[str, Any]] = [{}, {"packet_count": packet_count}, {"duration_s": duration_s}]
    with sides(configs) as (one, many):
        senders: list[dict[int, SessionSender]] = []
        for side in (one, many):
            senders.append({})
            for number, config in enumerate(configs):
                run = session(ssid=config.ssid, interval_us=100_000, **ends[number % 3])
                row = side.collectors[config.ssid].row
                senders[-1][config.ssid] = SessionSender(run, start_ns=100 * MS, row=row)
        table = many.collectors[1].row.table
        assert table is not None
        table.cells[SLACK_NS, 1 : SESSIONS + 1] = np.arange(SESSIONS) * MS
        now_ns = whole_ns = 100 * MS
        for turn, (gap, apart_ns, ssids) in enumerate(turns):
            whole_ns += gap * 20 * MS
            now_ns = max(now_ns, whole_ns + apart_ns)
            # The two clocks drift apart.
            t1_ns = UNIX_NS + now_ns + turn * 1_000
            due = [ssid for ssid in sorted(ssids) if not senders[0][ssid].complete]
            packets = np.zeros(len(due), PACKET)
            rows = np.array(due, np.intp)
            fit = fit_to_send(table, rows, now_ns)
            expected = {}
            for ssid in due:
                expected[ssid] = one_by_one(one.collectors[ssid], senders[0][ssid], now_ns, t1_ns)
            for ssid in rows[~fit].tolist():
                data = one_by_one(many.collectors[ssid], senders[1][ssid], now_ns, t1_ns)
                assert data == expected[ssid]
            chosen = np.zeros(int(fit.sum()), PACKET)
            send_round(table, rows[fit], chosen, now_ns, t1_ns)
            packets["estimate"] = ERROR.encode()
            for ssid, packet in zip(rows[fit].tolist(), chosen, strict=True):
                data = packet.tobytes()
                assert data[:4] + data[14:] == expected[ssid][:4] + expected[ssid][14:]
                due_ns = senders[0][ssid].next_send_ns()
                latest_ns = NEVER if due_ns is None else due_ns + (ssid - 1) * MS
                assert table.cells[DUE_NS, ssid] == (NEVER if due_ns is None else due_ns)
                assert table.cells[LATEST_NS, ssid] == latest_ns
            for ssid in range(1, SESSIONS + 1):
                ours, theirs = senders[1][ssid], senders[0][ssid]
                assert ours.next_send_ns() == theirs.next_send_ns()
                assert (ours.sent, ours.skipped) == (theirs.sent, theirs.skipped)
                mine, other = many.collectors[ssid], one.collectors[ssid]
                assert mine.earliest_t1_ns == other.earliest_t1_ns
            # Of some that are held, or held up, meanwhile intervals end.
            for side in (one, many):
                side.collectors[1 + gap % SESSIONS].hold(gap % 2 == 0)
            expire_together(table, many, now_ns)
            for side in (one, many):
                for collector in side.collectors.values():
                    collector.expire(now_ns)
            compare(one, many)
        for side in (one, many):
            for collector in side.collectors.values():
                collector.expire(now_ns + 30 * S)
        compare(one, many)


def one_by_one(collector: Collector, sender: SessionSender, now_ns: int, t1_ns: int) -> bytes:
    collector.sent(sender.sequence, t1_ns, now_ns)
    skipped = sender.skipped
    data = sender.send(now_ns, t1_ns, ERROR)
    if sender.skipped > skipped:
        collector.skipped(sender.skipped - skipped)
    return data


def test_which_packets_are_sent_together() -> None:
    """Those that fall in the current interval, and do not push out any under way."""
    with sides(configured([0] * 5)) as (_, many):
        collector = many.collectors[1]
        table = collector.row.table
        assert table is not None
        full, ahead, gone = 2, 3, 4
        for ssid in many.collectors:
            SessionSender(session(ssid=ssid), start_ns=0, row=many.collectors[ssid].row)
        rows, packets = np.array([1, full]), np.zeros(2, PACKET)
        send_round(table, rows, packets, 0, UNIX_NS)
        window = many.collectors[full].window
        for now_ns in range(1, window):
            assert fit_to_send(table, np.array([full]), now_ns).all()
            send_round(table, np.array([full]), packets[:1], now_ns, UNIX_NS + now_ns)
        many.collectors[ahead].sent(0, UNIX_NS, 0)
        many.collectors[gone].close()
        rows = np.array(sorted(many.collectors))
        assert fit_to_send(table, rows, S - 1).tolist() == [True, False, False, False, True]
        assert not fit_to_send(table, rows, S).any()


def test_a_better_t1_of_a_packet_that_is_too_old_is_forgotten() -> None:
    with sides(configured([0, 0])) as (_, many):
        collector = many.collectors[1]
        table = collector.row.table
        assert table is not None
        SessionSender(session(ssid=1), start_ns=0, row=collector.row)
        rows, packet = np.array([1]), np.zeros(1, PACKET)
        for sequence in range(collector.window + 1):
            send_round(table, rows, packet, sequence, UNIX_NS + sequence)
            assert collector.refine_t1(sequence, UNIX_NS + sequence)
        assert collector.refined_t1(0) is None
        assert collector.refined_t1(1) is not None


def test_a_store_in_an_arena_is_read_like_any_other(tmp_path: Path) -> None:
    arena = Arena(1 << 28, 1 << 24)
    config = session()
    store = SessionStore.create(tmp_path / "s", config, arena)
    store.state.head.counters.sent = 5
    other = SessionStore.create(tmp_path / "other", config, arena)
    other.state.head.counters.sent = 6
    reader = SessionStore.open(tmp_path / "s", writable=False)
    assert reader.snapshot().sent == 5
    store.close()
    assert other.snapshot().sent == 6
    again = SessionStore.open(tmp_path / "s", writable=True, arena=arena)
    assert again.snapshot().sent == 5
    again.close()
    other.close()
