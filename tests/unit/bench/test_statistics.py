"""Against values computed by hand, tables of Student's distribution, and the paper's tables."""

from __future__ import annotations

import math

import pytest

from tools.bench import statistics
from tools.bench.statistics import (
    Bound,
    Bounded,
    RatioEstimate,
    Summary,
    mean_ratio,
    median,
    paired_ratio,
    summarize,
    t_cdf,
    t_quantile,
    unpaired_ratio,
)


@pytest.mark.parametrize(
    ("degrees", "probability", "expected"),
    [
        # Any textbook's table of Student's distribution.
        (1, 0.975, 12.706),
        (2, 0.975, 4.303),
        (4, 0.975, 2.776),
        (9, 0.975, 2.262),
        (30, 0.975, 2.042),
        (120, 0.975, 1.980),
        (1, 0.995, 63.657),
        (4, 0.9995, 8.610),
        (9, 0.95, 1.833),
        (1_000_000, 0.975, 1.960),
    ],
)
def test_quantiles_of_student(degrees: int, probability: float, expected: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(expected, abs=6e-4)
    assert t_quantile(1 - probability, degrees) == pytest.approx(-expected, abs=6e-4)
    assert t_cdf(t_quantile(probability, degrees), degrees) == pytest.approx(probability)


@pytest.mark.parametrize("t", [-7.0, -0.3, 0.0, 0.5, 1.0, 12.0])
def test_one_and_two_degrees_have_closed_forms(t: float) -> None:
    assert t_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi)
    assert t_cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)))


def test_no_quantile_beyond_certainty() -> None:
    with pytest.raises(ValueError, match=r"no quantile for probability 1\.0"):
        t_quantile(1.0, 4)
    with pytest.raises(ValueError, match="0 degrees of freedom"):
        t_cdf(1.0, 0)


def exact(value: float) -> Bounded:
    return Bounded(value, value, value)


def at_least(value: float) -> Bounded:
    return Bounded(value, value, math.inf)


def at_most(value: float) -> Bounded:
    return Bounded(value, 0.0, value)


@pytest.mark.parametrize(
    ("values", "value", "bound"),
    [
        ([exact(1), exact(2), exact(9)], 2, Bound.NONE),
        ([exact(1), exact(2), at_least(9)], 2, Bound.NONE),
        ([exact(1), at_least(2), exact(9)], 2, Bound.LOWER),
        ([at_least(1), exact(2), exact(9)], 2, Bound.LOWER),
        ([at_most(1), exact(2), exact(9)], 2, Bound.NONE),
        ([exact(1), exact(2), at_most(9)], 2, Bound.UPPER),
        ([at_least(1), exact(2), at_most(9)], 2, Bound.BOTH),
        ([Bounded(3, 0.0, math.inf)], 3, Bound.BOTH),
        ([exact(1), exact(3)], 2, Bound.NONE),
        ([exact(1), at_least(3)], 2, Bound.LOWER),
    ],
)
def test_a_median_is_a_bound_where_it_would_be_another(
    values: list[Bounded], value: float, bound: Bound
) -> None:
    found = median(values)
    assert found is not None
    assert (found.value, found.bound) == (value, bound)


def test_there_is_no_median_of_nothing() -> None:
    assert median([]) is None


def test_five_runs_by_hand() -> None:
    # Mean 30, squares of deviations 400 + 100 + 0 + 100 + 400 = 1000, / 4 = 250.
    summary = summarize([10, 20, 30, 40, 50])
    assert summary.mean == 30
    assert summary.sd == pytest.approx(math.sqrt(250))
    assert summary.cv == pytest.approx(math.sqrt(250) / 30)
    assert summary.ci95 == pytest.approx(2.776445 * math.sqrt(250 / 5), rel=1e-6)
    assert summary.ci95_ratio == pytest.approx(2.776445 * math.sqrt(50) / 30, rel=1e-6)
    assert summary.median == 30


