"""Sockets on the loopback interface: ancillary data, timestamps, errors."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import numpy as np
import numpy.typing as npt
import pytest

from dataplane.addresses import packed
from dataplane.clock import wall_ns
from dataplane.config import IPAddress
from dataplane.engines.common.batch import Batch
from dataplane.engines.common.interfaces import InterfaceFilter
from dataplane.engines.common.transport import Datagram, bind_error
from dataplane.engines.userspace import sending
from dataplane.engines.userspace.families import family_of
from dataplane.engines.userspace.receiving import Receiver
from dataplane.engines.userspace.sending import BurstSender
from dataplane.engines.userspace.sockets import UdpSocket

LOCAL, ANY = IPv6Address("::1"), IPv6Address("::")
OLD, ANY_OLD = IPv4Address("127.0.0.1"), IPv4Address("0.0.0.0")
IPV6_MTU, IPV6_RECVHOPLIMIT = 24, 51
IP_RECVTTL = 12
FOREIGN = {6: IPv6Address("2001:db8::1"), 4: IPv4Address("192.0.2.1")}
PORT_A, PORT_B = 49_301, 49_302

Pair = tuple[UdpSocket, UdpSocket]


@pytest.fixture(params=[LOCAL, OLD], ids=["IPv6", "IPv4"])
def here(request: pytest.FixtureRequest) -> IPAddress:
    address: IPAddress = request.param
    return address


@pytest.fixture
def pair(here: IPAddress) -> Iterator[Pair]:
    first = UdpSocket(here, PORT_A, transmit_timestamps=True)
    second = UdpSocket(ANY if here.version == 6 else ANY_OLD, PORT_B)
    yield first, second
    first.close()
    second.close()


def read(sock: UdpSocket) -> Datagram:
    datagram = sock.receive()
    assert datagram is not None
    return datagram


def test_everything_that_comes_with_a_packet(pair: Pair, here: IPAddress) -> None:
    first, second = pair
    assert second.receive() is None
    # The kernel switches timestamping on in the background, once a socket wants it.
    for _ in range(100):
        first.send(b"first", str(here), PORT_B)
        if read(second).kernel_stamped:
            break
        time.sleep(0.01)
    first.dress(b"", 46 << 2, 77)
    before_ns = wall_ns()
    first.send(b"request", str(here), PORT_B)
    request = read(second)
    assert (request.data, request.source, request.source_port) == (b"request", str(here), PORT_A)
    assert (request.hop_limit, request.traffic_class) == (77, 46 << 2)
    assert request.destination == packed(here)
    assert request.interface == socket.if_nametoindex("lo")
    assert request.kernel_stamped
    assert before_ns <= request.received_ns <= wall_ns()
    second.answer(b"reply", request)
    reply = read(first)
    assert (reply.data, reply.source, reply.source_port) == (b"reply", str(here), PORT_B)


def test_transmit_timestamps_belong_to_their_packets(pair: Pair, here: IPAddress) -> None:
    first, _ = pair
    sent = {}
    for _ in range(5):
        before_ns = wall_ns()
        identifier = first.send(b"x", str(here), PORT_B)
        sent[identifier] = before_ns, wall_ns()
    stamped = dict(first.transmitted())
    assert stamped.keys() == sent.keys()
    assert all(sent[key][0] <= stamped[key] <= sent[key][1] for key in sent)
    # A send that fails may or may not use up an identifier.
    with pytest.raises(OSError, match="Message too long"):
        first.send(bytes(70_000), str(here), PORT_B)
    before_ns = wall_ns()
    identifier = first.send(b"y", str(here), PORT_B)
    [(again, sent_ns)] = list(first.transmitted())
    assert again == identifier
    assert sent_ns >= before_ns


def test_port_unreachable_disturbs_nothing(pair: Pair, here: IPAddress) -> None:
    first, second = pair
    for _ in range(3):
        first.send(b"x", str(here), 49_399)
        assert first.receive() is None
    first.send(b"still here", str(here), PORT_B)
    assert read(second).data == b"still here"


def test_large_datagram_is_read_whole(pair: Pair, here: IPAddress) -> None:
    first, second = pair
    payload = bytes(range(256)) * 200
    first.send(payload, str(here), PORT_B)
    assert read(second).data == payload


def test_what_the_receive_buffer_cannot_hold_is_counted() -> None:
    first, second = UdpSocket(LOCAL, PORT_A), UdpSocket(LOCAL, PORT_B)
    assert second.dropped() == 0
    sent = 0
    while second.dropped() == 0:
        first.send(bytes(60_000), "::1", PORT_B)
        sent += 1
        assert sent < 10_000
    received = 0
    while second.receive() is not None:
        received += 1
    assert received + second.dropped() == sent
    first.close()
    second.close()


def test_batch_tells_what_single_packets_tell(pair: Pair, here: IPAddress) -> None:
    first, second = pair
    batch = Batch(16)
    second.receive_batch(batch)
    assert batch.count == 0
    payloads = [b"", b"short", bytes(range(128)), bytes(range(256)) * 200, b"last"]
    for index, payload in enumerate(payloads):
        first.dress(b"", index << 2, 100 + index)
        first.send(payload, str(here), PORT_B)
    before_ns = wall_ns()
    for index, payload in enumerate(payloads):
        first.dress(b"", index << 2, 100 + index)
        first.send(payload, str(here), PORT_B)
    singles = [read(second) for _ in payloads]
    second.receive_batch(batch)
    assert batch.count == len(payloads)
    for row, single in enumerate(singles):
        found = batch.datagram(row)
        if found.kernel_stamped:
            assert before_ns <= found.received_ns <= wall_ns()
        same = {"received_ns": single.received_ns, "kernel_stamped": single.kernel_stamped}
        assert found._replace(**same) == single


def test_control_messages_that_differ_are_read_one_by_one(
    pair: Pair,
    here: IPAddress,
) -> None:
    first, second = pair
    for _ in range(3):
        first.send(b"with", str(here), PORT_B)
    receiver, batch = Receiver(16), Batch(16)
    receiver.receive(second.fileno(), batch, family_of(here.version))
    assert batch.hop_limit[:3].tolist() == [64] * 3
    option = socket.socket(fileno=os.dup(second.fileno()))
    if here.version == 6:
        option.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 0)
    else:
        option.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 0)
    first.send(b"without", str(here), PORT_B)
    receiver.receive(second.fileno(), batch, family_of(here.version))
    assert batch.datagram(0).hop_limit is None
    assert batch.datagram(0).destination == packed(here)
    option.close()


class Route:
    """A network on which some destinations take no bursts."""

    def __init__(self, bursts: BurstSender, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refusing: set[bytes] = set()
        self.bursts = 0
        """That were tried."""
        self.now_ns = 1
        send = bursts._send

        def tried(payloads: npt.NDArray[np.uint8], size: int) -> int:
            if bursts._message.control_length != bursts._with:
                return send(payloads, size)
            self.bursts += 1
            assert bursts._peer is not None
            return errno.EIO if bursts._peer[0] in self.refusing else send(payloads, size)

        monkeypatch.setattr(bursts, "_send", tried)
        monkeypatch.setattr(sending, "monotonic_ns", lambda: self.now_ns)


@pytest.mark.parametrize("here", [OLD])
def test_a_route_that_refuses_bursts_is_one_of_many(
    pair: Pair, here: IPAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again after a while; the others are not touched."""
    first, second = pair
    route, rows = Route(second._bursts, monkeypatch), np.zeros((3, 44), np.uint8)
    there = packed(IPv4Address("127.0.0.2"))
    route.refusing.add(there)

    def send(destination: bytes) -> int:
        """How many bursts were tried."""
        before = route.bursts
        assert second.send_burst(rows, packed(here), destination, PORT_A, 0) == 3
        return route.bursts - before

    assert [send(there), send(there), send(packed(here))] == [1, 0, 1]
    assert [read(first).data for _ in range(3)] == [bytes(44)] * 3
    refusal = f"UDP segmentation offload is refused: {os.strerror(errno.EIO)}"
    assert second.limitation == f"packets to 127.0.0.2 are sent one by one: {refusal}"
    route.now_ns += sending.RETRY_NS
    assert [send(there), send(there)] == [1, 0]
    assert second.limitation is not None
    route.refusing.clear()
    route.now_ns += sending.RETRY_NS
    assert [send(there), send(there)] == [1, 1]
    assert second.limitation is None


