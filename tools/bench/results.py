"""The results file: one JSON document, complete after every run, that a killed bench goes on with.

`schema` is "srv6-stamp-bench", `version` is 1. A version only ever gains keys; null is what
is not known. The other keys are the fields of `Results`, whose dataclasses are the schema:
strings for a share of STAMP packets ("0.001" percent), integers for nanoseconds.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tools.bench.cell import CellKey
from tools.bench.extras import Extra, Extras
from tools.bench.jsonform import JsonFormError, from_json, to_json
from tools.bench.search import SearchOutcome, SearchSettings, Trial
from tools.bench.statistics import Bounded

SCHEMA = "srv6-stamp-bench"
SCHEMA_VERSION = 1


class ResultsError(Exception):
    """A file that is no results file, or not one of the same bench: which, where, and why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the bench ran on; None where it is not known."""

    cpu_model: str | None
    cores: int | None
    memory_bytes: int | None
    governor: str | None
    """Of the frequency of the first core; None also where there is none."""


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """How all cells were measured."""

    search: SearchSettings
    trial_duration_ns: int
    data_packet_bytes: int
    stamp_packet_bytes: int
    pinning: dict[str, str] = field(default_factory=dict)
    """Cores by what runs on them: {"generator": "0", "system": "1"}."""
    other: dict[str, str] = field(default_factory=dict)
    """Whatever else tells two benches apart."""


@dataclass(frozen=True, slots=True)
class Header:
    """Everything about a bench that is known before its first run."""

    command: str
    created: str
    """ISO 8601, UTC."""
    machine: Machine
    kernel: str
    versions: dict[str, str | None]
    """By name: "srv6-stamp", "python", "iproute2", "numpy", "bcc", …; null where absent."""
    settings: BenchSettings


@dataclass(frozen=True, slots=True)
class Side:
    """One search: of the system, or of the baseline that belongs to it."""

    pps: float
    """0 where no trial passed."""
    bounded_by_bed: bool
    """`pps` is a lower bound. What that makes of a ratio depends on which side this is:
    see `Run.bounded_ratio`."""
    reason: str
    """How the search ended."""
    trials: tuple[Trial, ...]

    @classmethod
    def of(cls, outcome: SearchOutcome) -> Side:
        """Return what is kept of a search."""
        return cls(outcome.pps, outcome.bounded_by_bed, outcome.reason, outcome.trials)


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement of a cell, right after one of the baseline."""

    started: str
    """ISO 8601, UTC."""
    duration_ns: int
    """Of everything: setting up, baseline, and search."""
    system: Side
    baseline: Side | None
    """None for the baseline's own cell."""
    counters: dict[str, int] = field(default_factory=dict)
    """Of every leg of the bed, over the whole run, by name."""
    notes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float | None:
        """The rate to the baseline's; None without one, or where the baseline found none."""
        if self.baseline is None or not self.baseline.pps:
            return None
        return self.system.pps / self.baseline.pps

    @property
    def bounded_ratio(self) -> Bounded | None:
        """The ratio, and what is known of the true one; None as `ratio` is.

        A system that may carry more makes it a lower bound, a baseline that may carry more
        an upper one, and nothing is known where both may.
        """
        if self.baseline is None or (ratio := self.ratio) is None:
            return None
        return Bounded(
            ratio,
            low=0.0 if self.baseline.bounded_by_bed else ratio,
            high=math.inf if self.system.bounded_by_bed else ratio,
        )

    @property
    def bounded_by_bed(self) -> bool:
        """Whether the ratio is not the system's: the bed bounded one of its two rates."""
        return self.system.bounded_by_bed or (
            self.baseline is not None and self.baseline.bounded_by_bed
        )


@dataclass(frozen=True, slots=True)
class Cell:
    """All runs of one cell, in order."""

    key: CellKey
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A cell that could not be measured here."""

    key: CellKey
    reason: str


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that a bench found."""

    header: Header
    cells: tuple[Cell, ...] = ()
    """In the order in which they were first measured."""
    skipped: tuple[Skipped, ...] = ()
    extras: Extras = field(default_factory=Extras)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keys = [cell.key for cell in self.cells]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"the cell {key} is there twice")

    def cell(self, key: CellKey) -> Cell | None:
        """Return a cell; None where it has no runs."""
        return next((cell for cell in self.cells if cell.key == key), None)

    def runs(self, key: CellKey) -> tuple[Run, ...]:
        """Return the runs of a cell, maybe none."""
        cell = self.cell(key)
        return () if cell is None else cell.runs

    def why_skipped(self, key: CellKey) -> str | None:
        """Return why a cell could not be measured; None where nothing is said."""
        return next((skipped.reason for skipped in self.skipped if skipped.key == key), None)

    def with_run(self, key: CellKey, run: Run) -> Results:
        """Return these and another run; a cell that was measured is no longer skipped."""
        if self.cell(key) is None:
            cells = (*self.cells, Cell(key, (run,)))
        else:
            cells = tuple(
                replace(cell, runs=(*cell.runs, run)) if cell.key == key else cell
                for cell in self.cells
            )
        return replace(self, cells=cells, skipped=self._skipped_but(key))

    def with_skipped(self, key: CellKey, reason: str) -> Results:
        """Return these and a cell that could not be measured."""
        return replace(self, skipped=(*self._skipped_but(key), Skipped(key, reason)))

    def _skipped_but(self, key: CellKey) -> tuple[Skipped, ...]:
        return tuple(skipped for skipped in self.skipped if skipped.key != key)

    def missing(self, plan: Iterable[tuple[CellKey, int]]) -> list[tuple[CellKey, int]]:
        """Return what is still to do of a plan's cells and run indexes, in its order."""
        return [(key, index) for key, index in plan if index >= len(self.runs(key))]


