"""Sessions that the driver collects, on two sides that are told the same: each by itself, and
all in one table."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np

from dataplane.arena import Arena
from dataplane.bpf.syscall import XDP_PASS
from dataplane.config import DelayMode, ReflectorMode
from dataplane.engines.xdp.collection import DriverCollector
from dataplane.engines.xdp.driver_rounds import DRAIN_NS, next_looks
from dataplane.frames import Datagram, Frame
from dataplane.stamp.session_sender import SessionSender
from dataplane.stamp.session_table import COLUMNS, NEVER, SessionTable
from dataplane.stamp.timestamp import ErrorEstimate
from dataplane.store import SessionStore
from tests.integration.engines.xdp.collecting import CLOCK, KERNEL, PTP, Node, payload
from tests.unit.stamp.network import MS, UNIX_NS, session

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
        # Their intervals end one after another, so that packets come between the ends.
        for number, collector in enumerate(self.collectors):
            # A Session-Sender has one of its own, in the same place.
            collector.tai_offset_s = CLOCK.tai_offset_s
            collector.start(-number * MS, UNIX_NS - number * MS)
        node.tables.ports.add(self.configs[0].sender_udp_port)

    def send(self, number: int, now_ns: int) -> None:
        collector, sender = self.collectors[number], self.senders[number]
        before = sender.skipped
        collector.sent(sender.sequence, UNIX_NS + now_ns, now_ns)
        sender.send(now_ns, UNIX_NS + now_ns, PTP)
        collector.skipped(sender.skipped - before)

    def reply(
        self,
        number: int,
        sequence: int,
        counter: int,
        now_ns: int,
        forward_ns: int = 2 * MS,
        error: ErrorEstimate = PTP,
    ) -> int:
        """What becomes of it in the driver; what is handed up is taken from the socket."""
        config = self.configs[number]
        sent_ns = UNIX_NS + now_ns - 9 * MS
        data = payload(
            sequence,
            counter,
            ssid=config.ssid,
            t1_ns=sent_ns,
            forward_ns=forward_ns,
            error=error,
        )
        ends = config.reflector_address, config.source_address
        ports = config.reflector_udp_port, config.sender_udp_port
        action = self.node.run(Frame(Datagram(*ends, *ports, data)).encode(), now_ns)
        if action == XDP_PASS:
            self.collectors[number].receive(
                data,
                source=config.reflector_address,
                source_port=config.reflector_udp_port,
                t4_ns=UNIX_NS + now_ns,
                now_ns=now_ns,
                t4_method=KERNEL,
            )
        return action

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
