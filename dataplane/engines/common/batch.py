"""Many received packets at once: a column for each thing that is known about them."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from dataplane.addresses import text_of
from dataplane.engines.base import Attachment
from dataplane.engines.common.transport import Datagram, Transport

BATCH = 2_048
"""Packets of a batch at most, as many as the kernel hands over at once. Larger ones bear
the constant cost of array operations more easily; a full one takes some two milliseconds,
for which timers wait."""

ROW = 128
"""Bytes of each packet that are kept in `Batch.data`; the base packets fit twice."""

SMALL = 8
"""Batches below this are served packet by packet, which is faster then."""

FLOOD = 32
FLOOD_GAP_NS = 20_000
"""So many packets that wait, and arrived no farther apart than that, are a flood."""

UNKNOWN_HOP_LIMIT = -1


class Batch:
    """Room for `capacity` packets. What a transport has put in is in the first `count` rows.

    Columns are plain arrays, valid until the next batch is received.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self.data: npt.NDArray[np.uint8] = np.zeros((capacity, ROW), np.uint8)
        """The first bytes of the UDP payloads; what is beyond `length` is undefined."""

        self.length: npt.NDArray[Any] = np.zeros(capacity, np.int64)
        self.source: npt.NDArray[np.uint64] = np.zeros((capacity, 2), np.uint64)
        """Addresses of 16 bytes (`dataplane.addresses`), in two words; the unspecified one
        where IPv6 claims an IPv4-mapped address."""

        self.source_port: npt.NDArray[Any] = np.zeros(capacity, np.uint16)
        self.scope_id: npt.NDArray[Any] = np.zeros(capacity, np.uint32)
        self.destination: npt.NDArray[np.uint64] = np.zeros((capacity, 2), np.uint64)
        self.interface: npt.NDArray[Any] = np.zeros(capacity, np.uint32)
        self.hop_limit: npt.NDArray[Any] = np.zeros(capacity, np.int32)
        """`UNKNOWN_HOP_LIMIT` where it cannot be read."""

        self.traffic_class: npt.NDArray[Any] = np.zeros(capacity, np.int32)
        self.received_ns: npt.NDArray[np.int64] = np.zeros(capacity, np.int64)
        """CLOCK_REALTIME, as in `Datagram`."""

        self.kernel_stamped: npt.NDArray[np.bool_] = np.zeros(capacity, np.bool_)
        self.long: dict[int, bytes] = {}
        """Whole payloads, by row, of packets that are longer than `ROW`."""

    @property
    def is_flood(self) -> bool:
        """Whether packets come so fast that each costs less if more of them wait."""
        count = self.count
        if count < FLOOD:
            return False
        span_ns = int(self.received_ns[count - 1]) - int(self.received_ns[0])
        return abs(span_ns) < count * FLOOD_GAP_NS

    def datagram(self, row: int) -> Datagram:
        """One of them by itself."""
        size = int(self.length[row])
        hop_limit = int(self.hop_limit[row])
        return Datagram(
            self.long[row] if size > ROW else self.data[row, :size].tobytes(),
            text_of(self.source[row].tobytes()),
            int(self.source_port[row]),
            int(self.scope_id[row]),
            None if hop_limit == UNKNOWN_HOP_LIMIT else hop_limit,
            int(self.traffic_class[row]),
            self.destination[row].tobytes(),
            int(self.interface[row]),
            int(self.received_ns[row]),
            bool(self.kernel_stamped[row]),
        )


@runtime_checkable
class BatchTransport(Transport, Protocol):
    """A transport that receives and sends many packets at once."""

    @property
    def limitation(self) -> str | None:
        """What this transport has found that it cannot do here, for the operator."""

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """Interfaces whose packets reach this transport by a program in the driver."""

    @property
    def sources(self) -> int:
        """How many queues are read in turn, one at each call of `receive_batch`."""

    @property
    def room(self) -> int:
        """Packets that can wait to be received, at least."""

    def receive_batch(self, batch: Batch) -> bool:
        """Fill `batch` with what has arrived: nothing, or up to its capacity.

        Returns whether there may be more; of one source packets come in the order in
        which they arrived.
        """

    def flooded(self, overrun: bool) -> None:
        """To be told by who takes in replies that they flood in, and whether there are more
        than a batch holds: then they may come in larger portions, with later timestamps."""

    def send_burst(
        self,
        payloads: npt.NDArray[np.uint8],
        source: bytes,
        destination: bytes,
        port: int,
        scope_id: int,
    ) -> int:
        """Transmit payloads of equal length, a row each, dressed as `dress` said.

        At most `BURST` rows, in contiguous memory. `source` and `destination` have 16
        bytes, and are of the transport's family; `scope_id` is the link of those that are
        link-local. There are no transmit timestamps for
        these packets. Returns how many left, from the first on; raises OSError where not
        even one did.
        """


BURST_MIN = 8
"""Test packets that are due at once from which on they are sent as a burst. Fewer are
sent one by one, each with a transmit timestamp of the kernel's."""

BURST = 64
"""Packets that a transport sends at once; the kernel takes no more in one burst."""
