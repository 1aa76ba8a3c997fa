"""Packets that the program in the driver has handed over, as the columns of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.engines.common.batch import ROW, Batch
from dataplane.engines.userspace.driver_layouts import ARRIVAL
from dataplane.engines.userspace.xsk import CHUNK, HEADROOM, XdpSocket

_PAYLOAD = HEADROOM + ARRIVAL.itemsize
_CHUNK_BITS = np.uint64(CHUNK.bit_length() - 1)


class Arrivals:
    """Fills batches from AF_XDP sockets; shared by those of one thread."""

    def __init__(self, capacity: int) -> None:
        self._heads: npt.NDArray[np.uint8] = np.zeros((capacity, ARRIVAL.itemsize), np.uint8)
        self._arrivals: npt.NDArray[Any] = self._heads.view(ARRIVAL)[:, 0]

    def receive(self, sock: XdpSocket, batch: Batch) -> None:
        """What waits, at most a batch of it; `batch.count` is 0 where nothing does."""
        count = batch.count = min(sock.waiting(), batch.capacity)
        if not count:
            return
        pool = sock.pool
        addresses = sock.receive(count)
        rows = (addresses >> _CHUNK_BITS).astype(np.intp)
        frames = pool.frames
        np.take(frames[:, HEADROOM:_PAYLOAD], rows, 0, self._heads[:count], "clip")
        np.take(frames[:, _PAYLOAD : _PAYLOAD + ROW], rows, 0, batch.data[:count], "clip")
        self._fill(batch, count)
        batch.long.clear()
        length = batch.length[:count]
        for row in np.flatnonzero(length > ROW).tolist():
            frame = frames[rows[row]]
            batch.long[row] = frame[_PAYLOAD : _PAYLOAD + int(length[row])].tobytes()
        pool.give_back(addresses)

    def _fill(self, batch: Batch, count: int) -> None:
        arrivals = self._arrivals[:count]
        batch.length[:count] = arrivals["length"]
        batch.source[:count] = arrivals["source"]
        batch.source_port[:count] = arrivals["source_port"]
        batch.scope_id[:count] = 0
        batch.destination[:count] = arrivals["destination"]
        batch.interface[:count] = arrivals["ifindex"]
        batch.hop_limit[:count] = arrivals["hop_limit"]
        batch.traffic_class[:count] = arrivals["traffic_class"]
        batch.received_ns[:count] = arrivals["received_ns"]
        batch.kernel_stamped[:count] = True
