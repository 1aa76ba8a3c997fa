"""The collector's program against the sans-IO Collector, with one clock for both.

Packets go through BPF_PROG_RUN; what the program hands up goes to the session's
slow path, as it would through the socket.
"""

import random
from dataclasses import replace
from typing import Any

import pytest

from dataplane.bpf.syscall import XDP_DROP, XDP_PASS
from dataplane.engines.xdp.collector_layouts import CollectorUp
from dataplane.frames import Outer
from dataplane.stamp.timestamp import ERA_NS, ErrorEstimate
from tests.integration.engines.driver.extensions import DESTINATION, HOP_BY_HOP, with_options
from tests.integration.engines.xdp.collecting import (
    FORMS,
    NTP,
    PATH,
    PTP,
    Twins,
    frame,
    payload,
    shaped,
)
from tests.unit.stamp.network import (
    MS,
    UNIX_NS,
)

pytestmark = pytest.mark.integration


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
        (CollectorUp.SEQUENCE, {"data": payload(t1_ns=UNIX_NS - 1)}),
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


@pytest.mark.parametrize("kind", [HOP_BY_HOP, DESTINATION])
def test_replies_with_options_are_handed_up(twins: Twins, kind: int) -> None:
    twins.sent(0, UNIX_NS, 0)
    before = twins.node.tables.counts().handed_up
    data = with_options(frame(twins, payload()).encode(), (kind, 0))
    assert twins.node.run(data, 5 * MS) == XDP_PASS
    after = twins.node.tables.counts().handed_up
    assert after == before | {CollectorUp.FORM: before[CollectorUp.FORM] + 1}
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
    twins.know_earliest_t1(UNIX_NS - ERA_NS)
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
