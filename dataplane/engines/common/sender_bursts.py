"""Session-Sender packets of many sessions that are due at once, in bursts.

Packets to one peer that are dressed alike share a burst, whatever their sessions.
T1 of a burst is read when all of its packets are made, just before it is sent.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dataplane.addresses import packed
from dataplane.clock import monotonic_ns, wall_ns
from dataplane.config import IPAddress, SenderSession
from dataplane.engines.common.batch import BURST, BURST_MIN, BatchTransport
from dataplane.engines.common.lane import Lane, lane_of
from dataplane.engines.common.run import SenderRun
from dataplane.stamp.packet import OPEN
from dataplane.stamp.timestamp import encode_timestamp


class SenderBursts:
    """Room for one burst; of one port."""

    def __init__(self, address: IPAddress) -> None:
        self._source = packed(address)
        self._rows = np.zeros((BURST, OPEN.length), np.uint8)
        self._buffer = self._rows.data.cast("B")

    def send(self, transport: BatchTransport, due: Iterable[SenderRun]) -> None:
        """Send the packet of each session that is due."""
        lanes: dict[Lane, list[SenderRun]] = {}
        for run in due:
            lanes.setdefault(lane_of(run.config), []).append(run)
        for runs in lanes.values():
            if len(runs) < BURST_MIN:
                for run in runs:
                    run.send(monotonic_ns())
                continue
            for start in range(0, len(runs), BURST):
                self._send(transport, runs[start : start + BURST])

    def _send(self, transport: BatchTransport, runs: list[SenderRun]) -> None:
        now_ns, t1_ns = monotonic_ns(), wall_ns()
        ready: list[SenderRun] = []
        for run in runs:
            if run.prepare(self._buffer, len(ready) * OPEN.length, now_ns, t1_ns):
                ready.append(run)
        first = 0
        while first < len(ready):
            failure = None
            try:
                end = first + self._transmit(transport, ready, first)
            except OSError as error:
                failure, end = error, first + 1
            for run in ready[first:end]:
                run.sent(failure)
            first = end

    def _transmit(self, transport: BatchTransport, runs: list[SenderRun], first: int) -> int:
        config, rows = runs[first].config, self._rows[first : len(runs)]
        transport.dress(runs[first].rthdr, runs[first].traffic_class, config.hop_limit)
        rows[:, 4:12] = _t1(config, runs[first].tai_offset_s)
        return transport.send_burst(
            rows, self._source, packed(config.reflector_address), config.reflector_udp_port, 0
        )


def _t1(config: SenderSession, tai_offset_s: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    value = encode_timestamp(wall_ns(), config.timestamp_format, tai_offset_s)
    return np.frombuffer(value.to_bytes(8, "big"), np.uint8)
