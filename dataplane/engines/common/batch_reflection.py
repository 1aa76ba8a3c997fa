"""Requests in batches, replies in bursts.

What `ReflectorFlows` knows goes through whole arrays; every other packet goes to
`ReflectorRole`, one by one and in its turn. Replies that leave with the same
addresses, SRH and DSCP are sent in bursts, each with a T3 of its own.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dataplane.addresses import address_of, endpoint, packed, text_of
from dataplane.clock import Clock, wall_ns
from dataplane.engines.base import Attachment
from dataplane.engines.common.batch import BATCH, BURST, SMALL, Batch, BatchTransport
from dataplane.engines.common.transport import Datagram
from dataplane.srv6 import rthdr_for_socket
from dataplane.stamp.packet import OPEN
from dataplane.stamp.rate_limit import RateLimiter
from dataplane.stamp.reflector_flows import ReflectorFlows, Replies, Requests, stamp
from dataplane.stamp.session_reflector import Reply, SessionReflector
from dataplane.stamp.timestamp import TimestampFormat

HOP_LIMIT = 255
DSCP_MASK = 0xFC

LANES_MAX = 4_096
"""Ways to dress and address replies that are remembered; beyond, all flows are
judged anew."""

LEARNT_MAX = 8
"""Flows of one batch after which its remaining requests are looked up once more."""

LEARNT_LATER_MAX = 64
"""Flows that are learnt when the batch has been answered, beside those; more wait for
another batch."""

Rows = slice | npt.NDArray[np.intp]

_DSCP_BITS = 6
_DSCP = (1 << _DSCP_BITS) - 1

_rthdr = functools.lru_cache(maxsize=4096)(rthdr_for_socket)


class Lane(NamedTuple):
    """What replies that can share a burst have in common, but for the DSCP."""

    rthdr: bytes
    source: bytes
    destination: bytes
    port: int
    scope_id: int


def rthdr_of(segments: tuple[IPv6Address, ...]) -> bytes:
    """The SRH of a path as `Transport.dress` wants it."""
    return _rthdr(segments) if segments else b""


def unanswered_text(source: str, port: int, error: OSError) -> str:
    """What an operator is told: "cannot answer [fd00::1]:49862: Network is …"."""
    return f"cannot answer {endpoint(source, port)}: {error.strerror}"


class BatchReflection:
    """The batches of one transport."""

    def __init__(self, transport: BatchTransport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        self._batch = Batch(BATCH)
        self._more = False
        self._flows = ReflectorFlows()
        self._lanes: list[Lane] = []
        self._lane_numbers: dict[Lane, int] = {}

    @property
    def more(self) -> bool:
        """Whether there may be more to receive."""
        return self._more

    @property
    def flooded(self) -> bool:
        """Whether what was received last is a flood."""
        return self._batch.is_flood

    @property
    def limitation(self) -> str | None:
        return self._transport.limitation

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        return self._transport.attachments

    def forget(self) -> None:
        """What a verdict depends on has changed."""
        self._flows.forget()
        self._lanes.clear()
        self._lane_numbers.clear()

    def serve(
        self,
        core: SessionReflector,
        reflect: Callable[[Datagram], Reply | None],
        limiter: RateLimiter | None,
    ) -> tuple[Counter[str], int]:
        """Receive once, and answer. `reflect` does so for one packet, and asks `limiter`.

        Returns the replies that could not be sent, by what an operator is told; and how
        many of the other requests `limiter` did not admit.
        """
        batch, failed, refused = self._batch, Counter[str](), 0
        self._more = self._transport.receive_batch(batch)
        count = batch.count
        if count < SMALL:
            for row in range(count):
                reflect(batch.datagram(row))
            return failed, refused
        places = self._flows.find(_requests(batch, slice(count)))
        learnt = row = 0
        later: list[tuple[int, Reply]] = []
        while row < count:
            unknown = np.flatnonzero(places[row:] < 0)
            end = row + int(unknown[0]) if len(unknown) else count
            rows = _admitted(batch, row, end, limiter)
            known = places[rows]
            refused += end - row - len(known)
            if len(known):
                replies = self._flows.reflect(_requests(batch, rows), known, core.tai_offset_s)
                self._send(replies, batch.traffic_class[rows] & DSCP_MASK, core, failed)
            if end < count:
                reply = reflect(batch.datagram(end))
                if reply is not None and batch.length[end] == OPEN.length:
                    # What is learnt may take the place of another: places are good until then.
                    if learnt < LEARNT_MAX:
                        learnt += 1
                        self._learn(batch, end, reply)
                        rest = slice(end + 1, count)
                        places[rest] = self._flows.find(_requests(batch, rest))
                    elif len(later) < LEARNT_LATER_MAX:
                        later.append((end, reply))
            row = end + 1
        for row, reply in later:
            if self._flows.find(_requests(batch, slice(row, row + 1)))[0] < 0:
                self._learn(batch, row, reply)
        return failed, refused

    def _learn(self, batch: Batch, row: int, reply: Reply) -> None:
        """What was replied to one packet is replied to its flow from now on."""
        datagram = batch.datagram(row)
        lane = Lane(
            rthdr_of(reply.segments),
            datagram.destination,
            packed(address_of(datagram.source)),
            datagram.source_port,
            datagram.zone,
        )
        number = self._lane_numbers.get(lane)
        if number is None:
            if len(self._lanes) == LANES_MAX:
                self.forget()
            number = self._lane_numbers[lane] = len(self._lanes)
            self._lanes.append(lane)
        self._flows.learn(_requests(batch, slice(row, row + 1)), reply, number)

    def _send(
        self,
        replies: Replies,
        traffic_class: npt.NDArray[np.int32],
        core: SessionReflector,
        failed: Counter[str],
    ) -> None:
        keys = replies.lane << _DSCP_BITS | traffic_class >> 2
        if not (keys == keys[0]).all():
            order = np.argsort(keys, kind="stable")
            keys, replies = keys[order], replies.take(order)
        ends = [*(np.flatnonzero(np.diff(keys)) + 1).tolist(), len(keys)]
        left = np.ones(len(keys), np.bool_)
        start = 0
        for end in ends:
            key = int(keys[start])
            lane, dscp = self._lanes[key >> _DSCP_BITS], key & _DSCP
            while start < end:
                rows = slice(start, min(end, start + BURST))
                try:
                    start += self._burst(replies, rows, lane, dscp << 2, core.tai_offset_s)
                except OSError as error:
                    text = unanswered_text(text_of(lane.destination), lane.port, error)
                    failed[text] += 1
                    left[start] = False
                    start += 1
        replies.sent(left)

    def _burst(
        self, replies: Replies, rows: slice, lane: Lane, traffic_class: int, tai_offset_s: int
    ) -> int:
        transport = self._transport
        transport.dress(lane.rthdr, traffic_class, HOP_LIMIT)
        error = self._clock.error_estimate(TimestampFormat.NTP)
        stamp(replies, rows, wall_ns(), error, tai_offset_s)
        return transport.send_burst(replies.payloads[rows], *lane[1:])


def _admitted(batch: Batch, start: int, end: int, limiter: RateLimiter | None) -> Rows:
    """The rows from `start` to before `end` that may be answered."""
    rows = slice(start, end)
    if limiter is None or start == end:
        return rows
    admitted = limiter.admitted(batch.source[rows], batch.received_ns[rows])
    return rows if admitted.all() else start + np.flatnonzero(admitted)


def _requests(batch: Batch, rows: Rows) -> Requests:
    return Requests(
        batch.data[rows],
        batch.length[rows],
        batch.source[rows],
        batch.source_port[rows],
        batch.destination[rows],
        batch.interface[rows],
        batch.hop_limit[rows],
        batch.received_ns[rows],
        batch.kernel_stamped[rows],
    )