def test_what_refuses_bursts_is_not_remembered_for_ever(
    pair: Pair, here: IPAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = pair
    route, rows = Route(second._bursts, monkeypatch), np.zeros((3, 44), np.uint8)
    route.refusing.add(packed(here))
    monkeypatch.setattr(sending, "REFUSED_MAX", 2)
    for number in range(1, 4):
        # As routes with different SRHs.
        second._bursts.send(rows, None, packed(here), PORT_A, 0, bytes([number]))
    assert [key[0] for key in second._bursts._refused] == [b"\2", b"\3"]
    assert second.limitation is not None
    route.now_ns += 2 * sending.RETRY_NS
    assert second.limitation is None


@pytest.mark.parametrize("refusing", [False, True])
def test_burst(
    pair: Pair, here: IPAddress, refusing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    route = Route(second._bursts, monkeypatch)
    route.refusing |= {packed(here)} if refusing else set()
    rows = np.arange(64 * 44, dtype=np.uint8).reshape(64, 44)
    second.dress(b"", 46 << 2, 77)
    sent = second.send_burst(rows, packed(here), packed(here), PORT_A, 0)
    assert sent == 64
    received = [read(first) for _ in range(64)]
    assert [each.data for each in received] == [row.tobytes() for row in rows]
    assert {(each.source_port, each.hop_limit, each.traffic_class) for each in received} == {
        (PORT_B, 77, 46 << 2)
    }
    assert first.receive() is None
    assert (second.limitation is not None) is refusing


def test_burst_that_cannot_be_sent(pair: Pair, here: IPAddress) -> None:
    _, second = pair
    rows = np.zeros((3, 44), np.uint8)
    foreign = packed(FOREIGN[here.version])
    # Which of two errors it is has differed between families for long.
    with pytest.raises(OSError, match=r"Invalid argument|Network is unreachable"):
        second.send_burst(rows, foreign, packed(here), PORT_A, 0)
    assert second.limitation is None


@pytest.mark.parametrize("here", [LOCAL])
def test_segmentation_that_is_refused_is_told(pair: Pair, here: IPAddress) -> None:
    first, second = pair
    rows = np.zeros((3, 20_000), np.uint8)
    option = socket.socket(fileno=os.dup(second.fileno()))
    option.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU, 1_400)
    assert second.send_burst(rows, packed(here), packed(here), PORT_A, 0) == 3
    assert [len(read(first).data) for _ in range(3)] == [20_000] * 3
    assert second.limitation is not None
    assert second.limitation.startswith(
        "packets to ::1 are sent one by one: UDP segmentation offload is refused: "
    )
    option.close()


def test_both_families_take_turns_in_one_receiver() -> None:
    """Their control messages differ, and so do their addresses."""
    receiver, batch = Receiver(16), Batch(16)
    pairs = [
        (here, UdpSocket(here, PORT_A), UdpSocket(anywhere, PORT_B, receiver=receiver))
        for here, anywhere in ((LOCAL, ANY), (OLD, ANY_OLD))
    ]
    for round_ in range(3):
        for here, first, second in pairs:
            first.dress(b"", 46 << 2, 77 + round_)
            for _ in range(3):
                first.send(b"x", str(here), PORT_B)
            second.receive_batch(batch)
            assert batch.count == 3
            for row in range(3):
                found = batch.datagram(row)
                assert (found.source, found.source_port) == (str(here), PORT_A)
                assert found.destination == packed(here)
                assert (found.hop_limit, found.traffic_class) == (77 + round_, 46 << 2)
                assert found.interface == socket.if_nametoindex("lo")
    for _, first, second in pairs:
        first.close()
        second.close()


@pytest.mark.parametrize("one_by_one", [True, False])
def test_what_is_sent_to_many_has_no_local_address(one_by_one: bool) -> None:
    """To a broadcast address of the loopback network, for one."""
    first, second = UdpSocket(OLD, PORT_A), UdpSocket(ANY_OLD, PORT_B)
    option = socket.socket(fileno=os.dup(first.fileno()))
    option.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    first.send(b"x", "127.255.255.255", PORT_B)
    batch = Batch(16)
    if one_by_one:
        found = read(second)
    else:
        second.receive_batch(batch)
        found = batch.datagram(0)
    assert found.destination == bytes(16)
    for each in (first, second, option):
        each.close()


def test_bind_error() -> None:
    with pytest.raises(OSError, match="Cannot assign") as failure:
        UdpSocket(IPv6Address("2001:db8::1"), 862)
    assert bind_error(IPv6Address("2001:db8::1"), 862, failure.value) == (
        "cannot bind [2001:db8::1]:862: Cannot assign requested address"
    )
    assert bind_error(ANY, 862, OSError(errno.EADDRINUSE, "")) == (
        "cannot bind [::]:862: Address already in use"
    )
    assert bind_error(IPv4Address("0.0.0.0"), 862, OSError(errno.EADDRINUSE, "")) == (
        "cannot bind 0.0.0.0:862: Address already in use"
    )


def test_interface_filter() -> None:
    index = socket.if_nametoindex("lo")
    assert InterfaceFilter(()).admits(1234)
    only = InterfaceFilter(("lo",))
    assert only.missing is None
    assert only.admits(index)
    assert not only.admits(index + 1)
    partly = InterfaceFilter(("lo", "eth999"))
    assert partly.missing == partly.refresh() == "interface eth999 does not exist"
    assert partly.admits(index)
