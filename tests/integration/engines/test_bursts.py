"""Bursts through an SRv6 network: every packet of one is as if it had been sent by itself."""

from __future__ import annotations

import socket
import struct
import subprocess

import numpy as np
import pytest

from dataplane.engines.userspace.sockets import UdpSocket
from dataplane.srv6 import SegmentRoutingHeader, rthdr_for_socket
from tests.integration.engines.network import BACK, REFLECTOR, SENDER, Capture, Network, inside, ip

pytestmark = pytest.mark.integration

ETHERNET, IPV6, UDP = 14, 40, 8
ROUTING = 43


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def offload(namespace: str, device: str, state: str) -> None:
    command = ["ip", "netns", "exec", namespace, "ethtool", "-K", device, "tx", state]
    subprocess.run(command, check=True, capture_output=True)


def test_packets_of_a_burst_on_the_wire(network: Network) -> None:
    # The kernel cuts a burst up at the latest moment: before the capture, that is.
    offload(network.reflector, "vb", "off")
    with inside(network.reflector):
        ours = UdpSocket(REFLECTOR, 862)
    with inside(network.sender):
        theirs = UdpSocket(SENDER, 49_862)
    rows = np.arange(20 * 44, dtype=np.uint8).reshape(20, 44)
    ours.dress(rthdr_for_socket((BACK, SENDER)), 46 << 2, 255)
    assert ours.send_burst(rows, REFLECTOR.packed, SENDER.packed, 49_862, 0) == 20
    received = [theirs.receive() for _ in range(20)]
    # A router that works on a packet does so on the captured one, too.
    ip("-n", network.router, "-6", "route", "delete", f"{BACK}/128")
    capture = Capture(network.router, "rb")
    assert ours.send_burst(rows, REFLECTOR.packed, SENDER.packed, 49_862, 0) == 20
    frames = [frame for frame in capture.frames() if frame[ETHERNET + 6] == ROUTING]
    ours.close()
    theirs.close()
    capture.close()
    assert [each.data for each in received if each] == [row.tobytes() for row in rows]
    if ours.limitation is not None:
        pytest.skip(ours.limitation)
    assert len(frames) == 20
    for frame, row in zip(frames, rows, strict=True):
        header, rest = frame[ETHERNET : ETHERNET + IPV6], frame[ETHERNET + IPV6 :]
        srh = SegmentRoutingHeader.decode(rest)
        datagram = rest[srh.length :]
        assert header[8:24] == REFLECTOR.packed
        assert header[24:40] == BACK.packed
        assert (header[7], int.from_bytes(header[:2], "big") >> 4 & 0xFF) == (255, 46 << 2)
        assert int.from_bytes(header[4:6], "big") == len(rest)
        assert (srh.segments, srh.segments_left, srh.next_header) == ((BACK, SENDER), 1, 17)
        assert datagram[UDP:] == row.tobytes()
        assert struct.unpack_from("!HHH", datagram) == (862, 49_862, len(datagram))
        pseudo = REFLECTOR.packed + SENDER.packed
        pseudo += struct.pack("!I3xB", len(datagram), socket.IPPROTO_UDP)
        assert checksum(pseudo + datagram) == 0xFFFF
