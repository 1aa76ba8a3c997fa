"""The bed: what is offered is what was asked for, and every packet is accounted for."""

from __future__ import annotations

import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from dataplane.stamp.packet import ReflectorPacket, SenderPacket
from tests.integration.engines.network import Capture
from tools.bench import topology
from tools.bench.bed import Bed, Settings
from tools.bench.cell import Role
from tools.bench.errors import BenchError
from tools.bench.frames import data_frame
from tools.bench.generator import SHARE_WHOLE, Load
from tools.bench.measure import Measurement, Observed, TrialSettings, stamp_frame
from tools.bench.selfcheck import check
from tools.bench.shape import Shape
from tools.bench.systems import BareProgram, EngineSystem, Idle, Listener, System
from tools.lab.kernel import existing_namespaces, processes_in

pytestmark = pytest.mark.integration

RATE = 2_000
SHORT = TrialSettings(duration_ns=200_000_000, shape=Shape(sessions=3))
ALL = RATE * SHORT.duration_ns // 1_000_000_000

ECHO = """
import socket
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.bind(("fd00:a::2", 862))
while True:
    data, peer = sock.recvfrom(2048)
    sock.sendto(data, peer)
"""


def observe(bed: Bed, system: System, role: Role, share: str) -> Observed:
    measurement = Measurement(bed, system, role, Decimal(share), SHORT)
    with measurement.running():
        # A trial that something else on this machine disturbed is repeated.
        return measurement.trial(RATE)


# What is still queued when a trial ends is not counted as delivered: on a busy machine
# that may be many, so the tests of engines ask for half.


def lost(seen: Observed) -> int:
    """Packets that a counter of drops speaks of; a full ring shows in two of them."""
    names = ("system-ring-full", "kernel-Udp6RcvbufErrors")
    return sum(seen.counters[name] for name in names)


def test_data_is_encapsulated_and_forwarded(bed: Bed) -> None:
    seen = observe(bed, Idle(), Role.FORWARDER, "0")
    counters = seen.counters
    assert 0 < counters["offered-data"] <= ALL
    assert counters["offered-stamp"] == counters["reflected"] == counters["collected"] == 0
    assert counters["forwarded"] + lost(seen) == counters["offered-data"]
    assert seen.trial.delivered == counters["forwarded"]


@pytest.mark.parametrize("share", ["0.5", "50", "100"])
def test_an_engine_reflects_beside_forwarded_data(bed: Bed, share: str) -> None:
    seen = observe(bed, EngineSystem("userspace", 3, 2), Role.REFLECTOR, share)
    counters = seen.counters
    offered = counters["offered-data"] + counters["offered-stamp"]
    assert counters["offered-stamp"] == int(offered * float(share) / 100)
    assert seen.trial.delivered == counters["forwarded"] + counters["reflected"]
    assert seen.trial.delivered >= offered // 2 - lost(seen)
    assert counters["kernel-Udp6InCsumErrors"] == 0


def test_an_engine_collects_replies_that_it_awaits(bed: Bed) -> None:
    seen = observe(bed, EngineSystem("userspace", 3, 2), Role.COLLECTOR, "100")
    assert 0 < seen.counters["offered-stamp"] <= ALL
    assert seen.counters["collected"] == seen.trial.delivered
    assert (
        seen.trial.delivered
        >= seen.counters["offered-stamp"] - lost(seen) - seen.counters["offered-stamp"] // 50
    )


@pytest.mark.parametrize(
    ("program", "role", "end"),
    [("xdp-tx", Role.REFLECTOR, "reflected"), ("xdp-drop", Role.COLLECTOR, "collected")],
)
def test_bare_programs(bed: Bed, program: str, role: Role, end: str) -> None:
    seen = observe(bed, BareProgram(program), role, "100")
    assert seen.counters[end] == seen.trial.delivered
    assert seen.trial.delivered >= seen.counters["offered-stamp"] - lost(seen)


def test_anything_that_listens(bed: Bed, tmp_path: Path) -> None:
    script = tmp_path / "echo.py"
    script.write_text(ECHO)
    seen = observe(bed, Listener("echo", f"{sys.executable} {script}"), Role.REFLECTOR, "10")
    assert seen.counters["reflected"] >= seen.counters["offered-stamp"] * 0.9 > 0
    assert processes_in(bed.system_namespace) == []


