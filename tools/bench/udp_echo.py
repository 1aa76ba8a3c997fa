"""A bare reflector for the bench: what ways of sending and receiving are worth by themselves.

`python -m tools.bench.udp_echo --send WAY --receive WAY` answers STAMP requests of the bed
with the least that makes a reply: no sessions, no counters, T3 once for each batch.
The comparison in docs/userspace-io.md is made with it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.bpf.syscall import XDP_FLAGS_DRV_MODE, attach_xdp
from dataplane.clock import read_clock_status
from dataplane.engines.common.batch import BURST, Batch
from dataplane.engines.driver.interfaces import Kernel
from dataplane.engines.userspace.arrivals import receive_arrivals
from dataplane.engines.userspace.driver_program import DriverProgram
from dataplane.engines.userspace.receiving import MESSAGE, VECTOR, Receiver
from dataplane.engines.userspace.sockets import UdpSocket
from dataplane.engines.userspace.xsk import Pool, XdpSocket
from dataplane.srv6 import SegmentRoutingHeader, rthdr_for_socket
from dataplane.stamp.timestamp import TimestampFormat, encode_timestamp
from dataplane.stamp.timestamp_arrays import encode_timestamps
from tools.bench import topology

CAPACITY = 512
RING = 4_096
LENGTH = 44
STAMP_PORT, SENDER_PORT = 862, 49_862
PATH = topology.path_to(topology.GENERATOR, 2, topology.BACK)

_IPV6_HDRINCL = 36
_SOL_PACKET, _PACKET_RX_RING, _PACKET_VERSION, _TPACKET_V3 = 263, 5, 10, 2
_ETH_P_IPV6 = 0x86DD
_BLOCK, _BLOCKS, _FRAME = 1 << 18, 16, 256
_SO_ATTACH_FILTER = 26

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)

Rows = npt.NDArray[np.uint8]
Send = Callable[[Rows], None]

_kept: list[object] = []


def replies(data: Rows, t2_ns: npt.NDArray[np.int64], into: Rows) -> None:
    """Requests of 44 bytes to replies, in `into`."""
    t3 = encode_timestamp(time.time_ns(), TimestampFormat.NTP).to_bytes(8, "big")
    into[:, 0:4] = into[:, 24:28] = data[:, 0:4]
    into[:, 4:12] = np.frombuffer(t3, np.uint8)
    into[:, 12:16] = data[:, 12:16]
    t2 = encode_timestamps(t2_ns, TimestampFormat.NTP)
    into[:, 16:24] = t2.astype(">u8").view(np.uint8).reshape(-1, 8)
    into[:, 28:38] = data[:, 4:14]
    into[:, 40] = 255


class Messages:
    """Payloads of one matrix, a message each, for sendmmsg(2)."""

    def __init__(self, rows: Rows, address: IPv6Address, port: int, control: bytes) -> None:
        count = len(rows)
        name = struct.pack("=HH4x16s4x", socket.AF_INET6, socket.htons(port), address.packed)
        self._kept = [ctypes.create_string_buffer(each, len(each)) for each in (name, control)]
        self._vectors = np.zeros(count, VECTOR)
        self._vectors["base"] = rows.ctypes.data + np.arange(count) * rows.strides[0]
        self._vectors["length"] = rows.shape[1]
        self.messages = np.zeros(count, MESSAGE)
        self.messages["name"] = ctypes.addressof(self._kept[0])
        self.messages["name_length"] = len(name)
        self.messages["vector"] = self._vectors.ctypes.data + 16 * np.arange(count)
        self.messages["vector_length"] = 1
        self.messages["control"] = ctypes.addressof(self._kept[1]) if control else 0
        self.messages["control_length"] = len(control)

    def send(self, fd: int, count: int) -> None:
        _libc.sendmmsg(fd, self.messages.ctypes.data, count, 0)


def one_by_one(sock: UdpSocket, rows: Rows) -> Send:
    """sendmmsg(2): one system call, each packet through the whole kernel."""
    sock.dress(rthdr_for_socket(PATH), 0, 255)
    messages = Messages(rows, topology.GENERATOR, SENDER_PORT, b"")
    return lambda filled: messages.send(sock.fileno(), len(filled))


def bursts(sock: UdpSocket, rows: Rows) -> Send:
    """UDP segmentation offload, as the engine does it."""
    sock.dress(rthdr_for_socket(PATH), 0, 255)
    source, peer = topology.SYSTEM.packed, topology.GENERATOR.packed

    def send(filled: Rows) -> None:
        for start in range(0, len(filled), BURST):
            with contextlib.suppress(OSError):
                sock.send_burst(filled[start : start + BURST], source, peer, SENDER_PORT, 0)

    return send


def raw(rows: Rows) -> Send:
    """A raw socket with all headers made here, by sendmmsg(2): no SRH for the kernel to set."""
    srh = SegmentRoutingHeader(PATH, len(PATH) - 1, socket.IPPROTO_UDP).encode()
    length = 8 + LENGTH
    header = struct.pack("!IHBB", 6 << 28, len(srh) + length, 43, 255)
    header += topology.SYSTEM.packed + PATH[0].packed + srh
    header += struct.pack("!HHHH", STAMP_PORT, SENDER_PORT, length, 0)
    pseudo = topology.SYSTEM.packed + topology.GENERATOR.packed
    fixed = pseudo + struct.pack("!II", length, socket.IPPROTO_UDP) + header[-8:]
    constant = sum(struct.unpack(f"!{len(fixed) // 2}H", fixed))
    frames = np.zeros((len(rows), len(header) + LENGTH), np.uint8)
    frames[:, : len(header)] = np.frombuffer(header, np.uint8)
    sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
    messages = Messages(frames, PATH[0], 0, b"")

    def send(filled: Rows) -> None:
        count = len(filled)
        frames[:count, len(header) :] = filled
        total = filled.view(">u2").sum(axis=1, dtype=np.int64) + constant
        total = (total & 0xFFFF) + (total >> 16)
        check = (~(total + (total >> 16)) & 0xFFFF).astype(">u2")
        frames[:count, len(header) - 2 : len(header)] = check.view(np.uint8).reshape(-1, 2)
        messages.send(sock.fileno(), count)

    return send


class PacketRing:
    """PACKET_MMAP, TPACKET_V3: frames of the near interface that may be requests."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, struct.pack("=i", _TPACKET_V3))
        self._filter()
        frames = _BLOCK * _BLOCKS // _FRAME
        request = struct.pack("=7I", _BLOCK, _BLOCKS, _FRAME, frames, 1, 0, 0)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
        self._ring = mmap.mmap(self._socket.fileno(), _BLOCK * _BLOCKS)
        self._bytes = np.frombuffer(self._ring, np.uint8)
        self._socket.bind((topology.NEAR, _ETH_P_IPV6))
        self._block = 0

    def _filter(self) -> None:
        """Next header routing, and UDP behind an SRH of two segments to port 862."""
        code = [
            (0x30, 0, 0, 6), (0x15, 0, 5, 43), (0x30, 0, 0, 40), (0x15, 0, 3, 17),
            (0x28, 0, 0, 82), (0x15, 0, 1, STAMP_PORT), (0x6, 0, 0, 0xFFFF), (0x6, 0, 0, 0),
        ]  # fmt: skip
        program = b"".join(struct.pack("=HBBI", *each) for each in code)
        buffer = ctypes.create_string_buffer(program, len(program))
        program_struct = struct.pack("=H6xQ", len(code), ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program_struct)

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> tuple[Rows, npt.NDArray[np.int64]] | None:
        """The requests of the next block that the kernel is done with."""
        start = self._block * _BLOCK
        status, count, first = struct.unpack_from("=8xIII", self._ring, start)
        if not status & 1:
            return None
        self._block = (self._block + 1) % _BLOCKS
        # Frames of equal length stand at equal distances.
        (distance,) = struct.unpack_from("=I", self._ring, start + first)
        at = start + first + np.arange(count) * (distance or _FRAME)
        (network,) = struct.unpack_from("=26xH", self._ring, start + first)
        payload = self._bytes[(at + network + 40 + 40 + 8)[:, None] + np.arange(LENGTH)]
        head = self._bytes[at[:, None] + np.arange(16)].view(np.uint32)
        t2_ns = head[:, 1].astype(np.int64) * 1_000_000_000 + head[:, 2]
        struct.pack_into("=I", self._ring, start + 8, 0)
        return payload, t2_ns


