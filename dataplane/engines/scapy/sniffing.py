"""Reception: an AsyncSniffer on a packet socket that hears more than Scapy's own.

The socket is of one protocol, ETH_P_IPV6 or ETH_P_IP, on all interfaces. That way each
packet is seen once, at the place where the kernel's own input sees it: without its VLAN
tag and on the VLAN's interface, not again on the interface beneath. Packets that leave
this node are not seen at all.

It is of type SOCK_RAW, for to no other does the kernel say which packets are several
datagrams yet (UDP_SEGMENT; PACKET_VNET_HDR; before Linux 6.2 these are lost). What is
before the IP header is skipped, by the filter as well: each kind of interface has its own.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import dataplane.engines.scapy.quiet  # noqa: F401  isort: skip
from scapy.arch.common import compile_filter, free_filter
from scapy.data import DLT_RAW, ETH_P_IP, ETH_P_IPV6, MTU, SO_ATTACH_FILTER, SOL_PACKET
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.libs.structures import sock_fprog
from scapy.packet import Packet
from scapy.sendrecv import AsyncSniffer
from scapy.supersocket import SuperSocket

from dataplane.clock import monotonic_ns, wall_ns
from dataplane.stamp.timestamp import NS_PER_S

RECEIVE_BUFFER = 4 << 20
"""Bytes asked for with SO_RCVBUFFORCE: some thousand packets that wait their turn."""

START_TIMEOUT_NS = 5 * NS_PER_S

_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_PACKET_STATISTICS = 6
_PACKET_AUXDATA = 8
_PACKET_VNET_HDR = 15
_TP_STATUS_CSUMNOTREADY = 1 << 3
_TP_STATUS_CSUM_VALID = 1 << 7
"""if_packet.h."""

_ANCILLARY = 256
_TIMESPEC = struct.Struct("=qq")
_AUXDATA = struct.Struct("=I10xH")
"""Of struct tpacket_auxdata: tp_status, and tp_net, where the IP header is."""

_VNET_HDR = struct.Struct("=xBxxH4x")
"""Of struct virtio_net_hdr: gso_type and gso_size."""

_GSO_UDP_L4 = 5
"""VIRTIO_NET_HDR_GSO_UDP_L4."""

_FRAME_MAX = _VNET_HDR.size + 256 + MTU
"""Bytes, with what may be before the IP header."""

_SKF_NET_OFF = -0x100000
_LOADS = {0x00, 0x01}
"""BPF_LD, BPF_LDX; linux/filter.h."""

_FROM_PACKET = {0x20, 0x40, 0xA0}
"""BPF_ABS, BPF_IND, BPF_MSH."""

_STATISTICS = struct.Struct("=II")

log = logging.getLogger(__name__)


_SAID = (
    *("checksum_trusted", "interface", "kernel_stamped", "kind", "received_ns"),
    "segment_length",
)


class _Said:
    """What the kernel said about a packet."""

    __slots__ = ()

    received_ns: int
    """CLOCK_REALTIME of the kernel's receive path. It is exact, which the float
    in the `time` of Scapy's packets is not."""

    kernel_stamped: bool
    """False: the clock was read here instead."""

    interface: str
    """Name of the interface on which it arrived."""

    kind: int
    """PACKET_HOST and so on; packet(7)."""

    checksum_trusted: bool
    """The kernel vouches for the UDP checksum: hardware has verified it, or the
    packet was made on this machine and its checksum is not filled in yet."""

    segment_length: int
    """Bytes of UDP payload after which another datagram begins; 0 where it is one."""


class SniffedIPv6(_Said, IPv6):
    name = "IPv6"
    __slots__ = _SAID


class SniffedIPv4(_Said, IP):
    name = "IP"
    __slots__ = _SAID


Sniffed = SniffedIPv6 | SniffedIPv4

PROTOCOLS: dict[type[Sniffed], int] = {SniffedIPv6: ETH_P_IPV6, SniffedIPv4: ETH_P_IP}


def dissect(data: bytes, layer: type[Sniffed] = SniffedIPv6) -> Sniffed | None:
    """None for what Scapy cannot make sense of: it may raise anything."""
    try:
        return layer(data)
    except Exception:
        log.debug("a packet of %d bytes cannot be dissected", len(data), exc_info=True)
        return None


