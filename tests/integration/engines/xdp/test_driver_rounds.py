"""Sessions that the driver collects, announced together and one by one: all the same."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.arena import Arena
from dataplane.bpf.syscall import XDP_DROP
from dataplane.config import DelayMode, ReflectorMode
from dataplane.engines.xdp.collection import DriverCollector
from dataplane.engines.xdp.driver_expiry import expire_together
from dataplane.engines.xdp.driver_rounds import (
    DRAIN_EACH_NS,
    DRAIN_NS,
    age_ns,
    announce_round,
    next_looks,
)
from dataplane.engines.xdp.session_maps import Commands
from dataplane.frames import Datagram, Frame
from dataplane.stamp.sender_rounds import PACKET, fit_to_send, send_round
from dataplane.stamp.session_sender import SessionSender
from dataplane.stamp.session_table import COLUMNS, END_NS, NEVER, SessionTable
from dataplane.store import SessionStore
from tests.integration.engines.xdp.collecting import CLOCK, PTP, Node, payload
from tests.unit.stamp.network import MS, UNIX_NS, session

pytestmark = pytest.mark.integration

SESSIONS = 8


class Side:
    """The sessions with SSIDs from `first` on; of a table, or each by itself."""

    def __init__(
        self, node: Node, folder: Path, kinds: list[int], first: int, table: SessionTable | None
    ) -> None:
        self.node = node
        self.configs = [
            session(
                ssid=first + number,
                reflector_mode=ReflectorMode.STATELESS if kind % 2 else ReflectorMode.STATEFUL,
                loss_timeout_ms=30 if kind in (1, 2) else 400,
                packet_count=20 if kind == 3 else None,
                delay_mode=DelayMode.ONE_WAY if kind == 4 else DelayMode.TWO_WAY,
                result_depth=3 if kind == 5 else 1_000,
                percentiles=(90.0,) if kind == 5 else (50.0, 95.0, 99.0),
            )
            for number, kind in enumerate(kinds)
        ]
        arena = None if table is None else table.arena
        self.stores = [SessionStore.create(folder / str(c.ssid), c, arena) for c in self.configs]
        self.collectors = [
            DriverCollector(
                config, store, node.module, now_ns=0, tai_offset_s=CLOCK.tai_offset_s, table=table
            )
            for config, store in zip(self.configs, self.stores, strict=True)
        ]
        self.senders = [
            SessionSender(config, start_ns=0, row=collector.row)
            for config, collector in zip(self.configs, self.collectors, strict=True)
        ]
        for collector in self.collectors:
            collector.start(0, UNIX_NS)
        node.tables.ports.add(self.configs[0].sender_udp_port)

    def send(self, number: int, now_ns: int) -> None:
        collector, sender = self.collectors[number], self.senders[number]
        before = sender.skipped
        collector.sent(sender.sequence, UNIX_NS + now_ns, now_ns)
        sender.send(now_ns, UNIX_NS + now_ns, PTP)
        collector.skipped(sender.skipped - before)

    def reply(
        self, number: int, sequence: int, counter: int, now_ns: int, forward_ns: int = 2 * MS
    ) -> int:
        config = self.configs[number]
        sent_ns = UNIX_NS + now_ns - 9 * MS
        data = payload(sequence, counter, ssid=config.ssid, t1_ns=sent_ns, forward_ns=forward_ns)
        ends = config.reflector_address, config.source_address
        ports = config.reflector_udp_port, config.sender_udp_port
        return self.node.run(Frame(Datagram(*ends, *ports, data)).encode(), now_ns)

    def close(self) -> None:
        for collector, store in zip(self.collectors, self.stores, strict=True):
            collector.close()
            store.close()
        self.node.tables.ports.remove(self.configs[0].sender_udp_port)


@contextmanager
def sides(node: Node, kinds: list[int]) -> Iterator[tuple[Side, Side, SessionTable]]:
    """One by one, and together."""
    table = SessionTable(Arena(1 << 28, 1 << 24), COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        one = Side(node, Path(folder), kinds, 1, None)
        many = Side(node, Path(folder), kinds, 101, table)
        try:
            yield one, many, table
        finally:
            one.close()
            many.close()


def announce_together(many: Side, table: SessionTable, numbers: list[int], now_ns: int) -> None:
    """Those that are fit for it; the others one by one."""
    rows = np.array([many.configs[number].ssid for number in numbers], np.intp)
    fit = fit_to_send(table, rows, now_ns)
    for number, together in zip(numbers, fit.tolist(), strict=True):
        if not together:
            many.send(number, now_ns)
    rows = rows[fit]
    send_round(table, rows, np.zeros(len(rows), PACKET), now_ns, UNIX_NS + now_ns)
    announce_round(table, rows, now_ns)


def compare(one: Side, many: Side, table: SessionTable, now_ns: int) -> None:
    for mine, theirs in zip(one.collectors, many.collectors, strict=True):
        assert (mine._maps.slots == theirs._maps.slots).all()
        for name in ("next_sequence", "settled", "running"):
            assert mine._maps.state[name] == theirs._maps.state[name], name
        assert mine.next_timer_ns() == theirs.next_timer_ns()
    rows = np.array([config.ssid for config in many.configs], np.intp)
    looks = next_looks(table, rows, now_ns).tolist()
    for found, collector in zip(looks, many.collectors, strict=True):
        expected = collector.next_timer_ns()
        # Nothing waits to be drained yet, but packets may leave at any time.
        idle = not collector.in_flight and collector.fresh
        assert found == (min(expected or NEVER, now_ns + DRAIN_NS) if idle else expected)


def compare_stores(one: Side, many: Side) -> None:
    for mine, theirs in zip(one.stores, many.stores, strict=True):
        found, expected = theirs.snapshot(1_000), mine.snapshot(1_000)
        for each in fields(expected):
            if each.name not in ("ssid", "torn_writes"):
                assert getattr(found, each.name) == getattr(expected, each.name), each.name


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.integers(0, 5), min_size=SESSIONS, max_size=SESSIONS),
    st.lists(
        st.tuples(
            st.integers(1, 60),
            st.sets(st.integers(0, SESSIONS - 1)),
            st.sets(st.integers(0, SESSIONS - 1)),
            st.sampled_from(["", "", "", "expire", "drain"]),
        ),
        max_size=40,
    ),
)
def test_packets_announced_in_rounds(node: Node, kinds: list[int], steps: list[Any]) -> None:
    with sides(node, kinds) as (one, many, table):
        now_ns = 0
        counters = [0] * SESSIONS
        for gap, sending, lost, then in steps:
            now_ns += gap * MS
            numbers = [n for n in sorted(sending) if not one.senders[n].complete]
            for number in numbers:
                one.send(number, now_ns)
            announce_together(many, table, numbers, now_ns)
            now_ns += 9 * MS
            for number in numbers:
                if number in lost:
                    continue
                sequence = one.collectors[number].next_sequence - 1
                for side in (one, many):
                    assert side.reply(number, sequence, counters[number], now_ns) == XDP_DROP
                counters[number] += 1
            compare(one, many, table, now_ns)
            for side in (one, many):
                for collector in side.collectors:
                    if then == "expire":
                        collector.expire(now_ns)
                        collector.rest()
                    elif then == "drain":
                        collector.drain(now_ns)
            compare(one, many, table, now_ns)
        for side in (one, many):
            for collector in side.collectors:
                collector.drain(now_ns)
                collector.expire(now_ns)
        compare_stores(one, many)


def test_maps_leave_the_arena_with_their_session(node: Node) -> None:
    with sides(node, [0]) as (_, many, table):
        slots_at, collection_at = many.collectors[0]._maps.places
        announce_together(many, table, [0], MS)
        assert table.arena.words[slots_at] == MS
        assert table.arena.words[collection_at + 1] == 1
    assert table.arena.words[slots_at] == table.arena.words[collection_at + 1] == 0


def test_thousands_of_stores_may_be_older(node: Node) -> None:
    """As many are brought up to date in a second as that goes beside other work."""
    with sides(node, [0, 0]) as (one, many, table):
        for side in (one, many):
            for number in range(2):
                side.send(number, MS)
                side.reply(number, 0, 0, 10 * MS)
        rows = np.array([config.ssid for config in many.configs], np.intp)
        table.columns[END_NS][rows] = NEVER
        assert age_ns(None) == age_ns(table) == DRAIN_NS
        assert next_looks(table, rows, 10 * MS).tolist() == [MS + DRAIN_NS] * 2
        others = range(1_000, 1_000 + 2 * DRAIN_NS // DRAIN_EACH_NS)
        table.collectors.update(dict.fromkeys(others))
        assert age_ns(table) > 2 * DRAIN_NS
        expected = [each.next_timer_ns() for each in many.collectors]
        assert next_looks(table, rows, 10 * MS).tolist() == expected
        for each in others:
            del table.collectors[each]


class Replies:
    """From the Session-Reflector of each session of both sides."""

    def __init__(self, one: Side, many: Side, seed: int) -> None:
        self._sides = one, many
        self._chance = random.Random(seed)
        self._counters = [self._chance.choice([0, 70_000, 0xFFFFFFFE]) for _ in range(SESSIONS)]
        self._base_ns = [self._chance.randrange(50 * MS) for _ in range(SESSIONS)]

    def count(self, number: int) -> int:
        counter = self._counters[number]
        self._counters[number] = (counter + 1) % (1 << 32)
        return counter

    def arrive(self, number: int, sequence: int, counter: int, now_ns: int) -> None:
        forward_ns = self._base_ns[number] + round(self._chance.expovariate(1 / 200_000))
        one, many = (
            side.reply(number, sequence, counter, now_ns, forward_ns) for side in self._sides
        )
        assert one == many

    def change_path(self, number: int) -> None:
        self._base_ns[number] = self._chance.choice([-400, 3, 1 << 50]) * MS


def run_step(
    one: Side, replies: Replies, number: int, packets: int, what: str, now_ns: int
) -> None:
    """Replies to a session's latest packets, of which one is out of the ordinary."""
    newest = one.collectors[number].next_sequence - 1
    order = list(range(newest + 1 - packets, newest + 1))
    if what == "overtaken":
        order.reverse()
    for sequence in order:
        odd = sequence == newest
        counter = replies.count(number) if not (odd and what == "lost") else 0
        if odd and what in ("lost", "lost behind"):
            continue
        replies.arrive(number, sequence, counter, now_ns)
        if odd and what == "twice":
            replies.arrive(number, sequence, counter, now_ns)


