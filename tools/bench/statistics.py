"""Statistics of a few runs: unknown is None, never zero.

Rates of different runs are compared as ratios, in logarithms: a machine that is
5 % slower for a while scales everything that it measures, and a ratio and its
inverse then have the same interval. Intervals are Student's, as there are
five to ten runs, not fifty.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Summary:
    """N runs in the terms of the paper's tables."""

    runs: int
    mean: float | None
    """None without runs."""
    sd: float | None
    """Standard deviation of the sample (divisor N - 1); None below two runs."""
    cv: float | None
    """Coefficient of variation, sd / mean; None also where the mean is 0."""
    ci95: float | None
    """Half width of the mean's 95 % confidence interval; None below two runs."""
    median: float | None

    @property
    def ci95_ratio(self) -> float | None:
        """The paper's "CI95 / Avg"."""
        return self.ci95 / self.mean if self.ci95 is not None and self.mean else None


@dataclass(frozen=True, slots=True)
class RatioEstimate:
    """A ratio of rates, with its confidence interval."""

    ratio: float
    """The geometric mean of the ratios."""
    low: float | None
    high: float | None
    """Both None where the interval is unknown: below two runs, or where a rate is 0."""
    p_value: float | None
    """Of the hypothesis that the true ratio is 1, two-sided; None with the interval."""

    @property
    def contains_one(self) -> bool | None:
        """Whether the interval contains 1; None where there is none."""
        if self.low is None or self.high is None:
            return None
        return self.low <= 1.0 <= self.high


class Bound(StrEnum):
    """What a number says of the true one."""

    NONE = "exact"
    LOWER = "at least"
    UPPER = "at most"
    BOTH = "unknown"


@dataclass(frozen=True, slots=True)
class Bounded:
    """A number that was measured, and between which two the true one lies."""

    value: float
    low: float
    high: float

    @property
    def bound(self) -> Bound:
        """How the true one stands to `value`."""
        if self.low < self.value:
            return Bound.UPPER if self.high == self.value else Bound.BOTH
        return Bound.NONE if self.high == self.value else Bound.LOWER


def median(values: Sequence[Bounded]) -> Bounded | None:
    """Return the median; None without values.

    It is a bound itself only where it would be another, were the values that are bounds
    what they may be at the most: one above it that may be still higher says nothing of it.
    """
    if not values:
        return None
    return Bounded(
        statistics.median(one.value for one in values),
        statistics.median(one.low for one in values),
        statistics.median(one.high for one in values),
    )


def summarize(values: Sequence[float]) -> Summary:
    """Summarise the results of N runs."""
    if not values:
        return Summary(0, None, None, None, None, None)
    mean = math.fsum(values) / len(values)
    sd = sample_sd(values)
    return Summary(
        runs=len(values),
        mean=mean,
        sd=sd,
        cv=None if sd is None or not mean else sd / mean,
        ci95=confidence_half_width(values),
        median=statistics.median(values),
    )


