"""The Collectors of one port, for many replies at once.

Rules that hold here:

- What is stored comes out as if every reply had been given to `Collector.receive`
  in the order of the arrays; means and variances to the precision of a float64.
- A run is replies of one session that arrived in time and in the order of their
  sequence numbers, each the first to its packet. Runs go through arrays, of all
  sessions together; everything else is given back to be received by itself, in
  its turn among the replies of its session.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.histogram import BUCKETS, buckets_of
from dataplane.measurement import RECORD_DTYPE, TimestampMethod
from dataplane.session_state import DIRECTIONS
from dataplane.stamp.collector import Collector, Run
from dataplane.stamp.packet import OPEN
from dataplane.stamp.timestamp_arrays import decode_timestamps
from dataplane.statistics import DelayRun

RUN_MIN = 4
"""Replies that are worth being a run."""

SSIDS = 1 << 16

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
Integers = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_WIRE = np.dtype(
    [
        ("sequence", ">u4"),
        ("t3", ">u8"),
        ("estimate", ">u2"),
        ("ssid", ">u2"),
        ("t2", ">u8"),
        ("sender_sequence", ">u4"),
        ("t1", ">u8"),
        ("sender_estimate", ">u2"),
        ("mbz1", ">u2"),
        ("ttl", "u1"),
        ("mbz2", "V3"),
    ]
)
"""An open-mode Session-Reflector packet (RFC 8762 §4.3.1)."""
assert _WIRE.itemsize == OPEN.length

_SYNCHRONIZED = 0x8000
_PTP = 0x4000
_MULTIPLIER = 0xFF


@dataclass(frozen=True, slots=True)
class Replies:
    """UDP payloads and where they came from; a row each."""

    data: Bytes
    """The first 44 bytes at least; what is beyond `length` is undefined."""

    length: Integers
    source: npt.NDArray[np.uint64]
    """IPv6 addresses as they are in memory: two words a row."""

    source_port: Integers
    admitted: Mask
    """False for what is not to be looked into here."""

    t4_ns: Int64
    arrived_ns: Int64
    """T4 by the monotonic clock."""

    kernel_stamped: Mask


class BatchCollector:
    """The sessions of one port."""

    def __init__(self) -> None:
        self._index = np.full(SSIDS, -1, np.int32)
        self._collectors: list[Collector] = []
        self._peer = np.zeros((0, 2), np.uint64)
        self._port = np.zeros(0, np.uint16)

    def serve(self, collectors: Iterable[Collector]) -> None:
        """From now on these, and no others. Each has an SSID of its own."""
        self._collectors = list(collectors)
        self._index[:] = -1
        for index, collector in enumerate(self._collectors):
            if isinstance(collector.config.reflector_address, IPv6Address):
                self._index[collector.config.ssid] = index
        peers = [collector.config.reflector_address.packed for collector in self._collectors]
        packed = b"".join(peer.ljust(16, b"\0") for peer in peers)
        self._peer = np.frombuffer(packed, np.uint64).reshape(-1, 2)
        ports = [collector.config.reflector_udp_port for collector in self._collectors]
        self._port = np.array(ports, np.uint16)

    def receive(self, replies: Replies, single: Callable[[int], None]) -> list[Collector]:
        """Take in all replies; `single` receives the one of a row by itself.

        Returns the sessions that had runs.
        """
        wire = np.ascontiguousarray(replies.data[:, : OPEN.length]).view(_WIRE)[:, 0]
        index = self._index[wire["ssid"]]
        orderly = replies.admitted & (index >= 0) & (replies.length == OPEN.length)
        orderly &= (wire["estimate"] & _MULTIPLIER != 0) & (
            wire["sender_estimate"] & _MULTIPLIER != 0
        )
        if self._collectors:
            orderly &= (replies.source == self._peer[index]).all(axis=1)
            orderly &= replies.source_port == self._port[index]
        touched: dict[int, Collector] = {}
        start, count = 0, len(wire)
        for end in [*np.flatnonzero(~orderly).tolist(), count]:
            if end > start:
                part = _Part(replies, wire, index)
                self._receive_orderly(part, np.arange(start, end), single, touched)
            if end < count:
                single(end)
            start = end + 1
        return list(touched.values())

    def _receive_orderly(
        self,
        part: _Part,
        rows: Integers,
        single: Callable[[int], None],
        touched: dict[int, Collector],
    ) -> None:
        """Those of known sessions, by session, as far as they make runs."""
        groups = _by_session(part.index[rows], rows)
        runs: list[tuple[Collector, Integers, Run]] = []
        rest: list[Integers] = []
        for index, mine in groups:
            collector = self._collectors[index]
            run = None
            if len(mine) >= RUN_MIN:
                run = collector.run_of(
                    part.wire["sender_sequence"][mine].astype(np.int64),
                    part.wire["sequence"][mine].astype(np.int64),
                    part.replies.arrived_ns[mine],
                )
            length = 0 if run is None else len(run.sequences)
            if run is not None and length >= RUN_MIN:
                runs.append((collector, mine[:length], run))
                touched[index] = collector
            else:
                length = 0
            if length < len(mine):
                rest.append(mine[length:])
        if runs:
            _collect(part, runs)
        for mine in rest:
            # The first of them makes no run with those behind it.
            single(int(mine[0]))
            if len(mine) > RUN_MIN:
                self._receive_orderly(part, mine[1:], single, touched)
            else:
                for row in mine[1:].tolist():
                    single(row)


@dataclass(frozen=True, slots=True)
class _Part:
    replies: Replies
    wire: Any
    index: Integers


def _by_session(index: Integers, rows: Integers) -> list[tuple[int, Integers]]:
    """Rows of each session, in their order."""
    if (index == index[0]).all():
        return [(int(index[0]), rows)]
    order = np.argsort(index, kind="stable")
    index, rows = index[order], rows[order]
    starts = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(index)]
    return [(int(index[start]), rows[start:end]) for start, end in itertools.pairwise(starts)]


def _collect(part: _Part, runs: list[tuple[Collector, Integers, Run]]) -> None:
    rows = np.concatenate([mine for _, mine, _ in runs]) if len(runs) > 1 else runs[0][1]
    counts = [len(mine) for _, mine, _ in runs]
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    wire, t4_ns = part.wire[rows], part.replies.t4_ns[rows]
    records = _records(part, rows, wire, t4_ns, runs)
    forward = records["t2_ns"] - records["t1_ns"]
    backward = t4_ns - records["t3_ns"]
    delays = np.stack((forward, backward, forward + backward))
    statistics = _statistics(delays, starts, counts, [collector for collector, _, _ in runs])
    histograms = _histograms(delays, counts)
    for number, (collector, _, run) in enumerate(runs):
        start = int(starts[number])
        last = start + counts[number] - 1
        collector.receive_run(
            run,
            records[start : last + 1],
            statistics[number],
            histograms[number],
            estimate=int(wire["estimate"][last]),
        )


def _records(
    part: _Part,
    rows: Integers,
    wire: Any,
    t4_ns: Int64,
    runs: list[tuple[Collector, Integers, Run]],
) -> Any:
    offsets = {collector.tai_offset_s for collector, _, _ in runs}
    if len(offsets) > 1:
        # They differ for a moment only, when the kernel has just been told.
        parts = [
            _records(part, one[1], part.wire[one[1]], part.replies.t4_ns[one[1]], [one])
            for one in runs
        ]
        return np.concatenate(parts)
    tai_offset_s = offsets.pop()
    records = np.empty(len(rows), RECORD_DTYPE)
    estimate = wire["estimate"].astype(np.uint16)
    sender_estimate = wire["sender_estimate"].astype(np.uint16)
    ptp = estimate & _PTP != 0
    records["sequence"] = np.concatenate([run.sequences for _, _, run in runs])
    records["t1_ns"] = decode_timestamps(
        wire["t1"].astype(np.uint64), sender_estimate & _PTP != 0, t4_ns, tai_offset_s
    )
    records["t2_ns"] = decode_timestamps(wire["t2"].astype(np.uint64), ptp, t4_ns, tai_offset_s)
    records["t3_ns"] = decode_timestamps(wire["t3"].astype(np.uint64), ptp, t4_ns, tai_offset_s)
    records["t4_ns"] = t4_ns
    records["reflector_sequence"] = wire["sequence"]
    records["sender_ttl"] = wire["ttl"]
    records["t1_method"] = TimestampMethod.USERSPACE.code
    records["t4_method"] = np.where(
        part.replies.kernel_stamped[rows],
        TimestampMethod.KERNEL_SOFTWARE.code,
        TimestampMethod.USERSPACE.code,
    )
    records["flags"] = (sender_estimate & _SYNCHRONIZED != 0).astype(np.uint8) | (
        estimate & _SYNCHRONIZED != 0
    ).astype(np.uint8) << 1
    start = 0
    for collector, mine, run in runs:
        end = start + len(mine)
        collector.refine_records(run, records[start:end])
        start = end
    return records


def _statistics(
    delays: npt.NDArray[np.int64],
    starts: Integers,
    counts: list[int],
    collectors: list[Collector],
) -> list[list[DelayRun]]:
    """For each session what each of its three delays did, in order of `DIRECTIONS`."""
    origins = np.array(
        [
            [
                collector.origin_ns(direction, int(delays[direction, start]))
                for collector, start in zip(collectors, starts.tolist(), strict=True)
            ]
            for direction in range(DIRECTIONS)
        ]
    )
    number = np.array(counts)
    about = (delays - np.repeat(origins, counts, axis=1)).astype(np.float64)
    mean = np.add.reduceat(about, starts, axis=1) / number
    m2 = np.add.reduceat((about - np.repeat(mean, counts, axis=1)) ** 2, starts, axis=1)
    least = np.minimum.reduceat(delays, starts, axis=1)
    most = np.maximum.reduceat(delays, starts, axis=1)
    ipdv = np.zeros_like(delays)
    np.abs(np.diff(delays, axis=1), out=ipdv[:, 1:])
    # What pairs with the run before is for the session to know.
    ipdv[:, starts] = 0
    ipdv_sum = np.add.reduceat(ipdv, starts, axis=1)
    ipdv_max = np.maximum.reduceat(ipdv, starts, axis=1)
    ends = starts + number - 1
    firsts, lasts = delays[:, starts], delays[:, ends]
    columns = np.stack((origins, firsts, lasts, least, most, ipdv_sum, ipdv_max))
    whole, means, m2s = columns.transpose(2, 1, 0).tolist(), mean.T.tolist(), m2.T.tolist()
    return [
        [
            DelayRun._make((count, *integers, average, squares))
            for integers, average, squares in zip(whole[at], means[at], m2s[at], strict=True)
        ]
        for at, count in enumerate(counts)
    ]


def _histograms(
    delays: npt.NDArray[np.int64], counts: list[int]
) -> list[list[list[tuple[int, int]]]]:
    """For each session and delay: buckets, and how many samples fell into each."""
    owner = np.repeat(np.arange(len(counts)) * DIRECTIONS, counts)
    keys = (owner + np.arange(DIRECTIONS)[:, None]) * BUCKETS + buckets_of(delays)
    unique, numbers = np.unique(keys, return_counts=True)
    found: list[list[list[tuple[int, int]]]] = [[[] for _ in range(DIRECTIONS)] for _ in counts]
    owners, buckets = np.divmod(unique, BUCKETS)
    for mine, bucket, number in zip(
        owners.tolist(), buckets.tolist(), numbers.tolist(), strict=True
    ):
        found[mine // DIRECTIONS][mine % DIRECTIONS].append((bucket, number))
    return found
