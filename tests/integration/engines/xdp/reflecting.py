"""The reflector's program beside the sans-IO core, with one clock for both."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_DROP, XDP_PASS, XDP_TX, Run, run_program
from dataplane.clock import ClockStatus
from dataplane.config import IPAddress, Reflector, ReflectorMode, ReflectorSession
from dataplane.engines.driver.layouts import LocalFlag
from dataplane.engines.xdp.reflector_layouts import ReflectorFlag
from dataplane.engines.xdp.reflector_tables import ReflectorTables
from dataplane.frames import ETHERTYPE_IPV4, ETHERTYPE_IPV6, HERE_MAC, Datagram, Frame, Outer
from dataplane.reflector_store import HandedUp
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.packet import SenderPacket
from dataplane.stamp.session_reflector import SessionReflector
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat
from tests.integration.engines.driver.devices import DEVICES, ONE_VLAN, TWO_VLANS, place_of
from tests.integration.engines.xdp import reference

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


@dataclass(frozen=True)
class Family:
    """What tests of both IP versions have to know of one."""

    sender: IPAddress
    reflector: IPAddress
    sid: IPv6Address
    """Sets packets of this version free."""

    answered: tuple[int, ...]
    """SSIDs by which requests of `sender` are answered, whatever their format."""

    ssids: tuple[int, ...]
    """SSIDs of every kind: answered, refused and unknown."""

    version: int
    ethertype: int

    def request(self, ssid: int = 1, **fields: Any) -> Frame:
        ends: dict[str, Any] = {"source": self.sender, "destination": self.reflector}
        if self.version == 4:
            ends["flow_label"] = 0
        return request(ssid, **(ends | fields))

    def stranger(self, chance: random.Random) -> IPAddress:
        if self.version == 4:
            return IPv4Address(chance.getrandbits(32))
        return IPv6Address(chance.getrandbits(128))

    def forms(self) -> dict[str, Frame]:
        """Every form of a request that the driver answers."""
        plain = self.request()
        forms = {
            "plain": plain,
            "one VLAN": replace(plain, tags=ONE_VLAN),
            "two VLANs": replace(plain, tags=TWO_VLANS),
            "encapsulated": replace(plain, outer=Outer(PATH[3], self.sid)),
            "encapsulated, SRH": replace(
                plain, outer=Outer(PATH[3], self.sid, (PATH[0], self.sid))
            ),
            "VLAN, encapsulated, SRH": replace(
                plain, tags=ONE_VLAN, outer=Outer(PATH[3], self.sid, (self.sid,))
            ),
        }
        if self.version == 4:
            return forms | {"may not be fragmented": self.request(dont_fragment=True)}
        routed = self.request(segments=(*PATH[:2], self.reflector))
        return forms | {
            "SRH": routed,
            "long SRH": self.request(segments=(*PATH[:15], self.reflector)),
            "encapsulated, SRH in SRH": replace(
                routed, outer=Outer(PATH[3], self.sid, (PATH[0], self.sid))
            ),
        }


FAMILIES = {
    "IPv6": Family(
        SENDER,
        REFLECTOR,
        SID,
        answered=(1, 2, 3, 5, 7, 8, 9, 65_535),
        ssids=(*range(13), 65_535),
        version=6,
        ethertype=ETHERTYPE_IPV6,
    ),
    "IPv4": Family(
        OLD_SENDER,
        OLD_REFLECTOR,
        OLD_SID,
        answered=(1, 2, 3, 5, 7, 9, 12),
        ssids=(0, 1, 2, 3, 4, 5, 7, 9, 10, 12, 13, 14, 65_535),
        version=4,
        ethertype=ETHERTYPE_IPV4,
    ),
}

each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def of_each_family(cases: Callable[[Family], Mapping[str, object]]) -> list[Any]:
    """What a test is parametrised by: its cases over both IP versions."""
    return [
        pytest.param(case, id=f"{name}, {what}")
        for name, family in FAMILIES.items()
        for what, case in cases(family).items()
    ]


def answers(bench: Bench, asked: Frame, data: bytes | None = None) -> None:
    """A request, `data` where that is not quite `asked`, is answered as by the core."""
    run = bench.run(asked.encode() if data is None else data)
    assert run.action == XDP_TX
    assert run.data.hex() == bench.expect_reply(asked).encode().hex()


def discards(bench: Bench, asked: Frame, reason: DiscardReason) -> None:
    """Driver and core have the same reason, which the driver counts."""
    assert reference.receive(bench.core, asked, T2_NS) is reason
    before = bench.tables.counts()
    run = bench.run(asked.encode())
    after = bench.tables.counts()
    assert run.action == XDP_DROP
    assert after.discarded == before.discarded | {reason: before.discarded[reason] + 1}
    assert after.answered == before.answered


def leaves(bench: Bench, data: bytes) -> None:
    """A frame that passes, as it is and uncounted."""
    before = bench.tables.counts()
    run = bench.run(data)
    assert (run.action, run.data) == (XDP_PASS, data)
    assert bench.tables.counts() == before


def hands_up(bench: Bench, data: bytes, reason: HandedUp) -> None:
    """A request that passes, as it is and counted."""
    before = bench.tables.counts()
    run = bench.run(data)
    after = bench.tables.counts()
    assert (run.action, run.data) == (XDP_PASS, data)
    assert after.handed_up == before.handed_up | {reason: before.handed_up[reason] + 1}
    assert (after.answered, after.discarded) == (before.answered, before.discarded)


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
    """Whether the kernel gives no socket packets from there (RFC 1122 §3.2.1.3,
    RFC 4291 §2.5.3)."""
    if isinstance(source, IPv6Address):
        return source.ipv4_mapped is not None or source.is_loopback
    return source == OLD_REFLECTOR or source.packed[0] in (0, 127) or source.packed[0] >= 224


def random_request(family: Family, chance: random.Random) -> Frame:
    """One that is answered or discarded, mostly."""
    shape = chance.choice(list(family.forms().values()))
    made = request(
        chance.choice(family.ssids),
        sequence=chance.getrandbits(32),
        error=chance.choice([NTP, PTP]),
    )
    tail = chance.choice(
        [bytes(28), chance.randbytes(28), bytes(28) + chance.randbytes(chance.randrange(60))]
    )
    datagram = replace(
        shape.datagram,
        payload=made.datagram.payload[:16] + tail,
        source=chance.choice([family.sender, family.sender, family.stranger(chance)]),
        source_port=chance.choice([49_862, 50_000, 862, 0, chance.getrandbits(16)]),
        hop_limit=chance.getrandbits(8),
        traffic_class=chance.getrandbits(8),
        flow_label=chance.getrandbits(20) if family.version == 6 else 0,
    )
    return shape.with_datagram(datagram)


def random_bytes(family: Family, chance: random.Random) -> bytes:
    """Noise that begins as a frame of this IP version."""
    data = bytearray(chance.randbytes(chance.randrange(14, 200)))
    data[12:14] = family.ethertype.to_bytes(2, "big")
    if family.version == 4 and len(data) > 23:
        data[14], data[23] = chance.choice([0x45, 0x46, 0x4F, 0x44, 0x60]), 17
    elif family.version == 6 and len(data) > 20:
        data[14], data[20] = 0x60 | data[14] & 15, chance.choice([17, 41, 43, 44, 4, 0, 60])
    return bytes(data)


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
