"""The bed checks itself: what it can offer, and what it loses where nothing is measured."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from tools.bench.bed import Bed
from tools.bench.cell import Role
from tools.bench.measure import Measurement, TrialSettings
from tools.bench.progress import kpps
from tools.bench.systems import BareProgram

MAXIMUM_PPS = 20_000_000
MODERATE_PPS = 100_000

ROUNDS = 3
ATTEMPTS = 2
"""In each round, of each of the two: a machine that stalls for a second or two spoils those
of one round, and the best of all counts."""

QUIET_NS = 1_000_000
"""A generator that slips by more than this at a moderate rate has company on its core."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What the bed found out about itself."""

    generator_pps: float
    """The most that it can offer to a program that drops everything."""

    bounce_pps: float
    """The most that comes back through the sinks from a program that only returns it:
    no reflector on this bed can be seen to do more."""

    moderate_loss: float
    """Ratio of packets lost at a moderate rate where nothing should be."""

    slipped_ns: int
    """By which the generator was held up at a moderate rate, in one trial."""

    def lines(self) -> list[str]:
        """What a reader should know, for the notes of a results file."""
        found = [
            f"bed: the generator offers up to {kpps(self.generator_pps)}, "
            f"and a program that only returns packets brings back up to {kpps(self.bounce_pps)}",
            f"bed: at {kpps(MODERATE_PPS)} it lost {self.moderate_loss:.4%}",
        ]
        if self.slipped_ns > QUIET_NS:
            found.append(
                f"warning: the generator was held up for {self.slipped_ns / 1e6:.1f} ms: "
                "something else runs on its core, and results will be noisy"
            )
        return found


def check(bed: Bed, settings: TrialSettings) -> SelfCheck:
    """Some ten seconds of trials. Raises BenchError where the bed does not work.

    `bed.capacity` knows afterwards what they offered, as it does of all that follow.
    """
    full = Decimal(100)
    drop = Measurement(bed, BareProgram("xdp-drop"), Role.COLLECTOR, full, settings)
    bounce = Measurement(bed, BareProgram("xdp-tx"), Role.REFLECTOR, full, settings)
    for _ in range(ROUNDS):
        for measurement in (drop, bounce):
            with measurement.running():
                for _ in range(ATTEMPTS):
                    measurement.observe(MAXIMUM_PPS)
    with drop.running():
        moderate = drop.observe(MODERATE_PPS)
    return SelfCheck(
        generator_pps=bed.capacity.offered_pps,
        bounce_pps=bed.capacity.returned_pps,
        moderate_loss=moderate.trial.loss_ratio or 0.0,
        slipped_ns=moderate.counters["generator-slipped-ns"],
    )
