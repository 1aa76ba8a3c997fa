"""UDP over IPv6 or IPv4 with what STAMP needs from the kernel.

Received with every packet: the kernel's receive timestamp, the Hop Limit (TTL), the
Traffic Class (TOS), the local address and the interface. On request, the kernel's
transmit timestamp of every packet sent.

One socket serves all sessions that share a local address and port, whatever
their SID lists, and replies find their way back to it without ambiguity: a
second socket on the same address and port would take part in the kernel's
choice of a receiver. An SRH can only be set as a socket option (as ancillary
data it is refused with EINVAL), so the SID list, like the Traffic Class and
the Hop Limit, is switched between packets where two neighbours differ. The
switch costs about 2 microseconds, less than the send itself.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dataplane.clock import wall_ns
from dataplane.config import IPAddress
from dataplane.engines.base import Attachment
from dataplane.engines.common.batch import Batch
from dataplane.engines.common.transport import Datagram
from dataplane.engines.userspace.families import family_of
from dataplane.engines.userspace.receiving import PAYLOAD_MAX, SO_TIMESTAMPING, Receiver
from dataplane.engines.userspace.sending import BurstSender

IPV6_V6ONLY = 26
IPV6_RTHDR = 57
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SO_MEMINFO = 55

_RX_SOFTWARE = 1 << 3
_SOFTWARE = 1 << 4
_TX_SOFTWARE = 1 << 1
_OPT_ID = 1 << 7
_OPT_TSONLY = 1 << 11

RECEIVE_BUFFER = 32 << 20
"""Bytes asked for with SO_RCVBUFFORCE: some thousand packets that wait their turn. The
kernel counts a whole page and more for each that arrives in a page of its own."""

PACKET_COST = 4_096 + 768
"""Bytes of the receive buffer for one of those."""

SEND_BUFFER = 4 << 20
"""Bytes asked for with SO_SNDBUFFORCE: bursts that wait for the interface."""

_ANCILLARY = 512
_MEMINFO_DROPS = 8

_INT = struct.Struct("=i")
_TIMESPECS = struct.Struct("=qqqqqq")
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
"""struct sock_extended_err: errno, origin, type, code, pad, info, data."""
_ORIGIN_TIMESTAMPING = 4

_NS_PER_S = 1_000_000_000


class UdpSocket:
    """A bound, non-blocking UDP socket.

    Raises OSError from the constructor and from `send`.
    """

    def __init__(
        self,
        address: IPAddress,
        port: int,
        *,
        transmit_timestamps: bool = False,
        headers: bool = True,
        receiver: Receiver | None = None,
    ) -> None:
        """The unspecified address stands for any of its family. `receiver`, which sockets
        of one thread may share, is what batches need. Without `headers` there is neither
        Hop Limit nor Traffic Class with a packet, which costs a little less."""
        self._family = family_of(address.version)
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        self._socket = socket.socket(self._family.domain, kind)
        self._dress: tuple[bytes, int, int] = (b"", 0, -1)
        self._next_id = 0
        self._buffer = bytearray(PAYLOAD_MAX)
        self._view = memoryview(self._buffer)
        self._transmit_timestamps = transmit_timestamps
        self._receiver = receiver
        self._bursts = BurstSender(self._socket.fileno(), self._family)
        self._room = 0
        try:
            self._configure(headers)
            self._socket.bind((str(address), port))
        except OSError:
            self._socket.close()
            raise

    def _configure(self, headers: bool) -> None:
        sock, family = self._socket, self._family
        if family.domain == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_V6ONLY, 1)
        sock.setsockopt(family.level, family.receive_address, 1)
        for option in family.receive_headers if headers else ():
            sock.setsockopt(family.level, option, 1)
        for force, ask, size in (
            (SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER),
            (SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER),
        ):
            try:
                sock.setsockopt(socket.SOL_SOCKET, force, size)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, ask, size)
        self._room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // PACKET_COST
        self._enable_timestamps()

    def _enable_timestamps(self) -> None:
        flags = _RX_SOFTWARE | _SOFTWARE
        if self._transmit_timestamps:
            flags |= _TX_SOFTWARE | _OPT_ID | _OPT_TSONLY
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags)
        except OSError:
            # The clock is read in user space instead, in `receive` and by the sender.
            self._transmit_timestamps = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> Datagram | None:
        """The next packet; None where there is none."""
        try:
            size, ancillary, _flags, address = self._socket.recvmsg_into([self._buffer], _ANCILLARY)
        except BlockingIOError:
            return None
        except OSError as error:
            # An ICMP error of an earlier packet says nothing about what is waiting here.
            if error.errno in (errno.EBADF, errno.ENOTSOCK):
                raise
            return None
        hop_limit: int | None = None
        traffic_class = interface = received_ns = 0
        destination = b""
        family = self._family
        for level, kind, value in ancillary:
            if level == family.level:
                if kind == family.address:
                    destination, interface = family.local(value)
                elif kind == family.hop_limit:
                    (hop_limit,) = _INT.unpack_from(value)
                elif kind == family.traffic_class:
                    # Of four bytes or one; the others are zero.
                    traffic_class = int.from_bytes(value, sys.byteorder)
            elif level == socket.SOL_SOCKET and kind == SO_TIMESTAMPING:
                seconds, nanoseconds = _TIMESPECS.unpack_from(value)[:2]
                received_ns = seconds * _NS_PER_S + nanoseconds
        return Datagram(
            bytes(self._view[:size]),
            *family.sender(address),
            hop_limit,
            traffic_class,
            destination,
            interface,
            received_ns or wall_ns(),
            received_ns != 0,
        )

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """See `BatchTransport`."""
        return ()

    @property
    def sources(self) -> int:
        """See `BatchTransport`."""
        return 1

    @property
    def room(self) -> int:
        """See `BatchTransport`."""
        return self._room

    def receive_batch(self, batch: Batch) -> bool:
        """See `BatchTransport`."""
        if self._receiver is None:
            self._receiver = Receiver(batch.capacity)
        self._receiver.receive(self._socket.fileno(), batch, self._family)
        return batch.count == batch.capacity

    def flooded(self, overrun: bool) -> None:
        """See `BatchTransport`: the kernel's stack is left as it is."""

    def dress(self, rthdr: bytes, traffic_class: int, hop_limit: int) -> None:
        """Send from now on with this SRH (empty: none, as always over IPv4), Traffic Class
        and Hop Limit."""
        wanted = (rthdr, traffic_class, hop_limit)
        if wanted == self._dress:
            return
        old_rthdr, old_class, old_limit = self._dress
        option, family = self._socket.setsockopt, self._family
        if rthdr != old_rthdr:
            option(socket.IPPROTO_IPV6, IPV6_RTHDR, rthdr)
        if traffic_class != old_class:
            option(family.level, family.set_traffic_class, traffic_class)
        if hop_limit != old_limit:
            option(family.level, family.set_hop_limit, hop_limit)
        self._dress = wanted

    def send(self, payload: bytes, address: str, port: int) -> int:
        """Transmit from the bound address; the identifier under which
        `transmitted` will tell the packet's timestamp."""
        try:
            self._socket.sendto(payload, (address, port))
        except OSError:
            self._restart_ids()
            raise
        identifier = self._next_id
        self._next_id = identifier + 1 & 0xFFFFFFFF
        return identifier

    def answer(self, payload: bytes | bytearray, request: Datagram) -> None:
        """Transmit to where `request` came from, from the address it was sent to."""
        family, zone = self._family, request.zone
        self._socket.sendmsg(
            [payload],
            [(family.level, family.address, family.source(request.destination, zone))],
            0,
            family.peer(request.source, request.source_port, zone),
        )

    @property
    def limitation(self) -> str | None:
        """See `BatchTransport`."""
        return self._bursts.limitation

    def send_burst(
        self,
        payloads: npt.NDArray[np.uint8],
        source: bytes,
        destination: bytes,
        port: int,
        scope_id: int,
    ) -> int:
        """See `BatchTransport`."""
        return self._bursts.send(payloads, source, destination, port, scope_id, self._dress[0])

    def transmitted(self) -> Iterator[tuple[int, int]]:
        """Identifier and CLOCK_REALTIME nanoseconds of packets that have left."""
        while self._transmit_timestamps:
            try:
                _, ancillary, _, _ = self._socket.recvmsg(0, _ANCILLARY, socket.MSG_ERRQUEUE)
            except OSError:
                return
            sent_ns = 0
            identifier: int | None = None
            for level, kind, value in ancillary:
                if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPING:
                    seconds, nanoseconds = _TIMESPECS.unpack_from(value)[:2]
                    sent_ns = seconds * _NS_PER_S + nanoseconds
                elif level == self._family.level and kind == self._family.error:
                    extended = _EXTENDED_ERROR.unpack_from(value)
                    if extended[1] == _ORIGIN_TIMESTAMPING:
                        identifier = extended[6]
            if identifier is not None and sent_ns:
                yield identifier, sent_ns

    def dropped(self) -> int:
        """Packets that the kernel threw away because the receive buffer was full."""
        info = self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
        return int(struct.unpack_from("=9I", info)[_MEMINFO_DROPS])

    def _restart_ids(self) -> None:
        """Whether a failed send used up an identifier differs between kernels:
        switching OPT_ID off and on makes the kernel count from 0 again."""
        if self._transmit_timestamps:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, 0)
            self._enable_timestamps()
            self._next_id = 0
