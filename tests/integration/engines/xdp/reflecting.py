"""The reflector's program beside the sans-IO core, with one clock for both."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_DROP, XDP_PASS, XDP_TX, Run, run_program
from dataplane.clock import ClockStatus
from dataplane.config import IPAddress, Reflector, ReflectorMode, ReflectorSession
from dataplane.engines.xdp.layouts import LocalFlag, ReflectorFlag
from dataplane.engines.xdp.tables import ReflectorTables
from dataplane.frames import HERE_MAC, Datagram, Frame
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.packet import SenderPacket
from dataplane.stamp.session_reflector import SessionReflector
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat
from tests.integration.engines.xdp import reference
from tests.integration.engines.xdp.devices import DEVICES, place_of

SENDER = IPv6Address("fd00:a::1")
REFLECTOR = IPv6Address("fd00:b::1")
OLD_SENDER, OLD_REFLECTOR = IPv4Address("192.0.2.1"), IPv4Address("198.51.100.1")
SID, OLD_SID = IPv6Address("fc00:e::d6"), IPv6Address("fc00:e::d4")
LOCALS: dict[IPAddress, LocalFlag] = {
    REFLECTOR: LocalFlag.ADDRESS,
    SID: LocalFlag.DECAPSULATES_IPV6,
    OLD_REFLECTOR: LocalFlag.ADDRESS,
    OLD_SID: LocalFlag.DECAPSULATES_IPV4,
}
PATH = tuple(IPv6Address(f"fc00:e::{n}") for n in range(1, 17))
NTP = ErrorEstimate(False, TimestampFormat.NTP, 3, 7)
PTP = NTP.in_format(TimestampFormat.PTPV2)
ENDS_IPV4: dict[str, Any] = {
    "source": OLD_SENDER,
    "destination": OLD_REFLECTOR,
    "flow_label": 0,
}
T2_NS = 1_790_000_000_123_456_789
CLOCK = ClockStatus(synchronized=True, error_ns=12_345, tai_offset_s=37)

SESSIONS = {
    session.key: session
    for session in (
        ReflectorSession(1),
        ReflectorSession(2, mode=ReflectorMode.STATEFUL),
        ReflectorSession(3, SENDER, timestamp_format=TimestampFormat.PTPV2),
        ReflectorSession(3, timestamp_format=TimestampFormat.NTP),
        ReflectorSession(4, sender_udp_port=50_000),
        ReflectorSession(5, SENDER, sender_udp_port=50_000, segments=PATH[:1]),
        ReflectorSession(5, segments=PATH[:2]),
        ReflectorSession(6, SENDER, enabled=False),
        ReflectorSession(6),
        ReflectorSession(7, segments=PATH[:8]),
        ReflectorSession(8, segments=(*PATH[:2], SENDER)),
        ReflectorSession(9, segments=(SENDER,)),
        ReflectorSession(10, sender_udp_port=862),
        ReflectorSession(11, segments=PATH),
        ReflectorSession(12, OLD_SENDER, mode=ReflectorMode.STATEFUL),
        ReflectorSession(12, timestamp_format=TimestampFormat.PTPV2),
        ReflectorSession(13, OLD_SENDER, enabled=False),
        ReflectorSession(13),
        ReflectorSession(14, OLD_SENDER, sender_udp_port=50_000),
        ReflectorSession(65_535, SENDER, mode=ReflectorMode.STATEFUL, segments=PATH[:3]),
    )
}


class Bench:
    """The program and the core, with the same configuration, clock and packets."""

    def __init__(self, module: BpfModule) -> None:
        self.tables = ReflectorTables(module)
        self.program = module.load("reflector")
        self.tables.set_clock(CLOCK)
        self.tables.set_interfaces(DEVICES)
        self.tables.set_locals(LOCALS)
        self.core = SessionReflector(Reflector(), tai_offset_s=CLOCK.tai_offset_s)
        self.now_ns = T2_NS
        self.serve(Reflector(sessions=SESSIONS))

    def serve(self, config: Reflector, flags: ReflectorFlag = ReflectorFlag.TRAILERS) -> None:
        # Both forget every session first, so that counters start together.
        for step in (Reflector(), config):
            self.tables.set_sessions(step.sessions, lambda _key: 0)
            self.tables.set_config(step, flags)
            self.core.update(step)

    def run(self, data: bytes) -> Run:
        self.now_ns += 1_000_003
        self.tables.fix_clock(self.now_ns, self.now_ns + 777)
        return run_program(self.program, data)

    def expect_reply(self, request: Frame) -> Frame:
        reply = reference.receive(self.core, request, self.now_ns)
        assert not isinstance(reply, DiscardReason)
        return reference.turned_back(request, reply, self.now_ns + 777, CLOCK)


def request(
    ssid: int = 1,
    *,
    sequence: int = 7,
    error: ErrorEstimate = NTP,
    tail: bytes = b"",
    **fields: object,
) -> Frame:
    packet = SenderPacket(sequence, 0x0123456789ABCDEF, error, ssid, tail)
    datagram = Datagram(SENDER, REFLECTOR, 49_862, 862, packet.encode(), 61, 0xB9, 0xABCDE)
    return Frame(replace(datagram, **fields))  # type: ignore[arg-type]


def judged_rightly(bench: Bench, data: bytes) -> int:
    """Run it, and hold what became of it against the core; the action."""
    before = bench.tables.counts()
    run = bench.run(data)
    after = bench.tables.counts()
    if run.action == XDP_PASS:
        assert run.data == data
        assert after.answered == before.answered
        assert after.discarded == before.discarded
        return run.action
    asked = reference.decode(data)
    old = asked.datagram.destination.version == 4
    assert asked.datagram.destination == (OLD_REFLECTOR if old else REFLECTOR)
    assert not is_martian(asked.datagram.source)
    assert asked.destination_mac == HERE_MAC
    assert asked.outer is None or asked.outer.destination == (OLD_SID if old else SID)
    assert place_of(asked.tags) in DEVICES
    if run.action == XDP_TX:
        assert run.data.hex() == bench.expect_reply(asked).encode().hex()
    else:
        assert run.action == XDP_DROP
        reason = reference.receive(bench.core, asked, bench.now_ns)
        assert isinstance(reason, DiscardReason)
        assert after.discarded[reason] == before.discarded[reason] + 1
    return run.action


def is_martian(source: IPAddress) -> bool:
    """Whether the kernel gives no socket packets from there (RFC 1122 §3.2.1.3)."""
    if isinstance(source, IPv6Address):
        return source.ipv4_mapped is not None
    return source == OLD_REFLECTOR or source.packed[0] in (0, 127) or source.packed[0] >= 224


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A bit, a byte, a length: what goes wrong with packets."""
    changed = bytearray(data)
    kind = chance.randrange(5)
    if kind == 0:
        at = chance.randrange(len(changed))
        changed[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        for _ in range(chance.randrange(1, 5)):
            changed[chance.randrange(12, len(changed))] = chance.randrange(256)
    elif kind == 2:
        del changed[chance.randrange(14, len(changed)) :]
    elif kind == 3:
        changed += chance.randbytes(chance.randrange(1, 64))
    else:
        at = chance.randrange(len(changed))
        del changed[at : at + chance.randrange(1, 20)]
    return bytes(changed) if len(changed) >= 14 else data
