"""Running statistics of one delay, in memory of a fixed size.

Unknown is None, never zero: a mean needs a sample, a standard deviation two,
and a jitter a pair of packets.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from typing import NamedTuple

from dataplane.histogram import origin_at


@dataclass(frozen=True, slots=True)
class DelaySummary:
    """What is known about one delay; signed nanoseconds."""

    samples: int = 0
    last_ns: int | None = None
    min_ns: int | None = None
    max_ns: int | None = None
    mean_ns: int | None = None
    """Rounded to the nearest."""

    stddev_ns: int | None = None
    """Of the sample (divisor n - 1), rounded; None below two samples."""

    jitter_ns: int | None = None
    """Mean of the absolute IPDV, see `DelayState`; None without a pair of packets."""

    jitter_max_ns: int | None = None
    """Largest absolute IPDV."""

    percentiles: dict[float, int] = field(default_factory=dict)
    """By percent; within 1/32 of the distance from the origin of the delay, see
    `dataplane.histogram`."""


@dataclass(frozen=True, slots=True)
class LossSummary:
    """Packets that were lost, by the direction in which they were.

    ``forward + backward + undetermined == round_trip`` always; directions that
    are not known count as 0 in this sum.
    """

    round_trip: int = 0
    """Sent, and without a reply within the loss timeout."""

    forward: int | None = None
    """Never reflected; None where the Session-Reflector is stateless."""

    backward: int | None = None
    """Reflected, and no reply in time; None where the Session-Reflector is stateless."""

    undetermined: int = 0
    """Not, or not yet, known to be lost in one of the directions."""


INT64_MAX = (1 << 63) - 1

FAR_NS = 1 << 51
"""Delays up to this, some 26 days, can be subtracted and summed up in 64 bits by the
thousand. The timestamps of others may make delays of up to 204 years."""


class DelayRun(NamedTuple):
    """Delays of packets whose sequence numbers ascend, summed up; nanoseconds."""

    samples: int
    origin_ns: int
    """What `mean` is about: `DelayState.origin_ns` of the state that they are for, or
    `origin_at` the first of the samples where that has none."""

    first_ns: int
    last_ns: int
    min_ns: int
    max_ns: int
    ipdv_sum_ns: int
    """Of the pairs among these."""

    ipdv_max_ns: int
    mean: float
    m2: float


class DelayState(ctypes.Structure):
    """Mean and variance after Welford, extremes, and jitter of one delay.

    Jitter is derived from the IPDV of RFC 3393: the signed difference between
    the delays of two packets that follow each other in sequence order among
    those received. What is kept is the mean and the maximum of its absolute
    value. It is not the smoothed estimate of RFC 3550 §6.4.1. A packet that
    arrives after one with a higher sequence number makes no pair.

    `mean` and `m2` are about `origin_ns`, so that they stay exact for values that are
    large because a clock is off. It is at the first sample, unless it was known before,
    as of an earlier interval; 0 stands for none. Up to 100 days away from it a float64
    has every nanosecond.
    """

    _fields_ = (
        ("samples", ctypes.c_uint64),
        ("origin_ns", ctypes.c_int64),
        ("last_ns", ctypes.c_int64),
        ("min_ns", ctypes.c_int64),
        ("max_ns", ctypes.c_int64),
        ("mean", ctypes.c_double),
        ("m2", ctypes.c_double),
        ("pairs", ctypes.c_uint64),
        ("ipdv_sum", ctypes.c_double),
        ("ipdv_max_ns", ctypes.c_int64),
        ("previous_sequence", ctypes.c_uint64),
        ("previous_ns", ctypes.c_int64),
        ("has_previous", ctypes.c_uint64),
    )

    samples: int
    origin_ns: int
    last_ns: int
    min_ns: int
    max_ns: int
    mean: float
    m2: float
    pairs: int
    ipdv_sum: float
    ipdv_max_ns: int
    previous_sequence: int
    previous_ns: int
    has_previous: int

    def update(self, value_ns: int, sequence: int) -> None:
        """Add one delay, of the packet with this (unwrapped) sequence number."""
        samples = self.samples + 1
        if samples == 1:
            origin_ns = self.origin_ns = self.origin_ns or origin_at(value_ns)
            self.min_ns = self.max_ns = value_ns
            self.mean, self.m2 = float(value_ns - origin_ns), 0.0
        else:
            about_origin = value_ns - self.origin_ns
            mean = self.mean
            difference = about_origin - mean
            mean += difference / samples
            self.mean = mean
            self.m2 += difference * (about_origin - mean)
            if value_ns < self.min_ns:
                self.min_ns = value_ns
            elif value_ns > self.max_ns:
                self.max_ns = value_ns
        self.last_ns = value_ns
        self.samples = samples
        if self.has_previous:
            if sequence <= self.previous_sequence:
                return
            ipdv = min(abs(value_ns - self.previous_ns), INT64_MAX)
            self.ipdv_sum += ipdv
            self.pairs += 1
            if ipdv > self.ipdv_max_ns:
                self.ipdv_max_ns = ipdv
        else:
            self.has_previous = 1
        self.previous_sequence = sequence
        self.previous_ns = value_ns

    def extend(self, run: DelayRun, last_sequence: int) -> None:
        """Add many delays, of packets with ascending sequence numbers, all of them
        above the latest one's."""
        before = self.samples
        samples = before + run.samples
        if not before:
            self.origin_ns = run.origin_ns
            self.min_ns, self.max_ns = run.min_ns, run.max_ns
            self.mean, self.m2 = run.mean, run.m2
        else:
            difference = run.mean - self.mean
            self.m2 += run.m2 + difference * difference * before * run.samples / samples
            self.mean += difference * run.samples / samples
            self.min_ns = min(self.min_ns, run.min_ns)
            self.max_ns = max(self.max_ns, run.max_ns)
        self.last_ns = run.last_ns
        self.samples = samples
        pairs, ipdv_sum, ipdv_max = run.samples - 1, run.ipdv_sum_ns, run.ipdv_max_ns
        if self.has_previous:
            ipdv = min(abs(run.first_ns - self.previous_ns), INT64_MAX)
            pairs, ipdv_sum, ipdv_max = pairs + 1, ipdv_sum + ipdv, max(ipdv_max, ipdv)
        self.pairs += pairs
        self.ipdv_sum += ipdv_sum
        self.ipdv_max_ns = max(self.ipdv_max_ns, ipdv_max)
        self.has_previous = 1
        self.previous_sequence = last_sequence
        self.previous_ns = run.last_ns

    def assign(self, other: DelayState) -> None:
        """Become a copy."""
        ctypes.memmove(ctypes.addressof(self), ctypes.addressof(other), ctypes.sizeof(self))

    def merge(self, later: DelayState) -> None:
        """Add all samples of `later`, which were taken after the own ones."""
        if not later.samples:
            return
        if not self.samples:
            self.assign(later)
            return
        samples = self.samples + later.samples
        shift = float(later.origin_ns - self.origin_ns)
        difference = later.mean + shift - self.mean
        self.m2 += later.m2 + difference * difference * self.samples * later.samples / samples
        self.mean += difference * later.samples / samples
        self.samples = samples
        self.last_ns = later.last_ns
        self.min_ns = min(self.min_ns, later.min_ns)
        self.max_ns = max(self.max_ns, later.max_ns)
        self.pairs += later.pairs
        self.ipdv_sum += later.ipdv_sum
        self.ipdv_max_ns = max(self.ipdv_max_ns, later.ipdv_max_ns)
        self.continue_from(later)

    def begin(self, earlier: DelayState) -> None:
        """Be empty, and go on from `earlier`."""
        self.reset()
        self.origin_ns = earlier.origin_ns
        self.continue_from(earlier)

    def move_origin(self, origin_ns: int) -> None:
        """Have `mean` about another origin."""
        self.mean += self.origin_ns - origin_ns
        self.origin_ns = origin_ns

    def continue_from(self, earlier: DelayState) -> None:
        """Let the next packet make a pair with the latest of `earlier`."""
        self.previous_sequence = earlier.previous_sequence
        self.previous_ns = earlier.previous_ns
        self.has_previous = earlier.has_previous

    def break_pairs(self) -> None:
        """The next packet follows no other: something lies between."""
        self.has_previous = 0

    def reset(self) -> None:
        ctypes.memset(ctypes.addressof(self), 0, ctypes.sizeof(self))

    def summary(self, percentiles: dict[float, int] | None = None) -> DelaySummary:
        """As plain values; `percentiles` are taken over."""
        samples, pairs = self.samples, self.pairs
        if not samples:
            return DelaySummary()
        return DelaySummary(
            samples=samples,
            last_ns=self.last_ns,
            min_ns=self.min_ns,
            max_ns=self.max_ns,
            mean_ns=self.origin_ns + round(self.mean),
            stddev_ns=_whole(math.sqrt(max(0.0, self.m2) / (samples - 1))) if samples > 1 else None,
            jitter_ns=_whole(self.ipdv_sum / pairs) if pairs else None,
            jitter_max_ns=self.ipdv_max_ns if pairs else None,
            percentiles=percentiles or {},
        )


def _whole(value_ns: float) -> int:
    return min(round(value_ns), INT64_MAX)
