"""What is the scapy engine's own: its sniffer and its held port."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address

import pytest

from dataplane.clock import Clock, wall_ns
from dataplane.engines.base import Role
from dataplane.engines.common.transport import Datagram
from dataplane.engines.scapy.transport import BACKLOG, ScapyTransport
from dataplane.stamp.packet import SenderPacket
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, decode_timestamp
from tests.integration.engines.conformance import wire
from tests.integration.engines.network import (
    REFLECTOR,
    SENDER,
    Capture,
    Network,
    eventually,
    inside,
    ip,
)

pytestmark = pytest.mark.integration

PORT = 49_862
UDP = 17
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
"""linux/if_tun.h."""


@pytest.fixture
def transport(network: Network) -> Iterator[ScapyTransport]:
    with inside(network.sender):
        opened = ScapyTransport(Role.SENDER, SENDER, PORT, Clock())
    yield opened
    opened.close()


@pytest.fixture
def send(network: Network) -> Iterator[Callable[[bytes], None]]:
    """From another program of the same node, over its loopback interface."""
    with inside(network.sender):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.connect((str(SENDER), PORT))
    yield sock.send
    sock.close()


def take(transport: ScapyTransport) -> Datagram:
    found: list[Datagram] = []

    def taken() -> bool:
        datagram = transport.receive()
        if datagram is not None:
            found.append(datagram)
        return bool(found)

    eventually(taken, "a packet")
    return found[0]


def test_packets_of_this_machine_whose_checksum_is_not_filled_in(
    transport: ScapyTransport, send: Callable[[bytes], None]
) -> None:
    send(b"x" * 44)
    datagram = take(transport)
    assert (datagram.data, datagram.source, datagram.kernel_stamped) == (
        b"x" * 44,
        str(SENDER),
        True,
    )
    assert transport.receive() is None


def test_packets_of_an_interface_without_link_layer_addresses(
    network: Network, transport: ScapyTransport
) -> None:
    """They begin with the IP header, where those of others have an Ethernet header."""
    ends = IPv6Address("fd00:9::1"), SENDER
    packet = wire.ipv6(*ends, UDP, wire.udp(*ends, (862, PORT), b"x" * 44))
    with inside(network.sender), open("/dev/net/tun", "r+b", buffering=0) as tun:
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"tun9", _IFF_TUN | _IFF_NO_PI))
        ip("-n", network.sender, "link", "set", "tun9", "up")
        tun.write(packet)
        assert take(transport).data == b"x" * 44


def test_a_sniffer_that_has_ended_is_started_anew(
    network: Network, transport: ScapyTransport, send: Callable[[bytes], None]
) -> None:
    transport._sniffer._sniffer.stop()
    send(b"lost")
    with inside(network.sender):
        assert transport.dropped() == 0
    send(b"x" * 44)
    assert take(transport).data == b"x" * 44


def test_packets_that_nobody_reads_are_counted(
    transport: ScapyTransport, send: Callable[[bytes], None]
) -> None:
    """Whether the backlog is full or the kernel's buffer: all are accounted for."""
    total = BACKLOG + 500
    for _ in range(total):
        send(b"x" * 44)
    eventually(
        lambda: len(transport._queue) + transport.dropped() == total, "all are accounted for", 60
    )
    assert len(transport._queue) <= BACKLOG
    assert transport.dropped() >= 500


@pytest.mark.parametrize("fmt", TimestampFormat, ids=str)
def test_the_timestamp_is_that_of_leaving(
    transport: ScapyTransport, network: Network, fmt: TimestampFormat
) -> None:
    """Whatever it was before the packet was built, in the format of the Z bit."""
    link = Capture(network.router, "ra")
    long_ago = SenderPacket(7, 0, ErrorEstimate(False, fmt, 3, 5), ssid=9, tlvs=b"tail")
    before_ns = wall_ns()
    transport.send(long_ago.encode(), str(REFLECTOR), 862)
    after_ns = wall_ns()
    payloads: list[bytes] = []

    def caught() -> bool:
        payloads.extend(frame[62:] for frame in link.frames() if frame[20] == UDP)
        return bool(payloads)

    eventually(caught, "the packet on the wire")
    link.close()
    sent = SenderPacket.decode(payloads[0])
    assert dataclasses.replace(sent, timestamp=0) == long_ago
    assert before_ns <= decode_timestamp(sent.timestamp, fmt, before_ns) <= after_ns


def test_nothing_is_left_open(network: Network) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with inside(network.sender):
            transport = ScapyTransport(Role.SENDER, SENDER, PORT, Clock())
        transport.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_port_that_is_taken_leaves_nothing_open(network: Network) -> None:
    with inside(network.sender):
        first = ScapyTransport(Role.SENDER, SENDER, PORT, Clock())
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="Address already in use"):
            ScapyTransport(Role.SENDER, SENDER, PORT, Clock())
        assert len(os.listdir("/proc/self/fd")) == before
    first.close()
