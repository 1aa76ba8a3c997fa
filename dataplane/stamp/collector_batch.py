"""The Collectors of one port, for many replies at once.

Rules that hold here:

- What is stored comes out as if every reply had been given to `Collector.receive`
  in the order of the arrays, for each session; means and variances to the precision
  of a float64.
- A run is replies of one session that arrived in time and in the order of their
  sequence numbers, each the first to its packet. Runs go through arrays, of all
  sessions together.
- Where many sessions have a few replies each, these go through arrays in rounds: the
  first of each session, then the second, and so on.
- Other replies of known sessions are decoded together and taken one by one. What is
  not well-formed or of no session known here is given back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.addresses import packed
from dataplane.histogram import BUCKETS, buckets_of, distances
from dataplane.measurement import RECORD_DTYPE, TimestampMethod
from dataplane.session_state import DIRECTIONS
from dataplane.stamp.collector import Collector
from dataplane.stamp.collector_rounds import (
    delays_of,
    fit_for_round,
    places_in_histograms,
    refine_round,
    take_round,
)
from dataplane.stamp.interval_rounds import close_over
from dataplane.stamp.packet import OPEN
from dataplane.stamp.replies import Reply, Run
from dataplane.stamp.sender_rounds import all_sent
from dataplane.stamp.session_table import EARLIEST_T1_NS, END_NS, TAI_OFFSET_S, SessionTable
from dataplane.stamp.timestamp_arrays import decode_timestamps
from dataplane.statistics import FAR_NS, INT64_MAX, DelayRun

RUN_MIN = 4
"""Replies that are worth being a run."""

ROUND_MIN = 8
"""Replies, of as many sessions, that are worth being a round."""

ROUNDS_TO_RUN = 8
"""A round costs as much as that many runs."""

STUMBLE = 16
"""Replies that are taken one by one where a run breaks off."""

SSIDS = 1 << 16

_WRAP = 1 << 32
_HALF = 1 << 31

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
    """Addresses of 16 bytes (`dataplane.addresses`) as they are in memory: two words a row."""

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
        self._collectors: dict[int, Collector] = {}
        """By SSID, as what follows."""

        self._known = np.zeros(SSIDS, np.bool_)
        self._peer = np.zeros((SSIDS, 2), np.uint64)
        self._port = np.zeros(SSIDS, np.uint16)
        self._table: SessionTable | None = None

    def serve(self, ssid: int, collector: Collector | None) -> None:
        """From now on replies that carry this SSID are this one's; None: nobody's. All have
        the same table, or none."""
        self._known[ssid] = collector is not None
        if collector is None:
            self._collectors.pop(ssid, None)
            return
        config = collector.config
        self._collectors[ssid] = collector
        self._peer[ssid] = np.frombuffer(packed(config.reflector_address), np.uint64)
        self._port[ssid] = config.reflector_udp_port
        self._table = collector.row.table

    def receive(self, replies: Replies, single: Callable[[int], None]) -> list[Collector]:
        """Take in all replies; `single` receives the one of a row by itself.

        Returns the sessions that had any which were not given to `single`, but for those
        of which nothing has become known except delays.
        """
        wire = np.ascontiguousarray(replies.data[:, : OPEN.length]).view(_WIRE)[:, 0]
        index = wire["ssid"].astype(np.intp)
        orderly = replies.admitted & self._known[index] & (replies.length == OPEN.length)
        orderly &= (wire["estimate"] & _MULTIPLIER != 0) & (
            wire["sender_estimate"] & _MULTIPLIER != 0
        )
        orderly &= (replies.source == self._peer[index]).all(axis=1)
        orderly &= replies.source_port == self._port[index]
        touched: dict[int, Collector] = {}
        start, count = 0, len(wire)
        for end in [*np.flatnonzero(~orderly).tolist(), count]:
            if end > start:
                part = _Part(replies, wire, index)
                self._receive_orderly(part, np.arange(start, end), touched)
            if end < count:
                single(end)
            start = end + 1
        return list(touched.values())

    def _receive_orderly(
        self,
        part: _Part,
        rows: Integers,
        touched: dict[int, Collector],
    ) -> None:
        """Those of known sessions, by session, as far as they make runs."""
        index = part.index[rows]
        if not (index == index[0]).all():
            order = np.argsort(index, kind="stable")
            index, rows = index[order], rows[order]
        ends = [*(np.flatnonzero(index[1:] != index[:-1]) + 1).tolist(), len(index)]
        starts = [0, *ends[:-1]]
        owners = index[starts].tolist()
        counts = [end - start for start, end in zip(starts, ends, strict=True)]
        most = max(counts)
        if (
            self._table is not None
            and len(counts) >= ROUND_MIN
            and (most < RUN_MIN or most * ROUNDS_TO_RUN <= len(counts))
        ):
            self._take_in_rounds(part, rows, np.array(starts), np.array(counts), touched)
            return
        touched |= {owner: self._collectors[owner] for owner in owners}
        if most < RUN_MIN:
            self._take(part, rows)
            return
        candidates = _Candidates(part, rows, starts, counts, [touched[each] for each in owners])
        runs, rest = [], []
        for number, length in enumerate(candidates.lengths()):
            start = starts[number]
            if length < RUN_MIN:
                length = 0
            else:
                runs.append(candidates.run(number, length))
            if length < counts[number]:
                rest.append(rows[start + length : start + counts[number]])
        if runs:
            rest[:0] = _collect(part, runs)
        for mine in rest:
            # The first of them makes no run with those behind it.
            self._take(part, mine[:STUMBLE])
            if len(mine) > STUMBLE:
                self._receive_orderly(part, mine[STUMBLE:], touched)

    def _take_in_rounds(
        self,
        part: _Part,
        rows: Integers,
        starts: Integers,
        counts: Integers,
        touched: dict[int, Collector],
    ) -> None:
        for number in range(int(counts.max())):
            mine = rows[starts[counts > number] + number]
            rest = mine
            if len(mine) >= ROUND_MIN:
                rest = mine[~self._take_round(part, mine, touched)]
            if len(rest):
                owners = part.index[rest].tolist()
                touched |= {owner: self._collectors[owner] for owner in owners}
                self._take(part, rest)

    def _take_round(self, part: _Part, rows: Integers, touched: dict[int, Collector]) -> Mask:
        """Those of different sessions; says which have been taken in. Sessions whose runs
        may be complete now are `touched`."""
        table = self._table
        assert table is not None
        sessions, replies = part.wire["ssid"][rows].astype(np.intp), part.replies
        arrived_ns = replies.arrived_ns[rows]
        over = arrived_ns >= table.columns[END_NS][sessions]
        if over.any():
            close_over(table, sessions[over], arrived_ns[over])
        done, sequences = fit_for_round(table, sessions, part.wire[rows], arrived_ns)
        fit = np.flatnonzero(done)
        if not len(fit):
            return done
        mine, sessions, sequences = rows[fit], sessions[fit], sequences[fit]
        tai_offset_s = int(table.cells[TAI_OFFSET_S, sessions[0]])
        records = _decoded(part, mine, part.wire[mine], replies.t4_ns[mine], tai_offset_s)
        records["sequence"] = sequences
        ours = records["t1_ns"] >= table.columns[EARLIEST_T1_NS][sessions]
        if not ours.all():
            done[fit[~ours]] = False
            fit, mine, sessions = fit[ours], mine[ours], sessions[ours]
            sequences, records = sequences[ours], records[ours]
        refine_round(table, sessions, sequences, records)
        delays = delays_of(records)
        places, known = places_in_histograms(table, sessions, delays)
        if not known.all():
            done[fit[~known]] = False
            sessions, sequences, records = sessions[known], sequences[known], records[known]
            delays, places = delays[known], places[known]
        estimates = part.wire["estimate"][rows[done]].astype(np.uint16)
        take_round(table, sessions, sequences, records, delays, places, estimates)
        ended = all_sent(table, sessions)
        if ended.any():
            owners = part.index[mine[done[fit]]][ended].tolist()
            touched |= {owner: self._collectors[owner] for owner in owners}
        return done

    def _take(self, part: _Part, rows: Integers) -> None:
        """One by one, but decoded all at once."""
        collectors = [self._collectors[index] for index in part.index[rows].tolist()]
        offsets = {collector.tai_offset_s for collector in collectors}
        if len(offsets) > 1:
            for row in rows.tolist():
                self._take(part, np.array([row]))
            return
        wire = part.wire[rows]
        records = _decoded(part, rows, wire, part.replies.t4_ns[rows], offsets.pop())
        replies = zip(
            wire["sender_sequence"].tolist(),
            wire["sequence"].tolist(),
            *(records[name].tolist() for name in _TAKEN),
            wire["estimate"].tolist(),
            strict=True,
        )
        arrived_ns = part.replies.arrived_ns[rows].tolist()
        for collector, reply, at_ns in zip(collectors, replies, arrived_ns, strict=True):
            collector.take(Reply._make(reply), at_ns)


_TAKEN = ("t1_ns", "t2_ns", "t3_ns", "t4_ns", "t4_method", "sender_ttl", "flags")
"""Columns of records, in the order of `Reply`."""


@dataclass(frozen=True, slots=True)
class _Part:
    replies: Replies
    wire: Any
    index: Integers


class _Candidates:
    """Replies that may make runs, by session."""

    def __init__(
        self,
        part: _Part,
        rows: Integers,
        starts: list[int],
        counts: list[int],
        collectors: list[Collector],
    ) -> None:
        self._rows, self._starts, self._counts = rows, starts, counts
        self._collectors = collectors
        self._outlooks = [collector.outlook() for collector in collectors]
        columns = np.repeat(np.array(self._outlooks, np.int64).T, counts, axis=1)
        newest, first, window, mask, highest, end_ns, timeout_ns, stateful, latest, _ = columns
        ages = (newest - part.wire["sender_sequence"][rows]) % _WRAP
        self._sequences = newest - ages
        under_way, sent_ns = self._packets(self._sequences & mask)
        arrived_ns = part.replies.arrived_ns[rows]
        fit = under_way & (ages < window) & (self._sequences >= first)
        fit &= (arrived_ns < end_ns) & (arrived_ns <= sent_ns + timeout_ns)
        fit &= self._sequences > _shifted(self._sequences, starts, highest)
        self._numbers: Int64 | None = None
        if stateful.any():
            counters = part.wire["sequence"][rows].astype(np.int64)
            distances = (counters - _shifted(counters, starts, latest) + _HALF) % _WRAP - _HALF
            fit &= (distances > 0) | (stateful == 0)
            sums = np.cumsum(distances)
            self._numbers = latest + sums - np.repeat((sums - distances)[starts], counts)
        self._fit = fit

    def _packets(self, slots: Int64) -> tuple[Mask, Int64]:
        under_way, sent_ns = np.empty(len(slots), np.bool_), np.empty(len(slots), np.int64)
        for collector, start, count in zip(
            self._collectors, self._starts, self._counts, strict=True
        ):
            mine = slice(start, start + count)
            under_way[mine], sent_ns[mine] = collector.packets(slots[mine])
        return under_way, sent_ns

    def lengths(self) -> list[int]:
        """For each session how many replies, from the first on, make a run."""
        lengths = list(self._counts)
        if not self._fit.all():
            for number, (start, count) in enumerate(zip(self._starts, lengths, strict=True)):
                mine = self._fit[start : start + count]
                lengths[number] = count if mine.all() else int(np.argmin(mine))
        return [
            min(length, outlook.room)
            for length, outlook in zip(lengths, self._outlooks, strict=True)
        ]

    def run(self, number: int, length: int) -> tuple[Collector, Integers, Run]:
        mine = slice(self._starts[number], self._starts[number] + length)
        numbers = None
        if self._outlooks[number].stateful:
            assert self._numbers is not None
            numbers = self._numbers[mine]
        return self._collectors[number], self._rows[mine], Run(self._sequences[mine], numbers)


def _shifted(values: Int64, starts: list[int], first: Int64) -> Int64:
    """Of each value the one before it in its group; `first` has that of each first one."""
    before = np.empty_like(values)
    before[1:] = values[:-1]
    before[starts] = first[starts]
    return before


def _collect(part: _Part, runs: list[tuple[Collector, Integers, Run]]) -> list[Integers]:
    """Returns the rows of runs that are none: with replies to packets of an earlier life."""
    if not runs:
        return []
    rows = np.concatenate([mine for _, mine, _ in runs]) if len(runs) > 1 else runs[0][1]
    counts = [len(mine) for _, mine, _ in runs]
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    wire, t4_ns = part.wire[rows], part.replies.t4_ns[rows]
    records = _records(part, rows, wire, t4_ns, runs)
    first_ns = np.minimum.reduceat(records["t1_ns"], starts)
    ours = (first_ns >= [collector.earliest_t1_ns for collector, _, _ in runs]).tolist()
    if not all(ours):
        _collect(part, list(compress(runs, ours)))
        return [mine for (_, mine, _), good in zip(runs, ours, strict=True) if not good]
    for (collector, _, run), start, count in zip(runs, starts.tolist(), counts, strict=True):
        collector.refine_records(run, records[start : start + count])
    forward = records["t2_ns"] - records["t1_ns"]
    backward = t4_ns - records["t3_ns"]
    delays = np.stack((forward, backward, forward + backward))
    origins = _origins(delays, starts, [collector for collector, _, _ in runs])
    statistics = _statistics(delays, origins, starts, counts)
    buckets = buckets_of(distances(delays, np.repeat(origins, counts, axis=1)))
    buckets += np.arange(DIRECTIONS)[:, None] * BUCKETS
    for number, (collector, _, run) in enumerate(runs):
        start = int(starts[number])
        last = start + counts[number] - 1
        collector.receive_run(
            run,
            records[start : last + 1],
            statistics[number],
            buckets[:, start : last + 1],
            estimate=int(wire["estimate"][last]),
        )
    return []


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
    records = _decoded(part, rows, wire, t4_ns, offsets.pop())
    records["sequence"] = np.concatenate([run.sequences for _, _, run in runs])
    return records


def _decoded(part: _Part, rows: Integers, wire: Any, t4_ns: Int64, tai_offset_s: int) -> Any:
    """Records without sequence numbers."""
    records = np.zeros(len(rows), RECORD_DTYPE)
    estimate = wire["estimate"].astype(np.uint16)
    sender_estimate = wire["sender_estimate"].astype(np.uint16)
    ptp = estimate & _PTP != 0
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
    return records


def _origins(delays: Int64, starts: Integers, collectors: list[Collector]) -> Int64:
    """Of each delay of each session."""
    return np.array(
        [
            [
                collector.origin_ns(direction, int(delays[direction, start]))
                for collector, start in zip(collectors, starts.tolist(), strict=True)
            ]
            for direction in range(DIRECTIONS)
        ]
    )


def _statistics(
    delays: Int64, origins: Int64, starts: Integers, counts: list[int]
) -> list[list[DelayRun]]:
    """For each session what each of its three delays did, in order of `DIRECTIONS`."""
    if max(np.abs(delays).max(), np.abs(origins).max()) > FAR_NS:
        # Slow, and right for whatever timestamps the others may have sent.
        delays, origins = delays.astype(object), origins.astype(object)
    number = np.array(counts)
    about = (delays - np.repeat(origins, counts, axis=1)).astype(np.float64)
    mean = np.add.reduceat(about, starts, axis=1) / number
    m2 = np.add.reduceat((about - np.repeat(mean, counts, axis=1)) ** 2, starts, axis=1)
    least = np.minimum.reduceat(delays, starts, axis=1)
    most = np.maximum.reduceat(delays, starts, axis=1)
    ipdv = np.zeros_like(delays)
    ipdv[:, 1:] = np.minimum(np.abs(np.diff(delays, axis=1)), INT64_MAX)
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