def test_what_is_unknown_is_none() -> None:
    assert summarize([]) == Summary(0, None, None, None, None, None)
    assert summarize([5.0]) == Summary(1, 5.0, None, None, None, 5.0)
    zeros = summarize([0.0, 0.0])
    assert (zeros.mean, zeros.sd, zeros.cv, zeros.ci95_ratio) == (0.0, 0.0, None, None)
    assert mean_ratio([]) is None
    assert mean_ratio([0.5]) == RatioEstimate(0.5, None, None, None)
    assert paired_ratio([1.0], [2.0]) == RatioEstimate(0.5, None, None, None)
    assert unpaired_ratio([], [1.0]) is None
    assert unpaired_ratio([2.0], [4.0, 4.0]) == RatioEstimate(0.5, None, None, None)


def test_paired_ratio_by_hand() -> None:
    # Ratios 1/2, 1, 2: logarithms -ln 2, 0, ln 2, mean 0, SD ln 2, two degrees of freedom.
    estimate = paired_ratio([1, 3, 8], [2, 3, 4])
    assert estimate is not None
    assert estimate.ratio == pytest.approx(1.0)
    half = 4.302653 * math.log(2) / math.sqrt(3)
    assert (estimate.low, estimate.high) == (
        pytest.approx(math.exp(-half), rel=1e-6),
        pytest.approx(math.exp(half), rel=1e-6),
    )
    assert estimate.p_value == pytest.approx(1.0)
    assert estimate.contains_one


def test_what_slows_a_whole_pair_cancels() -> None:
    weather = [1.0, 0.6, 0.8, 1.3, 0.9]
    baselines = [1000 * w for w in weather]
    results = [w * 900 * noise for w, noise in zip(weather, [1, 1.01, 0.99, 1, 1], strict=True)]
    paired = paired_ratio(results, baselines)
    unpaired = unpaired_ratio(results, baselines)
    assert paired is not None
    assert unpaired is not None
    assert paired.contains_one is False
    assert unpaired.contains_one is True
    assert paired.ratio == pytest.approx(unpaired.ratio)


def test_unpaired_ratio_is_welch_on_logarithms() -> None:
    # Logarithms 0, 1, 2 (variance 1) and 5, 5, 8 (mean 6, variance 3): error² = 1/3 + 1 = 4/3;
    # degrees of freedom (4/3)² / ((1/3)²/2 + 1²/2) = (16/9) / (5/9) = 3.2.
    estimate = unpaired_ratio([math.exp(x) for x in (0, 1, 2)], [math.exp(x) for x in (5, 5, 8)])
    assert estimate is not None
    assert math.log(estimate.ratio) == pytest.approx(-5)
    half = t_quantile(0.975, 3.2) * math.sqrt(4 / 3)
    assert estimate.low == pytest.approx(math.exp(-5 - half))
    assert estimate.high == pytest.approx(math.exp(-5 + half))
    assert estimate.p_value == pytest.approx(2 * t_cdf(-5 / math.sqrt(4 / 3), 3.2))


def test_a_rate_of_zero_has_a_mean_but_no_interval() -> None:
    assert mean_ratio([0.0, 0.5]) == RatioEstimate(0.25, None, None, None)
    assert unpaired_ratio([0.0, 1.0], [2.0, 2.0]) == RatioEstimate(0.25, None, None, None)


def test_identical_runs_have_an_interval_of_no_width() -> None:
    same = mean_ratio([0.9, 0.9, 0.9])
    assert same is not None
    assert same.low == pytest.approx(0.9)
    assert same.high == pytest.approx(0.9)
    assert same.p_value == pytest.approx(0.0)
    assert unpaired_ratio([2.0, 2.0], [2.0, 2.0]) == RatioEstimate(1.0, 1.0, 1.0, 1.0)


def test_denominators_are_positive_and_pairs_complete() -> None:
    with pytest.raises(ValueError, match="a denominator is not positive"):
        paired_ratio([1.0], [0.0])
    with pytest.raises(ValueError, match="a denominator is not positive"):
        unpaired_ratio([1.0], [0.0])
    with pytest.raises(ValueError, match="2 numerators for 1 denominators"):
        paired_ratio([1.0, 2.0], [1.0])


def test_confidence_widens_the_interval() -> None:
    narrow = statistics.confidence_half_width([1.0, 2.0, 3.0], 0.95)
    wide = statistics.confidence_half_width([1.0, 2.0, 3.0], 0.99)
    assert narrow == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert wide == pytest.approx(9.924843 / math.sqrt(3), rel=1e-6)
