"""Nanoseconds that XDP programs take for a packet, by BPF_PROG_RUN: no interface, no driver.

Programs take turns, so that what disturbs the machine disturbs all of them alike.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from dataplane.bpf.program import BpfError
from dataplane.bpf.syscall import XDP_DROP, XDP_PASS, XDP_TX, run_program
from dataplane.engines.registry import ENGINES
from tools.bench import topology
from tools.bench.bed import Settings as BedSettings
from tools.bench.errors import BenchError
from tools.bench.extras import PacketCost
from tools.bench.frames import request_frame
from tools.bench.namespace import alone, on_core
from tools.bench.sink import Sinks
from tools.bench.systems import BARE_PROGRAMS

COST_MODULE = "cost"
"""Module of an engine's package that has `costed_programs`; see `OffersCosts`."""

CALL = 100_000
"""Runs in one call: it lasts well below a second, and a signal waits for no longer."""

_BARE_ACTIONS = {"xdp-tx": XDP_TX, "xdp-drop": XDP_DROP, "xdp-pass": XDP_PASS}


class Costed(Protocol):
    """One program and one packet, ready to be run."""

    @property
    def name(self) -> str:
        """What is measured: "reflector", "data packet past the reflector"."""

    @property
    def program(self) -> str:
        """The function."""

    @property
    def segments(self) -> int:
        """Segments of the packet's SRH; 0 without one."""

    def ns_per_packet(self, repeat: int) -> float:
        """Mean time of `repeat` runs.

        The kernel does not restore the packet between them. A program that changes it
        has to be measured together with one that puts it back, whose own time is
        taken away again. Raises BpfError or OSError, also where the program does not
        end as it should: what it then does is not what is to be measured.
        """


class OffersCosts(Protocol):
    """What the module `cost` of an engine's package may have."""

    def costed_programs(self) -> AbstractContextManager[Sequence[Costed]]:
        """Load the engine's programs for the time of the context. Raises BpfError,
        LoadError or OSError where that is not possible here."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`runs * repeat` packets for each program."""

    runs: int = 5
    repeat: int = 1_000_000
    bed: BedSettings = field(default_factory=BedSettings)


def measure(settings: Settings | None = None) -> Iterator[PacketCost]:
    """Yield the bare programs, and those of each engine that offers some.

    Raises BenchError where programs cannot be loaded or run here.
    """
    settings = settings or Settings()
    with contextlib.ExitStack() as stack:
        try:
            costed: list[Costed] = [*stack.enter_context(_bare())]
            for offers in _offers():
                costed += stack.enter_context(offers.costed_programs())
            stack.enter_context(on_core(settings.bed.system_core))
            # What the FIB says is this node's own affair.
            stack.enter_context(alone())
            turns = _turns(costed, settings)
        except (BpfError, OSError) as error:
            raise BenchError(f"costs of packets cannot be measured: {error}") from error
    for one, values in zip(costed, turns, strict=True):
        yield PacketCost(one.name, one.program, one.segments, tuple(values))


def mean_ns(fd: int, packet: bytes, action: int, repeat: int) -> float:
    """Mean time of a program that leaves the packet as it is.

    The kernel rounds the mean of each call down to whole nanoseconds, and leaves out
    the time that it gives to other processes meanwhile. Raises BpfError where the
    program does not end with `action`; OSError.
    """
    total_ns = done = 0
    while done < repeat:
        count = min(CALL, repeat - done)
        result = run_program(fd, packet, repeat=count)
        if result.action != action:
            raise BpfError(f"the program ends with action {result.action}, not {action}")
        total_ns += count * result.duration_ns
        done += count
    return total_ns / done


@dataclass(frozen=True, slots=True)
class Bare:
    """A program that does nothing but end with one action."""

    name: str
    program: str
    segments: int
    fd: int
    packet: bytes
    action: int

    def ns_per_packet(self, repeat: int) -> float:
        return mean_ns(self.fd, self.packet, self.action, repeat)


@contextlib.contextmanager
def _bare() -> Iterator[Sequence[Bare]]:
    """The systems that engines are compared with, on a request without an SRH."""
    packet = request_frame(topology.GENERATOR, topology.SYSTEM, ()).data
    with contextlib.closing(Sinks()) as sinks:
        yield [
            Bare(name, function, 0, sinks.program(function), packet, _BARE_ACTIONS[name])
            for name, function in BARE_PROGRAMS.items()
        ]


def _offers() -> Iterator[OffersCosts]:
    """Of the engines that are installed here."""
    for path in ENGINES.values():
        module = f"{path.rpartition('.')[0]}.{COST_MODULE}"
        with contextlib.suppress(ImportError):
            found = importlib.import_module(module)
            if hasattr(found, "costed_programs"):
                yield found


def _turns(costed: Sequence[Costed], settings: Settings) -> list[list[float]]:
    """The values of each program, of all runs."""
    found: list[list[float]] = [[] for _ in costed]
    for _ in range(settings.runs):
        for values, one in zip(found, costed, strict=True):
            values.append(one.ns_per_packet(settings.repeat))
    return found
