"""What Linux sends for the socket option that ``rthdr_for_socket`` makes.

    namespace A (2001:db8::1) veth ─── veth namespace B (2001:db8::2)

A sends a UDP datagram through the first SID, which is routed to B; an AF_PACKET
socket in B sees the frame as it left.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import TypeVar

import pytest

from dataplane.srv6 import SegmentRoutingHeader, rthdr_for_socket

pytestmark = pytest.mark.integration

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
IPV6_RTHDR = 57
ETH_P_ALL = 3
ETHERTYPE_IPV6 = b"\x86\xdd"
NEXT_HEADER_ROUTING = 43

DESTINATION = IPv6Address("2001:db8:d::1")
SIDS = tuple(IPv6Address(f"fc00::{index}") for index in (1, 2, 3))


def in_namespace(name: str, action: Callable[[], T]) -> T:
    """Run ``action`` in a thread of its own, inside the named network namespace."""

    def enter() -> T:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(Path("/run/netns") / name, os.O_RDONLY)
        try:
            if libc.setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)
        return action()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(enter).result()


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


@dataclass(frozen=True)
class Link:
    sending: str
    receiving: str


@pytest.fixture
def link() -> Iterator[Link]:
    if os.geteuid():
        pytest.skip("needs root")
    link = Link(f"srh-a-{os.getpid()}", f"srh-b-{os.getpid()}")
    try:
        for name in (link.sending, link.receiving):
            run(f"ip netns add {name}")
            run(f"ip netns exec {name} sysctl -qw net.ipv6.conf.default.accept_dad=0")
        run(
            f"ip -n {link.sending} link add name veth-a type veth"
            f" peer name veth-b netns {link.receiving}"
        )
        run(f"ip -n {link.sending} addr add 2001:db8::1/64 dev veth-a nodad")
        run(f"ip -n {link.receiving} addr add 2001:db8::2/64 dev veth-b nodad")
        run(f"ip -n {link.receiving} link set veth-b address 02:00:00:00:00:02")
        run(f"ip -n {link.receiving} link set veth-b up")
        run(f"ip -n {link.sending} link set veth-a up")
        run(
            f"ip -n {link.sending} neigh replace 2001:db8::2 lladdr 02:00:00:00:00:02"
            " nud permanent dev veth-a"
        )
        run(f"ip -n {link.sending} route add default via 2001:db8::2 dev veth-a")
        yield link
    finally:
        for name in (link.sending, link.receiving):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def send_and_capture(
    link: Link, path: tuple[IPv6Address, ...], payload: bytes, destination: IPv6Address
) -> bytes:
    """The IPv6 packet that leaves when ``payload`` is sent over ``path``."""

    def capture_socket() -> socket.socket:
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        sniffer.bind(("veth-b", 0))
        sniffer.settimeout(5)
        return sniffer

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IPV6, IPV6_RTHDR, rthdr_for_socket(path))
            sender.sendto(payload, (str(destination), 862))

    with in_namespace(link.receiving, capture_socket) as sniffer:
        in_namespace(link.sending, send)
        while True:
            frame = sniffer.recv(2048)
            if frame[12:14] == ETHERTYPE_IPV6 and frame.endswith(payload):
                return frame[14:]


@pytest.mark.parametrize("sids", [SIDS, SIDS[:1], ()], ids=["three", "one", "none"])
def test_the_kernel_sends_the_path(link: Link, sids: tuple[IPv6Address, ...]) -> None:
    path = (*sids, DESTINATION)
    packet = send_and_capture(link, path, b"stamp payload", DESTINATION)

    assert packet[6] == NEXT_HEADER_ROUTING
    assert IPv6Address(packet[24:40]) == path[0]
    assert SegmentRoutingHeader.decode(packet[40:]) == SegmentRoutingHeader(
        segments=path, segments_left=len(path) - 1, next_header=socket.IPPROTO_UDP
    )


def test_the_last_slot_is_overwritten_by_the_kernel(link: Link) -> None:
    other = IPv6Address("2001:db8:d::2")
    packet = send_and_capture(link, (*SIDS, other), b"stamp payload", DESTINATION)

    assert SegmentRoutingHeader.decode(packet[40:]).segments == (*SIDS, DESTINATION)
