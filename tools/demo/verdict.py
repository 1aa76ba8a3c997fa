"""Does what was measured agree with what was injected? Pure: numbers in, judgements out.

A mean delay agrees when it is within 1 ms or 3 % of the truth, whichever is
larger. The truth is what was injected, and how late the delay line itself says
it was: a machine that stalls delays packets as truly as the lab does.

A loss agrees when the number of lost packets lies in the central 99.9 % of the
binomial distribution with the injected probability, and when it
is what the delay line itself counted, up to the packets whose direction of
loss the protocol could not tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tools.demo.truth import LineCount, MeasuredPath
from tools.stamp_client import Record, SenderSessionState

DELAY_TOLERANCE_NS = 1_000_000
DELAY_TOLERANCE_SHARE = 0.03
LOSS_TAIL = 0.0005
"""Probability left out at each end: two-sided 99.9 %."""
RECORD_MEAN_TOLERANCE_NS = 1_000
"""Between the node's running mean and the mean of its records: rounding only."""


@dataclass(frozen=True, slots=True)
class DelayComparison:
    """One direction's delay; None where the node knows none."""

    direction: str
    injected_ns: int
    late_ns: int
    """What the delay line added by being late, on average; 0 where that is not known."""
    mean_ns: int | None
    stddev_ns: int | None
    samples: int
    problem: str | None
    """What is wrong, or None."""

    @property
    def delta_ns(self) -> int | None:
        """Measured minus true."""
        return None if self.mean_ns is None else self.mean_ns - self.injected_ns - self.late_ns


@dataclass(frozen=True, slots=True)
class LossComparison:
    """One direction's loss."""

    direction: str
    injected: float
    """Probability, 0..1."""
    packets: int
    """Packets that were exposed to the loss."""
    lost: int
    expected_low: int
    expected_high: int
    """The central 99.9 % of the binomial distribution, both ends included."""
    line_lost: int | None
    """What the delay line itself counted; None where that is not known."""
    problem: str | None

    @property
    def measured(self) -> float | None:
        """Share of lost packets; None without packets."""
        return self.lost / self.packets if self.packets else None


