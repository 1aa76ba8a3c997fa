"""What a bench says while it runs: a live line on a terminal, a line a run elsewhere."""

from __future__ import annotations

import shutil
from typing import TextIO

from tools.bench.cell import CellKey
from tools.bench.results import Run
from tools.bench.search import Trial
from tools.bench.statistics import Bound

BAR_WIDTH = 20


def bar(done: int, total: int, width: int = BAR_WIDTH) -> str:
    """Return "[#####-----]"."""
    filled = width * done // total if total else width
    return f"[{'#' * filled}{'-' * (width - filled)}]"


def duration(ns: int | None) -> str:
    """Return "2 h 05 min", "12 min", "40 s", or "?"."""
    if ns is None:
        return "?"
    seconds = round(ns / 1e9)
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def kpps(pps: float) -> str:
    """Return a rate for people: "431.2 kpps"."""
    return f"{pps / 1000:.1f} kpps" if pps >= 10_000 else f"{pps / 1000:.2f} kpps"


def outcome(run: Run) -> str:
    """Return "431.2 kpps, 0.982 of the baseline", with "at least" where the bed was the limit."""
    least = f"{Bound.LOWER} " if run.system.bounded_by_bed else ""
    text = f"{least}{kpps(run.system.pps)}"
    ratio = run.bounded_ratio
    if ratio is None:
        return text
    if ratio.bound is Bound.BOTH:
        return f"{text}; the ratio is not known: the bed was the limit of both"
    at = "" if ratio.bound is Bound.NONE else f"{ratio.bound} "
    return f"{text}, {at}{ratio.value:.3f} of the baseline"


class Progress:
    """A `Watcher` that writes to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._head = ""
        self._trials = 0

    def began(self, key: CellKey, run: int, done: int, total: int, left_ns: int | None) -> None:
        left = f"{duration(left_ns)} left"
        self._head = f"{bar(done, total)} {done}/{total}, {left} | {key}, run {run + 1}"
        self._trials = 0
        self._show(self._head)

    def trial(self, key: CellKey, trial: Trial) -> None:
        self._trials += 1
        loss = trial.loss_ratio
        lost = "-" if loss is None else f"{100 * loss:.2f} %"
        # A search of the baseline belongs to the run of the cell that it is for.
        what = "" if f" {key}," in self._head else f"{key}: "
        self._show(
            f"{self._head} | {what}trial {self._trials}: {kpps(trial.offered_pps)}, {lost} lost"
        )

    def ended(self, key: CellKey, run: Run) -> None:
        self._line(f"{key}: {outcome(run)}")

    def skipped(self, key: CellKey, reason: str) -> None:
        self._line(f"{key}: not measured: {reason}")

    def say(self, text: str) -> None:
        """Write a line of its own."""
        self._line(text)

    def busy(self, text: str) -> None:
        """Say what is going on, until the next line."""
        self._show(text)

    def _show(self, text: str) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r{text[:width]}\x1b[K")
            self._stream.flush()

    def _line(self, text: str) -> None:
        head = "\r\x1b[K" if self._live else ""
        self._stream.write(f"{head}{text}\n")
        self._stream.flush()