def driver_socket() -> XdpSocket:
    """AF_XDP: what the program in the driver takes for a request of the bed."""
    kernel = Kernel()
    found = kernel.devices((topology.NEAR,))
    program = DriverProgram()
    program.tables.set_clock(read_clock_status())
    program.tables.set_locals(kernel.locals())
    program.tables.set_interfaces(found.devices)
    ifindex = found.interfaces[0].index
    sock = XdpSocket(Pool(ifindex, 0, RING), RING)
    program.add(topology.SYSTEM, STAMP_PORT, sock)
    attach_xdp(program.fd, ifindex, XDP_FLAGS_DRV_MODE)
    # The program's maps go with it, and are wanted for as long as this process lives.
    _kept.append(program)
    return sock


def serve(send_way: str, receive_way: str) -> None:
    # The bench begins when the UDP socket is there.
    xsk = driver_socket() if receive_way == "xsk" else None
    sock = UdpSocket(topology.SYSTEM, STAMP_PORT)
    # A ring's block may hold more than a batch does.
    rows: Any = np.zeros((_BLOCK // 128, LENGTH), np.uint8)
    makers: dict[str, Callable[[], Send]] = {
        "mmsg": lambda: one_by_one(sock, rows),
        "burst": lambda: bursts(sock, rows),
        "raw": lambda: raw(rows),
    }
    send = makers[send_way]()
    waiting = select.epoll()
    if receive_way == "ring":
        ring = PacketRing()
        waiting.register(ring.fileno(), select.EPOLLIN)
        # What the kernel queues on the UDP socket as well is thrown away unread.
        option = socket.socket(fileno=os.dup(sock.fileno()))
        option.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        while True:
            found = ring.receive()
            if found is None:
                waiting.poll()
                continue
            filled = rows[: len(found[0])]
            replies(*found, filled)
            send(filled)
    batch = Batch(CAPACITY)
    if xsk is not None:
        waiting.register(xsk.fileno(), select.EPOLLIN)
        receive = functools.partial(receive_arrivals, xsk, batch)
    else:
        receiver = Receiver(CAPACITY)
        waiting.register(sock.fileno(), select.EPOLLIN)
        receive = functools.partial(receiver.receive, sock.fileno(), batch)
    while True:
        receive()
        if not batch.count:
            waiting.poll()
            continue
        filled = rows[: batch.count]
        replies(batch.data[: batch.count], batch.received_ns[: batch.count], filled)
        send(filled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--send", choices=("mmsg", "raw", "burst"), default="burst")
    parser.add_argument("--receive", choices=("mmsg", "ring", "xsk"), default="mmsg")
    arguments = parser.parse_args()
    serve(arguments.send, arguments.receive)


if __name__ == "__main__":
    main()