@dataclass(frozen=True, slots=True)
class PathVerdict:
    """Everything about one path."""

    path: MeasuredPath
    sent: int
    received: int
    undetermined: int
    records: int
    delays: tuple[DelayComparison, ...]
    """Forward, backward, round-trip."""
    losses: tuple[LossComparison, ...]
    """Forward, backward."""
    run_problem: str | None
    """What is wrong with the run as a whole: packets or records missing."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that is wrong."""
        found = [self.run_problem, *(d.problem for d in self.delays)]
        found += [loss.problem for loss in self.losses]
        return tuple(problem for problem in found if problem is not None)

    @property
    def agrees(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def judge(
    path: MeasuredPath,
    state: SenderSessionState,
    records: tuple[Record, ...],
    expected_packets: int,
    line: Mapping[tuple[int, str], LineCount | None],
) -> PathVerdict:
    """Compare one path's measurement with what was injected into it."""
    truth = {
        "forward": path.forward.delay_ns,
        "backward": path.backward.delay_ns,
        "round-trip": path.round_trip_delay_ns,
    }
    late_ns = {name: _late_ns(line.get((path.ssid, name))) for name in ("forward", "backward")}
    late_ns["round-trip"] = sum(late_ns.values())
    undetermined = state.loss.undetermined or 0
    forward_lost = state.loss.forward or 0
    return PathVerdict(
        path=path,
        sent=state.sent,
        received=state.received,
        undetermined=undetermined,
        records=len(records),
        delays=tuple(
            compare_delay(
                direction,
                injected_ns,
                late_ns[direction],
                state.delay[direction].mean_ns,
                state.delay[direction].stddev_ns,
                state.delay[direction].samples,
            )
            for direction, injected_ns in truth.items()
        ),
        losses=(
            compare_loss(
                "forward",
                path.forward.loss,
                state.sent,
                state.loss.forward,
                undetermined,
                line.get((path.ssid, "forward")),
            ),
            compare_loss(
                "backward",
                path.backward.loss,
                state.sent - forward_lost,
                state.loss.backward,
                undetermined,
                line.get((path.ssid, "backward")),
            ),
        ),
        run_problem=_run_problem(state, records, expected_packets),
    )


def compare_delay(
    direction: str,
    injected_ns: int,
    late_ns: int,
    mean_ns: int | None,
    stddev_ns: int | None,
    samples: int,
) -> DelayComparison:
    """Judge a mean delay against the truth, which is `injected_ns + late_ns`."""
    truth_ns = injected_ns + late_ns
    problem = None
    if mean_ns is None:
        problem = f"{direction} delay unknown: no samples"
    elif abs(mean_ns - truth_ns) > delay_tolerance_ns(truth_ns):
        problem = f"{direction} delay off by {(mean_ns - truth_ns) / 1e6:+.3f} ms"
    return DelayComparison(direction, injected_ns, late_ns, mean_ns, stddev_ns, samples, problem)


def _late_ns(line: LineCount | None) -> int:
    return 0 if line is None else line.late_ns


def delay_tolerance_ns(injected_ns: int) -> int:
    """Return 1 ms, or 3 % of the truth where that is more."""
    return max(DELAY_TOLERANCE_NS, round(DELAY_TOLERANCE_SHARE * injected_ns))


def compare_loss(
    direction: str,
    injected: float,
    packets: int,
    lost: int | None,
    undetermined: int,
    line: LineCount | None,
) -> LossComparison:
    """Judge a number of lost packets.

    `lost` is None where the node cannot tell directions apart. Up to
    `undetermined` more packets may have been lost in this direction.
    """
    low, high = binomial_bounds(packets, injected)
    line_lost = None if line is None else line.lost
    counted = lost or 0
    problem = None
    if lost is None:
        problem = f"{direction} loss unknown"
    elif line is not None and line.accidents:
        problem = f"{direction}: the delay line itself dropped {line.accidents} by accident"
    elif counted > high or counted + undetermined < low:
        problem = f"{direction} loss off: {counted} of {packets} lost, expected {low} to {high}"
    elif line_lost is not None and not counted <= line_lost <= counted + undetermined:
        problem = f"{direction} loss off: {counted} lost, the delay line lost {line_lost}"
    return LossComparison(direction, injected, packets, counted, low, high, line_lost, problem)


def binomial_bounds(trials: int, probability: float, tail: float = LOSS_TAIL) -> tuple[int, int]:
    """Return the least and the greatest count k with P(X ≤ k) ≥ tail and P(X ≥ k) ≥ tail."""
    if probability <= 0.0 or trials == 0:
        return 0, 0
    if probability >= 1.0:
        return trials, trials
    low = _quantile(trials, probability, tail)
    return low, trials - _quantile(trials, 1.0 - probability, tail)


def _quantile(trials: int, probability: float, tail: float) -> int:
    """Least k with P(X ≤ k) ≥ tail."""
    log_success, log_failure = math.log(probability), math.log1p(-probability)
    cumulative = 0.0
    for k in range(trials + 1):
        log_choices = math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        cumulative += math.exp(log_choices + k * log_success + (trials - k) * log_failure)
        if cumulative >= tail:
            return k
    return trials


def _run_problem(
    state: SenderSessionState, records: tuple[Record, ...], expected_packets: int
) -> str | None:
    if state.oper_state != "completed":
        reason = f": {state.last_error}" if state.last_error else ""
        return f"the session is {state.oper_state or 'in an unknown state'}{reason}"
    if state.sent != expected_packets:
        return f"sent {state.sent} packets instead of {expected_packets}"
    if len({record.sequence for record in records}) != state.received:
        return f"fetched {len(records)} records of {state.received} replies"
    round_trips = [r.round_trip_delay for r in records if r.round_trip_delay is not None]
    mean_ns = state.delay["round-trip"].mean_ns
    if mean_ns is None or not round_trips:
        return None
    off_ns = round(sum(round_trips) / len(round_trips)) - mean_ns
    if abs(off_ns) > RECORD_MEAN_TOLERANCE_NS:
        return f"the records' mean round-trip delay is {off_ns / 1e6:+.3f} ms off the statistics'"
    return None
