"""How many requests a source may send: the program's `rate.h`, for what it leaves to others.

A token bucket, kept as the moment at which it will be full again (the virtual scheduling
of ITU-T I.371, annex A). Sources that have not been heard of for the longest make room
for new ones.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from dataplane.stamp.timestamp import NS_PER_S

BURST_NS = NS_PER_S // 10
"""How far a source may be ahead of its rate: what it may send at once is the
packets of this time."""

SOURCES_MAX = 65_536
"""Sources whose rate is remembered."""

_ADDRESS_BYTES = 16


class RateLimiter:
    """The buckets of all sources."""

    def __init__(self, packets_per_s: int) -> None:
        self._interval_ns = NS_PER_S // packets_per_s
        self._full_ns: OrderedDict[bytes, int] = OrderedDict()

    def admits(self, source: bytes, now_ns: int) -> bool:
        """Whether a request may be taken; it counts then. `now_ns` is wall time."""
        ahead_ns = self._full_ns.get(source, now_ns) - now_ns
        # The past, and what no bucket comes to, because the clock has been set back.
        if not 0 <= ahead_ns <= BURST_NS + self._interval_ns:
            ahead_ns = 0
        admitted = ahead_ns <= BURST_NS
        self._full_ns[source] = now_ns + ahead_ns + self._interval_ns * admitted
        self._full_ns.move_to_end(source)
        if len(self._full_ns) > SOURCES_MAX:
            self._full_ns.popitem(last=False)
        return admitted

    def admitted(
        self, sources: npt.NDArray[np.uint64], now_ns: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """The same for a request a row, in their order; an address is two words."""
        raw = sources.tobytes()
        keys = (raw[at : at + _ADDRESS_BYTES] for at in range(0, len(raw), _ADDRESS_BYTES))
        return np.fromiter(map(self.admits, keys, now_ns.tolist()), np.bool_, len(sources))
