"""Two nodes measure each other over a real SRv6 router between them."""

from __future__ import annotations

import dataclasses
import socket
import struct
from ipaddress import IPv6Address
from typing import Any

import pytest

from dataplane.config import (
    Node,
    Reflector,
    ReflectorMode,
    ReflectorSession,
    Sender,
    SenderSession,
)
from dataplane.engines.base import IntervalClosed, OperState
from dataplane.srv6 import SegmentRoutingHeader
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.packet import OPEN, SenderPacket
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat
from tests.integration.engines.network import (
    BACK,
    FORTH,
    REFLECTOR,
    SENDER,
    Capture,
    Network,
    eventually,
    inside,
    ip,
)
from tests.integration.host.conftest import Host, StartHost

pytestmark = pytest.mark.integration

FAST = SenderSession(5, REFLECTOR, SENDER, interval_us=10_000, computation_interval_s=1)
ETHERNET, IPV6 = 14, 40
ROUTING, UDP = 43, 17


def reflecting(*sessions: ReflectorSession, **settings: Any) -> Node:
    role = Reflector(sessions={session.key: session for session in sessions})
    return Node(reflector=dataclasses.replace(role, **settings))


def sending(*sessions: SenderSession, **settings: Any) -> Node:
    role = Sender(sessions={session.ssid: session for session in sessions})
    return Node(sender=dataclasses.replace(role, **settings))


def received(host: Host, ssid: int) -> int:
    return host.engine.results.snapshot(ssid).received


def test_delays_and_loss_of_a_stateful_session(network: Network, start_host: StartHost) -> None:
    sender, reflector = start_host(network.sender), start_host(network.reflector)
    reflector.engine.apply(
        reflecting(ReflectorSession(5, segments=(BACK,), mode=ReflectorMode.STATEFUL))
    )
    session = dataclasses.replace(
        FAST, segments=(FORTH,), reflector_mode=ReflectorMode.STATEFUL, packet_count=150
    )
    sender.engine.apply(sending(session))
    eventually(lambda: sender.engine.status()[5].oper_state is OperState.COMPLETED, "run complete")
    snapshot = sender.engine.results.snapshot(5)
    assert snapshot.sent == snapshot.received == 150
    assert snapshot.loss.round_trip == 0
    for delay in (snapshot.forward, snapshot.backward, snapshot.round_trip):
        assert delay is not None
        assert delay.min_ns is not None
        assert delay.mean_ns is not None
        assert delay.samples == 150
        assert 0 < delay.min_ns <= delay.mean_ns < 50_000_000
    records = sender.engine.results.fetch(5, 1000)
    assert [record.sequence for record in records] == list(range(150))
    assert [record.reflector_sequence for record in records] == list(range(150))
    # Routers on the way: the End behaviour and the SRH itself each cost a hop.
    assert {record.sender_ttl for record in records} <= {253, 254}
    assert sender.engine.results.fetch(5, 1000) == []
    counters = reflector.engine.results.reflector()
    assert counters is not None
    assert counters.sessions[5, None].reflected == 150
    assert IntervalClosed(5, 1) in sender.events


def test_srh_on_the_wire_in_both_directions(network: Network, start_host: StartHost) -> None:
    sender, reflector = start_host(network.sender), start_host(network.reflector)
    forth, back = Capture(network.router, "ra"), Capture(network.router, "rb")
    reflector.engine.apply(reflecting(ReflectorSession(5, segments=(BACK,)), ReflectorSession(6)))
    path = dataclasses.replace(FAST, segments=(FORTH,), dscp=46)
    plain = dataclasses.replace(FAST, ssid=6)
    sender.engine.apply(sending(path, plain))
    eventually(lambda: received(sender, 5) >= 20 and received(sender, 6) >= 20, "20 replies each")
    requests = [frame for frame in map(dissect, forth.frames()) if frame and frame[2] == SENDER]
    replies = [frame for frame in map(dissect, back.frames()) if frame and frame[2] == REFLECTOR]
    forth.close()
    back.close()
    seen = {(ssid, srh, dscp) for ssid, srh, _, dscp, _ in requests}
    assert seen == {(5, (FORTH, REFLECTOR), 46), (6, None, 0)}
    assert {hops for *_, hops in requests} <= {254, 255}
    assert {(ssid, srh, dscp) for ssid, srh, _, dscp, _ in replies} == {
        (5, (BACK, SENDER), 46),
        (6, None, 0),
    }


