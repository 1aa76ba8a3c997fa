"""What a reply costs in the collector's program, for `cost`.

Each run takes in the reply to another packet, as in a session that loses nothing.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path

import numpy as np

from dataplane.bpf.program import BpfError, BpfModule
from dataplane.bpf.syscall import XDP_DROP, run_program
from dataplane.clock import monotonic_ns, read_clock_status, wall_ns
from dataplane.config import ReflectorMode, SenderSession
from dataplane.engines.driver.interfaces import Device, Place
from dataplane.engines.xdp.collection import DriverCollector
from dataplane.engines.xdp.collector_tables import CollectorTables
from dataplane.frames import Datagram, Frame, pseudo_header
from dataplane.stamp.packet import OPEN, ReflectorPacket
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, encode_timestamp
from dataplane.store import SessionStore

SEGMENTS = (0, 2, 8)
_BARE = ("counting_drop", "clock_drop")
"""Programs that are given any packet."""

AT_ONCE = 100_000
"""Packets that are under way before their replies come."""

_REFLECTOR = IPv6Address("fd00:b::1")
_SENDER = IPv6Address("fd00:a::1")
_SIDS = tuple(IPv6Address(f"fc00:e::{n:x}") for n in range(1, 10))
_LOOPBACK = 1
_ERROR = ErrorEstimate(False, TimestampFormat.NTP, 0, 1)
_INTERVAL_US = 1_000_000
_ROUND_TRIP_NS = 1_010_000
"""Of the replies, until they are made."""

_FEED = np.dtype([(name, np.uint64) for name in ("base_at", "sequence", "sum", "counted")])
"""`struct feed` of collector_cost.c."""


@dataclass(frozen=True, slots=True)
class CostedCollector:
    """The collector and replies with an SRH of so many segments; or a part of it."""

    name: str
    program: str
    segments: int
    bench: Bench = field(repr=False)

    def ns_per_packet(self, repeat: int) -> float:
        """Mean time of `repeat` runs: what making the reply takes is not the collector's."""
        spent = self.bench.run(self.program, self.segments, repeat)
        if self.program in _BARE:
            return spent
        made = self.bench.run("fed_drop", self.segments, repeat)
        return spent - made + self.bare_ns(repeat)

    def bare_ns(self, repeat: int) -> float:
        """The same of a program that counts and drops."""
        return self.bench.run("counting_drop", self.segments, repeat)


@contextlib.contextmanager
def costed_collectors() -> Iterator[Sequence[CostedCollector]]:
    """Load the programs for the time of the context. Raises BpfError, LoadError and OSError."""
    module = BpfModule(Path(__file__).with_name("collector_cost.c"))
    try:
        with tempfile.TemporaryDirectory(prefix="stamp-cost-") as folder:
            bench = Bench(module, Path(folder))
            yield [
                CostedCollector("reading CLOCK_TAI", "clock_drop", 0, bench),
                *(CostedCollector("collector", "fed_collector", n, bench) for n in SEGMENTS),
            ]
            bench.close()
    finally:
        module.close()


class Bench:
    """The programs of collector_cost.c, and the session whose replies they are given."""

    def __init__(self, module: BpfModule, folder: Path) -> None:
        self._programs = {name: module.load(name) for name in ("fed_collector", "fed_drop", *_BARE)}
        module.load("control")
        module.free_compiler()
        tables = CollectorTables(module)
        tables.set_clock(read_clock_status())
        tables.set_monotonic_offset(monotonic_ns() - wall_ns())
        session = SenderSession(
            *(1, _REFLECTOR, _SENDER),
            interval_us=_INTERVAL_US,
            loss_timeout_ms=AT_ONCE * _INTERVAL_US // 1_000,
            reflector_mode=ReflectorMode.STATEFUL,
        )
        tables.ports.add(session.sender_udp_port)
        device = Device(_LOOPBACK, _frame(0, wall_ns()).destination_mac, takes_srh=True)
        tables.set_interfaces({Place(_LOOPBACK): device})
        self._feed = module.array("feeds", _FEED)
        self._store = SessionStore.create(folder / "store", session)
        self._collector = DriverCollector(session, self._store, module, now_ns=monotonic_ns())
        self._collector.start(monotonic_ns(), wall_ns())

    def run(self, name: str, segments: int, repeat: int) -> float:
        """Nanoseconds of one run, the mean of `repeat`. Raises BpfError where a reply is
        not taken in."""
        spent_ns = 0.0
        for left in range(repeat, 0, -AT_ONCE):
            runs = min(left, AT_ONCE)
            spent_ns += runs * self._run(name, segments, runs)
        return spent_ns / repeat

    def _run(self, name: str, segments: int, runs: int) -> float:
        collects, first = name == "fed_collector", self._collector.next_sequence
        now_ns = wall_ns()
        frame = _frame(segments, now_ns)
        if collects:
            self._collector.announce(runs, now_ns - _ROUND_TRIP_NS, monotonic_ns())
        data = frame.encode()
        base_at = len(data) - OPEN.length - 8
        udp = data[base_at : base_at + 6] + bytes(2) + data[base_at + 8 :]
        summed = udp + pseudo_header(frame.datagram, len(udp))
        self._feed["base_at"] = base_at
        self._feed["sequence"] = first
        self._feed["sum"] = np.frombuffer(summed, np.uint32).sum(dtype=np.uint64)
        duration_ns = run_program(self._programs[name], data, repeat=runs)
        if duration_ns.action != XDP_DROP:
            raise BpfError(f"program {name} ends with {duration_ns.action}, not with {XDP_DROP}")
        if collects:
            before = self._store.state.head.counters.received
            self._collector.drain(monotonic_ns())
            received = self._store.state.head.counters.received - before
            if received != runs:
                raise BpfError(f"of {runs} replies {received} were taken in")
        return float(duration_ns.duration_ns)

    def close(self) -> None:
        self._collector.close()
        self._store.close()


def _frame(segments: int, now_ns: int) -> Frame:
    """A reply with zeros for sequence numbers, that was a millisecond on its way."""

    def before(age_ns: int) -> int:
        return encode_timestamp(now_ns - age_ns, TimestampFormat.NTP)

    packet = ReflectorPacket(
        sequence=0,
        timestamp=before(500_000),
        error_estimate=_ERROR,
        ssid=1,
        receive_timestamp=before(510_000),
        sender_sequence=0,
        sender_timestamp=before(_ROUND_TRIP_NS),
        sender_error_estimate=_ERROR,
        sender_ttl=64,
    )
    path = (*_SIDS[: segments - 1], _SENDER) if segments else ()
    return Frame(Datagram(_REFLECTOR, _SENDER, 862, 49_862, packet.encode(), segments=path))
