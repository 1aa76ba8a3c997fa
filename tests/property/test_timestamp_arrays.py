"""Arrays of timestamps come out as single ones do, to the nanosecond."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataplane.stamp.timestamp import TimestampFormat, decode_timestamp, encode_timestamp
from dataplane.stamp.timestamp_arrays import decode_timestamps, encode_timestamps

CENTURY_NS = 100 * 365 * 86_400 * 10**9
times = st.one_of(
    st.integers(0, 2 * CENTURY_NS),
    st.integers(0, 2**32).map(lambda seconds: seconds * 10**9 + 999_999_999),
)
words = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**32 - 1, 2**64 - 1]))
tai_offsets = st.sampled_from([0, 37, -5])


@given(st.lists(times, min_size=1), st.sampled_from(TimestampFormat), tai_offsets)
def test_encode(unix_ns: list[int], fmt: TimestampFormat, tai_offset_s: int) -> None:
    values = encode_timestamps(np.array(unix_ns, np.int64), fmt, tai_offset_s)
    expected = [encode_timestamp(each, fmt, tai_offset_s) for each in unix_ns]
    assert values.tolist() == expected


@given(st.lists(st.tuples(words, st.sampled_from(TimestampFormat), times), min_size=1), tai_offsets)
def test_decode(rows: list[tuple[int, TimestampFormat, int]], tai_offset_s: int) -> None:
    values, formats, near_ns = zip(*rows, strict=True)
    found = decode_timestamps(
        np.array(values, np.uint64),
        np.array([fmt is TimestampFormat.PTPV2 for fmt in formats]),
        np.array(near_ns, np.int64),
        tai_offset_s,
    )
    assert found.tolist() == [decode_timestamp(*row, tai_offset_s) for row in rows]
