"""Trials: one system in the bed, one load, and what became of every packet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal

from tools.bench import topology
from tools.bench.bed import Bed
from tools.bench.cell import Role
from tools.bench.errors import BenchError
from tools.bench.frames import Frame, Kind, data_frame, reply_frame, request_frame
from tools.bench.generator import SHARE_WHOLE, Load, Offered
from tools.bench.search import BOUNDED_BY_BED, HELD_UP, Trial
from tools.bench.shape import Shape
from tools.bench.sink import Counts
from tools.bench.systems import System

GRACE_S = 0.005
"""How long packets may still be on their way when the offer ends. What queues for
longer does not count: a long queue would pass for throughput in a short trial."""

SETTLE_S = 0.05
SETTLE_MAX_S = 10.0
"""A system is left to work off its queues before the next trial, for at most this long."""

DISTURBED_MAX = 6
"""Trials at one rate that are thrown away, because others had the system's core, before
one is taken as it is."""

WAIT_TOLERANCE = 0.001
"""It is no disturbance when others have had the system's core for this share of the time."""

WAIT_EXPLAINS = 4
"""A loss ratio beyond this many times that share has other reasons."""

OFFER_TOLERANCE = 0.01
"""A generator that offers this much less than asked for has not been held up."""

CHECK_PPS = 200
CHECK_NS = 200_000_000
"""Before a system is measured it is seen to work at this rate."""

CHECK_LOSS = 0.05

GENERATOR_FULL = "the generator had no time to spare"
"""Note on a trial that asked for more than the generator can make."""

_BED_DROPS = ("sink-near-", "sink-far-")
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class TrialSettings:
    duration_ns: int = _NS_PER_S
    shape: Shape = field(default_factory=Shape)


@dataclass(frozen=True, slots=True)
class Observed:
    """A trial, and the counters of every leg."""

    trial: Trial
    counters: dict[str, int]
    """Packets: offered, forwarded, reflected, collected, and each kind of drop by
    where; nanoseconds: what the generator slipped."""


