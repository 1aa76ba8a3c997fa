"""Session-Sender packets of the sessions of a table that are due at once, in bursts.

All of them are announced and made at once; those of a lane leave in bursts, each with
a T1 that is read just before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.addresses import packed
from dataplane.clock import Clock, monotonic_ns, wall_ns
from dataplane.config import IPAddress
from dataplane.engines.common.batch import BURST, BatchTransport
from dataplane.engines.common.lane import Lane, rthdr_towards
from dataplane.engines.common.run import SenderRun
from dataplane.stamp.packet import OPEN
from dataplane.stamp.sender_rounds import PACKET, Rows, fit_to_send, send_round
from dataplane.stamp.session_table import (
    END_NS,
    LANE,
    TAI_OFFSET_S,
    UNIX_OFFSET_NS,
    SessionTable,
)
from dataplane.stamp.timestamp import encode_timestamp


class SenderRounds:
    """Of one port."""

    def __init__(
        self,
        address: IPAddress,
        table: SessionTable,
        clock: Clock,
        lanes: Mapping[Lane, int],
        announced: Callable[[Rows, int], None],
        expire_together: Callable[[Rows, int], None],
    ) -> None:
        """`lanes` are numbered from 0 in their order; more may be added. `announced` is that
        of a `Collecting`; so is `expire_together`, but that it reads before what has
        arrived."""
        self._source = packed(address)
        self._table = table
        self._clock = clock
        self._lanes = lanes
        self._announced = announced
        self._expire_together = expire_together
        self._known: list[tuple[Lane, bytes]] = []
        self._room = np.zeros(BURST, PACKET)

    def send(self, transport: BatchTransport, rows: Rows, runs: Mapping[int, SenderRun]) -> None:
        """Send the packet of each session that is due, by SSID."""
        table = self._table
        now_ns, t1_ns = monotonic_ns(), wall_ns()
        over = rows[table.columns[END_NS][rows] <= now_ns]
        if len(over):
            table.columns[UNIX_OFFSET_NS][over] = t1_ns - now_ns
            self._expire_together(over, now_ns)
            for ssid in over[table.columns[END_NS][over] <= now_ns].tolist():
                runs[ssid].end_interval(now_ns)
            # What has been read may have stopped some.
            rows = rows[[runs[ssid].running for ssid in rows.tolist()]]
            # That may have taken longer than packets are late.
            now_ns, t1_ns = monotonic_ns(), wall_ns()
        fit = fit_to_send(table, rows, now_ns)
        if not fit.all():
            for ssid in rows[~fit].tolist():
                runs[ssid].send(monotonic_ns())
            rows = rows[fit]
        if not len(rows):
            return
        lanes = table.columns[LANE][rows]
        ends = [len(rows)]
        if (lanes != lanes[0]).any():
            order = np.argsort(lanes, kind="stable")
            rows, lanes = rows[order], lanes[order]
            ends = [*(np.flatnonzero(np.diff(lanes)) + 1).tolist(), len(rows)]
        if len(rows) > len(self._room):
            self._room = np.zeros(2 * len(rows), PACKET)
        packets = self._room[: len(rows)]
        send_round(table, rows, packets, now_ns, t1_ns)
        self._announced(rows, now_ns)
        start = 0
        for end in ends:
            self._send_lane(transport, int(lanes[start]), rows[start:end], packets[start:end], runs)
            start = end

    def _send_lane(
        self,
        transport: BatchTransport,
        number: int,
        rows: Rows,
        packets: npt.NDArray[Any],
        runs: Mapping[int, SenderRun],
    ) -> None:
        lane, rthdr = self._lane(number)
        packets["estimate"] = self._clock.error_estimate(lane.timestamp_format).encode()
        start = 0
        while start < len(rows):
            end = min(start + BURST, len(rows))
            failure = None
            try:
                transport.dress(rthdr, lane.dscp << 2, lane.hop_limit)
                self._stamp(lane, rows[start:end], packets[start:end])
                payloads = packets[start:end].view(np.uint8).reshape(-1, OPEN.length)
                end = start + transport.send_burst(
                    payloads, self._source, packed(lane.destination), lane.port, 0
                )
            except OSError as error:
                failure, end = error, start + 1
            if failure is not None:
                runs[int(rows[start])].send_failed(failure)
            start = end

    def _stamp(self, lane: Lane, rows: Rows, packets: npt.NDArray[Any]) -> None:
        offsets_s = self._table.columns[TAI_OFFSET_S][rows]
        first_s = int(offsets_s[0])
        packets["t1"] = encode_timestamp(wall_ns(), lane.timestamp_format, first_s)
        # They differ for a moment only, when the kernel has just been told.
        for index in np.flatnonzero(offsets_s != first_s).tolist():
            packets["t1"][index] = encode_timestamp(
                wall_ns(), lane.timestamp_format, int(offsets_s[index])
            )

    def _lane(self, number: int) -> tuple[Lane, bytes]:
        if number >= len(self._known):
            self._known = [
                (lane, rthdr_towards(lane.segments, lane.destination)) for lane in self._lanes
            ]
        return self._known[number]
