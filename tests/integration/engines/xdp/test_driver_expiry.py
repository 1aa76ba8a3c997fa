"""Sessions that the driver collects, brought up to date together and one by one: all the same."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dataplane.bpf.syscall import XDP_PASS
from dataplane.engines.xdp.driver_expiry import expire_together
from dataplane.engines.xdp.driver_rounds import FRESH_NS, next_looks, stale
from dataplane.engines.xdp.session_maps import Commands
from dataplane.stamp.session_table import END_NS
from tests.integration.engines.xdp.collecting import NTP, PTP, Node
from tests.integration.engines.xdp.two_sides import SESSIONS, Side, compare, compare_stores, sides
from tests.unit.stamp.network import MS, UNIX_NS, S

pytestmark = pytest.mark.integration

NEAR_NS = 9 * MS
"""From a packet to its reply, at the least."""


class Replies:
    """From the Session-Reflector of each session of both sides."""

    def __init__(self, one: Side, many: Side, seed: int) -> None:
        self._sides = one, many
        self._chance = random.Random(seed)
        self._counters = [self._chance.choice([0, 70_000, 0xFFFFFFFE]) for _ in range(SESSIONS)]
        self._passed: list[list[int]] = [[] for _ in range(SESSIONS)]
        """Numbers of replies that have not come."""

        self._base_ns = [self._chance.randrange(50 * MS) for _ in range(SESSIONS)]
        self._errors = [PTP] * SESSIONS
        self.handed_up_ns = 0
        """When the latest came that was taken from a socket: time has come as far then."""

    def count(self, number: int) -> int:
        counter = self._counters[number]
        self._counters[number] = (counter + 1) % (1 << 32)
        return counter

    def arrive(
        self, number: int, sequence: int, counter: int, now_ns: int, ago_ns: int = 0
    ) -> None:
        """A reply, that was made `ago_ns` before others that arrive now."""
        delay_ns = self._base_ns[number] + round(self._chance.expovariate(1 / 200_000))
        error = self._errors[number]
        one, many = (
            side.reply(number, sequence, counter, now_ns, delay_ns - ago_ns, error)
            for side in self._sides
        )
        assert one == many
        if one == XDP_PASS:
            self.handed_up_ns = max(self.handed_up_ns, now_ns)

    def lose(self, number: int) -> None:
        """A reply, on its way back."""
        self._passed[number].append(self.count(number))

    def copy(self, number: int, sequence: int, now_ns: int) -> None:
        """A reply to a packet that was duplicated on its way there, and was replied to long
        ago: its number is one that was missed, if there is one."""
        passed = self._passed[number]
        counter = passed.pop() if passed else self._counters[number] - 3
        ago_ns = self._chance.choice([0, self._chance.randrange(40 * MS), 700 * MS])
        self.arrive(number, sequence, counter % (1 << 32), now_ns, ago_ns)

    def change_path(self, number: int) -> None:
        self._base_ns[number] = self._chance.choice([-400, 3, 1 << 50]) * MS

    def change_clock(self, number: int) -> None:
        self._errors[number] = NTP if self._errors[number] == PTP else PTP

    def restart(self, number: int) -> None:
        self._counters[number] = 0


def run_step(
    one: Side,
    replies: Replies,
    number: int,
    packets: int,
    what: str,
    now_ns: int,
    apart_ns: int = 0,
) -> None:
    """Replies to a session's latest packets, of which the last is out of the ordinary."""
    newest = one.collectors[number].next_sequence - 1
    order = list(range(newest + 1 - packets, newest + 1))
    match what:
        case "overtaken":
            order.reverse()
        case "path":
            replies.change_path(number)
        case "clock":
            replies.change_clock(number)
        case "restart":
            replies.restart(number)
        case "copied" if newest >= packets:
            replies.copy(number, newest - packets, now_ns)
    for sequence in order:
        if sequence == newest and what == "lost":
            continue
        if sequence == newest and what == "lost behind":
            replies.lose(number)
            continue
        counter = replies.count(number)
        replies.arrive(number, sequence, counter, now_ns)
        if sequence == newest and what == "twice":
            replies.arrive(number, sequence, counter, now_ns)
        now_ns += apart_ns


