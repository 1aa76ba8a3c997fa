"""Packets of many sessions that are due at once, some of which have an interval to close."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from dataplane.arena import Arena
from dataplane.clock import Clock, monotonic_ns
from dataplane.config import ReflectorMode
from dataplane.engines.common.batch import BatchTransport
from dataplane.engines.common.lane import lane_of
from dataplane.engines.common.run import SenderRun
from dataplane.engines.common.sender_rounds import SenderRounds
from dataplane.stamp.collector import Collector
from dataplane.stamp.session_sender import SessionSender
from dataplane.stamp.session_table import SessionTable
from dataplane.store import SessionStore
from tests.unit.stamp.network import UNIX_NS, session


def test_intervals_that_are_closed_one_by_one_leave_their_packets_in_the_burst(
    tmp_path: Path,
) -> None:
    """Those of stateful sessions are."""
    clock = Clock()
    clock.refresh(monotonic_ns())
    table = SessionTable(Arena(1 << 28, 1 << 24))
    began_ns = monotonic_ns() - 10**9
    runs: dict[int, SenderRun] = {}
    closed: list[int] = []
    for ssid in (1, 2, 3):
        config = session(
            ssid=ssid, reflector_mode=ReflectorMode.STATEFUL, computation_interval_s=ssid
        )
        store = SessionStore.create(tmp_path / str(ssid), config, table.arena)
        collector = Collector(config, store, now_ns=began_ns, table=table)
        SessionSender(config, start_ns=began_ns, row=collector.row)
        collector.start(began_ns, UNIX_NS)
        runs[ssid] = cast(
            SenderRun,
            SimpleNamespace(
                config=config,
                running=True,
                end_interval=lambda now_ns, each=collector: closed.extend(each.expire(now_ns)),
            ),
        )
    bursts: list[int] = []

    def send_burst(rows: Any, *_: object) -> int:
        bursts.append(len(rows))
        return len(rows)

    transport = SimpleNamespace(send_burst=send_burst, dress=lambda *_: None)
    lane = lane_of(config)
    rounds = SenderRounds(
        *(config.source_address, table, clock, {lane: 0}),
        *(lambda _rows, _now_ns: None, lambda _rows, _now_ns: None),
    )
    rounds.send(cast(BatchTransport, transport), np.array([1, 2, 3]), runs)
    assert bursts == [3]
    assert closed == [1]