def sample_sd(values: Sequence[float]) -> float | None:
    """Return the standard deviation with divisor N - 1; None below two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def confidence_half_width(values: Sequence[float], confidence: float = CONFIDENCE) -> float | None:
    """Return the half width of the confidence interval of the mean; None below two values."""
    sd = sample_sd(values)
    if sd is None:
        return None
    degrees = len(values) - 1
    return t_quantile(0.5 + confidence / 2, degrees) * sd / math.sqrt(len(values))


def paired_ratio(
    numerators: Sequence[float], denominators: Sequence[float], confidence: float = CONFIDENCE
) -> RatioEstimate | None:
    """Return the ratio of two rates that were measured interleaved, pair by pair.

    What slows both measurements of a pair cancels, so the ratio is taken within
    each pair; its interval is that of the mean logarithm. None without pairs.
    Raises ValueError where the lengths differ or a denominator is not positive.
    """
    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} numerators for {len(denominators)} denominators")
    if any(value <= 0 for value in denominators):
        raise ValueError("a denominator is not positive")
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return mean_ratio(ratios, confidence)


def mean_ratio(ratios: Sequence[float], confidence: float = CONFIDENCE) -> RatioEstimate | None:
    """Return the geometric mean of ratios with its interval; None without ratios."""
    if not ratios:
        return None
    if min(ratios) <= 0:
        # A rate of 0 has no logarithm: it is known to be none of the others' ratio.
        return RatioEstimate(math.fsum(ratios) / len(ratios), None, None, None)
    logs = [math.log(ratio) for ratio in ratios]
    error = (sample_sd(logs) or 0.0) / math.sqrt(len(logs))
    return _from_logs(math.fsum(logs) / len(logs), error, len(logs) - 1, confidence)


def unpaired_ratio(
    numerators: Sequence[float], denominators: Sequence[float], confidence: float = CONFIDENCE
) -> RatioEstimate | None:
    """Return the ratio of two rates whose runs are not pairs; None where either has no runs.

    Welch's t on the logarithms. Fieller's interval, the other exact choice, assumes as
    much (normal errors) and is nearly the same for the few percent of variation met here,
    but is unbounded when the denominator varies much. The bootstrap assumes less, but of
    three to five runs it draws intervals that are far too narrow.
    """
    if not numerators or not denominators:
        return None
    if min(denominators) <= 0:
        raise ValueError("a denominator is not positive")
    if min(numerators) <= 0:
        mean = math.fsum(numerators) / len(numerators)
        return RatioEstimate(mean * len(denominators) / math.fsum(denominators), None, None, None)
    a = [math.log(value) for value in numerators]
    b = [math.log(value) for value in denominators]
    difference = math.fsum(a) / len(a) - math.fsum(b) / len(b)
    if min(len(a), len(b)) < 2:
        return _from_logs(difference, 0.0, 0, confidence)
    parts = [((sample_sd(logs) or 0.0) ** 2 / len(logs), len(logs) - 1) for logs in (a, b)]
    variance = sum(part for part, _ in parts)
    # Welch-Satterthwaite.
    weight = sum(part**2 / degrees for part, degrees in parts)
    degrees = variance**2 / weight if weight else float(len(a) + len(b) - 2)
    return _from_logs(difference, math.sqrt(variance), degrees, confidence)


def _from_logs(log_ratio: float, error: float, degrees: float, confidence: float) -> RatioEstimate:
    """Return the estimate of a logarithm with a standard error; no interval without freedom."""
    if degrees <= 0:
        return RatioEstimate(math.exp(log_ratio), None, None, None)
    half = t_quantile(0.5 + confidence / 2, degrees) * error
    if error:
        p_value = 2 * (1 - t_cdf(abs(log_ratio) / error, degrees))
    else:
        p_value = 1.0 if log_ratio == 0.0 else 0.0
    return RatioEstimate(
        ratio=math.exp(log_ratio),
        low=math.exp(log_ratio - half),
        high=math.exp(log_ratio + half),
        p_value=p_value,
    )


def t_cdf(t: float, degrees: float) -> float:
    """Return P(T ≤ t) of Student's distribution. Raises ValueError without degrees of freedom."""
    if degrees <= 0:
        raise ValueError(f"{degrees} degrees of freedom")
    tail = _incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5) / 2
    return 1 - tail if t > 0 else tail


@functools.lru_cache(maxsize=1024)
def t_quantile(probability: float, degrees: float) -> float:
    """Return t with P(T ≤ t) = probability. Raises ValueError outside 0 < probability < 1."""
    if not 0 < probability < 1:
        raise ValueError(f"no quantile for probability {probability}")
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    high = 1.0
    while t_cdf(high, degrees) < probability:
        high *= 2
    low = 0.0
    for _ in range(100):
        middle = (low + high) / 2
        if t_cdf(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1) / (a + b + 2):
        # The fraction converges fast on this side only.
        return 1.0 - _incomplete_beta(1.0 - x, b, a)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    return math.exp(log_front) / a * _beta_fraction(x, a, b)


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Evaluate the continued fraction from its front, after Lentz."""
    tiny = 1e-300
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for coefficient in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + coefficient * d, tiny)
            c = _away_from_zero(1.0 + coefficient / c, tiny)
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