odd_replies = ["lost", "lost behind", "twice", "overtaken", "copied", "restart", "path", "clock"]
gaps = st.sampled_from([MS, 30 * MS, 150 * MS, 450 * MS, 990 * MS, 2_100 * MS])
before_ends = st.sampled_from([-MS, -5 * MS, -12 * MS, -20 * MS, -30 * MS, -30 * MS - 1])
"""So long before the end of the interval of the first session."""


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 5), min_size=SESSIONS, max_size=SESSIONS),
    st.lists(
        st.tuples(
            st.one_of(gaps, before_ends),
            st.integers(0, 4),
            st.sampled_from([0, 5 * MS]),
            st.sets(st.integers(0, SESSIONS - 1), max_size=3),
            st.sampled_from(odd_replies),
            # As of when everything is brought up to date then, if at all: replies may have
            # come after that.
            st.sampled_from([None, 0, NEAR_NS, 16 * MS, 40 * MS]),
            st.sampled_from(["", "", "refined", "clear"]),
        ),
        max_size=30,
    ),
    st.integers(0, 1 << 32),
)
# A number that was missed turns up in a copy, after replies that were settled together.
@example(
    [0] * SESSIONS,
    [
        (30 * MS, 1, 0, set(), "", 16 * MS, ""),
        (30 * MS, 2, 0, {0}, "lost behind", 40 * MS, ""),
        (450 * MS, 1, 0, set(), "", 16 * MS, ""),
        (30 * MS, 2, 0, set(), "", 16 * MS, ""),
        (30 * MS, 4, 5 * MS, set(), "", 40 * MS, ""),
        (MS, 1, 0, {0}, "copied", 16 * MS, ""),
        (30 * MS, 2, 0, set(), "", 40 * MS, ""),
    ],
    3,
)
# Losses in the last nanosecond of an interval, and in the first one of the next.
@example(
    [1] * SESSIONS,
    [
        (30 * MS, 1, 0, set(), "", 16 * MS, ""),
        (-30 * MS - 1, 1, 0, {0}, "lost", None, ""),
        (MS, 0, 0, set(), "", 40 * MS, ""),
        (-30 * MS, 1, 0, {0}, "lost", None, ""),
        (MS, 0, 0, set(), "", 40 * MS, ""),
    ],
    0,
)
# Forgotten origins, while the next interval has some already.
@example(
    [1] * SESSIONS,
    [
        (-5 * MS, 0, 0, set(), "", 9 * MS, ""),
        (990 * MS, 1, 0, set(), "", 0, "clear"),
        (990 * MS, 0, 0, set(), "", None, ""),
        (MS, 1, 0, set(), "", 16 * MS, ""),
        (MS, 2, 0, set(), "", None, ""),
    ],
    149,
)
def test_sessions_expire_together(
    node: Node, kinds: list[int], steps: list[Any], seed: int
) -> None:
    with sides(node, kinds) as (one, many, table):
        commands = Commands(node.module)
        replies = Replies(one, many, seed)
        rows = np.array([config.ssid for config in many.configs], np.intp)
        now_ns = 0
        for gap_ns, packets, apart_ns, odd, what, then_ns, aside in steps:
            end_ns = int(table.columns[END_NS][rows[0]])
            now_ns = max(now_ns + MS, now_ns + gap_ns if gap_ns > 0 else end_ns + gap_ns)
            for number in range(SESSIONS):
                for side in (one, many):
                    collector = side.collectors[number]
                    for _ in range(packets):
                        sequence = collector.next_sequence
                        collector.sent(sequence, UNIX_NS + now_ns, now_ns)
                        if aside == "refined" and number in odd:
                            collector.refine_t1(sequence, UNIX_NS + now_ns + 5)
            for number in range(SESSIONS):
                what_now = what if number in odd else ""
                run_step(one, replies, number, packets, what_now, now_ns + NEAR_NS, apart_ns)
            if then_ns is None:
                continue
            now_ns = max(now_ns + then_ns, replies.handed_up_ns)
            if aside == "clear":
                for side in (one, many):
                    side.collectors[seed % SESSIONS].clear(now_ns)
            expire_together(table, rows, commands, now_ns)
            done = (table.columns[FRESH_NS][rows] == now_ns).tolist()
            for mine, theirs, together in zip(one.collectors, many.collectors, done, strict=True):
                # Of copies alone the store hears no earlier.
                mine.drain(now_ns)
                if not together:
                    theirs.drain(now_ns)
                mine.expire(now_ns)
                theirs.expire(now_ns)
            compare_stores(one, many)
        now_ns += S
        for side in (one, many):
            for collector in side.collectors:
                collector.drain(now_ns)
                collector.stop(now_ns + MS)
        compare(one, many, table, now_ns)
        compare_stores(one, many)


