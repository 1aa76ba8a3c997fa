"""The paper's tables agree with themselves, with its text, and with our statistics."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from tools.bench.cell import Role
from tools.bench.paper import CI95_PER_CV, RUNS, SHARES, TABLES, Table, Value, reference, tables_of
from tools.bench.statistics import summarize, t_quantile

CELLS = [
    pytest.param(value, id=f"{table.number}-{column}")
    for table in TABLES
    for column, value in zip(("baseline", *SHARES), (table.baseline, *table.values), strict=True)
]


def test_seven_tables_of_fourteen_columns() -> None:
    assert [table.number for table in TABLES] == ["I", "II", "III", "IV", "V", "VI", "VII"]
    assert all(len(table.values) == len(SHARES) == 13 for table in TABLES)
    assert {(table.role, table.system) for table in TABLES} == {
        (role, system)
        for role in (Role.REFLECTOR, Role.COLLECTOR)
        for system in ("scapy", "userspace", "xdp")
    }


@pytest.mark.parametrize("value", CELLS)
def test_average_deviation_and_interval_agree_within_rounding(value: Value) -> None:
    sd, avg = value.sd_kpps, value.avg_kpps
    low = 100 * (sd - 0.0005) / (avg + 0.005)
    high = 100 * (sd + 0.0005) / (avg - 0.005)
    assert low - 0.005 <= value.cv_percent <= high + 0.005
    assert CI95_PER_CV * low - 0.0051 <= value.ci95_percent <= CI95_PER_CV * high + 0.0051


@pytest.mark.parametrize("value", CELLS)
def test_ten_runs_with_the_same_deviation_give_our_wider_interval(value: Value) -> None:
    # Five runs above and five below, by the same, have the paper's average and SD.
    offset = value.sd_kpps * math.sqrt((RUNS - 1) / RUNS)
    summary = summarize([value.avg_kpps + offset, value.avg_kpps - offset] * (RUNS // 2))
    assert summary.mean == pytest.approx(value.avg_kpps)
    assert summary.sd == pytest.approx(value.sd_kpps)
    assert summary.cv is not None
    assert 100 * summary.cv == pytest.approx(100 * value.sd_kpps / value.avg_kpps)
    assert summary.ci95_ratio == pytest.approx(t_quantile(0.975, 9) / math.sqrt(10) * summary.cv)
    assert value.sd_kpps == 0 or summary.ci95_ratio > CI95_PER_CV * summary.cv


@pytest.mark.parametrize(
    ("role", "system", "share", "kpps"),
    [
        # Section VIII-B, in words.
        (Role.REFLECTOR, "scapy", "100", 0.47),
        (Role.REFLECTOR, "userspace", "100", 35.3),
        (Role.REFLECTOR, "xdp", "100", 2179),
        (Role.COLLECTOR, "scapy", "100", 1.06),
        (Role.COLLECTOR, "userspace", "100", 85.8),
        (Role.COLLECTOR, "xdp", "100", 2995),
        (Role.COLLECTOR, "scapy", "0", 927.8),
        (Role.COLLECTOR, "userspace", "0", 924.5),
        (Role.COLLECTOR, "xdp", "0", 1015.9),
        (Role.COLLECTOR, "scapy", "0.05", 641.3),
        (Role.COLLECTOR, "scapy", "5", 20.3),
        (Role.COLLECTOR, "xdp", "20", 1152.1),
    ],
)
def test_the_text_says_the_same(role: Role, system: str, share: str, kpps: float) -> None:
    found = reference(role, system, Decimal(share))
    assert found is not None
    assert found.kpps == pytest.approx(kpps, rel=1.5e-3)


@pytest.mark.parametrize(("system", "percent"), [("userspace", 10.4), ("xdp", 1.5)])
def test_what_data_traffic_loses(system: str, percent: float) -> None:
    found = reference(Role.COLLECTOR, system, Decimal(0))
    assert found is not None
    assert 100 * (1 - found.ratio) == pytest.approx(percent, abs=0.05)


def test_ratios_of_table_five_are_to_the_baseline_of_table_four() -> None:
    by_number: dict[str, Table] = {table.number: table for table in TABLES}
    assert by_number["V"].ratio_baseline_kpps == by_number["IV"].baseline.avg_kpps
    others = [table for table in TABLES if table.number != "V"]
    assert all(table.ratio_baseline_kpps == table.baseline.avg_kpps for table in others)
    assert all(1028 < table.baseline.avg_kpps < 1033 for table in others)


def test_the_ebpf_collector_is_the_mean_of_two_tables() -> None:
    assert [table.number for table in tables_of(Role.COLLECTOR, "xdp")] == ["VI", "VII"]
    found = reference(Role.COLLECTOR, "xdp", Decimal("100"))
    assert found is not None
    assert found.tables == ("VI", "VII")
    assert found.kpps == pytest.approx((3353.94 + 2636.05) / 2)


def test_what_the_paper_has_not_measured() -> None:
    assert reference(Role.REFLECTOR, "xdp-tx", Decimal(100)) is None
    assert reference(Role.REFLECTOR, "xdp", Decimal("0.002")) is None
