"""Requests in batches are answered as if each had come by itself."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from ipaddress import IPv6Address

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.clock import Clock
from dataplane.config import IPAddress, Reflector, ReflectorMode, ReflectorSession
from dataplane.engines.common.batch import Batch
from dataplane.engines.common.batch_reflection import BatchReflection, rthdr_of
from dataplane.engines.common.transport import Datagram
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.packet import OPEN, SenderPacket
from dataplane.stamp.rate_limit import RateLimiter
from dataplane.stamp.session_reflector import Reply, SessionReflector
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat

A, B = IPv6Address("fd00::a"), IPv6Address("fd00::b")
SID = IPv6Address("fc00::1")
OURS = tuple(IPv6Address(text).packed for text in ("fd00::1", "fd00::2", "fe80::1"))
T2_NS = 1_790_000_000_000_000_000

SESSIONS: dict[tuple[int, IPAddress | None], ReflectorSession] = {
    session.key: session
    for session in (
        ReflectorSession(1, mode=ReflectorMode.STATEFUL),
        ReflectorSession(2, A, segments=(SID,), mode=ReflectorMode.STATEFUL),
        ReflectorSession(2, sender_udp_port=1_000),
        ReflectorSession(3, A, timestamp_format=TimestampFormat.PTPV2),
        ReflectorSession(4, B, segments=(SID, B), enabled=False),
    )
}


@dataclass
class Wire:
    """A transport that is fed by hand and remembers what it was given to send."""

    waiting: list[Datagram] = field(default_factory=list)
    sent: list[tuple[object, ...]] = field(default_factory=list)
    dressed: tuple[object, ...] = ()
    refuse: set[bytes] = field(default_factory=set)
    """Sequence numbers, as in the replies, that cannot be sent."""

    limitation: str | None = None

    def fileno(self) -> int:
        return -1

    def close(self) -> None: ...

    def receive(self) -> Datagram | None:
        return self.waiting.pop(0) if self.waiting else None

    def dress(self, rthdr: bytes, traffic_class: int, hop_limit: int) -> None:
        self.dressed = rthdr, traffic_class, hop_limit

    def send(self, payload: bytes, address: str, port: int) -> int:
        raise NotImplementedError

    def answer(self, payload: bytes | bytearray, request: Datagram) -> None:
        peer = socket.inet_pton(socket.AF_INET6, request.source)
        self._put(bytes(payload), request.destination, peer, request.source_port, request.zone)

    def send_burst(
        self,
        payloads: npt.NDArray[np.uint8],
        source: bytes,
        destination: bytes,
        port: int,
        scope_id: int,
    ) -> int:
        assert payloads.flags.c_contiguous
        for row, payload in enumerate(payloads):
            try:
                self._put(payload.tobytes(), source, destination, port, scope_id)
            except OSError:
                if not row:
                    raise
                return row
        return len(payloads)

    def _put(self, payload: bytes, *address: object) -> None:
        if payload[24:28] in self.refuse:
            raise OSError(101, "Network is unreachable")
        # T3 is whatever the clock said.
        self.sent.append((payload[:4] + payload[12:], *address, *self.dressed))

    def transmitted(self):  # type: ignore[no-untyped-def]
        return iter(())

    def dropped(self) -> int:
        return 0

    def receive_batch(self, batch: Batch) -> None:
        batch.count = min(len(self.waiting), batch.capacity)
        batch.long.clear()
        for row in range(batch.count):
            packet = self.waiting.pop(0)
            size = len(packet.data)
            # What was in a row before is still behind a shorter packet.
            batch.data[row] = 0xAA
            batch.data[row, : min(size, 128)] = np.frombuffer(packet.data[:128], np.uint8)
            if size > 128:
                batch.long[row] = packet.data
            batch.length[row] = size
            source = socket.inet_pton(socket.AF_INET6, packet.source)
            batch.source[row] = np.frombuffer(source, np.uint64)
            batch.destination[row] = np.frombuffer(packet.destination, np.uint64)
            batch.source_port[row] = packet.source_port
            batch.scope_id[row] = packet.scope_id
            batch.hop_limit[row] = -1 if packet.hop_limit is None else packet.hop_limit
            batch.traffic_class[row] = packet.traffic_class
            batch.interface[row] = packet.interface
            batch.received_ns[row] = packet.received_ns
            batch.kernel_stamped[row] = packet.kernel_stamped


class Node:
    def __init__(self, config: Reflector) -> None:
        self.core = SessionReflector(config)
        self.wire = Wire()
        self.failed = self.refused = 0
        self.limiter = RateLimiter(config.rate_limit) if config.rate_limit else None

    def reflect(self, request: Datagram) -> Reply | None:
        source = IPv6Address(request.source).packed
        if self.limiter is not None and not self.limiter.admits(source, request.received_ns):
            self.refused += 1
            return None
        reply = self.core.receive(
            request.data,
            source=IPv6Address(request.source),
            source_port=request.source_port,
            hop_limit=request.hop_limit,
            t2_ns=request.received_ns,
            t2_method=request.received_method,
        )
        if isinstance(reply, DiscardReason):
            return None
        self.wire.dress(rthdr_of(reply.segments), request.traffic_class & 0xFC, 255)
        estimate = ErrorEstimate(False, reply.timestamp_format, 0, 1)
        try:
            self.wire.answer(reply.encode(0, estimate), request)
        except OSError:
            self.failed += 1
            return None
        reply.sent()
        return reply

    def state(self) -> object:
        return (
            dict(self.core.states),
            self.core.unconfigured,
            self.core.discarded,
            self.failed,
            self.refused,
        )


payloads = st.builds(
    lambda sequence, ssid, fmt, tail, cut: (
        SenderPacket(sequence, sequence << 20, ErrorEstimate(False, fmt, 3, 7), ssid, tail).encode()
    )[:cut],
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 1, 2, 2, 3, 4, 9]),
    st.sampled_from(TimestampFormat),
    st.sampled_from([b"", b"", b"", b"", b"\x80\x01\x00\x00", bytes(100)]),
    st.sampled_from([None, None, None, None, 43, 13, 44]),
)
regular = st.builds(
    lambda ssid, fmt: SenderPacket(0, 1 << 20, ErrorEstimate(False, fmt, 3, 7), ssid, b"").encode(),
    st.sampled_from([1, 2, 3, 9]),
    st.sampled_from(TimestampFormat),
)
packets = st.builds(
    Datagram,
    st.one_of(payloads, payloads, payloads, st.binary(max_size=60)),
    st.sampled_from([str(A), str(A), str(B)]),
    st.sampled_from([1_000, 1_000, 2_000, 862]),
    st.just(0),
    st.sampled_from([64, 255, None]),
    st.sampled_from([0, 0, 46 << 2, 46 << 2 | 1]),
    st.sampled_from(OURS),
    st.sampled_from([2, 3]),
    st.integers(T2_NS, T2_NS + 10**10),
    st.just(True),
)


def siblings(flow: Datagram) -> list[Datagram]:
    """Flows that differ from this one in one respect."""
    found = [
        *(flow._replace(source=str(address)) for address in (A, B, IPv6Address("fd01::a"))),
        flow._replace(source_port=flow.source_port ^ 1),
        *(flow._replace(destination=address) for address in OURS),
        # To a link-local address there is one on each link.
        flow._replace(destination=OURS[-1], interface=flow.interface ^ 1),
    ]
    data = flow.data
    if len(data) == OPEN.length:
        datas = [data[:14] + ssid.to_bytes(2, "big") + data[16:] for ssid in range(1, 5)]
        datas.append(data[:12] + bytes([data[12] ^ 0x40]) + data[13:])
        found += [flow._replace(data=each) for each in datas]
    return found


@st.composite
def traffic(draw: st.DrawFn) -> list[Datagram]:
    """Packets of a few flows, which differ in what a verdict does not depend on."""
    flows = draw(st.lists(packets, min_size=1, max_size=4))
    flows[0] = flows[0]._replace(data=draw(regular))
    flows += draw(st.lists(st.sampled_from(siblings(flows[0])), max_size=6))
    found = []
    for flow, sequence, hop_limit, t2_ns, stamped, odd in draw(
        st.lists(
            st.tuples(
                st.sampled_from(flows),
                st.binary(min_size=4, max_size=4),
                st.sampled_from([64, 255, None]),
                st.integers(T2_NS, T2_NS + 10**10),
                st.booleans(),
                st.sampled_from([*[""] * 12, "no multiplier", "reflected"]),
            ),
            min_size=20,
            max_size=120,
        )
    ):
        data = (sequence + flow.data[4:]) if len(flow.data) > 4 else flow.data
        if odd == "no multiplier":
            data = data[:13] + b"\0" + data[14:]
        elif odd == "reflected":
            data = data[:16] + data[4:12] + data[24:]
        found.append(
            flow._replace(data=data, hop_limit=hop_limit, received_ns=t2_ns, kernel_stamped=stamped)
        )
    return found


@settings(max_examples=200)
@given(
    traffic(),
    st.booleans(),
    st.lists(st.integers(0, 30), max_size=8),
    st.sampled_from([0, 37]),
    st.sampled_from([None, None, 2, 100]),
)
def test_batches_are_answered_as_single_packets_are(
    arrivals: list[Datagram],
    required: bool,
    refused: list[int],
    tai_offset_s: int,
    rate_limit: int | None,
) -> None:
    config = Reflector(
        require_configured_session=required, rate_limit=rate_limit, sessions=SESSIONS
    )
    one_by_one, batched = Node(config), Node(config)
    for node in (one_by_one, batched):
        node.core.tai_offset_s = tai_offset_s
        node.wire.refuse = {arrivals[i].data[:4] for i in refused if i < len(arrivals)}
    for request in arrivals:
        one_by_one.reflect(request)
    batches = BatchReflection(batched.wire, Clock())
    # Twice the same configuration in between: what is forgotten is learnt again.
    for part in (arrivals[:50], arrivals[50:]):
        batched.wire.waiting = list(part)
        failed, over = batches.serve(batched.core, batched.reflect, batched.limiter)
        batched.failed += sum(failed.values())
        batched.refused += over
        batches.forget()

    # Replies to one peer stay in order; those to different ones may pass each other.
    def lanes(wire: Wire) -> dict[object, list[object]]:
        found: dict[object, list[object]] = {}
        for payload, *lane in wire.sent:
            assert isinstance(payload, bytes)
            found.setdefault(tuple(lane), []).append(without_estimate(payload))
        return found

    assert lanes(batched.wire) == lanes(one_by_one.wire)
    assert batched.state() == one_by_one.state()


def without_estimate(payload: bytes) -> bytes:
    """The reply without scale and multiplier of T3's Error Estimate, which are the clock's."""
    return payload[:4] + bytes([payload[4] & 0x40]) + payload[6:]


def test_each_of_very_many_senders_gets_its_own_reply() -> None:
    node = Node(Reflector(require_configured_session=False))
    batches = BatchReflection(node.wire, Clock())
    random = np.random.default_rng(5)
    peers = [str(IPv6Address((0xFD00 << 112) + 7_919 * number + 1)) for number in range(8_000)]
    estimate = ErrorEstimate(False, TimestampFormat.NTP, 3, 7)
    asked = 0
    for _ in range(14):
        for number in random.integers(0, len(peers), 1_024).tolist():
            data = SenderPacket(number, 1 << 20, estimate, 0, b"").encode()
            node.wire.waiting.append(
                Datagram(data, peers[number], 5_000, 0, 64, 0, OURS[0], 2, T2_NS, True)
            )
            asked += 1
        while node.wire.waiting:
            assert batches.serve(node.core, node.reflect, None) == ({}, 0)
    assert len(node.wire.sent) == asked
    for payload, _, peer, *_ in node.wire.sent:
        assert isinstance(payload, bytes)
        number = int.from_bytes(payload[16:20], "big")
        assert peer == IPv6Address(peers[number]).packed