odd_replies = ["lost", "lost behind", "twice", "overtaken", "path"]


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.integers(0, 5), min_size=SESSIONS, max_size=SESSIONS),
    st.lists(
        st.tuples(
            st.sampled_from([MS, 30 * MS, 150 * MS, 450 * MS, 990 * MS, 2_100 * MS]),
            st.integers(0, 4),
            st.sets(st.integers(0, SESSIONS - 1), max_size=3),
            st.sampled_from(odd_replies),
            st.sampled_from(["", "together", "together", "early", "clear"]),
        ),
        max_size=30,
    ),
    st.integers(0, 1 << 32),
)
def test_sessions_expire_together(
    node: Node, kinds: list[int], steps: list[Any], seed: int
) -> None:
    with sides(node, kinds) as (one, many, table):
        commands = Commands(node.module)
        replies = Replies(one, many, seed)
        rows = np.array([config.ssid for config in many.configs], np.intp)
        now_ns = 0
        for gap_ns, packets, odd, what, then in steps:
            now_ns += gap_ns
            for number in range(SESSIONS):
                for side in (one, many):
                    for _ in range(packets):
                        collector = side.collectors[number]
                        collector.sent(collector.next_sequence, UNIX_NS + now_ns, now_ns)
            as_of_ns = now_ns
            now_ns += 9 * MS
            for number in range(SESSIONS):
                disturbance = what if number in odd else ""
                if disturbance == "path":
                    replies.change_path(number)
                run_step(one, replies, number, packets, disturbance, now_ns)
            if not then:
                continue
            if then == "clear":
                for side in (one, many):
                    side.collectors[seed % SESSIONS].clear(now_ns)
            # Replies may have come after the time that is looked at.
            if then != "early":
                as_of_ns = now_ns
            expire_together(table, rows, commands, as_of_ns)
            for side in (one, many):
                for collector in side.collectors:
                    collector.expire(as_of_ns)
            compare_stores(one, many)
        for side in (one, many):
            for collector in side.collectors:
                collector.drain(now_ns)
                collector.stop(now_ns + MS)
        compare(one, many, table, now_ns)
        compare_stores(one, many)


