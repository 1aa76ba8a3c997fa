"""Frames that are nearly right, and more than one CPU."""

import os
import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.bpf.syscall import XDP_DROP, XDP_PASS, run_program
from dataplane.config import SENDER_PORT
from dataplane.engines.xdp.collector_layouts import CollectorUp
from dataplane.frames import Frame
from dataplane.stamp.errors import DiscardReason
from tests.integration.engines.xdp import reference
from tests.integration.engines.xdp.collecting import (
    FORMS,
    KERNEL,
    NTP,
    PTP,
    Node,
    Twins,
    frame,
    payload,
    shaped,
)
from tests.unit.stamp.network import (
    MS,
    REFLECTOR,
    SENDER,
    UNIX_NS,
    session,
)

pytestmark = pytest.mark.integration


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


def two_cpus() -> list[int]:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    return cpus


def test_two_cpus_and_a_drain_at_once(node: Node, tmp_path: Path) -> None:
    """Replies of one session arrive on two CPUs while user space drains: each is counted
    once, by whichever path it takes."""
    cpus = two_cpus()
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


def test_one_cpu_at_a_time_has_a_session(node: Node, tmp_path: Path) -> None:
    """Two CPUs count copies of one reply as fast as they can, and lose none."""
    cpus = two_cpus()
    config = session(loss_timeout_ms=60_000, computation_interval_s=3_600)
    twins = Twins(node, config, tmp_path)
    driver, store = twins.driver, twins.stores[1]
    copies, now_ns = 500_000, 5 * MS
    driver.start(0, UNIX_NS)
    driver.announce(1, UNIX_NS, 0)
    node.tables.fix_clock(UNIX_NS + now_ns)
    packet = frame(twins, payload()).encode()

    def arrive(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        run_program(node.program, packet, repeat=copies)

    before = node.tables.counts()
    threads = [threading.Thread(target=arrive, args=(cpu,)) for cpu in cpus]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        driver.drain(now_ns)
        after, snapshot = node.tables.counts(), store.snapshot()
        busy = after.handed_up[CollectorUp.BUSY] - before.handed_up[CollectorUp.BUSY]
        assert snapshot.received == 1
        assert snapshot.duplicates == after.duplicates - before.duplicates
        assert snapshot.duplicates == 2 * copies - 1 - busy
    finally:
        twins.close()


def test_what_user_space_has_taken_for_lost_is_not_received(twins: Twins) -> None:
    """A reply has read the clock before, and has the lock afterwards."""
    twins.sent(0, UNIX_NS, 0)
    timeout_ns = twins.config.loss_timeout_ms * MS
    twins.compare(timeout_ns + 1)
    assert twins.arrive(frame(twins, payload()), timeout_ns) == XDP_DROP
    twins.compare(timeout_ns + 1)
    snapshot = twins.stores[1].snapshot()
    assert (snapshot.received, snapshot.late, snapshot.loss.round_trip) == (0, 1, 1)


def test_nor_is_what_it_has_given_up(twins: Twins) -> None:
    twins.sent(0, UNIX_NS, 0)
    twins.interrupt(MS)
    assert twins.arrive(frame(twins, payload()), 5 * MS) == XDP_DROP
    twins.compare(5 * MS)
    snapshot = twins.stores[1].snapshot()
    assert (snapshot.received, snapshot.late, snapshot.unresolved) == (0, 1, 1)