class Measurement:
    """One system in one role at one share of STAMP packets."""

    def __init__(
        self, bed: Bed, system: System, role: Role, share: Decimal, settings: TrialSettings
    ) -> None:
        parts = share * SHARE_WHOLE / 100
        if parts != int(parts):
            raise BenchError(f"a share of {share} % is finer than the generator can mix")
        self._bed = bed
        self._generator = bed.generator
        self._system = system
        self._role = role
        self._share = int(parts)
        self._settings = settings

    @contextmanager
    def running(self) -> Iterator[None]:
        """The system runs, and has been seen to work. Raises BenchError where it does not."""
        shape = self._settings.shape
        data = data_frame(topology.GENERATOR, topology.CUSTOMER, shape.data_payload)
        self._generator.use(data, stamp_frame(self._role, shape.sids))
        self._system.start(self._bed, self._role)
        try:
            self._check()
            yield
        finally:
            self._system.stop()

    def warm_up(self, rate_pps: int) -> None:
        """Have the system be as it is while that much comes."""
        deadline_s = time.monotonic() + self._system.warm_up_s
        while time.monotonic() < deadline_s:
            self.observe(rate_pps)

    def trial(self, rate_pps: int) -> Observed:
        """Offer `rate_pps`, data and STAMP packets together.

        A trial in which something else ran on the system's core, and packets were lost,
        says nothing about the system: it is repeated, `DISTURBED_MAX` times at most. One
        in which the generator was held up is noted as such: see `tools.bench.search`.
        """
        seen = self.observe(rate_pps)
        for _ in range(DISTURBED_MAX):
            if not _disturbed(seen):
                break
            seen = self.observe(rate_pps)
        return seen

    def observe(self, rate_pps: int) -> Observed:
        """As `trial`, once, whatever comes of it."""
        return self._observe(rate_pps, self._duration_ns(rate_pps), self._share)

    def _check(self) -> None:
        share = 0 if self._role is Role.FORWARDER else SHARE_WHOLE
        for _ in range(2):
            seen = self._observe(CHECK_PPS, CHECK_NS, share)
            trial = seen.trial
            if trial.delivered >= trial.offered * (1 - CHECK_LOSS):
                return
        told = ", ".join(f"{name} {count}" for name, count in seen.counters.items() if count)
        raise BenchError(
            f"{self._system.name} does not work as {self._role}: of {trial.offered} packets at "
            f"{CHECK_PPS} packets/s {trial.delivered} came to their end ({told})"
        )

    def _duration_ns(self, rate_pps: int) -> int:
        """As configured, or as long as the system can tell its packets apart."""
        capacity, stamp_pps = self._system.capacity(), rate_pps * self._share // SHARE_WHOLE
        wanted = self._settings.duration_ns
        if capacity is None or not stamp_pps:
            return wanted
        return min(wanted, capacity * _NS_PER_S // stamp_pps)

    def _observe(self, rate_pps: int, duration_ns: int, share: int) -> Observed:
        generator, bed, system = self._generator, self._bed, self._system
        stamp = rate_pps * duration_ns // _NS_PER_S * share // SHARE_WHOLE
        first = system.expect(stamp + 1) if stamp else 0
        self._settle()
        drops, collected = bed.drops(), system.collected()
        waited_ns, ran_ns = bed.kernel_waited_ns(), system.ran_ns()
        near_before, far_before = self._sinks()
        offered = generator.offer(
            Load(rate_pps, duration_ns, share, self._settings.shape.sessions, first)
        )
        time.sleep(GRACE_S)
        near, far = self._sinks()
        near, far = near.since(near_before), far.since(far_before)
        collected = system.collected() - collected
        # What the kernel's part waited while the system's own process ran is the system's.
        waited_ns = bed.kernel_waited_ns() - waited_ns - (system.ran_ns() - ran_ns)
        drops_after = bed.drops()
        counters = {
            "offered-data": offered.data,
            "offered-stamp": offered.stamp,
            "forwarded": far.encapsulated,
            "reflected": near.reflected + far.reflected,
            "collected": collected,
            "sink-unexpected": near.encapsulated + near.plain + near.other + far.plain + far.other,
            "generator-slipped-ns": offered.slipped_ns,
            "system-waited-ns": max(0, waited_ns),
            **{name: drops_after[name] - count for name, count in drops.items()},
        }
        trial = self._judge(rate_pps, offered, counters)
        bed.capacity.learn(self._role, trial)
        return Observed(trial, counters)

    def _judge(self, rate_pps: int, offered: Offered, counters: dict[str, int]) -> Trial:
        stamp_end = "collected" if self._role is Role.COLLECTOR else "reflected"
        lost_by_bed = sum(count for name, count in counters.items() if name.startswith(_BED_DROPS))
        notes = []
        if lost_by_bed:
            notes.append(f"the sinks lost {lost_by_bed} packets")
        asked = rate_pps * offered.duration_ns / _NS_PER_S
        short = offered.packets < asked * (1 - OFFER_TOLERANCE)
        full = not offered.idle and not self._bed.capacity.is_far_above(self._role, rate_pps)
        if full:
            notes.append(GENERATOR_FULL)
        elif short:
            notes.append(HELD_UP)
        if lost_by_bed > offered.packets // 1000 or full:
            notes.append(BOUNDED_BY_BED)
        return Trial(
            asked_pps=rate_pps,
            offered=offered.packets,
            delivered=counters["forwarded"] + counters[stamp_end],
            duration_ns=offered.duration_ns,
            notes=tuple(notes),
        )

    def _settle(self) -> None:
        """Wait until nothing that was offered earlier is still being counted."""
        deadline = time.monotonic() + SETTLE_MAX_S
        last = None
        while (seen := self._seen()) != last and time.monotonic() < deadline:
            last = seen
            time.sleep(SETTLE_S)

    def _sinks(self) -> tuple[Counts, Counts]:
        return self._bed.sinks.counts("sink_near"), self._bed.sinks.counts("sink_far")

    def _seen(self) -> tuple[object, ...]:
        return *self._sinks(), self._system.collected()


def _disturbed(seen: Observed) -> bool:
    """Whether packets were lost while others had the system's core."""
    trial = seen.trial
    waited = seen.counters["system-waited-ns"] / trial.duration_ns
    loss_ratio = trial.loss_ratio or 0
    return waited > WAIT_TOLERANCE and 0 < loss_ratio <= WAIT_EXPLAINS * waited


def stamp_frame(role: Role, sids: int) -> Frame | None:
    """What a system in this role is to be sent; None for nothing."""
    if role is Role.REFLECTOR:
        path = topology.path_to(topology.SYSTEM, sids, topology.FORTH)
        return request_frame(topology.GENERATOR, topology.SYSTEM, path)
    if role is Role.COLLECTOR:
        path = topology.path_to(topology.SYSTEM, sids, topology.FORTH)
        return reply_frame(topology.GENERATOR, topology.SYSTEM, path)
    return None


def frame_lengths(shape: Shape) -> dict[Kind, int]:
    """Bytes of the frames that a bench sends."""
    frames = [
        data_frame(topology.GENERATOR, topology.CUSTOMER, shape.data_payload),
        stamp_frame(Role.REFLECTOR, shape.sids),
        stamp_frame(Role.COLLECTOR, shape.sids),
    ]
    return {frame.kind: len(frame.data) for frame in frames if frame is not None}
