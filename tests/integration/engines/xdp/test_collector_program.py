"""The collector's program against the sans-IO Collector, with one clock for both.

Packets go through BPF_PROG_RUN; what the program hands up goes to the session's
slow path, as it would through the socket.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_DROP, XDP_PASS, run_program
from dataplane.config import SENDER_PORT, DelayMode, ReflectorMode
from dataplane.engines.xdp.collector_layouts import ORDER_MAX, CollectorUp
from dataplane.frames import Frame, Outer
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, encode_timestamp
from tests.integration.engines.xdp import reference
from tests.integration.engines.xdp.collecting import KERNEL, SID, Node, TwinNetwork, Twins
from tests.integration.engines.xdp.conftest import in_own_namespace
from tests.property.test_collector import anything, in_order, overtaking
from tests.unit.stamp.network import (
    FINE,
    MS,
    REFLECTOR,
    SENDER,
    UNIX_NS,
    Fate,
    S,
    reply,
    session,
)

pytestmark = pytest.mark.integration

PATH = tuple(IPv6Address(f"fc00:e::{n}") for n in range(1, 17))
NTP = ErrorEstimate(False, TimestampFormat.NTP, 3, 7)
PTP = ErrorEstimate(True, TimestampFormat.PTPV2, 0, 1)
TAI_NS = 37 * S


@pytest.fixture(scope="module")
def node(collector_module: BpfModule) -> Iterator[Node]:
    with in_own_namespace():
        yield Node(collector_module)


@pytest.fixture
def twins(node: Node, tmp_path: Path) -> Iterator[Twins]:
    twins = Twins(node, session(), tmp_path)
    twins.start(0, UNIX_NS)
    yield twins
    twins.close()


def payload(
    sequence: int = 0,
    counter: int = 0,
    *,
    t1_ns: int = UNIX_NS,
    forward_ns: int = 2 * MS,
    error: ErrorEstimate = PTP,
    sender_error: ErrorEstimate = PTP,
    **changes: Any,
) -> bytes:
    def written(time_ns: int, estimate: ErrorEstimate) -> int:
        return encode_timestamp(time_ns, estimate.fmt, 37)

    values = {
        "error_estimate": error,
        "sender_error_estimate": sender_error,
        "sender_timestamp": written(t1_ns, sender_error),
        "receive_timestamp": written(t1_ns + forward_ns, error),
        "timestamp": written(t1_ns + forward_ns + 10_000, error),
    }
    return reply(sequence, counter, 0, 0, 0, **(values | changes))


def frame(twins: Twins, data: bytes, **fields: Any) -> Frame:
    return twins.frame.with_datagram(replace(twins.frame.datagram, payload=data, **fields))


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one VLAN": {"vlans": (0x6005,)},
    "two VLANs": {"vlans": (5, 6)},
    "SRH": {"segments": (*PATH[:2], SENDER)},
    "long SRH": {"segments": (*PATH[:15], SENDER)},
    "encapsulated": {"outer": Outer(PATH[3], SID)},
    "encapsulated, SRH": {"outer": Outer(PATH[3], SID, (PATH[0], SID))},
    "VLAN, encapsulated, SRH": {
        "vlans": (5,),
        "outer": Outer(PATH[3], SID, (SID,)),
        "segments": (PATH[1], SENDER),
    },
}


def shaped(twins: Twins, data: bytes, form: str) -> Frame:
    fields = dict(FORMS[form])
    segments = fields.pop("segments", ())
    return replace(frame(twins, data, segments=segments), **fields)


@pytest.mark.parametrize("sender_error", [NTP, PTP], ids=["NTP", "PTPv2"])
@pytest.mark.parametrize("error", [NTP, PTP], ids=["from NTP", "from PTPv2"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_as_the_core(
    twins: Twins, form: str, error: ErrorEstimate, sender_error: ErrorEstimate
) -> None:
    for sequence in range(3):
        t1_ns = UNIX_NS + sequence * 10 * MS + 123_456
        twins.sent(sequence, t1_ns, sequence * 10 * MS)
        data = payload(
            *(sequence, 700 + sequence),
            t1_ns=t1_ns,
            error=error,
            sender_error=sender_error,
            forward_ns=-5 * MS + sequence,
        )
        assert twins.arrive(shaped(twins, data, form), sequence * 10 * MS + 5 * MS) == XDP_DROP
    assert twins.arrive(shaped(twins, data, form), 26 * MS) == XDP_DROP
    twins.compare(30 * MS)
    assert twins.stores[1].snapshot().received == 3
    assert twins.stores[1].snapshot().duplicates == 1


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        (CollectorUp.SHORT, {"data": payload()[:43]}),
        (CollectorUp.TRAILER, {"data": payload() + bytes(4)}),
        (CollectorUp.TRAILER, {"data": payload() + bytes(68)}),
        (CollectorUp.SESSION, {"data": payload(ssid=0)}),
        (CollectorUp.SESSION, {"data": payload(ssid=8)}),
        (CollectorUp.PEER, {"source": PATH[0]}),
        (CollectorUp.PEER, {"source_port": 863}),
        (CollectorUp.MULTIPLIER, {"data": payload()[:12] + b"\x40\x00" + payload()[14:]}),
        (CollectorUp.MULTIPLIER, {"data": payload()[:36] + b"\x40\x00" + payload()[38:]}),
        (CollectorUp.SEQUENCE, {"data": payload(1)}),
        (CollectorUp.SEQUENCE, {"data": payload(2**31 + 5)}),
    ],
)
def test_what_is_not_handled_exactly_is_handed_up(
    twins: Twins, reason: CollectorUp, change: dict[str, Any]
) -> None:
    twins.sent(0, UNIX_NS, 0)
    before = twins.node.tables.counts().handed_up
    fields = {"data": payload()} | change
    assert twins.arrive(frame(twins, fields.pop("data"), **fields), 5 * MS) == XDP_PASS
    after = twins.node.tables.counts().handed_up
    assert {key for key in after if after[key] != before[key]} == {reason}
    assert after[reason] == before[reason] + 1
    twins.compare(6 * MS)


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        (CollectorUp.INTERFACE, {"vlans": (7,)}),
        (CollectorUp.INTERFACE, {"outer": Outer(PATH[3], PATH[4])}),
        (CollectorUp.PEER, {"destination": PATH[5]}),
    ],
)
def test_what_another_socket_or_none_would_get_is_not_looked_into(
    twins: Twins, reason: CollectorUp, change: dict[str, Any]
) -> None:
    twins.sent(0, UNIX_NS, 0)
    before = twins.node.tables.counts().handed_up
    packet = frame(twins, payload())
    if "destination" in change:
        packet = frame(twins, payload(), **change)
    else:
        packet = replace(packet, **change)
    assert twins.node.run(packet.encode(), 5 * MS) == XDP_PASS
    after = twins.node.tables.counts().handed_up
    assert after[reason] == before[reason] + 1
    twins.compare(6 * MS)
    assert twins.stores[1].snapshot().received == 0


def test_a_wrong_checksum_is_the_kernels_to_judge(twins: Twins) -> None:
    twins.sent(0, UNIX_NS, 0)
    data = bytearray(frame(twins, payload()).encode())
    data[60] ^= 1
    assert twins.node.run(bytes(data), 5 * MS) == XDP_PASS
    assert twins.node.run(frame(twins, payload()).encode(), 5 * MS) == XDP_DROP


def test_other_traffic_passes_uncounted(twins: Twins) -> None:
    before = twins.node.tables.counts()
    packet = frame(twins, payload(), destination_port=5_000)
    assert twins.node.run(packet.encode(), MS) == XDP_PASS
    assert twins.node.tables.counts() == before


def test_refined_t1_replaces_the_echoed_one(twins: Twins) -> None:
    twins.sent(0, UNIX_NS, 0)
    assert twins.refine_t1(0, UNIX_NS + 777)
    twins.arrive(frame(twins, payload()), 5 * MS)
    twins.compare(6 * MS)
    assert twins.stores[1].snapshot().forward.last_ns == 2 * MS - 777
    assert not twins.driver.refine_t1(0, UNIX_NS)
    assert not twins.driver.refine_t1(1, UNIX_NS)


def test_a_reply_by_the_socket_is_taken_in_by_the_program(twins: Twins) -> None:
    """With TLVs a reply goes up; a copy without them is a duplicate all the same."""
    for sequence in range(4):
        twins.sent(sequence, UNIX_NS, 0)
    for sequence in (0, 2, 1, 3):
        data = payload(sequence, sequence) + (bytes(4) if sequence % 2 == 0 else b"")
        twins.arrive(frame(twins, data), (5 + sequence) * MS)
    twins.arrive(frame(twins, payload(2, 2)), 9 * MS)
    twins.arrive(frame(twins, payload(3, 3) + bytes(4)), 9 * MS)
    assert twins.actions == [XDP_PASS, XDP_PASS, XDP_DROP, XDP_DROP, XDP_DROP, XDP_PASS]
    twins.compare(10 * MS)
    snapshot = twins.stores[1].snapshot()
    assert (snapshot.received, snapshot.duplicates, snapshot.reordered) == (4, 2, 1)


def test_timestamps_seconds_and_ages_apart(twins: Twins) -> None:
    """Squares of 128 bits, eras, nanoseconds beyond a second, the ends of the ranges."""
    words = [0, 1, 2**32 - 1, 2**63, 2**64 - 1, 0x80000000_00000000, 0xE0000000_FFFFFFFF]
    rng = random.Random(7)
    words += [rng.getrandbits(64) for _ in range(40)]
    sequence = 0
    for error in (NTP, PTP):
        for word in words:
            twins.sent(sequence, UNIX_NS, sequence * MS)
            data = payload(
                *(sequence, sequence),
                error=error,
                sender_error=rng.choice((NTP, PTP)),
                receive_timestamp=word,
                timestamp=rng.choice(words),
                sender_timestamp=rng.choice(words),
            )
            assert twins.arrive(frame(twins, data), sequence * MS + 1) == XDP_DROP
            sequence += 1
    twins.compare(sequence * MS)


def run(node: Node, changes: dict[str, Any], options: dict[str, Any], script: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        twins = Twins(node, session(**changes), Path(folder))
        try:
            network = TwinNetwork(twins, **options)
            script(network)
            twins.compare(network.now_ns)
        finally:
            twins.close()


modes = st.sampled_from(ReflectorMode)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(in_order, max_size=150), st.integers(0, 2**32 - 1), st.integers(-S, S), modes,
    st.sampled_from(DelayMode),
)  # fmt: skip
def test_lost_and_duplicated_as_the_core(
    node: Node, fates: list[Fate], counter: int, offset_ns: int, mode: ReflectorMode,
    delays: DelayMode,
) -> None:  # fmt: skip
    def script(network: TwinNetwork) -> None:
        network.send([FINE, *fates, FINE])
        network.drain()

    options = {"counter": counter, "clock_offset_ns": offset_ns}
    run(node, {"reflector_mode": mode, "delay_mode": delays}, options, script)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(overtaking, max_size=80), modes)
def test_overtaking_as_the_core(node: Node, fates: list[Fate], mode: ReflectorMode) -> None:
    def script(network: TwinNetwork) -> None:
        network.send([FINE])
        network.run(100 * MS)
        network.send(fates)
        network.drain()
        network.now_ns += S
        network.send([FINE, FINE])
        network.drain()

    run(node, {"reflector_mode": mode}, {}, script)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(anything, min_size=1, max_size=80), modes, st.sampled_from([None, 0, 5, 2**31]))
def test_anything_as_the_core(
    node: Node, fates: list[Fate], mode: ReflectorMode, restart_at: int | None
) -> None:
    """Whatever is lost, duplicated, reordered, and though the reflector restarts."""

    def script(network: TwinNetwork) -> None:
        network.send(fates)
        network.run(len(fates) * 5 * MS)
        if restart_at is not None:
            network.counter = restart_at
        network.drain()
        network.run(network.now_ns + S)

    run(node, {"reflector_mode": mode}, {}, script)


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 12)),
    st.tuples(st.just("reply"), st.integers(0, 40), st.booleans(), st.integers(-3, 3)),
    st.tuples(st.just("wait"), st.integers(0, 300)),
    st.tuples(st.sampled_from(["expire", "clear", "stop", "start", "interrupt", "compare"])),
)


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STEPS, max_size=80), modes, st.booleans())
def test_a_life_as_the_core(
    node: Node, steps: list[tuple[Any, ...]], mode: ReflectorMode, late_start: bool
) -> None:
    """Runs, stops, clears, interruptions and replies to anything, old and unknown."""
    with tempfile.TemporaryDirectory() as folder:
        config = session(reflector_mode=mode, loss_timeout_ms=300, result_depth=20)
        twins = Twins(node, config, Path(folder))
        try:
            play(twins, steps, late_start)
        finally:
            twins.close()


def play(twins: Twins, steps: list[tuple[Any, ...]], late_start: bool) -> None:
    now_ns, counter = 0, 0
    if not late_start:
        twins.start(now_ns, UNIX_NS)
    for kind, *values in steps:
        now_ns += 1
        if kind == "send":
            for _ in range(values[0]):
                now_ns += 10 * MS
                twins.sent(twins.next_sequence, UNIX_NS + now_ns, now_ns)
        elif kind == "reply":
            age, tlv, step = values
            counter = (counter + step) % 2**32
            data = payload(*(twins.next_sequence - age, counter), t1_ns=UNIX_NS + now_ns - 5 * MS)
            twins.arrive(frame(twins, data + bytes(4 * tlv)), now_ns)
        elif kind == "wait":
            now_ns += values[0] * MS
            twins.expire(now_ns)
        elif kind == "compare":
            twins.compare(now_ns)
        elif kind == "start":
            twins.start(now_ns, UNIX_NS + now_ns)
        else:
            getattr(twins, kind)(now_ns)
    twins.compare(now_ns)
    twins.expire(now_ns + 400 * MS)
    twins.compare(now_ns + 400 * MS)


@pytest.mark.parametrize("mode", ReflectorMode)
@pytest.mark.parametrize("disturbance", ["none", "lost", "overtaken"])
def test_thousands_at_once_as_the_core(
    node: Node, tmp_path: Path, mode: ReflectorMode, disturbance: str
) -> None:
    """More records than wait in order of arrival, drained at once; twice."""
    rng = random.Random(disturbance)
    config = session(
        interval_us=1_000, loss_timeout_ms=20_000, computation_interval_s=30,
        reflector_mode=mode, result_depth=100,
    )  # fmt: skip
    twins = Twins(node, config, tmp_path)
    twins.start(0, UNIX_NS)
    now_ns, counter, waiting = 0, 0xFFFFF000, []
    try:
        for burst in range(2):
            first = twins.next_sequence
            twins.announce(3 * ORDER_MAX, UNIX_NS + now_ns, now_ns)
            for sequence in range(first, twins.next_sequence):
                now_ns += MS // 10
                if disturbance == "lost" and rng.random() < 0.02:
                    continue
                counter += 1
                if disturbance == "lost" and rng.random() < 0.02:
                    continue
                waiting.append(payload(sequence, counter, forward_ns=rng.randrange(10 * MS)))
                if disturbance == "overtaken" and rng.random() < 0.01:
                    continue
                while waiting:
                    twins.arrive(frame(twins, waiting.pop()), now_ns)
            twins.compare(now_ns)
            if burst:
                now_ns += 21 * S
                twins.expire(now_ns)
                twins.compare(now_ns)
    finally:
        twins.close()


def test_mutated_packets_count_as_the_core_would(node: Node, tmp_path: Path) -> None:
    """A hundred thousand frames that are nearly right: none crashes, and what is counted
    is what the core counts of those that a socket would be given."""
    rng = random.Random(1)
    twins = Twins(node, session(loss_timeout_ms=100_000, computation_interval_s=3_600), tmp_path)
    twins.start(0, UNIX_NS)
    twins.announce(5_000, UNIX_NS, 0)
    shapes = [
        shaped(twins, payload(n, n, error=error), form)
        for n, form in enumerate(FORMS)
        for error in (NTP, PTP)
    ]
    accepted = dropped = 0
    try:
        for number in range(100_000):
            shape = rng.choice(shapes)
            data = bytearray(shape.encode())
            if rng.random() < 0.5:
                # Right in its checksum, so that what is inside is judged.
                inside = bytearray(shape.datagram.payload)
                for _ in range(rng.randrange(3)):
                    inside[rng.randrange(len(inside))] = rng.getrandbits(8)
                inside[24:28] = (rng.randrange(6_000)).to_bytes(4, "big")
                changed = shape.with_datagram(replace(shape.datagram, payload=bytes(inside)))
                action = twins.node.run(changed.encode(), number)
                if action == XDP_DROP:
                    accepted += 1
                    result = twins.core.receive(
                        bytes(inside), source=changed.datagram.source, source_port=862,
                        t4_ns=UNIX_NS + number, now_ns=number, t4_method=KERNEL,
                    )  # fmt: skip
                    assert not isinstance(result, DiscardReason)
                continue
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] = rng.getrandbits(8)
            if rng.random() < 0.3:
                del data[rng.randrange(len(data)) :]
            action = twins.node.run(bytes(data).ljust(14, b"\0"), number)
            if action == XDP_DROP:
                dropped += 1
                reply_inside(twins, bytes(data), number)
            else:
                assert action == XDP_PASS
        assert accepted > 5_000
        assert dropped > 0
        twins.compare(100_000)
    finally:
        twins.close()


def reply_inside(twins: Twins, data: bytes, now_ns: int) -> None:
    """The core is told what the driver has taken; it must be a frame that is right."""
    datagram = reference.decode(data).datagram
    assert (datagram.destination, datagram.destination_port) == (SENDER, SENDER_PORT)
    result = twins.core.receive(
        datagram.payload, source=datagram.source, source_port=datagram.source_port,
        t4_ns=UNIX_NS + now_ns, now_ns=now_ns, t4_method=KERNEL,
    )  # fmt: skip
    assert not isinstance(result, DiscardReason)


def test_two_cpus_and_a_drain_at_once(node: Node, tmp_path: Path) -> None:
    """Replies of one session arrive on two CPUs while user space drains: each is counted
    once, by whichever path it takes."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    config = session(interval_us=1_000, loss_timeout_ms=60_000, computation_interval_s=3_600)
    twins = Twins(node, config, tmp_path)
    driver, store = twins.driver, twins.stores[1]
    count, now_ns = 6_000, 5 * MS
    driver.start(0, UNIX_NS)
    driver.announce(count, UNIX_NS, 0)
    node.tables.fix_clock(UNIX_NS + now_ns)
    frames = [frame(twins, payload(n, n)) for n in range(count)]
    handed_up: list[Frame] = []

    def arrive(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        # Every frame comes twice, once on each CPU.
        for packet in frames:
            if run_program(node.program, packet.encode()).action == XDP_PASS:
                handed_up.append(packet)

    cpus = sorted(os.sched_getaffinity(0))[:2]
    before = node.tables.counts()
    threads = [threading.Thread(target=arrive, args=(cpu,)) for cpu in cpus]
    try:
        for thread in threads:
            thread.start()
        drains = 0
        while any(thread.is_alive() for thread in threads):
            driver.drain(now_ns)
            snapshot = store.snapshot()
            assert snapshot.forward.samples == snapshot.received
            drains += 1
        for thread in threads:
            thread.join()
        for packet in handed_up:
            driver.receive(
                packet.datagram.payload, source=REFLECTOR, source_port=862,
                t4_ns=UNIX_NS + now_ns, now_ns=now_ns,
            )  # fmt: skip
        driver.drain(now_ns)
        after = node.tables.counts()
        snapshot = store.snapshot(count)
        assert drains > 1
        assert (snapshot.received, snapshot.duplicates, snapshot.late) == (count, count, 0)
        here = (after.collected, after.duplicates)
        assert sum(here) - before.collected - before.duplicates == 2 * count - len(handed_up)
        assert sorted(r.sequence for r in store.snapshot(count).records) == sorted(
            {r.sequence for r in snapshot.records}
        )
        assert snapshot.loss.round_trip == 0
    finally:
        twins.close()
