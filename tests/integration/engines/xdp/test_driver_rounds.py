"""Sessions that the driver collects, announced together and one by one: all the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.bpf.syscall import XDP_DROP
from dataplane.engines.xdp.driver_rounds import (
    DRAIN_EACH_NS,
    DRAIN_NS,
    age_ns,
    announce_round,
    next_looks,
)
from dataplane.stamp.sender_rounds import PACKET, fit_to_send, send_round
from dataplane.stamp.session_table import END_NS, NEVER, SessionTable
from tests.integration.engines.xdp.collecting import Node
from tests.integration.engines.xdp.two_sides import SESSIONS, Side, compare, compare_stores, sides
from tests.unit.stamp.network import MS, UNIX_NS

pytestmark = pytest.mark.integration


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


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
