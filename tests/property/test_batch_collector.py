"""Replies in batches are collected as if each had come by itself."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import math
import tempfile
from collections.abc import Callable
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataplane.config import DelayMode, ReflectorMode, SenderSession
from dataplane.histogram import (
    bucket_bounds,
    bucket_of,
    buckets_of,
    distance,
    distances,
    middles_of,
)
from dataplane.measurement import RECORD, RECORD_DTYPE, Record, RecordRing, TimestampMethod
from dataplane.session_state import SessionSnapshot
from dataplane.stamp.collector import Collector
from dataplane.stamp.collector_batch import BatchCollector, Replies
from dataplane.stamp.session_table import SessionTable
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, encode_timestamp
from dataplane.statistics import DelaySummary
from dataplane.store import SessionStore
from tests.unit.stamp.network import MS, REFLECTOR, UNIX_NS, S, reply, session


@dataclasses.dataclass(frozen=True)
class Arrival:
    ssid: int
    data: bytes
    at_ns: int
    port: int = 862
    stamped: bool = True
    source: IPv6Address = REFLECTOR
    admitted: bool = True


class Side:
    """Sessions with their stores, fed one way or the other."""

    def __init__(
        self, folder: Path, configs: list[SenderSession], table: SessionTable | None = None
    ) -> None:
        arena = None if table is None else table.arena
        self.stores = [SessionStore.create(folder / str(c.ssid), c, arena) for c in configs]
        self.collectors = {
            config.ssid: Collector(config, store, now_ns=0, table=table)
            for config, store in zip(configs, self.stores, strict=True)
        }
        for collector in self.collectors.values():
            collector.start(0, UNIX_NS)
        self.batch = BatchCollector()
        for ssid, collector in self.collectors.items():
            self.batch.serve(ssid, collector)
        self.runs = 0

    def single(self, arrival: Arrival) -> None:
        self.collectors[arrival.ssid].receive(
            arrival.data,
            source=arrival.source,
            source_port=arrival.port,
            t4_ns=UNIX_NS + arrival.at_ns,
            now_ns=arrival.at_ns,
            t4_method=(
                TimestampMethod.KERNEL_SOFTWARE if arrival.stamped else TimestampMethod.USERSPACE
            ),
        )

    def together(self, arrivals: list[Arrival]) -> None:
        seen: list[int] = []

        def single(row: int) -> None:
            seen.append(row)
            self.single(arrivals[row])

        self.receive(arrivals, single)
        assert {row for row, one in enumerate(arrivals) if not one.admitted} <= set(seen)
        self.runs += len(arrivals) - len(seen)

    def receive(self, arrivals: list[Arrival], single: Callable[[int], None]) -> None:
        count = len(arrivals)
        data = np.full((count, 128), 0xAA, np.uint8)
        for row, arrival in enumerate(arrivals):
            data[row, : len(arrival.data)] = np.frombuffer(arrival.data, np.uint8)
        at_ns = np.array([arrival.at_ns for arrival in arrivals], np.int64)
        replies = Replies(
            data,
            np.array([len(arrival.data) for arrival in arrivals]),
            np.frombuffer(
                b"".join(arrival.source.packed for arrival in arrivals), np.uint64
            ).reshape(count, 2),
            np.array([arrival.port for arrival in arrivals], np.uint16),
            np.array([arrival.admitted for arrival in arrivals], np.bool_),
            UNIX_NS + at_ns,
            at_ns,
            np.array([arrival.stamped for arrival in arrivals]),
        )
        self.batch.receive(replies, single)

    def snapshots(self) -> list[SessionSnapshot]:
        return [store.snapshot(10_000) for store in self.stores]


TOTAL = [0, 0]
FAR_NS = (2**31 - 10) * S
OTHERS = {"host": IPv6Address("2001:db8::3"), "net": IPv6Address("2001:db9::2")}
"""Who else may send replies."""

ODD = [
    *("port", "host", "net", "not admitted", "short", "long", "ntp", "zero", "sender's zero"),
    *("old", "edge", "edge", "past edge"),
]
EDGE_NS = 100 * MS
"""Intervals end, and packets are lost, at multiples of it."""

events = st.lists(
    st.tuples(
        st.sampled_from([1, 2]),
        # How far the sequence numbers jump, and how far the counter is off.
        st.sampled_from([0] * 20 + [1, 9, 9, -1, -12, -15, 10_000]),
        st.sampled_from([0] * 20 + [1, 9, 9, -1]),
        # A peer may claim whatever time it likes.
        st.one_of(*[st.integers(-3 * S, 3 * S)] * 9, st.sampled_from([-FAR_NS, FAR_NS])),
        st.sampled_from([0, MS, 7 * MS + 13, 100 * MS]),
        st.sampled_from(["fine"] * 15 + ODD),
        st.integers(1, 20),
    ),
    max_size=40,
)


def traffic(drawn: Any) -> list[Arrival]:
    """Mostly runs in order, with some of everything in between."""
    now_ns = 1 * MS
    following = {1: 0, 2: 0}
    counters = {1: 2**32 - 10, 2: 5}
    found = []
    for ssid, step, slip, offset_ns, gap_ns, kind, repeat in drawn:
        counters[ssid] += slip
        sequence = max(-1, following[ssid] + step - 1)
        for _ in range(repeat):
            sequence += 1
            now_ns += gap_ns
            if kind in ("edge", "past edge"):
                now_ns += ((kind == "past edge") - now_ns) % EDGE_NS
            t1_ns = UNIX_NS + now_ns - 3 * MS
            if kind == "old" and sequence % 3:
                t1_ns -= 9 * S
            t2_ns = t1_ns + offset_ns + gap_ns * sequence % 1_001
            fmt = TimestampFormat.NTP if kind == "ntp" else TimestampFormat.PTPV2
            estimate = ErrorEstimate(sequence % 2 == 0, fmt, 3, 1 + sequence % 99)
            changes: dict[str, Any] = {
                "ssid": ssid,
                "error_estimate": estimate,
                "sender_ttl": 155 + sequence % 101,
            }
            if kind == "ntp":
                changes |= {
                    "timestamp": encode_timestamp(t2_ns + 99, TimestampFormat.NTP),
                    "receive_timestamp": encode_timestamp(t2_ns, TimestampFormat.NTP),
                }
            data = reply(sequence, counters[ssid], t1_ns, t2_ns, t2_ns + 10_000, **changes)
            if kind == "short":
                data = data[:43]
            elif kind == "long":
                data += bytes(8)
            elif kind == "zero":
                data = data[:13] + b"\0" + data[14:]
            elif kind == "sender's zero":
                data = data[:37] + b"\0" + data[38:]
            port = 863 if kind == "port" else 862
            source, admitted = OTHERS.get(kind, REFLECTOR), kind != "not admitted"
            found.append(
                Arrival(ssid, data, now_ns, port, sequence % 5 != 0, source, admitted=admitted)
            )
            if step < 10_000:
                following[ssid] = max(following[ssid], sequence + 1)
            counters[ssid] += 1
    return found


TO_THE_TIMEOUT = [
    (1, 0, 0, 0, MS, "fine", 4),
    (2, 0, 0, 0, MS, "fine", 4),
    (1, 0, 0, 0, EDGE_NS, "past edge", 3),
]
"""Runs of two sessions, one of which breaks off where packets are lost."""


@settings(max_examples=150)
@example(
    *(TO_THE_TIMEOUT, ReflectorMode.STATELESS, DelayMode.TWO_WAY, (0, 37), [], 300, -5 * S, 97)
)
@given(
    events,
    st.sampled_from(ReflectorMode),
    st.sampled_from(DelayMode),
    st.sampled_from([(0, 0), (37, 37), (0, 37)]),
    st.lists(st.integers(0, 300), max_size=20),
    st.sampled_from([300, 2_700, 20_000]),
    st.sampled_from([-5 * S, -MS, 300 * MS]),
    st.sampled_from([97, 97, 5]),
)
def test_batches_are_collected_as_single_replies_are(
    drawn: Any,
    mode: ReflectorMode,
    delay_mode: DelayMode,
    tai_offsets_s: tuple[int, int],
    refined: list[int],
    loss_timeout_ms: int,
    earliest_ns: int,
    size: int,
) -> None:
    arrivals = traffic(drawn)
    configs = [
        session(
            ssid=ssid,
            reflector_mode=mode,
            delay_mode=delay_mode,
            loss_timeout_ms=loss_timeout_ms,
            result_depth=50,
        )
        for ssid in (1, 2)
    ]
    with tempfile.TemporaryDirectory() as folder:
        sides = []
        for name in ("one", "many"):
            path = Path(folder) / name
            path.mkdir()
            side = Side(path, configs)
            sides.append(side)
            for ssid, tai_offset_s in enumerate(tai_offsets_s, 1):
                collector = side.collectors[ssid]
                collector.tai_offset_s = tai_offset_s
                for _ in range(2):
                    collector.announce(
                        min(400, collector.window // 2), UNIX_NS + earliest_ns - tai_offset_s * S, 0
                    )
                for sequence in refined:
                    collector.refine_t1(sequence, UNIX_NS + sequence)
        one, many = sides
        for start in range(0, len(arrivals), size):
            part = arrivals[start : start + size]
            for arrival in part:
                one.single(arrival)
            many.together(part)
            for side in sides:
                for collector in side.collectors.values():
                    collector.expire(part[-1].at_ns)
        compare(one, many)
        TOTAL[0] += len(arrivals)
        TOTAL[1] += many.runs
        # What is left is settled alike.
        for side in sides:
            for collector in side.collectors.values():
                collector.expire(30 * S)
        compare(one, many)


def test_what_is_no_longer_served_is_let_go() -> None:
    with tempfile.TemporaryDirectory() as folder:
        side = Side(Path(folder), [session(ssid=1)])
        collector = side.collectors[1]
        collector.sent(0, UNIX_NS, 0)
        side.batch.serve(1, None)
        seen: list[int] = []
        side.receive([Arrival(1, reply(0, 0, UNIX_NS, UNIX_NS, UNIX_NS, ssid=1), MS)], seen.append)
        assert seen == [0]
        assert collector.in_flight == 1
        assert collector not in gc.get_referents(side.batch._collectors)


def compare(one: Side, many: Side) -> None:
    for expected_store, found_store in zip(one.stores, many.stores, strict=True):
        assert taken_up(found_store) == taken_up(expected_store)
    for expected, found in zip(one.snapshots(), many.snapshots(), strict=True):
        plain = {"forward": DelaySummary(), "backward": None, "round_trip": None, "intervals": []}
        assert dataclasses.replace(found, **plain) == dataclasses.replace(expected, **plain)
        for ours, theirs in zip(found.intervals, expected.intervals, strict=True):
            without = {"forward": None, "backward": None, "round_trip": None}
            assert dataclasses.replace(ours, **without) == dataclasses.replace(theirs, **without)
        for ours, theirs in zip(
            [found, *found.intervals], [expected, *expected.intervals], strict=True
        ):
            for name in ("forward", "backward", "round_trip"):
                assert alike(getattr(ours, name), getattr(theirs, name), getattr(found, name))


def taken_up(store: SessionStore) -> tuple[int, ...]:
    """What a host that is started anew knows of the interval it goes on with."""
    state = store.state
    current = state.interval[state.head.closed % 2]
    return (
        *(current.start_ns, current.start_monotonic_ns, current.end_monotonic_ns),
        *(current.suspect, current.carried, current.forward_lost, current.backward_lost),
    )


def alike(one: DelaySummary | None, other: DelaySummary | None, whole: DelaySummary | None) -> bool:
    """The same but for the last bit of a float64 that is about a delay of the `whole`."""
    if one is None or other is None or whole is None:
        return one is other
    rounded = {"mean_ns": None, "stddev_ns": None, "jitter_ns": None}
    spread_ns = (whole.max_ns or 0) - (whole.min_ns or 0)
    same = dataclasses.replace(one, **rounded) == dataclasses.replace(other, **rounded)
    pairs = [(getattr(one, name), getattr(other, name)) for name in rounded]
    return same and all(
        a == b
        if a is None or b is None
        else math.isclose(a, b, rel_tol=1e-9, abs_tol=2 + spread_ns / 1e12)
        for a, b in pairs
    )


@given(st.integers(1, 12), st.lists(st.integers(0, 40), max_size=10), st.integers(0, 50))
def test_records_appended_at_once(capacity: int, sizes: list[int], fetched: int) -> None:
    rings = []
    for _ in range(2):
        buffer = memoryview(bytearray(RecordRing.size_of(capacity)))
        rings.append(RecordRing.format(buffer, capacity))
    one, many = rings
    sequence = 0
    for size in sizes:
        records = np.zeros(size, RECORD_DTYPE)
        records["sequence"] = np.arange(sequence, sequence + size)
        records["sender_ttl"] = 7
        sequence += size
        for record in RECORD.iter_unpack(records.tobytes()):
            one.append(Record._make(record))
        many.extend(records)
        assert (many.pending, many.dropped) == (one.pending, one.dropped)
        assert many.latest(5) == one.latest(5)
        assert many.fetch(fetched) == one.fetch(fetched)
    assert (many.head, many.dropped, many.pending) == (one.head, one.dropped, one.pending)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_buckets(values: list[int]) -> None:
    values += [2**k + d for k in range(62) for d in (-1, 0, 1)]
    buckets = buckets_of(np.array(values, np.int64))
    assert buckets.tolist() == list(map(bucket_of, values))
    middles = [sum(bucket_bounds(bucket)) // 2 for bucket in buckets.tolist()]
    assert middles_of(buckets).tolist() == middles


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.integers(-(2**63), 2**63 - 1))
def test_distances(values: list[int], origin: int) -> None:
    found = distances(np.array(values, np.int64), np.full(len(values), origin))
    assert found.tolist() == [distance(value, origin) for value in values]


def test_record_layouts_agree() -> None:
    assert RECORD_DTYPE.itemsize == RECORD.size
    record = Record(2**40, -1, -2, -3, -4, 2**32 - 1, 255, 1, 2, 3)
    array = np.frombuffer(RECORD.pack(*record), RECORD_DTYPE)
    assert array.tolist() == [tuple(record)]
    assert ctypes.sizeof(ctypes.c_uint64) == array["sequence"].itemsize
