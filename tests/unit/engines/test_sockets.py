"""Sockets on the loopback interface: ancillary data, timestamps, errors."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from dataplane.clock import wall_ns
from dataplane.engines.common.interfaces import InterfaceFilter
from dataplane.engines.common.transport import Datagram, bind_error
from dataplane.engines.userspace.sockets import UdpSocket

LOCAL = IPv6Address("::1")
PORT_A, PORT_B = 49_301, 49_302


@pytest.fixture
def pair() -> Iterator[tuple[UdpSocket, UdpSocket]]:
    first = UdpSocket(LOCAL, PORT_A, transmit_timestamps=True)
    second = UdpSocket(None, PORT_B)
    yield first, second
    first.close()
    second.close()


def read(sock: UdpSocket) -> Datagram:
    datagram = sock.receive()
    assert datagram is not None
    return datagram


def test_everything_that_comes_with_a_packet(pair: tuple[UdpSocket, UdpSocket]) -> None:
    first, second = pair
    assert second.receive() is None
    # The kernel switches timestamping on in the background, once a socket wants it.
    for _ in range(100):
        first.send(b"first", "::1", PORT_B)
        if read(second).kernel_stamped:
            break
        time.sleep(0.01)
    first.dress(b"", 46 << 2, 77)
    before_ns = wall_ns()
    first.send(b"request", "::1", PORT_B)
    request = read(second)
    assert (request.data, request.source, request.source_port) == (b"request", "::1", PORT_A)
    assert (request.hop_limit, request.traffic_class) == (77, 46 << 2)
    assert request.destination == LOCAL.packed
    assert request.interface == socket.if_nametoindex("lo")
    assert request.kernel_stamped
    assert before_ns <= request.received_ns <= wall_ns()
    second.answer(b"reply", request)
    reply = read(first)
    assert (reply.data, reply.source, reply.source_port) == (b"reply", "::1", PORT_B)


def test_transmit_timestamps_belong_to_their_packets(pair: tuple[UdpSocket, UdpSocket]) -> None:
    first, _ = pair
    sent = {}
    for _ in range(5):
        before_ns = wall_ns()
        identifier = first.send(b"x", "::1", PORT_B)
        sent[identifier] = before_ns, wall_ns()
    stamped = dict(first.transmitted())
    assert stamped.keys() == sent.keys()
    assert all(sent[key][0] <= stamped[key] <= sent[key][1] for key in sent)
    # A send that fails may or may not use up an identifier.
    with pytest.raises(OSError, match="Message too long"):
        first.send(bytes(70_000), "::1", PORT_B)
    before_ns = wall_ns()
    identifier = first.send(b"y", "::1", PORT_B)
    [(again, sent_ns)] = list(first.transmitted())
    assert again == identifier
    assert sent_ns >= before_ns


def test_port_unreachable_disturbs_nothing(pair: tuple[UdpSocket, UdpSocket]) -> None:
    first, second = pair
    for _ in range(3):
        first.send(b"x", "::1", 49_399)
        assert first.receive() is None
    first.send(b"still here", "::1", PORT_B)
    assert read(second).data == b"still here"


def test_large_datagram_is_read_whole(pair: tuple[UdpSocket, UdpSocket]) -> None:
    first, second = pair
    payload = bytes(range(256)) * 200
    first.send(payload, "::1", PORT_B)
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


def test_bind_error() -> None:
    with pytest.raises(OSError, match="Cannot assign") as failure:
        UdpSocket(IPv6Address("2001:db8::1"), 862)
    assert bind_error(IPv6Address("2001:db8::1"), 862, failure.value) == (
        "cannot bind [2001:db8::1]:862: Cannot assign requested address"
    )
    assert bind_error(None, 862, OSError(errno.EADDRINUSE, "")) == (
        "cannot bind [::]:862: Address already in use"
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