def combine(parts: Sequence[tuple[str, Results]]) -> Results:
    """Return several benches as one; each part has a name, such as that of its file.

    The header is the first part's. A cell is taken from the first part that has it, and so
    is each kind of what is beyond the grid: nothing is made of two benches' runs.
    """
    (_, whole), *others = parts
    for name, other in others:
        measured = {cell.key for cell in whole.cells}
        cells = (*whole.cells, *(cell for cell in other.cells if cell.key not in measured))
        measured |= {cell.key for cell in other.cells}
        skipped = (*whole.skipped, *other.skipped)
        kinds = [field.name for field in fields(Extras)]
        extras = {
            kind: getattr(whole.extras, kind) or getattr(other.extras, kind) for kind in kinds
        }
        origin = f"what the others have not is from {name}: {other.header.created}"
        version = other.header.versions.get("srv6-stamp")
        whole = replace(
            whole,
            cells=cells,
            skipped=tuple(entry for entry in skipped if entry.key not in measured),
            extras=Extras(**extras),
            notes=(
                *whole.notes,
                f"{origin}, version {version or 'unknown'}, `{other.header.command}`",
                *(f"{name}: {note}" for note in other.notes),
            ),
        )
    return whole


def encode(results: Results) -> str:
    """Return the document, with a line for each run: it is read in diffs, and not small."""
    content: dict[str, Any] = to_json(results)
    cells = content.pop("cells", [])
    document = {"schema": SCHEMA, "version": SCHEMA_VERSION, **content}
    head = json.dumps(document, indent=1, ensure_ascii=False).removesuffix("\n}")
    lines = [
        f' {{"key": {_line(cell["key"])}, "runs": [\n  '
        + ",\n  ".join(_line(run) for run in cell["runs"])
        + "]}"
        for cell in cells
    ]
    return f'{head},\n "cells": [\n' + ",\n".join(lines) + "]\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def decode(text: str, name: str = "results") -> Results:
    """Return the results of a document; `name` is what errors call it.

    Raises ResultsError for anything that is not a document of this version.
    """
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ResultsError(f"{name}: not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ResultsError(f'{name}: $.schema: not a results file, which says "{SCHEMA}"')
    version = document.get("version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise ResultsError(
            f"{name}: $.version: version {json.dumps(version)} is not known, "
            f"only version {SCHEMA_VERSION}"
        )
    content = {k: v for k, v in document.items() if k not in ("schema", "version")}
    try:
        return from_json(Results, content)
    except JsonFormError as error:
        raise ResultsError(f"{name}: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def load(file: Path) -> Results:
    """Read a results file. Raises ResultsError for one that is not, or cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{file}: {error}") from error
    return decode(text, str(file))


def save(file: Path, results: Results) -> None:
    """Write a results file so that there is, at any moment, a whole one: the old or the new."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(encode(results))
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class ResultsFile:
    """A results file in the making: it is on disk, whole, after every call."""

    def __init__(self, file: Path, results: Results) -> None:
        self.file = file
        self._results = results

    @classmethod
    def create(cls, file: Path, header: Header) -> ResultsFile:
        """Begin a new file. Raises ResultsError where there is one already."""
        if file.exists():
            raise ResultsError(f"{file}: exists already")
        created = cls(file, Results(header))
        save(file, created.results)
        return created

    @classmethod
    def resume(cls, file: Path, header: Header) -> ResultsFile:
        """Go on with a file, if it is of the same bench; begin one where there is none.

        Raises ResultsError where machine, kernel, versions or settings are others: runs
        of both in one cell would be no runs of the same thing.
        """
        if not file.exists():
            return cls.create(file, header)
        results = load(file)
        for name in ("machine", "kernel", "versions", "settings"):
            then, now = to_json(getattr(results.header, name)), to_json(getattr(header, name))
            if then != now:
                raise ResultsError(f"{file}: $.header.{_difference(name, then, now)}")
        return cls(file, results)

    @property
    def results(self) -> Results:
        """What is in the file."""
        return self._results

    def add_run(self, key: CellKey, run: Run) -> None:
        """Add a run to its cell."""
        self._save(self._results.with_run(key, run))

    def skip(self, key: CellKey, reason: str) -> None:
        """Say why a cell could not be measured."""
        self._save(self._results.with_skipped(key, reason))

    def add_extra(self, extra: Extra) -> None:
        """Add something beyond the grid."""
        self._save(replace(self._results, extras=self._results.extras.with_added(extra)))

    def add_note(self, note: str) -> None:
        """Add a remark on the whole bench, once."""
        if note not in self._results.notes:
            self._save(replace(self._results, notes=(*self._results.notes, note)))

    def missing(self, plan: Iterable[tuple[CellKey, int]]) -> list[tuple[CellKey, int]]:
        """Return what is still to do of a plan, see `Results.missing`."""
        return self._results.missing(plan)

    def _save(self, results: Results) -> None:
        save(self.file, results)
        self._results = results


def _difference(path: str, then: Any, now: Any) -> str:
    """Name the first place in which two values differ, and both."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {**then, **now}:
            if then.get(key) != now.get(key):
                return _difference(f"{path}.{key}", then.get(key), now.get(key))
    return f"{path}: was {json.dumps(then)} when the bench began, now {json.dumps(now)}"
