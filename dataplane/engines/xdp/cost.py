"""What a packet costs in the driver, by the kernel's own test bench (BPF_PROG_RUN).

Nanoseconds a packet on one CPU, without interface and driver. Programs take turns,
and the median of their turns counts, so that what disturbs the machine disturbs all
of them.

    python -m dataplane.engines.xdp.cost
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

import numpy as np

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_PASS, XDP_TX, run_program
from dataplane.clock import read_clock_status
from dataplane.config import SENDER_PORT, STAMP_PORT, Reflector, ReflectorSession
from dataplane.engines.xdp.layouts import LocalFlag, ReflectorFlag
from dataplane.engines.xdp.tables import ReflectorTables
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
_WORDS_MAX = 40
_ORIGINAL = np.dtype([("words", np.uint64), ("word", np.uint64, _WORDS_MAX)])


@dataclass(frozen=True, slots=True)
class Cost:
    """One line of the table."""

    what: str
    ns: float
    bare_ns: float
    """Of a program that does nothing else than end the same way."""


def costs(turns: int = TURNS, repeat: int = REPEAT) -> list[Cost]:
    """Measure. Raises BpfError, LoadError and OSError."""
    module = BpfModule(Path(__file__).with_name("cost.c"))
    try:
        return _costs(module, turns, repeat)
    finally:
        module.close()


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


def _costs(module: BpfModule, turns: int, repeat: int) -> list[Cost]:
    programs = {
        name: module.load(name)
        for name in ("reflector", "nothing", "data_path", "bare_tx", "bare_pass")
    }
    module.free_compiler()
    _configure(ReflectorTables(module))
    original = module.array("originals", _ORIGINAL)

    def run(name: str, frame: Frame, action: int) -> float:
        packet = frame.encode()
        words = min(_WORDS_MAX, len(packet) // 8)
        original["words"] = words
        original["word"][0, :words] = np.frombuffer(packet, np.uint64, words)
        result = run_program(programs[name], packet, repeat=repeat)
        if result.action != action:
            raise RuntimeError(f"program {name} ends with {result.action}, not with {action}")
        return result.duration_ns

    def answered(frame: Frame) -> float:
        spent = run("reflector", frame, XDP_TX) - run("nothing", frame, XDP_TX)
        return spent + run("bare_tx", frame, XDP_TX)

    lines: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {}
    for name, frame in (("data", data_frame()), ("data, SRv6", encapsulated_frame())):
        lines[name] = (
            lambda frame=frame: run("data_path", frame, XDP_PASS),  # type: ignore[misc]
            lambda frame=frame: run("bare_pass", frame, XDP_PASS),  # type: ignore[misc]
        )
    for count in SEGMENTS:
        request = request_frame(count)
        lines[f"reflector, {count} segments"] = (
            lambda frame=request: answered(frame),  # type: ignore[misc]
            lambda frame=request: run("bare_tx", frame, XDP_TX),  # type: ignore[misc]
        )
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in lines}
    for _ in range(turns):
        for name, (ours, bare) in lines.items():
            measured[name].append((ours(), bare()))
    return [
        Cost(
            name,
            statistics.median(ours for ours, _ in pairs),
            statistics.median(bare for _, bare in pairs),
        )
        for name, pairs in measured.items()
    ]


def _configure(tables: ReflectorTables) -> None:
    tables.set_clock(read_clock_status())
    tables.set_locals({_REFLECTOR: LocalFlag.ADDRESS})
    sessions = [
        ReflectorSession(count + 1, segments=_SIDS[: count - 1] if count else ())
        for count in SEGMENTS
    ]
    tables.set_sessions({session.key: session for session in sessions}, lambda _key: 0)
    tables.set_config(Reflector(), ReflectorFlag(0))
