"""What a delay line decides about frames: sans-IO, time is an argument.

Rules that hold here:
- A decision depends only on the seed, the direction and how many frames came
  before: each kind of decision has a generator of its own, so that adding
  jitter does not change which frames are lost.
- A direction is first in, first out. Only a frame chosen for reordering may be
  overtaken, and it does not hold back those behind it.
- received = lost + dropped_queue + (frames not yet departed) + forwarded
  − copies forwarded + dropped_send, at every moment.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import NamedTuple

from tools.lab.topology import Impairment, JitterDistribution

DEFAULT_QUEUE_LIMIT = 10_000
"""Frames that one direction may hold; further ones are counted in `dropped_queue`."""

LATENESS_BUCKET_NS = 1_000
LATENESS_BUCKETS = 20_000
"""Lateness is counted in buckets of 1 µs up to 20 ms; later ones share the last bucket."""


@dataclass(slots=True)
class Lateness:
    """The delay line's own error: actual minus scheduled departure."""

    count: int = 0
    total_ns: int = 0
    max_ns: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * LATENESS_BUCKETS)

    def add(self, lateness_ns: int) -> None:
        """Count one departure; it is never early, so `lateness_ns` ≥ 0."""
        self.count += 1
        self.total_ns += lateness_ns
        if lateness_ns > self.max_ns:
            self.max_ns = lateness_ns
        self.buckets[min(lateness_ns // LATENESS_BUCKET_NS, LATENESS_BUCKETS - 1)] += 1

    def percentile_ns(self, percent: float) -> int | None:
        """Upper edge of the bucket in which the percentile falls, at most the maximum.

        None when nothing has departed.
        """
        if not self.count:
            return None
        rank = percent / 100 * self.count
        seen = 0
        for index, count in enumerate(self.buckets):
            seen += count
            if count and seen >= rank:
                if index == LATENESS_BUCKETS - 1:
                    return self.max_ns
                return min((index + 1) * LATENESS_BUCKET_NS, self.max_ns)
        return self.max_ns

    def summary(self) -> dict[str, int | None]:
        """Count, mean, p50, p99 and maximum in nanoseconds; None where unknown."""
        return {
            "count": self.count,
            "mean_ns": self.total_ns // self.count if self.count else None,
            "p50_ns": self.percentile_ns(50),
            "p99_ns": self.percentile_ns(99),
            "max_ns": self.max_ns if self.count else None,
        }


@dataclass(slots=True)
class Counters:
    """Frames of one direction since the start."""

    received: int = 0
    forwarded: int = 0
    """Frames sent, copies included."""
    lost: int = 0
    """Lost on purpose."""
    duplicated: int = 0
    """Copies made on purpose."""
    held: int = 0
    """Frames chosen for reordering, whether or not another one then overtook them."""
    reordered: int = 0
    """Frames that departed after one that had arrived later (RFC 4737 §3)."""
    ignored: int = 0
    """The kernel's multicast listener reports: not carried, and not in `received`."""
    dropped_queue: int = 0
    """Not on purpose: the queue was full."""
    dropped_socket: int = 0
    """Not on purpose: the kernel's receive buffer was full."""
    dropped_send: int = 0
    """Not on purpose: the kernel refused to send."""

    def as_dict(self) -> dict[str, int]:
        """Every counter by name."""
        return {name: getattr(self, name) for name in self.__slots__}


class Direction:
    """One direction of one link: decides about frames and counts them."""

    def __init__(
        self, impairment: Impairment, seed: str, queue_limit: int = DEFAULT_QUEUE_LIMIT
    ) -> None:
        self.impairment = impairment
        self.counters = Counters()
        self.lateness = Lateness()
        self.queued = 0
        self._queue_limit = queue_limit
        self._loss, self._jitter, self._duplicate, self._reorder = (
            random.Random(f"{seed}/{kind}") for kind in ("loss", "jitter", "duplicate", "reorder")
        )
        self._last_departure_ns: int | None = None
        self._next_sequence = 0
        self._highest_departed = -1

    def admit(self, arrival_ns: int) -> tuple[int, int, int] | None:
        """Decide about a frame that arrived at `arrival_ns`.

        Returns (departure_ns, sequence, copies), copies being 1 or 2, or None
        when the frame goes no further.
        """
        counters, impairment = self.counters, self.impairment
        counters.received += 1
        # Every generator advances at every frame, whatever becomes of the frame.
        lost = impairment.loss > 0 and self._loss.random() < impairment.loss
        delay_ns = impairment.delay_ns + self._draw_jitter_ns()
        copy = impairment.duplicate > 0 and self._duplicate.random() < impairment.duplicate
        hold = impairment.reorder > 0 and self._reorder.random() < impairment.reorder
        if lost:
            counters.lost += 1
            return None
        copies = 2 if copy else 1
        if self.queued + copies > self._queue_limit:
            counters.dropped_queue += 1
            return None
        departure_ns = arrival_ns + delay_ns
        if self._last_departure_ns is not None and departure_ns < self._last_departure_ns:
            departure_ns = self._last_departure_ns
        if hold:
            counters.held += 1
            departure_ns += impairment.reorder_hold_ns
        else:
            self._last_departure_ns = departure_ns
        counters.duplicated += copies - 1
        self.queued += copies
        sequence = self._next_sequence
        self._next_sequence += 1
        return departure_ns, sequence, copies

    def departed(self, sequence: int, lateness_ns: int) -> None:
        """Count a frame that was sent."""
        self.queued -= 1
        self.counters.forwarded += 1
        if sequence < self._highest_departed:
            self.counters.reordered += 1
        else:
            self._highest_departed = sequence
        self.lateness.add(lateness_ns)

    def refused(self) -> None:
        """Count a frame that the kernel refused to send."""
        self.queued -= 1
        self.counters.dropped_send += 1

    def _draw_jitter_ns(self) -> int:
        jitter_ns = self.impairment.jitter_ns
        if not jitter_ns:
            return 0
        if self.impairment.jitter_distribution is JitterDistribution.UNIFORM:
            return self._jitter.randint(-jitter_ns, jitter_ns)
        while True:
            draw_ns = round(self._jitter.gauss(0.0, jitter_ns))
            if abs(draw_ns) <= 3 * jitter_ns:
                return draw_ns


class Departure(NamedTuple):
    """A frame in the queue; compares by time, then by admission, which is unique."""

    departure_ns: int
    order: int
    direction: int
    sequence: int
    frame: bytes


class DepartureQueue:
    """All directions' frames, in order of departure."""

    def __init__(self, directions: list[Direction]) -> None:
        self.directions = directions
        self._heap: list[Departure] = []
        self._order = 0

    def receive(self, direction: int, frame: bytes, arrival_ns: int) -> None:
        """Take a frame that entered direction number `direction` at `arrival_ns`."""
        admitted = self.directions[direction].admit(arrival_ns)
        if admitted is None:
            return
        departure_ns, sequence, copies = admitted
        for _ in range(copies):
            item = Departure(departure_ns, self._order, direction, sequence, frame)
            heapq.heappush(self._heap, item)
            self._order += 1

    @property
    def next_departure_ns(self) -> int | None:
        """When the next frame is to depart; None when nothing waits."""
        return self._heap[0].departure_ns if self._heap else None

    def pop(self) -> Departure:
        """Take out the next frame; IndexError when nothing waits."""
        return heapq.heappop(self._heap)
