"""What a source may send, by a clock that stands where it is set."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dataplane.stamp import rate_limit
from dataplane.stamp.rate_limit import BURST_NS, RateLimiter
from dataplane.stamp.timestamp import NS_PER_S

ONE, OTHER = bytes(15) + b"\1", bytes(15) + b"\2"
NOW_NS = 1_790_000_000_123_456_789


def admitted(limiter: RateLimiter, source: bytes, now_ns: int, number: int) -> int:
    return sum(limiter.admits(source, now_ns) for _ in range(number))


def test_a_source_has_a_rate() -> None:
    limiter = RateLimiter(1_000)
    assert admitted(limiter, ONE, NOW_NS, 150) == 101
    assert admitted(limiter, ONE, NOW_NS + 10_000_000, 20) == 10
    assert admitted(limiter, OTHER, NOW_NS, 1) == 1
    assert admitted(limiter, ONE, NOW_NS + NS_PER_S, 150) == 101


def test_a_clock_that_is_set_back_costs_nobody_more_than_a_burst() -> None:
    limiter = RateLimiter(1_000)
    assert admitted(limiter, ONE, NOW_NS, 150) == 101
    assert admitted(limiter, ONE, NOW_NS - 1_000 * NS_PER_S, 150) == 101
    assert admitted(limiter, ONE, NOW_NS - 1_000 * NS_PER_S + BURST_NS, 150) == 100


def test_who_was_heard_of_last_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "SOURCES_MAX", 3)
    limiter = RateLimiter(1)
    names = [bytes([number]) * 16 for number in range(4)]
    assert [limiter.admits(name, NOW_NS) for name in names[:3]] == [True] * 3
    assert not limiter.admits(names[0], NOW_NS)
    assert limiter.admits(names[3], NOW_NS)
    # The second has made room.
    assert [limiter.admits(names[at], NOW_NS) for at in (0, 2, 3, 1)] == [False] * 3 + [True]


@pytest.mark.parametrize("hash_bits", [16, 1])
@pytest.mark.parametrize("out_of_order_ns", [0, 1_000_000, 2 * BURST_NS])
@pytest.mark.parametrize("sources", [1, 2, 40])
@pytest.mark.parametrize("rate", [10, 2_000, 100_000])
def test_many_as_one_by_one(
    rate: int,
    sources: int,
    out_of_order_ns: int,
    hash_bits: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within the rate, beyond it, and some within while others are beyond."""
    monkeypatch.setattr(rate_limit, "_SHIFT", np.uint64(64 - hash_bits))
    chance = random.Random(7)
    known = [(1, number) for number in range(sources)]
    weights = [9] + [1] * (sources - 1)
    one, many = RateLimiter(rate), RateLimiter(rate)
    now_ns, seen = NOW_NS, set()
    for size in (1, 31, 32, 500, 500, 1_024, 31, 500, 100, 1_024):
        addresses = np.array(chance.choices(known, weights, k=size), np.uint64)
        times = [
            (now_ns := now_ns + chance.randrange(100_000)) - chance.randrange(out_of_order_ns + 1)
            for _ in range(size)
        ]
        singly = [one.admits(each.tobytes(), at) for each, at in zip(addresses, times, strict=True)]
        assert many.admitted(addresses, np.array(times)).tolist() == singly
        seen.update(singly)
    assert seen == ({True} if rate == 100_000 else {True, False})
