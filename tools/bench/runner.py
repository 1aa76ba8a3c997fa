"""A plan, run: every cell with a baseline of its own, into a results file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from dataplane.bpf.program import BpfError
from dataplane.clock import monotonic_ns
from tools.bench.bed import Bed
from tools.bench.cell import BASELINE, CellKey, Metric, Role
from tools.bench.environment import timestamp
from tools.bench.errors import BenchError
from tools.bench.grid import Estimator
from tools.bench.measure import Measurement, TrialSettings
from tools.bench.results import ResultsFile, Run, Side
from tools.bench.search import SearchSettings, Trial, make_search, run_search
from tools.bench.systems import System
from tools.lab.errors import LabError

MakeSystem = Callable[[CellKey], System]
"""The system that a cell is about. Raises BenchError where there is none."""

_FAILURES = (BenchError, BpfError, LabError, OSError)


class Watcher(Protocol):
    """Is told how far a bench is."""

    def began(self, key: CellKey, run: int, done: int, total: int, left_ns: int | None) -> None:
        """A run begins; `done` of `total` runs are over, and about `left_ns` are left."""

    def trial(self, key: CellKey, trial: Trial) -> None:
        """A trial is over."""

    def ended(self, key: CellKey, run: Run) -> None: ...

    def skipped(self, key: CellKey, reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    search: SearchSettings
    trial: TrialSettings


class Runner:
    """Runs what is still missing of a plan."""

    def __init__(
        self,
        bed: Bed,
        file: ResultsFile,
        make_system: MakeSystem,
        settings: RunnerSettings,
        watcher: Watcher,
    ) -> None:
        self._bed = bed
        self._file = file
        self._make_system = make_system
        self._settings = settings
        self._watcher = watcher
        self._estimator = Estimator()
        self._known: dict[CellKey, float] = {}
        """The latest result of a cell, where the next search begins."""
        self._latest: dict[tuple[Role, str], float] = {}
        """The same of a role and system, whatever the share."""
        for cell in file.results.cells:
            for run in cell.runs:
                self._learn(cell.key, run)

    def run(self, plan: Iterable[tuple[CellKey, int]]) -> None:
        """Measure; a cell that cannot be measured is skipped, with the reason in the file."""
        pairs = list(plan)
        todo = self._file.missing(pairs)
        skipped: set[CellKey] = set()
        for position, (key, index) in enumerate(todo):
            if key in skipped:
                continue
            left = [pair for pair in todo[position:] if pair[0] not in skipped]
            done = len(pairs) - len(left)
            self._watcher.began(key, index, done, len(pairs), self._estimator.remaining_ns(left))
            try:
                run = self._measure(key)
            except _FAILURES as error:
                skipped.add(key)
                self._file.skip(key, str(error))
                self._watcher.skipped(key, str(error))
                continue
            self._file.add_run(key, run)
            self._learn(key, run)
            self._watcher.ended(key, run)

    def _measure(self, key: CellKey) -> Run:
        started, began_ns = timestamp(datetime.now(UTC)), monotonic_ns()
        # What is not there is found out before the baseline takes its time.
        system = self._make_system(key)
        baseline_key = replace(BASELINE, metric=key.metric)
        baseline = None
        if key != baseline_key:
            baseline, _ = self._search(baseline_key, self._make_system(baseline_key))
        warm_up_pps = None if baseline is None else round(baseline.pps)
        side, counters = self._search(key, system, warm_up_pps)
        return Run(
            started=started,
            duration_ns=monotonic_ns() - began_ns,
            system=side,
            baseline=baseline,
            counters=counters,
            notes=_notes(side, baseline, counters),
        )

    def _search(
        self, key: CellKey, system: System, warm_up_pps: int | None = None
    ) -> tuple[Side, dict[str, int]]:
        counters: Counter[str] = Counter()
        settings = self._settings.search
        # The first search of a cell begins where that of its neighbour ended.
        known = self._known.get(key) or self._latest.get((key.role, key.system))
        if known is not None and key.metric is not Metric.MRR:
            settings = settings.near(known)
        measurement = Measurement(self._bed, system, key.role, key.share, self._settings.trial)

        def trial(rate_pps: int) -> Trial:
            seen = measurement.trial(rate_pps)
            counters.update(seen.counters)
            self._watcher.trial(key, seen.trial)
            return seen.trial

        with measurement.running():
            if warm_up_pps:
                measurement.warm_up(warm_up_pps)
            outcome = run_search(make_search(key.metric, settings), trial)
        if outcome.pps:
            self._known[key] = self._latest[key.role, key.system] = outcome.pps
        return Side.of(outcome), {name: count for name, count in counters.items() if count}

    def _learn(self, key: CellKey, run: Run) -> None:
        self._estimator.finished(key, run.duration_ns)
        if run.system.pps:
            self._known[key] = run.system.pps
        if run.baseline is not None and run.baseline.pps:
            self._known[replace(BASELINE, metric=key.metric)] = run.baseline.pps


def _notes(side: Side, baseline: Side | None, counters: Mapping[str, int]) -> tuple[str, ...]:
    """What would make a reader doubt the run."""
    notes = []
    unexpected = counters.get("sink-unexpected", 0)
    if unexpected:
        notes.append(f"{unexpected} packets at the sinks were neither data nor STAMP")
    if side.bounded_by_bed:
        notes.append("the system may carry more: the bed was the limit")
    if baseline is not None and baseline.bounded_by_bed:
        notes.append("the baseline may be higher, and the ratio lower: the bed was the limit")
    return tuple(notes)
