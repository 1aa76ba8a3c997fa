"""Any results survive the disk."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.bench.samples import HEADER
from tools.bench.cell import CellKey, Metric, Role
from tools.bench.results import Results, Run, Side, decode, encode
from tools.bench.search import Trial

texts = st.text(max_size=20)
rates = st.floats(0, 1e9)
counts = st.integers(0, 10**12)
trials = st.builds(
    Trial,
    st.integers(1, 10**9),
    counts,
    counts,
    st.integers(1, 10**12),
    st.lists(texts, max_size=2).map(tuple),
)
sides = st.builds(Side, rates, st.booleans(), texts, st.lists(trials, max_size=3).map(tuple))
runs = st.builds(
    Run,
    texts,
    counts,
    sides,
    st.none() | sides,
    st.dictionaries(texts, counts, max_size=3),
    st.lists(texts, max_size=2).map(tuple),
)
keys = st.builds(
    CellKey,
    st.sampled_from(Role),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,10}", fullmatch=True),
    st.integers(0, 100_000).map(lambda thousandths: Decimal(thousandths) / 1000),
    st.sampled_from(Metric),
)


@given(st.lists(st.tuples(keys, runs), max_size=6), st.lists(st.tuples(keys, texts), max_size=3))
def test_there_and_back(
    measured: list[tuple[CellKey, Run]], skips: list[tuple[CellKey, str]]
) -> None:
    results = Results(HEADER)
    for key, reason in skips:
        results = results.with_skipped(key, reason)
    for key, run in measured:
        results = results.with_run(key, run)
    assert decode(encode(results)) == results


@given(st.lists(keys, max_size=6), st.integers(1, 4), st.lists(keys, max_size=8))
def test_what_is_measured_and_what_is_missing_make_the_plan(
    cells: list[CellKey], count: int, measured: list[CellKey]
) -> None:
    plan = [(key, run) for run in range(count) for key in dict.fromkeys(cells)]
    run = Run("", 1, Side(1.0, False, "found", ()), None)
    results = Results(HEADER)
    for key in measured:
        results = results.with_run(key, run)
    missing = results.missing(plan)
    for key in dict.fromkeys(cells):
        done = min(count, len(results.runs(key)))
        assert [r for k, r in missing if k == key] == list(range(done, count))
    for key, _ in missing:
        results = results.with_run(key, run)
    assert results.missing(plan) == []
