"""A simulated system under test: a queue with a known capacity, noise, and stalls."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tools.bench.search import NS_PER_S, Trial


@dataclass
class SimulatedSystem:
    """Carries `capacity_pps`, and keeps what comes at once in a queue.

    Offering r packets per second for a time t, it delivers what it can serve in t
    plus what remains in the queue, which is served after the generator stopped.
    """

    capacity_pps: float
    queue: int = 0
    duration_ns: int = NS_PER_S
    noise: float = 0.0
    """Standard deviation of the capacity from trial to trial, as a ratio."""
    stalled_trials: frozenset[int] = frozenset()
    """Numbers of trials in which the machine does other things for a fifth of the time."""
    generator_pps: float = float("inf")
    """The generator cannot offer more."""
    random: random.Random = field(default_factory=lambda: random.Random(1))
    asked: list[int] = field(default_factory=list)

    def trial(self, rate_pps: int) -> Trial:
        """Offer packets at a rate."""
        capacity_pps = self.capacity_pps * (1 + self.random.gauss(0, self.noise))
        if len(self.asked) in self.stalled_trials:
            capacity_pps *= 0.8
        self.asked.append(rate_pps)
        offered = round(min(rate_pps, self.generator_pps) * self.duration_ns / NS_PER_S)
        served = int(max(0.0, capacity_pps) * self.duration_ns / NS_PER_S) + self.queue
        return Trial(rate_pps, offered, min(offered, served), self.duration_ns)
