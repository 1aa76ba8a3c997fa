from dataplane.statistics import DelayState, DelaySummary


def test_unknown_is_none() -> None:
    assert DelayState().summary() == DelaySummary(0, None, None, None, None, None, None, None, {})


def test_one_sample_has_no_deviation_and_no_jitter() -> None:
    state = DelayState()
    state.update(-5, 0)
    assert state.summary() == DelaySummary(1, -5, -5, -5, -5, None, None, None, {})


def test_jitter_is_the_mean_absolute_ipdv() -> None:
    state = DelayState()
    for sequence, value in ((0, 100), (1, 130), (5, 120)):
        state.update(value, sequence)
    summary = state.summary()
    assert (summary.jitter_ns, summary.jitter_max_ns) == (20, 30)


def test_reordered_packet_makes_no_pair() -> None:
    state = DelayState()
    for sequence, value in ((0, 100), (2, 110), (1, 900), (3, 130)):
        state.update(value, sequence)
    summary = state.summary()
    assert (state.pairs, summary.jitter_ns, summary.max_ns) == (2, 15, 900)
    assert summary.last_ns == 130


def test_interruption_breaks_pairs() -> None:
    state = DelayState()
    state.update(100, 0)
    state.break_pairs()
    state.update(900, 1)
    assert state.summary().jitter_ns is None


def test_precision_far_from_zero() -> None:
    """An unset clock makes delays of 1e18 ns; their spread is still exact."""
    state = DelayState()
    for sequence, value in enumerate((10**18, 10**18 + 2, 10**18 + 4)):
        state.update(value, sequence)
    summary = state.summary()
    assert (summary.mean_ns, summary.stddev_ns, summary.jitter_ns) == (10**18 + 2, 2, 2)


def test_delays_that_are_absurdly_far_apart_stay_within_64_bits() -> None:
    state = DelayState()
    for sequence, value_ns in enumerate((-6_440_000_000_000_000_000, 6_440_000_000_000_000_000)):
        state.update(value_ns, sequence)
    summary = state.summary()
    assert summary.jitter_ns == summary.jitter_max_ns == 2**63 - 1
    assert summary.stddev_ns is not None
    assert summary.stddev_ns <= 2**63 - 1
    assert summary.max_ns == 6_440_000_000_000_000_000
