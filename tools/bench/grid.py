"""Which cells to measure, in which order, and how long that will still take.

A plan goes round all its cells once for the first run, then again for the second:
whatever changes slowly on the machine meets all cells alike, and a bench that is
stopped early has measured every cell nearly as often. Each run of a cell is preceded
by one of the baseline, because only their ratio means something on a machine whose
speed is not constant.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple

from tools.bench.cell import BASELINE, CellKey, Metric, Role
from tools.bench.paper import SHARES

ENGINES = ("scapy", "userspace", "xdp")
"""The systems of the paper's grid."""
ROLES = (Role.REFLECTOR, Role.COLLECTOR)
REFERENCES = (
    CellKey(Role.REFLECTOR, "xdp-tx", Decimal(100)),
    CellKey(Role.COLLECTOR, "xdp-drop", Decimal(100)),
)
"""What no engine can exceed: XDP programs that do nothing but answer, or nothing but drop."""
QUICK_SHARES = (Decimal(0), Decimal(1), Decimal(100))
"""The ends of the scale (Figs. 12-14), and where the paper's engines part."""


FIGURE_SHARES = tuple(map(Decimal, ("0", "0.1", "1", "10", "50", "100")))
"""Enough to see where each engine parts from the baseline."""
ENDS = (Decimal(0), Decimal(100))
"""Traffic of one kind only."""


class Step(NamedTuple):
    """One measurement."""

    key: CellKey
    run: int
    """Index of the run."""
    baseline: bool
    """The baseline that goes with this run of the cell, instead of the cell."""

    @property
    def measured(self) -> CellKey:
        """The cell that is measured in this step."""
        return replace(BASELINE, metric=self.key.metric) if self.baseline else self.key


@dataclass(frozen=True, slots=True)
class Plan:
    """Cells, each to be measured `runs` times."""

    name: str
    cells: tuple[CellKey, ...]
    runs: int
    fewer_between: int | None = None
    """Runs of shares other than 0 and 100 %; None for as many."""

    def pairs(self) -> Iterator[tuple[CellKey, int]]:
        """Yield each cell and index of run, in order."""
        return (
            (key, run)
            for run in range(self.runs)
            for key in self.cells
            if self.fewer_between is None or run < self.fewer_between or key.share in ENDS
        )

    def steps(self) -> Iterator[Step]:
        """Yield all measurements in order."""
        return interleave(self.pairs())

    def only(
        self,
        *,
        roles: Collection[Role] | None = None,
        systems: Collection[str] | None = None,
        shares: Collection[Decimal] | None = None,
    ) -> Plan:
        """Return the cells with one of these roles, systems and shares; None permits all."""
        cells = tuple(
            key
            for key in self.cells
            if (roles is None or key.role in roles)
            and (systems is None or key.system in systems)
            and (shares is None or key.share in shares)
        )
        return replace(self, cells=cells)

    def with_runs(self, runs: int) -> Plan:
        """Return the same cells with another number of runs."""
        return replace(self, runs=runs, fewer_between=None)


def grid(
    roles: Iterable[Role] = ROLES,
    systems: Iterable[str] = ENGINES,
    shares: Iterable[Decimal] = SHARES,
    metric: Metric = Metric.PDR,
) -> tuple[CellKey, ...]:
    """Return all cells of some roles, systems and shares, such as other listeners' labels."""
    systems, shares = tuple(systems), tuple(shares)
    return tuple(
        CellKey(role, system, share, metric)
        for role in roles
        for system in systems
        for share in shares
    )


PLANS = {
    "quick": Plan("quick", grid(shares=QUICK_SHARES), runs=1),
    "figures": Plan("figures", (*grid(shares=FIGURE_SHARES), *REFERENCES), runs=3, fewer_between=1),
    "full": Plan("full", (*grid(), *REFERENCES), runs=10),
}
"""By name: the essential cells in minutes, what the figures need in half an hour, and the
paper's grid with its ten runs."""


def interleave(pairs: Iterable[tuple[CellKey, int]]) -> Iterator[Step]:
    """Put the baseline before each run of a cell: what `Results.missing` left of a plan."""
    for key, run in pairs:
        if key != replace(BASELINE, metric=key.metric):
            yield Step(key, run, baseline=True)
        yield Step(key, run, baseline=False)


RUN_S = (10, 20)
"""What a run of a cell takes at least and at most, most of the time, besides offering packets."""
TRIALS = 20
"""Usual number of a run's trials, with those of its baseline."""


def first_guess_s(runs: int, trial_s: float) -> tuple[float, float]:
    """Return how long runs take, at least and at most, before anything was measured."""
    least, most = RUN_S
    return runs * (least + TRIALS * trial_s), runs * (most + TRIALS * trial_s)


class Estimator:
    """How long the rest of a plan takes, from the durations of what was measured."""

    def __init__(self) -> None:
        self._durations: list[tuple[CellKey, int]] = []

    def finished(self, key: CellKey, duration_ns: int) -> None:
        """Take the duration of one run of a cell, with its baseline."""
        self._durations.append((key, duration_ns))

    def expected_ns(self, key: CellKey) -> int | None:
        """Return how long a run of this cell takes; None before anything was measured.

        The median of its own runs; else of the runs of its role and system, of its system,
        of all: the nearest relatives that were measured.
        """
        nearer = (
            lambda other: other == key,
            lambda other: (other.role, other.system) == (key.role, key.system),
            lambda other: other.system == key.system,
            lambda other: True,
        )
        for related in nearer:
            known = [duration for other, duration in self._durations if related(other)]
            if known:
                return round(statistics.median(known))
        return None

    def remaining_ns(self, pairs: Iterable[tuple[CellKey, int]]) -> int | None:
        """Return how long these runs take together; None before anything was measured."""
        expected = [self.expected_ns(key) for key, _ in pairs]
        known = [duration for duration in expected if duration is not None]
        return sum(known) if len(known) == len(expected) else None
