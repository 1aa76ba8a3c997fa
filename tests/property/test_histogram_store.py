"""Histograms that grow by octaves hold what plain ones would."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from dataplane.histogram import BUCKETS, SUB_BUCKETS, moved
from dataplane.histogram_store import (
    AT_FIRST,
    BLOCK,
    BLOCKS_AT,
    BLOCKS_AT_FIRST,
    SIZE,
    Counts,
    HistogramStore,
)
from dataplane.mapped_file import StoreError

steps = st.one_of(
    st.tuples(
        st.just("add"), st.integers(0, 2), st.integers(0, BUCKETS - 1), st.integers(1, 1_000)
    ),
    st.tuples(st.just("add"), st.integers(0, 2), st.integers(960, 1_000), st.just(1)),
    st.tuples(st.just("each"), st.integers(0, 2), st.integers(960, 1_000), st.integers(0, 200)),
    st.tuples(st.sampled_from(["close", "close", "clear"]), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("move"), st.integers(0, 2), st.just(0), st.integers(-(10**9), 10**9)),
)


def plain(stretch: tuple[int, Counts]) -> Counter[int]:
    first, counts = stretch
    return Counter({first + at: n for at, n in enumerate(counts.tolist()) if n})


def sparse(found: tuple[npt.NDArray[np.intp], Counts]) -> Counter[int]:
    """By bucket."""
    return Counter({at: n for at, n in zip(*(each.tolist() for each in found), strict=True) if n})


@given(st.lists(steps, max_size=60))
def test_samples_are_found_again(taken: list[tuple[str, int, int, int]]) -> None:
    view = memoryview(bytearray(SIZE))
    reserved = [AT_FIRST]

    def reserve(end: int, before: int) -> None:
        assert before <= max(reserved)
        reserved.append(end)

    store, reader = HistogramStore(view, reserve), HistogramStore(view, reserve)
    interval = [Counter[int]() for _ in range(3)]
    total = [Counter[int]() for _ in range(3)]
    counted: set[tuple[int, int]] = set()
    parity = 0
    for what, delay, bucket, samples in taken:
        if what == "add":
            store.add(parity, delay, bucket, samples)
            interval[delay][bucket] += samples
        elif what == "each":
            mine = bucket + np.arange(samples) * 7 % 300
            others = (delay + 1) % 3 * BUCKETS + mine
            store.add_each(parity, np.concatenate((delay * BUCKETS + mine, others)))
            interval[delay].update(mine.tolist())
            interval[(delay + 1) % 3].update(mine.tolist())
        elif what == "close":
            store.close(parity)
            for each in range(3):
                total[each] += interval[each]
                interval[each].clear()
            parity = 1 - parity
        elif what == "move":
            if not interval[delay]:
                store.move(parity, delay, 0, samples)
                before, total[delay] = total[delay], Counter()
                for each, count in before.items():
                    total[delay][moved(each, 0, samples)] += count
        else:
            store.clear()
            interval = [Counter() for _ in range(3)]
            total = [Counter() for _ in range(3)]
        for each in range(3):
            assert sparse(reader.interval(parity)[each]) == interval[each]
            assert plain(reader.total(parity, each)) == total[each] + interval[each]
            counted |= {(each, bucket) for bucket in total[each] + interval[each]}
    most = len({(delay, bucket // SUB_BUCKETS) for delay, bucket in counted})
    assert max(reserved) <= max(AT_FIRST, BLOCKS_AT + most * BLOCK.itemsize)
    # Nothing is written where no memory has been asked for.
    assert not any(view[max(reserved) :])


def test_no_room_for_another_octave() -> None:
    def refuse(end: int, _before: int) -> None:
        if end > AT_FIRST:
            raise StoreError("full")

    store = HistogramStore(memoryview(bytearray(SIZE)), refuse)
    first_octave, end = 40, 40 + BLOCKS_AT_FIRST
    for octave in range(first_octave, end):
        store.add(0, 0, octave * SUB_BUCKETS + 3)
    for bucket in (0, BUCKETS - 1):
        store.add(0, 0, bucket, 3)
        store.add_each(0, np.array([bucket, bucket]))
    store.add(0, 1, 0)
    store.add_each(0, np.array([BUCKETS]))
    first, second, _ = store.interval(0)
    assert sparse(second) == Counter()
    expected = Counter({octave * SUB_BUCKETS + 3: 1 for octave in range(first_octave, end)})
    expected |= Counter({first_octave * SUB_BUCKETS: 5, end * SUB_BUCKETS - 1: 5})
    assert sparse(first) == expected
    assert first[0].tolist() == sorted(first[0].tolist())
