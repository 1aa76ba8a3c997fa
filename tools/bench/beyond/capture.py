"""A packet capture that holds everything until it is read: packet(7), PACKET_RX_RING.

The ring has room for all packets of a measurement, so that nobody has to read while
it runs, and nothing is lost for want of a reader; what is lost all the same is
counted. Timestamps are the kernel's, in nanoseconds: of a packet that arrives, the one
that its socket would get too (SO_TIMESTAMPING); of one that leaves, taken just
before the driver. What XDP consumes or sends, no such capture sees.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.bench.beyond.packets import PACKET, Packets
from tools.bench.errors import BenchError
from tools.bench.namespace import inside

_SOL_PACKET = 263
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION = 5, 6, 10
_TPACKET_V2 = 1
_SO_ATTACH_FILTER = 26
_SO_TIMESTAMPNS = 35
_ETH_P_ALL = 0x0003

_OUTGOING = 4
"""PACKET_OUTGOING: the `sll_pkttype` of what leaves."""

FRAME_SIZE = 256
"""Bytes of the ring for a packet: the kernel's header and `SNAP` bytes of it."""

SNAP = 128
_BLOCK_SIZE = 1 << 20
_FRAMES_A_BLOCK = _BLOCK_SIZE // FRAME_SIZE

_MAC_AT = 66
"""Where the kernel puts the Ethernet header: `tp_mac`."""

_UDP_AT = _MAC_AT + 14 + 40
_STAMP_AT = _UDP_AT + 8

FRAME = np.dtype(
    {
        "names": [
            *("status", "mac", "seconds", "nanoseconds", "kind"),
            *("destination_port", "sequence", "ssid", "sender_sequence"),
        ],
        "formats": ["u4", "u2", "u4", "u4", "u1", ">u2", ">u4", ">u2", ">u4"],
        "offsets": [
            *(0, 12, 16, 20, 32 + 10),
            *(_UDP_AT + 2, _STAMP_AT, _STAMP_AT + 14, _STAMP_AT + 24),
        ],
        "itemsize": FRAME_SIZE,
    }
)
"""`struct tpacket2_hdr`, `struct sockaddr_ll` behind it, and an open-mode STAMP packet
in UDP over IPv6 without extension headers."""

ENABLE_S = 0.05
"""The kernel begins to take timestamps a moment after it is asked to."""


class Capture:
    """STAMP packets that pass an interface, from now on."""

    def __init__(
        self, namespace: str, device: str, port: int, packets: int, *, replies: bool = True
    ) -> None:
        """Room for `packets` packets to UDP port `port` (requests), and, with
        `replies`, from it. Raises BenchError where the kernel refuses."""
        count = -(-packets // _FRAMES_A_BLOCK)
        size = count * _BLOCK_SIZE
        self._port = port
        self._packets_before = self._lost_before = 0
        with inside(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            _attach_filter(self._socket, port, replies)
            option = self._socket.setsockopt
            option(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            option(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
            request = struct.pack("=4I", _BLOCK_SIZE, count, FRAME_SIZE, count * _FRAMES_A_BLOCK)
            option(_SOL_PACKET, _PACKET_RX_RING, request)
            self._map = mmap.mmap(self._socket.fileno(), size)
            time.sleep(ENABLE_S)
            self._socket.bind((device, _ETH_P_ALL))
        except OSError as error:
            self._socket.close()
            raise BenchError(
                f"a capture of {packets} packets on {device} is refused: {error.strerror}"
            ) from error
        self._frames: npt.NDArray[Any] = np.frombuffer(self._map, FRAME)

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        del self._frames
        self._map.close()
        self._socket.close()

    def packets(self) -> Packets:
        """Everything that has passed since the start. Raises BenchError where some is missing."""
        # The kernel marks a packet as ours once it is there; in order.
        present = int(np.count_nonzero(self._frames["status"]))
        frames = self._frames[:present].copy()
        lost = self._lost()
        if lost:
            raise BenchError(f"the capture lost {lost} packets after {present}")
        if present and not (frames["mac"] == _MAC_AT).all():
            raise BenchError("the kernel lays out captured packets in an unknown way")
        request = frames["destination_port"] == self._port
        found = np.empty(present, PACKET)
        found["ns"] = frames["seconds"].astype(np.int64) * 1_000_000_000 + frames["nanoseconds"]
        found["ssid"] = frames["ssid"]
        found["sequence"] = np.where(request, frames["sequence"], frames["sender_sequence"])
        found["request"] = request
        found["outgoing"] = frames["kind"] == _OUTGOING
        return found

    def _lost(self) -> int:
        """The kernel counts from 0 each time that it is asked."""
        found = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self._lost_before += struct.unpack("=II", found)[1]
        return self._lost_before


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _attach_filter(capture: socket.socket, port: int, replies: bool) -> None:
    """Classic BPF: UDP over IPv6 to `port`, and with `replies` from it. Raises OSError."""
    load_half, load_byte, equal, give = 0x28, 0x30, 0x15, 0x06
    # Operation, value, instructions to skip where it is so, and where not.
    from_port = [(load_half, 54, 0, 0), (equal, port, 2, 0)] if replies else []
    ahead = len(from_port)
    instructions = [
        (load_half, 12, 0, 0),
        (equal, 0x86DD, 0, 5 + ahead),
        (load_byte, 20, 0, 0),
        (equal, socket.IPPROTO_UDP, 0, 3 + ahead),
        *from_port,
        (load_half, 56, 0, 0),
        (equal, port, 0, 1),
        (give, SNAP, 0, 0),
        (give, 0, 0, 0),
    ]
    code = b"".join(struct.pack("=HBBI", op, yes, no, value) for op, value, yes, no in instructions)
    program = _Program(len(instructions), code)
    capture.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
