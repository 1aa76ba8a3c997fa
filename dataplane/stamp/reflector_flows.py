"""The Session-Reflector for many requests at once.

A flow is requests that differ in what a verdict does not depend on: sequence
number, timestamp, Hop Limit and Traffic Class. `SessionReflector.receive` judges
the first request of a flow; from then on the same verdict is carried out on whole
arrays. Rules that hold here:

- A request that is anything but an open-mode base packet in order, or whose flow
  is not known, is for `SessionReflector.receive`.
- Replies, counters and the state of sessions come out as if every request had
  been given to `SessionReflector.receive` in the order of the arrays.
- Flows are forgotten whenever what a verdict depends on has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.config import ReflectorMode
from dataplane.measurement import TimestampMethod
from dataplane.stamp.packet import OPEN
from dataplane.stamp.session_reflector import (
    T3_METHOD,
    UNKNOWN_HOP_LIMIT,
    Reply,
    SessionState,
)
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, encode_timestamp
from dataplane.stamp.timestamp_arrays import encode_timestamps

SETS = 16_384
WAYS = 2
"""Flows that are remembered: `WAYS` of each of `SETS` groups that a hash tells apart, the
newest first. One flow more replaces the oldest, which is then judged anew."""

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[Any]
Words = npt.NDArray[np.uint64]

_SHIFT = np.uint64(64 - SETS.bit_length() + 1)
_MIX = tuple(map(np.uint64, (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)))
_SEQUENCE = 0xFFFFFFFF
_KERNEL, _USERSPACE = TimestampMethod.KERNEL_SOFTWARE, TimestampMethod.USERSPACE


@dataclass(frozen=True, slots=True)
class Requests:
    """UDP payloads and where they came from; a row each."""

    data: Bytes
    """The first 44 bytes at least; what is beyond `length` is undefined."""

    length: Integers
    source: Words
    """Addresses of 16 bytes (`dataplane.addresses`) as they are in memory: two words a row."""

    source_port: Integers
    destination: Words
    """The local address, as `source`."""

    interface: Integers
    """Index of the interface; below 2**31."""

    hop_limit: Integers
    """-1 where it cannot be read."""

    t2_ns: npt.NDArray[np.int64]

    kernel_stamped: npt.NDArray[np.bool_]
    """Whether T2 was taken in the kernel, not read by the program."""


@dataclass(slots=True)
class Flow:
    """A verdict that is carried out again and again."""

    state: SessionState
    stateful: bool
    fmt: TimestampFormat


@dataclass(slots=True)
class Replies:
    """Replies that lack T3 and its Error Estimate alone."""

    payloads: Bytes
    """44 bytes a row."""

    flows: list[Flow]
    which: Integers
    """Index, in `flows`, of the flow of each row."""

    lane: Integers
    """Of each row, as it was learnt."""

    def take(self, order: Integers) -> Replies:
        """The same replies in another order."""
        return Replies(self.payloads[order], self.flows, self.which[order], self.lane[order])

    def sent(self, left: npt.NDArray[np.bool_]) -> None:
        """Count those that did leave as reflected."""
        counts = np.bincount(self.which[left], minlength=len(self.flows)).tolist()
        for flow, count in zip(self.flows, counts, strict=True):
            if count:
                flow.state.reflected += count
                flow.state.t3_method = T3_METHOD.code


class ReflectorFlows:
    """The flows of one Session-Reflector."""

    def __init__(self) -> None:
        self._keys = np.zeros((SETS * WAYS, 5), np.uint64)
        self._flows: dict[int, Flow] = {}
        self._lane = np.zeros(SETS * WAYS, np.int64)

    def forget(self) -> None:
        """Everything is to be judged anew."""
        self._flows.clear()
        self._keys[:] = 0

    def find(self, requests: Requests) -> Integers:
        """The place of each request's flow; -1 for one to judge by itself."""
        keys, sets = _keys(requests)
        first = sets * WAYS
        place = np.full(len(first), -1, np.int64)
        for way in range(WAYS):
            at = first + way
            place[(self._keys[at] == keys).all(axis=1)] = way
        regular = (
            (requests.length == OPEN.length)
            & (requests.data[:, 13] != 0)
            & (_receive_timestamp(requests.data) == 0)
        )
        known = regular & (place >= 0)
        return np.where(known, first + place, -1)

    def learn(self, request: Requests, reply: Reply, lane: int) -> None:
        """`reply` is what `SessionReflector.receive` made of the one request given; `lane` is
        the caller's word for what replies of its flow are sent with. Places found before are
        no longer good."""
        keys, sets = _keys(request)
        newest = int(sets[0]) * WAYS
        for place in range(newest + WAYS - 1, newest, -1):
            if place - 1 in self._flows:
                self._keys[place] = self._keys[place - 1]
                self._lane[place] = self._lane[place - 1]
                self._flows[place] = self._flows[place - 1]
        session = reply.session
        self._keys[newest] = keys[0]
        self._lane[newest] = lane
        self._flows[newest] = Flow(
            reply.state,
            session is not None and session.mode is ReflectorMode.STATEFUL,
            reply.timestamp_format,
        )

    def reflect(self, requests: Requests, places: Integers, tai_offset_s: int) -> Replies:
        """Carry out the verdicts; `places` are what `find` said, without -1."""
        unique, last, which, counts = _groups(places)
        flows = [self._flows[place] for place in unique.tolist()]
        t2_ns = requests.t2_ns
        payloads = np.zeros((len(places), OPEN.length), np.uint8)
        data = requests.data
        payloads[:, 14:16] = data[:, 14:16]
        payloads[:, 24:38] = data[:, :14]
        hop_limit = requests.hop_limit
        payloads[:, 40] = np.where(hop_limit < 0, UNKNOWN_HOP_LIMIT, hop_limit)
        payloads[:, 0:4] = _sequences(flows, which, counts, data)
        payloads[:, 16:24] = _times(flows, which, t2_ns, tai_offset_s)
        for flow, count in zip(flows, counts.tolist(), strict=True):
            flow.state.received += count
        # Flows may share a state: that of the latest request is to have the last word.
        for row, index in sorted(zip(last.tolist(), range(len(flows)), strict=True)):
            state = flows[index].state
            state.last_received_ns = int(t2_ns[row])
            state.t2_method = (_KERNEL if requests.kernel_stamped[row] else _USERSPACE).code
        return Replies(payloads, flows, which, self._lane[places])


