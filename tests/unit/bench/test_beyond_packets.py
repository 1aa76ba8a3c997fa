"""Packets of a capture find the records that they belong to."""

from __future__ import annotations

import numpy as np
import pytest

from dataplane.measurement import Record
from tools.bench.beyond.packets import PACKET, Packets, errors_ns, record_keys, select
from tools.bench.beyond.timestamps import SSID, STAMPS, Seen, Stamp, error_of
from tools.bench.errors import BenchError

T1, T2, T3, T4 = STAMPS


def packets(*rows: tuple[int, int, int, bool, bool]) -> Packets:
    return np.array(list(rows), PACKET)


def record(sequence: int, t1: int = 0, t2: int = 0, t3: int = 0, t4: int = 0) -> Record:
    return Record(sequence, t1, t2, t3, t4, sequence & 0xFFFFFFFF, 255, 0, 0, 0)


def test_packets_match_by_ssid_and_sequence_in_any_order() -> None:
    records = [record(number, t1=1_000 + number) for number in (3, 1, 2)]
    captured = packets(
        (1_010, 7, 1, True, True),
        (1_030, 7, 3, True, True),
        (9_999, 8, 2, True, True),  # another session's
        (1_000, 7, 2, True, True),
    )
    found = errors_ns(record_keys(7, records), [r.t1_ns for r in records], captured)
    assert sorted(found.tolist()) == [1_003 - 1_030, 1_001 - 1_010, 1_002 - 1_000]


def test_sequence_numbers_wrap_on_the_wire() -> None:
    records = [record((5 << 32) + 2, t1=50)]
    found = errors_ns(record_keys(1, records), [50], packets((40, 1, 2, True, True)))
    assert found.tolist() == [10]


def test_what_a_capture_saw_twice_or_not_at_all_is_left_out() -> None:
    records = [record(number, t1=100) for number in range(3)]
    captured = packets((90, 1, 0, True, True), (91, 1, 0, True, True), (80, 1, 2, True, True))
    found = errors_ns(record_keys(1, records), [100] * 3, captured)
    assert found.tolist() == [20]


def test_nothing_matches_nothing() -> None:
    assert errors_ns(record_keys(1, []), [], packets()).size == 0
    assert errors_ns(record_keys(1, [record(0)]), [1], packets()).size == 0


def test_select() -> None:
    rows = packets(*((n, 1, n, n % 2 == 0, n < 2) for n in range(4)))
    assert select(rows, request=True, outgoing=True)["ns"].tolist() == [0]
    assert select(rows, request=False, outgoing=False)["ns"].tolist() == [3]


@pytest.mark.parametrize(
    ("stamp", "at_sender", "outgoing"),
    [(T1, True, True), (T2, False, False), (T3, False, True), (T4, True, False)],
)
def test_a_timestamp_is_compared_at_the_engines_own_interface(
    stamp: Stamp, at_sender: bool, outgoing: bool
) -> None:
    is_request = stamp in (T1, T2)
    own = packets((95, SSID, 0, is_request, outgoing))
    other = packets((50, SSID, 0, is_request, not outgoing))
    records = [record(0, 100, 100, 100, 100)]
    found = error_of("xdp", stamp, Seen(records, *((own, other) if at_sender else (other, own))))
    assert found.label == f"xdp {stamp.name}"
    assert found.method.startswith("own interface, ")
    assert (found.count, {q.ns for q in found.quantiles}) == (1, {5})


@pytest.mark.parametrize("stamp", STAMPS)
def test_or_at_the_other_end_where_the_engine_bypasses_its_own(stamp: Stamp) -> None:
    far = stamp.places[1]
    seen = packets((130, SSID, 0, stamp.of_request, far.outgoing))
    ends = (seen, packets()) if far.at_sender else (packets(), seen)
    found = error_of("xdp", stamp, Seen([record(0, 100, 100, 100, 100)], *ends))
    assert found.method.startswith("other end of the wire, ")
    assert {q.ns for q in found.quantiles} == {-30}


def test_a_capture_that_has_only_some_of_the_packets_proves_nothing() -> None:
    few = packets((1, SSID, 0, True, True))
    with pytest.raises(BenchError, match=r"^no capture has the packets of T1 of engine xdp$"):
        error_of("xdp", T1, Seen([record(0), record(1)], few, packets()))


def test_no_records_are_no_result() -> None:
    with pytest.raises(BenchError, match=r"^no capture has the packets of T4 of engine xdp$"):
        error_of("xdp", T4, Seen([], packets(), packets()))
