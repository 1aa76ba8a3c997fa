"""Packets that the program in the driver has handed over, as the columns of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.engines.common.batch import ROW, Batch
from dataplane.engines.userspace.driver_layouts import ARRIVAL
from dataplane.engines.userspace.xsk import CHUNK, HEADROOM, XdpSocket

_PAYLOAD = HEADROOM + ARRIVAL.itemsize
_ARRIVAL_BYTES = np.dtype((np.void, ARRIVAL.itemsize))
_ROW_BYTES = np.dtype((np.void, ROW))
_CHUNK_BITS = np.uint64(CHUNK.bit_length() - 1)


def receive_arrivals(sock: XdpSocket, batch: Batch) -> None:
    """Fill `batch` with what waits, at most to its capacity; `batch.count` is 0 where
    nothing does."""
    count = batch.count = min(sock.waiting(), batch.capacity)
    if not count:
        return
    pool = sock.pool
    addresses = sock.receive(count)
    rows = (addresses >> _CHUNK_BITS).astype(np.intp)
    frames = pool.frames
    # `take` would copy that part of all frames first, to have it in one piece.
    heads = frames[:, HEADROOM:_PAYLOAD].view(_ARRIVAL_BYTES)[rows, 0]
    payloads = frames[:, _PAYLOAD : _PAYLOAD + ROW].view(_ROW_BYTES)[rows, 0]
    batch.data[:count] = payloads.view(np.uint8).reshape(count, ROW)
    _fill(batch, heads.view(ARRIVAL))
    batch.long.clear()
    length = batch.length[:count]
    for row in np.flatnonzero(length > ROW).tolist():
        frame = frames[rows[row]]
        batch.long[row] = frame[_PAYLOAD : _PAYLOAD + int(length[row])].tobytes()
    pool.give_back(addresses)


def _fill(batch: Batch, arrivals: npt.NDArray[Any]) -> None:
    rows = slice(0, len(arrivals))
    batch.length[rows] = arrivals["length"]
    batch.source[rows] = arrivals["source"]
    batch.source_port[rows] = arrivals["source_port"]
    batch.scope_id[rows] = 0
    batch.destination[rows] = arrivals["destination"]
    batch.interface[rows] = arrivals["ifindex"]
    batch.hop_limit[rows] = arrivals["hop_limit"]
    batch.traffic_class[rows] = arrivals["traffic_class"]
    batch.received_ns[rows] = arrivals["received_ns"]
    batch.kernel_stamped[rows] = True