class StampListenSocket(SuperSocket):
    """What the sniffer reads from. Raises OSError.

    The filter spares the trouble of looking into what is not STAMP, and no more: the
    first packets may have arrived before it was in place.
    """

    desc = "IP packets that pass a filter, with the kernel's timestamps"

    def __init__(self, bpf_filter: str, layer: type[Sniffed] = SniffedIPv6) -> None:
        self._layer = layer
        protocol = socket.htons(PROTOCOLS[layer])
        self.ins = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol)
        self.outs = None
        self._lost = 0
        try:
            self._attach(bpf_filter)
            with contextlib.suppress(PermissionError):
                self.ins.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
            self.ins.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self.ins.setsockopt(SOL_PACKET, _PACKET_AUXDATA, 1)
            self.ins.setsockopt(SOL_PACKET, _PACKET_VNET_HDR, 1)
        except OSError:
            self.close()
            raise

    def _attach(self, bpf_filter: str) -> None:
        program = compile_filter(bpf_filter, linktype=DLT_RAW)
        for at in range(program.bf_len):
            instruction = program.bf_insns[at]
            if instruction.code & 0x07 in _LOADS and instruction.code & 0xE0 in _FROM_PACKET:
                instruction.k += _SKF_NET_OFF
        code = sock_fprog(program.bf_len, program.bf_insns)
        try:
            self.ins.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(code))
        finally:
            free_filter(program)

    def recv(self, x: int = _FRAME_MAX, **_kargs: Any) -> Sniffed | None:
        """The next packet; None for one that Scapy cannot make sense of."""
        try:
            data, ancillary, _flags, address = self.ins.recvmsg(max(x, _FRAME_MAX), _ANCILLARY)
        except OSError as error:
            # An error that is pending on the socket does not end the sniffer.
            if error.errno in (errno.EBADF, errno.ENOTSOCK):
                raise
            return None
        status = ip_at = received_ns = 0
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack_from(value)
                received_ns = seconds * NS_PER_S + nanoseconds
            elif level == SOL_PACKET and kind == _PACKET_AUXDATA:
                status, ip_at = _AUXDATA.unpack_from(value)
        packet = dissect(data[_VNET_HDR.size + ip_at :], self._layer)
        if packet is None:
            return None
        packet.interface, packet.kind = address[0], address[2]
        packet.received_ns = received_ns or wall_ns()
        packet.kernel_stamped = received_ns != 0
        packet.checksum_trusted = bool(status & (_TP_STATUS_CSUMNOTREADY | _TP_STATUS_CSUM_VALID))
        gso_type, gso_size = _VNET_HDR.unpack_from(data)
        packet.segment_length = gso_size if gso_type == _GSO_UDP_L4 else 0
        packet.time = packet.received_ns / NS_PER_S
        return packet

    @staticmethod
    def select(sockets: list[SuperSocket], remain: float | None = None) -> list[SuperSocket]:
        """With poll(2): select(2) knows no file descriptor above 1023."""
        by_fd = {sock.fileno(): sock for sock in sockets}
        poll = select.poll()
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        ready = poll.poll(None if remain is None else remain * 1_000)
        return [by_fd[fd] for fd, _ in ready]

    def lost(self) -> int:
        """Packets so far that the kernel had no room for."""
        if self.closed:
            return self._lost
        # Reading the statistics sets them to zero.
        value = self.ins.getsockopt(SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        self._lost += _STATISTICS.unpack(value)[1]
        return self._lost


class Sniffer:
    """An AsyncSniffer that is running. Raises OSError."""

    def __init__(
        self, filters: list[tuple[type[Sniffed], str]], take: Callable[[Packet], None]
    ) -> None:
        """`filters` are for packets of one layer each; `take` is called in the sniffer's
        thread."""
        with contextlib.ExitStack() as opened:
            self._sockets = [
                opened.enter_context(StampListenSocket(bpf_filter, layer))
                for layer, bpf_filter in filters
            ]
            opened.pop_all()
        started = threading.Event()
        self._sniffer = AsyncSniffer(
            opened_socket=self._sockets, prn=take, store=False, started_callback=started.set
        )
        self._sniffer.start()
        deadline_ns = monotonic_ns() + START_TIMEOUT_NS
        while not started.wait(0.01):
            if not self.alive or monotonic_ns() > deadline_ns:
                self._close_sockets()
                cause = self._sniffer.exception
                raise cause if isinstance(cause, OSError) else OSError(errno.EAGAIN, "")

    @property
    def alive(self) -> bool:
        thread = self._sniffer.thread
        return thread is not None and thread.is_alive()

    def lost(self) -> int:
        return sum(each.lost() for each in self._sockets)

    def close(self) -> None:
        """No packet is taken any more once this has returned."""
        if self.alive and self._sniffer.running:
            self._sniffer.stop()
        self._close_sockets()

    def _close_sockets(self) -> None:
        for each in self._sockets:
            each.close()
