import threading

import pytest

from dataplane.measurement import RECORD, Record, RecordRing, TimestampMethod


def record(sequence: int) -> Record:
    return Record(sequence, 100, 150, 160, 230, sequence % 7, 254, 1, 2, 3)


def ring(capacity: int) -> RecordRing:
    return RecordRing.format(memoryview(bytearray(RecordRing.size_of(capacity))), capacity)


def test_delays_are_signed() -> None:
    made = Record(0, t1_ns=1000, t2_ns=400, t3_ns=450, t4_ns=1300, reflector_sequence=0,
                  sender_ttl=255, t1_method=0, t4_method=0, flags=0)  # fmt: skip
    assert (made.forward_ns, made.backward_ns, made.round_trip_ns) == (-600, 850, 250)


def test_record_layout() -> None:
    extreme = Record(2**64 - 1, -(2**63), 2**63 - 1, -1, 0, 2**32 - 1, 255, 3, 3, 3)
    assert RECORD.size == 48
    assert Record(*RECORD.unpack(RECORD.pack(*extreme))) == extreme


def test_method_codes() -> None:
    assert [TimestampMethod.from_code(m.code) for m in TimestampMethod] == list(TimestampMethod)
    with pytest.raises(ValueError, match=r"^timestamp method code 4 is unknown$"):
        TimestampMethod.from_code(4)


def test_fetch_drains_oldest_first() -> None:
    records = ring(8)
    for sequence in range(6):
        records.append(record(sequence))
    assert records.pending == 6
    assert records.fetch(4) == [record(s) for s in range(4)]
    assert records.fetch(4) == [record(4), record(5)]
    assert records.fetch(4) == []
    assert (records.pending, records.dropped) == (0, 0)


def test_overflow_is_counted_exactly() -> None:
    records = ring(8)
    for sequence in range(3):
        records.append(record(sequence))
    records.fetch(1)
    for sequence in range(3, 25):
        records.append(record(sequence))
    assert records.dropped == 16
    assert [r.sequence for r in records.fetch(100)] == list(range(17, 25))
    assert records.dropped == 16


def test_latest_fetches_nothing() -> None:
    records = ring(4)
    assert records.latest(3) == []
    for sequence in range(10):
        records.append(record(sequence))
    assert [r.sequence for r in records.latest(3)] == [7, 8, 9]
    assert [r.sequence for r in records.latest(9)] == [6, 7, 8, 9]
    assert records.latest(0) == []
    assert records.pending == 4


def test_cleared_records_are_not_dropped() -> None:
    records = ring(4)
    for sequence in range(6):
        records.append(record(sequence))
    records.clear()
    assert (records.fetch(9), records.latest(9)) == ([], [])
    records.append(record(6))
    assert [r.sequence for r in records.fetch(9)] == [6]
    assert records.dropped == 0


def test_clearing_starts_the_count_of_drops_anew() -> None:
    records = ring(4)
    for sequence in range(10):
        records.append(record(sequence))
    records.fetch(1)
    assert records.dropped == 6
    records.clear()
    assert records.dropped == 0
    for sequence in range(5):
        records.append(record(sequence))
    records.fetch(9)
    assert records.dropped == 1


def test_overwritten_while_copying() -> None:
    """What the producer overwrites during a copy is dropped and counted, not returned."""

    class Overtaken(RecordRing):
        __slots__ = ()

        def _copy(self, start: int, end: int) -> list[Record]:
            copied = super()._copy(start, end)
            for sequence in range(8, 11):
                self.append(record(sequence))
            return copied

    buffer = memoryview(bytearray(RecordRing.size_of(8)))
    RecordRing.format(buffer, 8)
    records = Overtaken(buffer)
    for sequence in range(8):
        records.append(record(sequence))
    assert [r.sequence for r in records.fetch(6)] == [3, 4, 5]
    assert records.dropped == 3
    assert records.fetched == 6


def test_concurrent_producer_and_consumer() -> None:
    """Every record is fetched once, in order, intact, or counted as dropped."""
    records = ring(16)
    total = 20_000

    def produce() -> None:
        for sequence in range(total):
            records.append(record(sequence))

    producer = threading.Thread(target=produce)
    producer.start()
    fetched: list[Record] = []
    while producer.is_alive() or records.pending:
        fetched += records.fetch(7)
    producer.join()
    numbers = [r.sequence for r in fetched]
    assert numbers == sorted(set(numbers))
    assert fetched == [record(number) for number in numbers]
    assert len(fetched) + records.dropped == total


def test_buffer_too_small() -> None:
    with pytest.raises(ValueError, match=r"^record ring of 100 bytes cannot hold 9 records$"):
        RecordRing.format(memoryview(bytearray(100)), 9)
    with pytest.raises(ValueError, match=r"^record ring of 100 bytes cannot hold 0 records$"):
        RecordRing(memoryview(bytearray(100)))