def send_all(one: Side, many: Side, sequence: int, now_ns: int) -> None:
    """A packet of every session, on both sides."""
    for side in (one, many):
        for collector in side.collectors:
            collector.sent(sequence, UNIX_NS + now_ns, now_ns)


def test_calm_sessions_need_nothing_else(node: Node) -> None:
    """Once their first reply has been looked at, until something else happens."""
    with sides(node, [0, 1, 4, 5] * 2) as (one, many, table):
        commands, rows = Commands(node.module), np.array([c.ssid for c in many.configs], np.intp)
        replies = Replies(one, many, 7)
        now_ns = 0
        for sequence in range(100):
            now_ns += 100 * MS
            send_all(one, many, sequence, now_ns)
            for number in range(SESSIONS):
                run_step(one, replies, number, 1, "", now_ns + 9 * MS)
            now_ns += 10 * MS
            expire_together(table, rows, commands, now_ns)
            fresh = [collector.fresh for collector in many.collectors]
            assert all(fresh) is (sequence > 0)
            assert (table.columns[END_NS][rows] > now_ns).all() or not sequence
            assert (table.columns[FRESH_NS][rows] == now_ns).all() or not sequence
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
            send_all(one, many, sequence, now_ns)
            now_ns += MS
            expire_together(table, rows, commands, now_ns)
            assert (next_looks(table, rows, now_ns) > now_ns).all()
            for side in (one, many):
                for collector in side.collectors:
                    collector.expire(now_ns)
            compare_stores(one, many)
        assert many.stores[0].state.head.counters.lost > 20


def test_replies_around_losses_are_taken_in_together(node: Node) -> None:
    """Unless losses are told by direction."""
    with sides(node, [1, 3, 5, 5] * 2) as (one, many, table):
        commands, rows = Commands(node.module), np.array([c.ssid for c in many.configs], np.intp)
        replies = Replies(one, many, 11)
        now_ns = 0
        for sequence in range(60):
            now_ns += 50 * MS
            send_all(one, many, sequence, now_ns)
            for number in range(SESSIONS):
                what = "" if (sequence + number) % 3 else "lost"
                run_step(one, replies, number, 1, what, now_ns + 9 * MS)
            now_ns += 10 * MS
            expire_together(table, rows, commands, now_ns)
            assert (table.columns[FRESH_NS][rows] == now_ns).all()
            assert not stale(table, rows, now_ns).any()
            for collector in one.collectors:
                collector.drain(now_ns)
                collector.expire(now_ns)
            compare(one, many, table, now_ns)
            compare_stores(one, many)
        assert all(store.state.head.counters.lost >= 17 for store in many.stores)