def test_what_does_not_work_is_not_measured(bed: Bed) -> None:
    with pytest.raises(
        BenchError, match=r"^mute does not work as reflector: of \d+ packets at 200"
    ):
        observe(bed, Listener("mute", "sleep 60"), Role.REFLECTOR, "100")
    assert processes_in(bed.system_namespace) == []


def test_a_listener_is_no_collector(bed: Bed) -> None:
    with pytest.raises(BenchError, match=r"^mute can only be measured as a reflector$"):
        observe(bed, Listener("mute", "sleep 60"), Role.COLLECTOR, "100")


def test_an_engine_that_does_not_exist(bed: Bed) -> None:
    with pytest.raises(BenchError, match=r"^the process of engine none has died: .*EngineError"):
        observe(bed, EngineSystem("none", 1, 0), Role.REFLECTOR, "100")
    assert processes_in(bed.system_namespace) == []


def test_a_share_that_cannot_be_mixed(bed: Bed) -> None:
    with pytest.raises(BenchError, match=r"^a share of 0.0001 % is finer than the generator can"):
        Measurement(bed, Idle(), Role.REFLECTOR, Decimal("0.0001"), SHORT)


@pytest.mark.parametrize("role", [Role.REFLECTOR, Role.COLLECTOR])
@pytest.mark.parametrize("sids", [0, 1, 5])
def test_generated_packets_are_what_they_claim(bed: Bed, role: Role, sids: int) -> None:
    frame = stamp_frame(role, sids)
    assert frame is not None
    # Before the system's NAPI thread the frame is as it left.
    capture = Capture(bed.system_namespace, "near")
    load = Load(rate_pps=1_000, duration_ns=100_000_000, share=SHARE_WHOLE, sessions=2)
    bed.generator.use(frame, frame)
    offered = bed.generator.offer(replace(load, first_sequence=0xFFFFFFFE))
    frames = [seen for seen in capture.frames() if len(seen) == len(frame.data)]
    capture.close()
    assert len(frames) == offered.stamp >= 5
    for number, seen in enumerate(frames):
        payload = seen[frame.udp_at + 8 :]
        packet = _decode(role, payload)
        assert packet.ssid == number % 2 + 1
        assert packet.sequence == (0xFFFFFFFE + number // 2) & 0xFFFFFFFF
        assert seen[: frame.udp_at] == frame.data[: frame.udp_at]
        assert _udp_sum(seen, frame.udp_at) == 0xFFFF


def _decode(role: Role, payload: bytes) -> SenderPacket | ReflectorPacket:
    if role is Role.REFLECTOR:
        return SenderPacket.decode(payload)
    packet = ReflectorPacket.decode(payload)
    assert packet.sender_sequence == packet.sequence
    # In 2**-32 s: T1, then T2 half a millisecond later, then T3.
    assert packet.receive_timestamp - packet.sender_timestamp == pytest.approx(
        0.0005 * 2**32, rel=1e-3
    )
    assert packet.timestamp > packet.receive_timestamp
    return packet


def _udp_sum(frame: bytes, udp_at: int) -> int:
    """0xffff where the checksum is right (RFC 1071): the sum over pseudo-header and datagram."""
    udp = frame[udp_at:]
    pseudo = frame[22:54] + len(udp).to_bytes(4, "big") + b"\0\0\0\x11"
    total = sum(
        int.from_bytes((pseudo + udp)[at : at + 2], "big") for at in range(0, 40 + len(udp), 2)
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_the_bed_checks_itself(bed: Bed) -> None:
    found = check(bed, SHORT)
    assert found.generator_pps > 100_000
    assert 0 < found.bounce_pps <= found.generator_pps * 1.5
    assert found.lines()[0].startswith("bed: the generator offers up to ")


def test_a_frame_that_is_too_long(bed: Bed) -> None:
    frame = data_frame(topology.GENERATOR, topology.CUSTOMER, 500)
    with pytest.raises(ValueError, match=r"^a frame of 562 bytes is longer than 512$"):
        bed.generator.use(frame, None)


def test_nothing_is_left_behind() -> None:
    bed = Bed(Settings(tag="gone"))

    def fail() -> None:
        with bed:
            assert bed.system_namespace in existing_namespaces()
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert not existing_namespaces() & {bed.system_namespace, bed.generator_namespace}
