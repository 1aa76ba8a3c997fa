"""What a packet costs in the driver, by the kernel's own test bench (BPF_PROG_RUN).

Nanoseconds a packet on one CPU, without interface and driver. Programs take turns,
and the median of their turns counts, so that what disturbs the machine disturbs all
of them. `stamp-bench` measures the same, and `python -m tools.xdp_cost` shows it.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

import numpy as np

from dataplane.bpf.program import BpfError, BpfModule
from dataplane.bpf.syscall import XDP_PASS, XDP_TX, run_program
from dataplane.clock import read_clock_status
from dataplane.config import SENDER_PORT, STAMP_PORT, Reflector, ReflectorSession
from dataplane.engines.driver.interfaces import Device, Place
from dataplane.engines.driver.layouts import LocalFlag
from dataplane.engines.xdp.collector_cost import CostedCollector, costed_collectors
from dataplane.engines.xdp.reflector_layouts import ReflectorFlag
from dataplane.engines.xdp.reflector_tables import ReflectorTables
from dataplane.frames import Datagram, Frame, Outer
from dataplane.stamp.packet import SenderPacket
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat

TURNS = 9
REPEAT = 200_000
"""Runs of one turn: a few hundredths of a second."""

SEGMENTS = (0, 2, 8)
"""Of the SRH that the request has, and of the one that the reply gets."""

_SENDER = IPv6Address("fd00:a::1")
_REFLECTOR = IPv6Address("fd00:b::1")
_SIDS = tuple(IPv6Address(f"fc00:e::{n:x}") for n in range(1, 10))
_LOOPBACK = 1
"""Where the kernel's test bench has packets arrive."""

_WORDS_MAX = 40
ORIGINAL = np.dtype([("words", np.uint64), ("word", np.uint64, _WORDS_MAX)])
"""struct original."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One line of the table."""

    what: str
    ns: float
    bare_ns: float
    """Of a program that does nothing else than end the same way."""


@dataclass(frozen=True, slots=True)
class CostedProgram:
    """One program and one packet, ready to be run."""

    name: str
    program: str
    segments: int
    """Of the packet's SRH; 0 without one."""

    frame: Frame
    action: int
    """With which the program ends."""

    bench: _Bench

    def ns_per_packet(self, repeat: int) -> float:
        """Mean time of `repeat` runs. Raises BpfError where the program ends otherwise;
        OSError."""
        spent = self.bench.run(self.program, self.frame, self.action, repeat)
        if self.program != "reflector":
            return spent
        # A reply has to be made a request again before the next run: what that
        # takes is not the reflector's, while the way into a program and out is.
        return spent - self.bench.run("nothing", self.frame, XDP_TX, repeat) + self.bare_ns(repeat)

    def bare_ns(self, repeat: int) -> float:
        """The same of a program that does nothing else than end the same way."""
        bare = "bare_tx" if self.action == XDP_TX else "bare_pass"
        return self.bench.run(bare, self.frame, self.action, repeat)


@contextlib.contextmanager
def costed_programs() -> Iterator[Sequence[CostedProgram | CostedCollector]]:
    """Load the programs for the time of the context. Raises BpfError, LoadError and OSError."""
    with _costed_reflector() as reflector, costed_collectors() as collector:
        yield [*reflector, *collector]


@contextlib.contextmanager
def _costed_reflector() -> Iterator[Sequence[CostedProgram]]:
    module = BpfModule(Path(__file__).with_name("cost.c"))
    try:
        bench = _Bench(module)
        past = "past the reflector"
        yield [
            CostedProgram(f"data packet {past}", "data_path", 0, data_frame(), XDP_PASS, bench),
            CostedProgram(
                f"SRv6 data packet {past}", "data_path", 2, encapsulated_frame(), XDP_PASS, bench
            ),
            *(
                CostedProgram("reflector", "reflector", count, request_frame(count), XDP_TX, bench)
                for count in SEGMENTS
            ),
        ]
    finally:
        module.close()


def costs(turns: int = TURNS, repeat: int = REPEAT) -> list[Cost]:
    """Measure. Raises BpfError, LoadError and OSError."""
    with costed_programs() as costed:
        measured: list[list[tuple[float, float]]] = [[] for _ in costed]
        for _ in range(turns):
            for values, one in zip(measured, costed, strict=True):
                values.append((one.ns_per_packet(repeat), one.bare_ns(repeat)))
    return [
        Cost(
            f"{one.name}, {one.segments} segments",
            statistics.median(ours for ours, _ in values),
            statistics.median(bare for _, bare in values),
        )
        for one, values in zip(costed, measured, strict=True)
    ]


def data_frame() -> Frame:
    """A customer's packet: UDP in IPv6."""
    return Frame(Datagram(_SENDER, _REFLECTOR, 5_000, 5_001, bytes(64)))


def encapsulated_frame() -> Frame:
    """The same on its way through an SRv6 network."""
    return Frame(data_frame().datagram, outer=Outer(_SIDS[0], _SIDS[2], (_SIDS[1], _SIDS[2])))


def request_frame(segments: int) -> Frame:
    """A request of the session whose SSID is one more than `segments`, the number of
    SIDs that it has visited, the reflector included."""
    error = ErrorEstimate(False, TimestampFormat.NTP, 0, 1)
    payload = SenderPacket(1, 0, error, segments + 1).encode()
    path = (*_SIDS[: segments - 1], _REFLECTOR) if segments else ()
    return Frame(Datagram(_SENDER, _REFLECTOR, SENDER_PORT, STAMP_PORT, payload, segments=path))


class _Bench:
    """The programs of cost.c, and the memory from which they put a packet back."""

    def __init__(self, module: BpfModule) -> None:
        self._programs = {
            name: module.load(name)
            for name in ("reflector", "nothing", "data_path", "bare_tx", "bare_pass")
        }
        module.free_compiler()
        _configure(ReflectorTables(module))
        self._original = module.array("originals", ORIGINAL)

    def run(self, name: str, frame: Frame, action: int, repeat: int) -> float:
        """Nanoseconds of one run, rounded down by the kernel."""
        packet = frame.encode()
        words = min(_WORDS_MAX, len(packet) // 8)
        self._original["words"] = words
        self._original["word"][0, :words] = np.frombuffer(packet, np.uint64, words)
        result = run_program(self._programs[name], packet, repeat=repeat)
        if result.action != action:
            raise BpfError(f"program {name} ends with {result.action}, not with {action}")
        return float(result.duration_ns)


def _configure(tables: ReflectorTables) -> None:
    tables.set_clock(read_clock_status())
    tables.set_locals({_REFLECTOR: LocalFlag.ADDRESS})
    tables.set_interfaces({Place(_LOOPBACK): Device(_LOOPBACK, data_frame().destination_mac, True)})
    sessions = [
        ReflectorSession(count + 1, segments=_SIDS[: count - 1] if count else ())
        for count in SEGMENTS
    ]
    tables.set_sessions({session.key: session for session in sessions}, lambda _key: 0)
    tables.set_config(Reflector(), ReflectorFlag(0))
