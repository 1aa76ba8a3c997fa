"""How much a system can carry: the throughput search of RFC 2544, section 26.1, and SRPerf.

Sans-IO: a search says which rate to offer next, is told what came of it, and
says in the end what it found::

    while (rate := search.next_rate()) is not None:
        search.record(trial(rate))
    print(search.outcome)

The rules:

* The search doubles the rate until a rate fails (or halves it until one passes),
  then halves the gap between the highest rate that passed and the lowest that
  failed, in proportion, until their ratio is within the resolution.
* A trial passes when its loss ratio is at most the permitted one. One that
  passes decides: a system carries what it has carried. One that fails is tried
  again, and its rate fails when all `tries` trials do: a machine that stalls once
  for a moment loses packets that the system did not.
* Stalls that last longer than this still leave a trace: from then on everything
  below the failed rate passes. A rate that failed is therefore tried once more
  when the search closes in on it with `SUSPECT_PASSES` passes in a row, and
  struck out if it passes.
* The result is the rate that was really offered in the best trial that passed,
  which is not quite the one that was asked for. Where the generator cannot offer
  what it is asked to, or where the bed itself lost packets, the result is a
  lower bound, and marked as bounded by the bed.
* A trial in which the generator was merely held up says nothing, unless it passes all
  the same with as much as was asked for: up to `HELD_UP_MAX` at each rate, and
  `HELD_UP_MAX_IN_ALL` in all, are set aside.
  Where it is held up every time, what it did offer has passed, and the search goes on from
  there; it ends, bounded by the bed, when that is no more than passed before.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from tools.bench.cell import Metric

BOUNDED_BY_BED = "bounded by the bed"
"""Note on a trial in which not the system under test, but the bed was the limit."""
HELD_UP = "the generator was held up"
"""Note on a trial in which less was offered than the bed is known to be able to offer."""
HELD_UP_MAX = 4
"""Trials at one rate that are set aside because of that, before one is taken as it is."""
HELD_UP_MAX_IN_ALL = 16
"""The same of a whole search: a machine that is always busy is not waited for."""
SUSPECT_PASSES = 3
"""By chance, a rate that rightly failed sees so many passes below it once in eight searches."""
NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of offering packets at one rate. Raises ValueError for counts that cannot be."""

    asked_pps: int
    """The rate that the generator was asked for, in packets per second."""
    offered: int
    """Packets really offered, data and STAMP together."""
    delivered: int
    """Packets forwarded, reflected or collected."""
    duration_ns: int
    """How long the packets were offered for."""
    notes: tuple[str, ...] = ()
    """Remarks of the bed, `BOUNDED_BY_BED` and `HELD_UP` among them where that is so."""

    def __post_init__(self) -> None:
        if self.asked_pps <= 0 or self.duration_ns <= 0 or min(self.offered, self.delivered) < 0:
            raise ValueError(f"no such trial can be: {self}")

    @property
    def offered_pps(self) -> float:
        """The rate that was really offered."""
        return self.offered * NS_PER_S / self.duration_ns

    @property
    def delivered_pps(self) -> float:
        """The rate that came through."""
        return self.delivered * NS_PER_S / self.duration_ns

    @property
    def loss_ratio(self) -> float | None:
        """Lost of offered packets; None where none was offered.

        Negative where more were delivered than offered: packets of an earlier
        trial, or a counter that is wrong.
        """
        return (self.offered - self.delivered) / self.offered if self.offered else None

    def passes(self, loss_ratio: float) -> bool:
        """Whether at most this ratio was lost, of at least one packet."""
        # Ratios are decimal fractions: 0.5 % of 200 packets is one packet, not a little less.
        permitted = loss_ratio * self.offered + 1e-9
        return self.offered > 0 and self.offered - self.delivered <= permitted

    def fell_short(self, tolerance: float) -> bool:
        """Whether the bed was the limit: less was offered than asked for, or it says so."""
        short = self.offered_pps < self.asked_pps * (1 - tolerance)
        return short or BOUNDED_BY_BED in self.notes


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How to search. Raises ValueError for settings with which no search can end."""

    start_pps: int = 10_000
    ceiling_pps: int = 10_000_000
    """The search does not ask for more."""
    floor_pps: int = 10
    """The search gives up below this."""
    loss_ratio: float = 0.005
    """Permitted loss: PDR@0.5 %, as in the paper. `Metric.NDR` uses `ndr_loss_ratio`."""
    ndr_loss_ratio: float = 0.0
    """RFC 2544 permits none; a machine with other work to do may need a tiny one."""
    resolution: float = 0.01
    """The search ends when the lowest failed rate is at most this much above the result."""
    step: float = 2.0
    """First factor between rates until one fails; it grows to doubling."""
    tries: int = 2
    """Trials that must fail before a rate fails; for MRR the trials whose median is taken."""
    max_trials: int = 64
    """The search ends after this many trials that were not set aside, with what it knows."""
    offer_tolerance: float = 0.02
    """Offering this much less than asked for is not yet falling short."""

    def __post_init__(self) -> None:
        if not 1 <= self.floor_pps <= self.start_pps <= self.ceiling_pps:
            raise ValueError(
                "rates must be in order, 1 <= floor <= start <= ceiling, "
                f"not {self.floor_pps}, {self.start_pps}, {self.ceiling_pps} pps"
            )
        for name in ("loss_ratio", "ndr_loss_ratio", "offer_tolerance"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, not in [0, 1)")
        if self.resolution <= 0 or self.step <= 1:
            raise ValueError("resolution must be above 0 and step above 1")
        if min(self.tries, self.max_trials) < 1:
            raise ValueError("tries and max_trials must be at least 1")

    def near(self, expected_pps: float) -> SearchSettings:
        """Return settings for a system of which a result is known: start close, and step less."""
        start = min(max(round(expected_pps / 1.06), self.floor_pps), self.ceiling_pps)
        return replace(self, start_pps=start, step=min(self.step, 1.12))


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """What a search found."""

    metric: Metric
    pps: float
    """The rate found; 0 where no trial passed, and `reason` says so."""
    bounded_by_bed: bool
    """The system may carry more: `pps` is a lower bound."""
    reason: str
    """How the search ended."""
    failed_pps: float | None
    """The lowest rate that failed; None where none did."""
    trials: tuple[Trial, ...]
    """All trials, in order."""


class Search(Protocol):
    """A search in progress."""

    def next_rate(self) -> int | None:
        """Return the rate to offer next, in packets per second; None when the search is over."""

    def record(self, trial: Trial) -> None:
        """Take the result of a trial at `next_rate()`. Raises ValueError for any other trial."""

    @property
    def outcome(self) -> SearchOutcome | None:
        """The result; None until the search is over."""

    @property
    def remaining_trials(self) -> int:
        """About how many trials are still to come, for a progress bar; 0 when it is over."""


def make_search(metric: Metric, settings: SearchSettings) -> Search:
    """Return a search for one metric."""
    if metric is Metric.MRR:
        return ReceiveRateSearch(settings)
    return DropRateSearch(metric, settings)


def run_search(search: Search, trial: Callable[[int], Trial]) -> SearchOutcome:
    """Run a search to its end; `trial` offers packets at a rate in packets per second."""
    while (rate := search.next_rate()) is not None:
        search.record(trial(rate))
    assert search.outcome is not None
    return search.outcome


def _check_rate(trial: Trial, rate: int | None) -> None:
    if rate is None:
        raise ValueError("the search is over")
    if trial.asked_pps != rate:
        raise ValueError(f"a trial at {trial.asked_pps} pps, where {rate} pps was asked for")


@dataclass(frozen=True, slots=True)
class _Failure:
    """A rate that failed."""

    asked_pps: int
    offered_pps: float
    bounded_by_bed: bool


class DropRateSearch:
    """The highest rate at which no more than a ratio of packets is lost: PDR, or NDR."""

    def __init__(self, metric: Metric, settings: SearchSettings) -> None:
        self._metric = metric
        self._settings = settings
        ndr = metric is Metric.NDR
        self._loss_ratio = settings.ndr_loss_ratio if ndr else settings.loss_ratio
        self._rate: int | None = settings.start_pps
        self._trials: list[Trial] = []
        self._tries: list[Trial] = []
        """Of the present rate."""
        self._held_up = 0
        """Trials at the present rate that were set aside."""
        self._counted = 0
        """Trials at any rate that were not."""
        self._passed_pps = 0
        """Highest rate asked for that passed."""
        self._failures: list[_Failure] = []
        """Falling; the last is the present upper bound, one that is struck out bares the next."""
        self._passes_in_a_row = 0
        """Since the last failure."""
        self._next_stride = settings.step
        self._suspected: set[int] = set()
        """Failed rates that were tried once more."""
        self._outcome: SearchOutcome | None = None

    @property
    def outcome(self) -> SearchOutcome | None:
        return self._outcome

    def next_rate(self) -> int | None:
        return self._rate

    @property
    def remaining_trials(self) -> int:
        if self._rate is None:
            return 0
        low = self._passed_pps
        high = self._failures[-1].asked_pps if self._failures else None
        if low and high:
            gap = math.log(high / low)
        else:
            gap = math.log(self._settings.step) + math.log1p(self._settings.resolution)
        halvings = max(0, math.ceil(math.log2(gap / math.log1p(self._settings.resolution))))
        # Every second rate fails, and failing takes all tries.
        expected = math.ceil(halvings * (1 + self._settings.tries) / 2)
        return max(1, min(expected, self._settings.max_trials - self._counted))

    def record(self, trial: Trial) -> None:
        _check_rate(trial, self._rate)
        self._trials.append(trial)
        if self._is_set_aside(trial):
            self._held_up += 1
            return
        self._counted += 1
        self._tries.append(trial)
        failed, short = 0, 0
        for tried in self._tries:
            if not tried.passes(self._loss_ratio):
                failed += 1
            elif tried.fell_short(self._settings.offer_tolerance):
                short += 1
            else:
                self._pass(trial.asked_pps)
                break
        else:
            self._judge(failed, short)
        if self._outcome is None and self._counted >= self._settings.max_trials:
            some = any(trial.passes(self._loss_ratio) for trial in self._trials)
            reason = f"stopped after {self._counted} trials"
            self._finish(reason if some else f"{reason}, of which none passed", bounded=False)

    def _is_set_aside(self, trial: Trial) -> bool:
        """Whether a trial says nothing, because the generator was held up."""
        in_all = len(self._trials) - self._counted
        patient = self._held_up < HELD_UP_MAX and in_all <= HELD_UP_MAX_IN_ALL
        if HELD_UP not in trial.notes or not patient:
            return False
        short = trial.fell_short(self._settings.offer_tolerance)
        return short or not trial.passes(self._loss_ratio)

    def _judge(self, failed: int, short: int) -> None:
        """Decide on a rate that has not passed, unless it has to be tried again."""
        # A rate that failed before and is suspected to be good gets one try.
        needed = 1 if self._rate in self._suspected else self._settings.tries
        if failed >= needed:
            self._fail()
        elif short >= self._settings.tries:
            passed = [trial for trial in self._tries if trial.passes(self._loss_ratio)]
            offered_pps = int(max(trial.offered_pps for trial in passed))
            if any(HELD_UP not in trial.notes for trial in passed):
                self._finish("the bed could not offer more", bounded=True)
            elif offered_pps >= max(
                self._passed_pps * (1 + self._settings.resolution), self._settings.floor_pps
            ):
                self._pass(offered_pps)
            else:
                self._finish(HELD_UP, bounded=True)

    def _pass(self, pps: int) -> None:
        self._passed_pps = pps
        self._passes_in_a_row += 1
        if self._failures and self._failures[-1].asked_pps <= pps:
            self._failures.pop()
            self._passes_in_a_row = 0
        if pps >= self._settings.ceiling_pps:
            self._finish(f"passed at the ceiling of {pps} pps", bounded=True)
        else:
            self._go_on()

    def _fail(self) -> None:
        assert self._rate is not None
        self._passes_in_a_row = 0
        if self._rate not in self._suspected:
            offered_pps = statistics.median(trial.offered_pps for trial in self._tries)
            by_bed = all(BOUNDED_BY_BED in trial.notes for trial in self._tries)
            self._failures.append(_Failure(self._rate, offered_pps, by_bed))
        self._go_on()

    def _go_on(self) -> None:
        """Choose the next rate, or finish."""
        self._tries.clear()
        self._held_up = 0
        assert self._rate is not None
        settings, low = self._settings, self._passed_pps
        if not self._failures:
            # From what was asked for: a generator that is held up offers a part of that.
            self._rate = min(math.ceil(self._rate * self._stride()), settings.ceiling_pps)
            return
        high, by_bed = self._failures[-1].asked_pps, self._failures[-1].bounded_by_bed
        if not low:
            if high <= settings.floor_pps:
                self._finish(f"no trial passed, down to {high} pps", bounded=by_bed)
            else:
                self._rate = max(int(high / self._stride()), settings.floor_pps)
        elif high > low + 1 and high > low * (1 + settings.resolution):
            self._rate = min(max(math.isqrt(low * high), low + 1), high - 1)
        elif self._passes_in_a_row >= SUSPECT_PASSES and high not in self._suspected:
            self._suspected.add(high)
            self._rate = high
        else:
            self._finish("the bed lost packets" if by_bed else "found", bounded=by_bed)

    def _stride(self) -> float:
        """Return the factor to the next rate, which grows to doubling."""
        stride = self._next_stride
        self._next_stride = max(stride, min(stride * stride, 2.0))
        return stride

    def _finish(self, reason: str, *, bounded: bool) -> None:
        passed = [t.offered_pps for t in self._trials if t.passes(self._loss_ratio)]
        extra = sum(1 for t in self._trials if t.delivered > t.offered)
        if extra:
            reason += f"; {extra} trials delivered more than they offered"
        self._outcome = SearchOutcome(
            metric=self._metric,
            pps=max(passed, default=0.0),
            bounded_by_bed=bounded,
            reason=reason,
            failed_pps=self._failures[-1].offered_pps if self._failures else None,
            trials=tuple(self._trials),
        )
        self._rate = None


class ReceiveRateSearch:
    """What is delivered when as much as possible is offered: MRR, the median of `tries` trials."""

    def __init__(self, settings: SearchSettings) -> None:
        self._settings = settings
        self._trials: list[Trial] = []

    def next_rate(self) -> int | None:
        return self._settings.ceiling_pps if self.remaining_trials else None

    @property
    def remaining_trials(self) -> int:
        return self._settings.tries - len(self._trials)

    def record(self, trial: Trial) -> None:
        _check_rate(trial, self.next_rate())
        self._trials.append(trial)

    @property
    def outcome(self) -> SearchOutcome | None:
        if self.remaining_trials:
            return None
        # Not saturated: what was lost is within what a working system may lose.
        unsaturated = all(trial.passes(self._settings.loss_ratio) for trial in self._trials)
        noted = any(BOUNDED_BY_BED in trial.notes for trial in self._trials)
        pps = statistics.median(trial.delivered_pps for trial in self._trials)
        reason = "found"
        if unsaturated:
            reason = "everything that was offered was delivered"
        elif noted:
            reason = "the bed lost packets"
        elif not pps:
            reason = "nothing was delivered"
        return SearchOutcome(
            metric=Metric.MRR,
            pps=pps,
            bounded_by_bed=unsaturated or noted,
            reason=reason,
            failed_pps=None,
            trials=tuple(self._trials),
        )
