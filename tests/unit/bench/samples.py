"""Results as a bench would find them: the paper's ratios on a slower machine, with noise."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable
from decimal import Decimal

from tools.bench.cell import CellKey
from tools.bench.extras import (
    ControlPlane,
    DataTraffic,
    Extras,
    Footprint,
    PacketCost,
    ScheduleError,
    TimestampError,
    quantiles_of,
)
from tools.bench.grid import PLANS
from tools.bench.paper import reference
from tools.bench.results import BenchSettings, Header, Machine, Results, Run, Side
from tools.bench.search import NS_PER_S, SearchSettings, Trial

BASELINE_PPS = 550_000.0
HEADER = Header(
    command="stamp-bench run --quick --json results.json",
    created="2026-01-02T03:04:05Z",
    machine=Machine("Example CPU @ 2.40GHz", 2, 16 * 2**30, None),
    kernel="6.18.0",
    versions={"srv6-stamp": "0.1.0", "python": "3.11.2", "bcc": None},
    settings=BenchSettings(
        search=SearchSettings(),
        trial_duration_ns=NS_PER_S // 4,
        data_packet_bytes=86,
        stamp_packet_bytes=122,
        pinning={"generator": "0", "system": "1"},
    ),
)


def side(pps: float, *, bounded: bool = False) -> Side:
    """Return one search that found a rate."""
    rate = max(1, round(pps))
    reason = "the bed could not offer more" if bounded else "found"
    if not pps:
        reason = "no trial passed, down to 10 pps"
    return Side(pps, bounded, reason, (Trial(rate, rate, rate if pps else 0, NS_PER_S),))


def run(
    pps: float,
    baseline_pps: float | None = BASELINE_PPS,
    *,
    bounded: bool = False,
    baseline_bounded: bool = False,
) -> Run:
    """Return one run."""
    return Run(
        started="2026-01-02T03:04:05Z",
        duration_ns=8 * NS_PER_S,
        system=side(pps, bounded=bounded),
        baseline=None if baseline_pps is None else side(baseline_pps, bounded=baseline_bounded),
        counters={"generator.offered": 10, "sink.delivered": 10},
    )


def paper_ratio(key: CellKey) -> float:
    """Return the paper's ratio; a third more than its best for the references."""
    found = reference(key.role, key.system, key.share)
    return 2.9 if found is None else found.ratio


def make_results(
    cells: Iterable[CellKey] = PLANS["full"].cells,
    *,
    runs: int = 5,
    cv: float = 0.02,
    weather: float = 0.1,
    seed: int = 1,
    ratio: Callable[[CellKey], float] = paper_ratio,
    bounded: Collection[CellKey] = (),
) -> Results:
    """Draw results.

    Every search has the variation `cv`; `weather` is that of the machine's speed, which
    a cell and its baseline share.
    """
    draw = random.Random(seed)
    results = Results(HEADER)
    for key in cells:
        for _ in range(runs):
            speed = BASELINE_PPS * (1 + draw.gauss(0, weather))
            baseline = speed * (1 + draw.gauss(0, cv))
            pps = speed * ratio(key) * (1 + draw.gauss(0, cv))
            results = results.with_run(key, run(pps, baseline, bounded=key in bounded))
    return results


def make_extras(seed: int = 1) -> Extras:
    """Return one or more of each kind."""
    draw = random.Random(seed)
    extras = Extras()
    for segments in (0, 1, 3):
        for name, program, ns in (("reflector", "stamp_reflector", 180), ("sink", "drop", 20)):
            values = tuple(ns + 12 * segments + draw.gauss(0, 2) for _ in range(5))
            extras = extras.with_added(PacketCost(name, program, segments, values))
    for engine, spread in (("scapy", 250_000), ("userspace", 9_000), ("xdp", 700)):
        samples = [round(draw.lognormvariate(0, 0.6) * spread) for _ in range(2_000)]
        extras = extras.with_added(
            TimestampError(f"{engine} T2", "capture on veth", 2_000, quantiles_of(samples))
        )
        extras = extras.with_added(
            ScheduleError(engine, 100, 10_000.0, 2_000, 3, quantiles_of(samples))
        )
        for sessions in (1, 100, 1_000, 10_000):
            rss = 40_000_000 + sessions * spread // 10
            cpu = 0.2 + sessions * spread / 1e7
            extras = extras.with_added(
                Footprint(engine, sessions, None, rss, sessions * 4_096, cpu)
            )
    for name, seconds in (("get of all sessions", 0.9), ("edit-config to first packet", 4.1)):
        durations = tuple(round(NS_PER_S * seconds * draw.uniform(0.9, 1.1)) for _ in range(3))
        extras = extras.with_added(ControlPlane(name, 1_000, durations))
    for system, role, ratio in (
        ("none", "forwarder", 1.0),
        ("xdp-pass", "forwarder", 0.99),
        ("xdp", "reflector", 0.985),
    ):
        ratios = tuple(draw.gauss(ratio, 0.01) for _ in range(40))
        extras = extras.with_added(DataTraffic(system, role, ratios))
    return extras


QUICK_KEY = CellKey(PLANS["quick"].cells[0].role, "userspace", Decimal(1))
