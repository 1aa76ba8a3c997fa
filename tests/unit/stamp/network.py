"""A Session-Sender, a Session-Reflector and the network between them, in memory.

Time is simulated; each packet's fate is given, so what the collector finds can
be compared with what happened.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from dataplane.config import DelayMode, ReflectorMode, SenderSession
from dataplane.stamp.collector import Collector
from dataplane.stamp.packet import ReflectorPacket
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, encode_timestamp
from dataplane.store import SessionStore

SENDER = IPv6Address("2001:db8::1")
REFLECTOR = IPv6Address("2001:db8::2")
UNIX_NS = 1_790_000_000_000_000_000
MS = 1_000_000
S = 1_000 * MS
TURNAROUND_NS = 10_000
ESTIMATE = ErrorEstimate.from_error_ns(1_000, True, TimestampFormat.PTPV2)


def session(**changes: Any) -> SenderSession:
    values: dict[str, Any] = {
        "ssid": 7,
        "reflector_address": REFLECTOR,
        "source_address": SENDER,
        "interval_us": 10_000,
        "loss_timeout_ms": 100,
        "computation_interval_s": 1,
        "timestamp_format": TimestampFormat.PTPV2,
        "reflector_mode": ReflectorMode.STATEFUL,
        "delay_mode": DelayMode.TWO_WAY,
        "result_depth": 1_000,
    }
    return SenderSession(**(values | changes))


def reply(sequence: int, counter: int, t1_ns: int, t2_ns: int, t3_ns: int, **changes: Any) -> bytes:
    """A reply with PTPv2 timestamps."""
    values: dict[str, Any] = {
        "sequence": counter % 2**32,
        "timestamp": encode_timestamp(t3_ns, TimestampFormat.PTPV2),
        "error_estimate": ESTIMATE,
        "ssid": 7,
        "receive_timestamp": encode_timestamp(t2_ns, TimestampFormat.PTPV2),
        "sender_sequence": sequence % 2**32,
        "sender_timestamp": encode_timestamp(t1_ns, TimestampFormat.PTPV2),
        "sender_error_estimate": ESTIMATE,
        "sender_ttl": 250,
    }
    return ReflectorPacket(**(values | changes)).encode()


@dataclass(frozen=True)
class Fate:
    """What happens to one packet: for each copy that reaches the reflector its
    delay, and for each of those the delays of the copies of its reply."""

    copies: tuple[tuple[int, tuple[int, ...]], ...] = ((2 * MS, (3 * MS,)),)


FINE = Fate()
FORWARD_LOST = Fate(())
BACKWARD_LOST = Fate(((2 * MS, ()),))


class Network:
    def __init__(
        self,
        store: SessionStore,
        config: SenderSession,
        *,
        clock_offset_ns: int = 0,
        counter: int = 0,
    ) -> None:
        self.store = store
        self.config = config
        self.collector = Collector(config, store, now_ns=0)
        self.clock_offset_ns = clock_offset_ns
        self.counter = counter
        self.now_ns = 0
        self.closed: list[int] = []
        self.published: Callable[[], None] = lambda: None
        """Called after every event."""
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self.collector.start(0, UNIX_NS)

    @classmethod
    def make(cls, folder: Path, *, counter: int = 0, offset_ns: int = 0, **changes: Any) -> Network:
        config = session(**changes)
        store = SessionStore.create(folder / "session", config)
        return cls(store, config, counter=counter, clock_offset_ns=offset_ns)

    def at(self, time_ns: int, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (time_ns, self._order, action))

    def send(self, fates: Sequence[Fate]) -> None:
        """One packet for each fate, at the session's interval, from now on."""
        for index, fate in enumerate(fates):
            at_ns = self.now_ns + index * self.config.interval_us * 1_000
            self.at(at_ns, lambda fate=fate: self._leave(fate))  # type: ignore[misc]

    def run(self, until_ns: int | None = None) -> None:
        """Let everything happen (until then); timers fire as they are due."""
        while self._events and (until_ns is None or self._events[0][0] <= until_ns):
            due = self.collector.next_timer_ns()
            if due is not None and due < self._events[0][0]:
                self.now_ns = max(self.now_ns, due)
                self.closed += self.collector.expire(self.now_ns)
            else:
                self.now_ns, _, action = heapq.heappop(self._events)
                action()
            self.published()
        if until_ns is not None:
            self.now_ns = until_ns
            self.closed += self.collector.expire(until_ns)

    def drain(self) -> None:
        """Let everything happen, and wait until all that is lost has timed out."""
        self.run()
        while self.collector.in_flight:
            due = self.collector.next_timer_ns()
            assert due is not None
            self.now_ns = due
            self.closed += self.collector.expire(due)
            self.published()

    def _leave(self, fate: Fate) -> None:
        sequence, t1_ns = self.collector.next_sequence, UNIX_NS + self.now_ns
        self.collector.sent(sequence, t1_ns, self.now_ns)
        for delay_ns, replies in fate.copies:
            self.at(
                self.now_ns + delay_ns,
                lambda replies=replies: self._reflect(sequence, t1_ns, replies),  # type: ignore[misc]
            )

    def _reflect(self, sequence: int, t1_ns: int, replies: tuple[int, ...]) -> None:
        t2_ns = UNIX_NS + self.now_ns + self.clock_offset_ns
        data = reply(sequence, self.counter, t1_ns, t2_ns, t2_ns + TURNAROUND_NS)
        self.counter += 1
        for delay_ns in replies:
            self.at(self.now_ns + TURNAROUND_NS + delay_ns, lambda: self._arrive(data))

    def _arrive(self, data: bytes) -> None:
        self.collector.receive(
            data,
            source=REFLECTOR,
            source_port=self.config.reflector_udp_port,
            t4_ns=UNIX_NS + self.now_ns,
            now_ns=self.now_ns,
        )
