"""Replies in batches, for the sessions that share a port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dataplane.clock import Clock, monotonic_ns, wall_ns
from dataplane.engines.base import Attachment
from dataplane.engines.common.batch import BATCH, SMALL, Batch, BatchTransport
from dataplane.engines.common.interfaces import InterfaceFilter
from dataplane.engines.common.run import SenderRun
from dataplane.engines.common.transport import Datagram
from dataplane.stamp.collector_batch import BatchCollector, Replies


class Port(Protocol):
    """What the sessions of a port have in common."""

    filter: InterfaceFilter
    runs: dict[int, SenderRun]
    emptied_ns: int
    """CLOCK_MONOTONIC before which nothing that is still to be read has arrived."""


class BatchCollection:
    """The batches of one transport."""

    def __init__(self, transport: BatchTransport, port: Port, clock: Clock) -> None:
        self.latest_count = 0
        """Packets that were received last."""

        self._latest_ns = 0
        self._transport = transport
        self._port = port
        self._clock = clock
        self._batch = Batch(BATCH)
        self._collector = BatchCollector()
        for ssid in port.runs:
            self.changed(ssid)

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        return self._transport.attachments

    @property
    def limitation(self) -> str | None:
        return self._transport.limitation

    @property
    def flooded(self) -> bool:
        """Whether what was received last is a flood."""
        return self._batch.is_flood

    @property
    def room(self) -> int:
        """See `BatchTransport`."""
        return self._transport.room

    def changed(self, ssid: int) -> None:
        """The session with this SSID has come or gone, or has another collector."""
        run = self._port.runs.get(ssid)
        self._collector.serve(ssid, None if run is None else run.collector)

    def serve(self, single: Callable[[Datagram], None]) -> bool:
        """Receive once; `single` takes in one packet. Whether there may be more."""
        batch = self._batch
        before_ns = monotonic_ns()
        more = self._transport.receive_batch(batch)
        self.latest_count = batch.count
        if batch.is_flood:
            self._transport.flooded(overrun=batch.count == batch.capacity)
        if batch.count:
            self._take_in(batch, single)
        if not more:
            self._port.emptied_ns = before_ns
        return more

    def drain(self, begun_ns: int, single: Callable[[Datagram], None]) -> None:
        """Take in everything that had arrived by `begun_ns` (CLOCK_REALTIME)."""
        newer = 0
        while self.serve(single):
            newer = newer + 1 if self._latest_ns > begun_ns else 0
            if newer >= self._transport.sources:
                break

    def _take_in(self, batch: Batch, single: Callable[[Datagram], None]) -> None:
        count = batch.count
        self._latest_ns = int(batch.received_ns[count - 1])
        if count < SMALL:
            for row in range(count):
                single(batch.datagram(row))
        else:
            self._collect(batch, lambda row: single(batch.datagram(row)))

    def _collect(self, batch: Batch, single: Callable[[int], None]) -> None:
        now_ns, unix_ns = monotonic_ns(), wall_ns()
        self._clock.look(now_ns, unix_ns)
        runs = self._port.runs
        rows = slice(0, batch.count)
        received_ns = batch.received_ns[rows]
        waited_ns = np.maximum(unix_ns - received_ns, 0)
        touched = self._collector.receive(
            Replies(
                batch.data[rows],
                batch.length[rows],
                batch.source[rows],
                batch.source_port[rows],
                _admitted(self._port.filter, batch.interface[rows]),
                received_ns,
                np.maximum(now_ns - waited_ns, self._port.emptied_ns),
                batch.kernel_stamped[rows],
            ),
            single,
        )
        for collector in touched:
            run = runs.get(collector.config.ssid)
            if run is not None:
                run.received_run(now_ns)


def _admitted(
    admitting: InterfaceFilter, interfaces: npt.NDArray[np.uint32]
) -> npt.NDArray[np.bool_]:
    indices = admitting.indices
    if indices is None:
        return np.ones(len(interfaces), np.bool_)
    return np.isin(interfaces, list(indices))