def test_calm_sessions_need_nothing_else(node: Node) -> None:
    """Once their first reply has been looked at, until something else happens."""
    with sides(node, [0, 1, 4, 5] * 2) as (one, many, table):
        commands, rows = Commands(node.module), np.array([c.ssid for c in many.configs], np.intp)
        replies = Replies(one, many, 7)
        now_ns = 0
        for sequence in range(100):
            now_ns += 100 * MS
            for number in range(SESSIONS):
                for side in (one, many):
                    side.collectors[number].sent(sequence, UNIX_NS + now_ns, now_ns)
                run_step(one, replies, number, 1, "", now_ns + 9 * MS)
            now_ns += 10 * MS
            expire_together(table, rows, commands, now_ns)
            fresh = [collector.fresh for collector in many.collectors]
            assert all(fresh) is (sequence > 0)
            assert (table.columns[END_NS][rows] > now_ns).all() or not sequence
            for side in (one, many):
                for collector in side.collectors:
                    collector.expire(now_ns)
        assert one.stores[0].state.head.closed == 11
        compare_stores(one, many)


def test_packets_are_lost_together(node: Node) -> None:
    """Unless losses are told by direction."""
    with sides(node, [3, 5] * 4) as (one, many, table):
        commands, rows = Commands(node.module), np.array([c.ssid for c in many.configs], np.intp)
        now_ns = 0
        for sequence in range(30):
            now_ns += 100 * MS
            for number in range(SESSIONS):
                for side in (one, many):
                    side.collectors[number].sent(sequence, UNIX_NS + now_ns, now_ns)
            now_ns += MS
            expire_together(table, rows, commands, now_ns)
            assert (next_looks(table, rows, now_ns) > now_ns).all()
            for side in (one, many):
                for collector in side.collectors:
                    collector.expire(now_ns)
            compare_stores(one, many)
        assert many.stores[0].state.head.counters.lost > 20