def stamp(replies: Replies, rows: Any, t3_ns: int, error: ErrorEstimate, tai_offset_s: int) -> None:
    """Fill in T3, the same for all of `rows`, a slice or indices."""
    formats = {flow.fmt for flow in replies.flows}
    for fmt in formats:
        value = encode_timestamp(t3_ns, fmt, tai_offset_s).to_bytes(8, "big")
        value += error.in_format(fmt).encode().to_bytes(2, "big")
        field = np.frombuffer(value, np.uint8)
        if len(formats) == 1:
            replies.payloads[rows, 4:14] = field
        else:
            mine = np.array([flow.fmt is fmt for flow in replies.flows])[replies.which[rows]]
            replies.payloads[np.arange(len(replies.which))[rows][mine], 4:14] = field


def _keys(requests: Requests) -> tuple[Words, npt.NDArray[np.int64]]:
    """What a verdict depends on, in five words a row; and which set it belongs to."""
    data = requests.data
    keys = np.empty((len(data), 5), np.uint64)
    keys[:, 0:2] = requests.source
    keys[:, 2:4] = requests.destination
    ssid = np.ascontiguousarray(data[:, 14:16]).view(np.uint16)[:, 0].astype(np.uint64)
    port = requests.source_port.astype(np.uint64)
    ptp = (data[:, 12] & 0x40 != 0).astype(np.uint64)
    # The top bit tells every key from the zeros of a place that is vacant.
    keys[:, 4] = (
        np.uint64(1 << 63)
        | ptp << np.uint64(62)
        | (requests.interface.astype(np.uint64) & np.uint64(0x3FFFFFFF)) << np.uint64(32)
        | port << np.uint64(16)
        | ssid
    )
    mixed = keys[:, 1] * _MIX[0] ^ keys[:, 3] * _MIX[1] ^ keys[:, 4] * _MIX[2]
    return keys, (mixed * _MIX[0] >> _SHIFT).astype(np.int64)


def _receive_timestamp(data: Bytes) -> Words:
    """Where a reflected packet has T2, and a request zeros."""
    return np.ascontiguousarray(data[:, 16:24]).view(np.uint64)[:, 0]


def _groups(places: Integers) -> tuple[Integers, Integers, Integers, Integers]:
    """Distinct places, the last row of each, the index of each row's, and how many rows."""
    if (places == places[0]).all():
        zero = np.zeros(len(places), np.int64)
        return places[:1], np.array([len(places) - 1]), zero, np.array([len(places)])
    unique, which, counts = np.unique(places, return_inverse=True, return_counts=True)
    last = np.zeros(len(unique), np.int64)
    last[which] = np.arange(len(places))
    return unique, last, which, counts


def _sequences(flows: list[Flow], which: Integers, counts: Integers, data: Bytes) -> Bytes:
    """Four bytes a row: the session's own number, or the Session-Sender's."""
    if not any(flow.stateful for flow in flows):
        return data[:, 0:4]
    if len(flows) == 1:
        rank: Integers = np.arange(len(which))
    else:
        order = np.argsort(which, kind="stable")
        rank = np.empty(len(which), np.int64)
        starts = np.cumsum(counts) - counts
        rank[order] = np.arange(len(which)) - np.repeat(starts, counts)
    # Two flows of one session, from two ports for instance, share its counter.
    states = {id(flow.state) for flow in flows if flow.stateful}
    if len(states) < sum(flow.stateful for flow in flows):
        return _shared_sequences(flows, which, data)
    taken = zip(flows, counts.tolist(), strict=True)
    first = np.array([flow.state.take(count) if flow.stateful else 0 for flow, count in taken])
    numbers = (first[which] + rank & _SEQUENCE).astype(">u4").view(np.uint8).reshape(-1, 4)
    stateful = np.array([flow.stateful for flow in flows])[which]
    result: Bytes = np.where(stateful[:, None], numbers, data[:, 0:4])
    return result


def _shared_sequences(flows: list[Flow], which: Integers, data: Bytes) -> Bytes:
    numbers = data[:, 0:4].copy()
    for row, index in enumerate(which.tolist()):
        flow = flows[index]
        if flow.stateful:
            number = flow.state.take(1)
            numbers[row] = np.frombuffer(number.to_bytes(4, "big"), np.uint8)
    return numbers


def _times(
    flows: list[Flow], which: Integers, t2_ns: npt.NDArray[np.int64], tai_offset_s: int
) -> Bytes:
    """Eight bytes a row: T2 in the flow's format."""

    def wire(fmt: TimestampFormat) -> Bytes:
        return (
            encode_timestamps(t2_ns, fmt, tai_offset_s).astype(">u8").view(np.uint8).reshape(-1, 8)
        )

    formats = {flow.fmt for flow in flows}
    if len(formats) == 1:
        return wire(formats.pop())
    ptp = np.array([flow.fmt is TimestampFormat.PTPV2 for flow in flows])[which]
    result: Bytes = np.where(ptp[:, None], wire(TimestampFormat.PTPV2), wire(TimestampFormat.NTP))
    return result