def dissect(
    frame: bytes,
) -> tuple[int, tuple[IPv6Address, ...] | None, IPv6Address, int, int] | None:
    """SSID, SID list, source, DSCP and Hop Limit of a STAMP packet; None for anything else."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind != 0x86DD:
        return None
    dscp = (int.from_bytes(frame[14:16], "big") >> 4 & 0xFF) >> 2
    following, hop_limit = frame[ETHERNET + 6], frame[ETHERNET + 7]
    source = IPv6Address(frame[ETHERNET + 8 : ETHERNET + 24])
    at, segments = ETHERNET + IPV6, None
    if following == ROUTING:
        header = SegmentRoutingHeader.decode(frame[at:])
        following, segments = header.next_header, header.segments
        at += header.length
    if following != UDP or len(frame) < at + 8 + OPEN.length:
        return None
    (ssid,) = struct.unpack_from("!H", frame, at + 8 + 14)
    return ssid, segments, source, dscp, hop_limit


def test_bad_packets_are_counted_and_never_answered(
    network: Network, start_host: StartHost
) -> None:
    reflector = start_host(network.reflector)
    reflector.engine.apply(reflecting(ReflectorSession(5, sender_udp_port=5000)))
    estimate = ErrorEstimate(False, TimestampFormat.NTP, 0, 1)
    good = SenderPacket(1, 2, estimate, 5).encode()
    with inside(network.sender):
        right, wrong, loop = (socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(3))
    for sock, port in ((right, 5000), (wrong, 5001), (loop, 862)):
        sock.bind((str(SENDER), port))
        sock.settimeout(0.3)
    target = (str(REFLECTOR), 862)
    for _ in range(2):
        right.sendto(good[:13], target)
        right.sendto(SenderPacket(1, 2, estimate, 99).encode(), target)
        right.sendto(good[:13] + b"\0" + good[14:], target)
        wrong.sendto(good, target)
        loop.sendto(good, target)
    right.sendto(good, target)
    answer = right.recv(1000)
    assert len(answer) == OPEN.length
    for sock in (right, wrong, loop):
        with pytest.raises(TimeoutError):
            sock.recv(1000)
        sock.close()
    counters = reflector.engine.results.reflector()
    assert counters is not None
    assert {reason: count for reason, count in counters.discards.items() if count} == {
        DiscardReason.TRUNCATED: 2,
        DiscardReason.UNKNOWN_SESSION: 2,
        DiscardReason.ZERO_MULTIPLIER: 2,
        DiscardReason.WRONG_PORT: 2,
        DiscardReason.UNANSWERABLE: 2,
    }
    assert counters.received == counters.reflected == 1


def test_interfaces_restrict_both_roles(network: Network, start_host: StartHost) -> None:
    sender, reflector = start_host(network.sender), start_host(network.reflector)
    reflector.engine.apply(reflecting(ReflectorSession(5), interfaces=("lo",)))
    sender.engine.apply(sending(FAST))

    def discarded() -> int:
        counters = reflector.engine.results.reflector()
        return 0 if counters is None else counters.discards[DiscardReason.WRONG_INTERFACE]

    eventually(lambda: discarded() >= 5, "requests from another interface are counted")
    assert received(sender, 5) == 0
    reflector.engine.apply(reflecting(ReflectorSession(5), interfaces=("lo", "vb")))
    eventually(lambda: received(sender, 5) >= 5, "requests are answered")
    sender.engine.apply(sending(FAST, interfaces=("lo",)))
    eventually(
        lambda: sender.engine.results.snapshot(5).discards[DiscardReason.WRONG_INTERFACE] >= 5,
        "replies from another interface are counted",
    )


def test_twamp_light_request_gets_a_full_reply(network: Network, start_host: StartHost) -> None:
    reflector = start_host(network.reflector)
    reflector.engine.apply(reflecting(require_configured_session=False))
    with inside(network.sender):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.settimeout(2)
    short = SenderPacket(7, 1, ErrorEstimate(False, TimestampFormat.NTP, 0, 1)).encode()[:14]
    sock.sendto(short, (str(REFLECTOR), 862))
    assert len(sock.recv(100)) == OPEN.length
    long = SenderPacket(8, 1, ErrorEstimate(False, TimestampFormat.NTP, 0, 1), 0, bytes(2000))
    sock.sendto(long.encode(), (str(REFLECTOR), 862))
    assert len(sock.recv(4000)) == OPEN.length + 2000
    sock.close()


def test_change_of_one_session_leaves_the_others_alone(
    network: Network, start_host: StartHost
) -> None:
    sender, reflector = start_host(network.sender), start_host(network.reflector)
    node = reflecting(ReflectorSession(5, mode=ReflectorMode.STATEFUL), ReflectorSession(6))
    reflector.engine.apply(node)
    other = dataclasses.replace(FAST, ssid=6, segments=(FORTH,))
    kept = dataclasses.replace(FAST, reflector_mode=ReflectorMode.STATEFUL)
    sender.engine.apply(sending(kept, other))
    eventually(lambda: received(sender, 5) > 20 and received(sender, 6) > 20, "both run")
    since = sender.engine.status()[5]
    for dscp in range(1, 6):
        sender.engine.apply(sending(kept, dataclasses.replace(other, dscp=dscp)))
        reflector.engine.apply(
            reflecting(
                ReflectorSession(5, mode=ReflectorMode.STATEFUL),
                ReflectorSession(6, segments=(BACK,) * dscp),
            )
        )
    changed_at = received(sender, 5)
    eventually(lambda: received(sender, 5) > changed_at + 20, "the session goes on")
    sender.engine.apply(sending(kept))
    assert sender.engine.status() == {5: since}
    records = sender.engine.results.fetch(5, 100_000)
    assert [record.sequence for record in records] == list(range(len(records)))
    assert [record.reflector_sequence for record in records] == list(range(len(records)))
    assert sender.engine.results.snapshot(5).loss.round_trip == 0
    assert not (sender.state_dir / "session-6.store").exists()


def test_unreachable_network_is_loss_and_recovers(network: Network, start_host: StartHost) -> None:
    sender, reflector = start_host(network.sender), start_host(network.reflector)
    reflector.engine.apply(reflecting(ReflectorSession(5)))
    sender.engine.apply(sending(dataclasses.replace(FAST, loss_timeout_ms=200)))
    eventually(lambda: received(sender, 5) > 10, "the session runs")
    ip("-n", network.sender, "-6", "route", "delete", "default")
    eventually(lambda: sender.engine.results.snapshot(5).send_errors > 10, "sends fail")
    eventually(lambda: sender.engine.results.snapshot(5).loss.round_trip > 5, "that is loss")
    status = sender.engine.status()[5]
    assert status.oper_state is OperState.RUNNING
    assert status.last_error == "cannot send to [fd00:b::1]:862: Network is unreachable"
    before = received(sender, 5)
    ip("-n", network.sender, "-6", "route", "add", "default", "via", "fd00:a::ff")
    eventually(lambda: received(sender, 5) > before + 10, "the session goes on")
    snapshot = sender.engine.results.snapshot(5)
    assert snapshot.sent == snapshot.next_sequence
    # What left after the route came back is measured with the kernel's
    # timestamp of its own packet, not with that of another one.
    forward = snapshot.forward
    assert forward.min_ns is not None
    assert forward.max_ns is not None
    assert 0 < forward.min_ns <= forward.max_ns < 50_000_000
