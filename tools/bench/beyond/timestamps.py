"""Error of an engine's timestamps, T1 to T4, against the kernel's own of a capture.

A Session-Sender and a Session-Reflector, one of them the engine in question, the other
the reference engine, measure each other over a plain wire. Both ends' interfaces are
captured. All clocks are one, CLOCK_REALTIME of this machine, so that a timestamp
and that of the capture differ by what lies between the two places, and by nothing
else. An engine whose packets do not pass its own interface's capture, as XDP does
not, is compared with the other end of the wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dataplane.config import (
    STAMP_PORT,
    Node,
    Reflector,
    ReflectorSession,
    Sender,
    SenderSession,
)
from dataplane.measurement import Record
from tools.bench.bed import Settings as BedSettings
from tools.bench.beyond.capture import Capture
from tools.bench.beyond.packets import Packets, errors_ns, record_keys, select
from tools.bench.beyond.pair import DEVICE, REFERENCE_ENGINE, Pair, possible_interval_us
from tools.bench.errors import BenchError
from tools.bench.extras import TimestampError, quantiles_of

SSID = 1
SLACK_S = 15.0
"""How much longer than planned a run may take before it is given up."""

MATCHED_MIN = 0.9
"""Share of the records that a capture has to have seen."""

STRAY_PACKETS = 1_000
"""Room in the captures beyond what is expected: duplicates are seen, too."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    duration_s: float = 5.0
    """Of the reference engine's only run; another engine has two, one for each role."""

    interval_us: int = 2_000
    """Between packets; more where the engine needs more."""

    bed: BedSettings = field(default_factory=BedSettings)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a capture sees a packet."""

    at_sender: bool
    outgoing: bool
    method: str


@dataclass(frozen=True, slots=True)
class Stamp:
    """One of the four timestamps."""

    name: str
    by_sender: bool
    of_request: bool
    places: tuple[Place, Place]
    """The engine's own interface, and the other end of the wire."""

    def of(self, record: Record) -> int:
        value: int = getattr(record, f"{self.name.lower()}_ns")
        return value


_LEAVES = "own interface, outgoing, which the packet passes before a kernel transmit timestamp"
_LEAVES += " and after a clock read in user space"
_ARRIVES = "own interface, incoming: the kernel's receive timestamp"
_OTHER_ARRIVES = "other end of the wire, incoming: the wire comes after the timestamp"
_OTHER_LEAVES = "other end of the wire, outgoing: the wire comes before the timestamp"

STAMPS = (
    Stamp("T1", True, True, (Place(True, True, _LEAVES), Place(False, False, _OTHER_ARRIVES))),
    Stamp("T2", False, True, (Place(False, False, _ARRIVES), Place(True, True, _OTHER_LEAVES))),
    Stamp("T3", False, False, (Place(False, True, _LEAVES), Place(True, False, _OTHER_ARRIVES))),
    Stamp("T4", True, False, (Place(True, False, _ARRIVES), Place(False, True, _OTHER_LEAVES))),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """One run: the records of the session, and what both captures saw."""

    records: list[Record]
    at_sender: Packets
    at_reflector: Packets


def measure(engine: str, settings: Settings | None = None) -> Iterator[TimestampError]:
    """Yield T1 and T4 of the engine's Session-Sender, T2 and T3 of its Session-Reflector.

    Raises BenchError where the engine cannot run, or where a capture is incomplete.
    """
    settings = settings or Settings()
    roles = dict.fromkeys([(engine, REFERENCE_ENGINE), (REFERENCE_ENGINE, engine)])
    for sender, reflector in roles:
        seen = _run(sender, reflector, settings)
        for stamp in STAMPS:
            if (sender if stamp.by_sender else reflector) == engine:
                yield error_of(engine, stamp, seen)


def error_of(engine: str, stamp: Stamp, seen: Seen) -> TimestampError:
    """Compare one timestamp of all records with the nearest capture that has the packets.

    Raises BenchError where neither has.
    """
    keys = record_keys(SSID, seen.records)
    stamps = [stamp.of(record) for record in seen.records]
    for place in stamp.places:
        packets = seen.at_sender if place.at_sender else seen.at_reflector
        passed = select(packets, request=stamp.of_request, outgoing=place.outgoing)
        errors: npt.NDArray[np.int64] = errors_ns(keys, stamps, passed)
        if len(errors) >= MATCHED_MIN * len(keys) > 0:
            return TimestampError(
                f"{engine} {stamp.name}", place.method, len(errors), quantiles_of(errors)
            )
    raise BenchError(f"no capture has the packets of {stamp.name} of engine {engine}")


def _run(sender: str, reflector: str, settings: Settings) -> Seen:
    interval_us = possible_interval_us(sender, settings.interval_us)
    packets = int(settings.duration_s * 1e6 / interval_us)
    room = 2 * packets + STRAY_PACKETS
    with Pair(settings.bed) as pair:
        session = SenderSession(
            SSID,
            pair.reflector.address,
            pair.sender.address,
            interval_us=interval_us,
            packet_count=packets,
            result_depth=packets,
        )
        served = ReflectorSession(SSID, pair.sender.address)
        reflecting = pair.run(pair.reflector, reflector)
        reflecting.apply(
            Node(
                reflector=Reflector(
                    engine=reflector,
                    interfaces=_interfaces(reflector, sender),
                    source_address=pair.reflector.address,
                    sessions={served.key: served},
                )
            )
        )
        reflecting.await_reflector()
        captures = [
            pair.keep(Capture(end.namespace, DEVICE, STAMP_PORT, room))
            for end in (pair.sender, pair.reflector)
        ]
        sending = pair.run(pair.sender, sender)
        sending.apply(
            Node(
                sender=Sender(
                    engine=sender,
                    interfaces=_interfaces(sender, reflector),
                    sessions={SSID: session},
                )
            )
        )
        planned_s = settings.duration_s + session.loss_timeout_ms / 1e3
        sending.await_completion(planned_s + SLACK_S)
        records = sending.host.results.fetch(SSID, packets)
        return Seen(records, *(capture.packets() for capture in captures))


def _interfaces(engine: str, other: str) -> tuple[str, ...]:
    """What an end names. The reference engine takes packets in the driver where it does,
    and beside another engine has to leave them to the capture."""
    return () if engine == REFERENCE_ENGINE != other else (DEVICE,)
