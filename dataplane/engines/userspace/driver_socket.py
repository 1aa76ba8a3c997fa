"""A UDP socket, and beside it AF_XDP sockets for the packets that do not need the kernel.

Which way a packet comes is decided by the program in the driver, packet by packet.
What is sent leaves through the UDP socket: the kernel routes it, finds the neighbour
and adds the SRH.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from ipaddress import IPv6Address

from dataplane.clock import wall_ns
from dataplane.engines.base import Attachment, Role
from dataplane.engines.common.batch import Batch
from dataplane.engines.common.transport import Datagram
from dataplane.engines.userspace.arrivals import receive_arrivals
from dataplane.engines.userspace.receiving import Receiver
from dataplane.engines.userspace.sockets import UdpSocket
from dataplane.engines.userspace.xsk import XdpSocket


class DriverSocket(UdpSocket):
    """Readable while any of its sockets is.

    The sockets are read in turn, so that none of them waits for ever, and none is
    closed before it has been emptied. Where the way of packets changes, those that have
    come by the old one are read before those that come by the new one: order matters.
    """

    def __init__(
        self,
        role: Role,
        address: IPv6Address,
        port: int,
        *,
        receiver: Receiver,
        on_close: Callable[[DriverSocket], None],
        on_flood: Callable[[DriverSocket, bool], None],
    ) -> None:
        """Raises OSError as `UdpSocket` does. `on_close` detaches what was attached, `on_flood`
        is called as `flooded` is."""
        sender = role is Role.SENDER
        super().__init__(
            address, port, transmit_timestamps=sender, headers=not sender, receiver=receiver
        )
        self.role = role
        self.address = address
        self.port = port
        self.shortcoming: str | None = None
        """Why packets are not handed over in the driver, where they are to be."""

        self.served: tuple[Attachment, ...] = ()
        """Interfaces whose packets are handed over in the driver."""

        self._on_close = on_close
        self._on_flood = on_flood
        self._sockets: list[XdpSocket] = []
        self._leaving: set[XdpSocket] = set()
        self._lost = 0
        self._received = 0
        self._next = 0
        self._attached_ns: int | None = None
        """When packets began to come past the UDP socket, which still has earlier ones."""

        self._epoll = select.epoll()
        self._epoll.register(super().fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def close(self) -> None:
        self._on_close(self)
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
        self._epoll.close()
        super().close()

    def attach(self, sock: XdpSocket) -> None:
        """Read `sock`, too; it belongs to this object from now on."""
        self._attached_ns = wall_ns()
        self._sockets.append(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def detach(self, sock: XdpSocket) -> None:
        """Nothing more arrives at `sock`; it is closed once it has been emptied."""
        self._leaving.add(sock)
        if not sock.waiting():
            self._let_go(sock)

    @property
    def limitation(self) -> str | None:
        """See `BatchTransport`."""
        found = [text for text in (self.shortcoming, super().limitation) if text is not None]
        return "; ".join(found) or None

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """See `BatchTransport`."""
        return self.served

    @property
    def sources(self) -> int:
        """See `BatchTransport`."""
        return len(self._sockets) + 1

    @property
    def room(self) -> int:
        """See `BatchTransport`."""
        return min([super().room, *(sock.room for sock in self._sockets)])

    def receive(self) -> Datagram | None:
        """The next packet; None where there is none."""
        batch = Batch(1)
        for _ in range(self.sources):
            self._receive_next(batch)
            if batch.count:
                return batch.datagram(0)
        return None

    def receive_batch(self, batch: Batch) -> bool:
        """See `BatchTransport`."""
        for source in range(self.sources, 0, -1):
            full = self._receive_next(batch)
            if batch.count:
                return full or source > 1
        return False

    def flooded(self, overrun: bool) -> None:
        """See `BatchTransport`."""
        self._on_flood(self, overrun)

    def take_received(self) -> int:
        """Packets received since the last call."""
        received, self._received = self._received, 0
        return received

    def _receive_next(self, batch: Batch) -> bool:
        """From the socket whose turn it is; whether it may have more."""
        full = self._receive_by(self._turn(), batch)
        self._received += batch.count
        return full

    def _turn(self) -> XdpSocket | None:
        """None for the UDP socket."""
        if self._attached_ns is not None:
            return None
        if self._leaving:
            return next(iter(self._leaving))
        turn, sockets = self._next, self._sockets
        self._next = turn + 1 if turn < len(sockets) else 0
        return sockets[turn] if turn < len(sockets) else None

    def _receive_by(self, sock: XdpSocket | None, batch: Batch) -> bool:
        if sock is None:
            full = super().receive_batch(batch)
            if not full or batch.received_ns[batch.count - 1] >= (self._attached_ns or 0):
                self._attached_ns = None
            return full
        receive_arrivals(sock, batch)
        if sock in self._leaving and not sock.waiting():
            self._let_go(sock)
        return batch.count == batch.capacity

    def _let_go(self, sock: XdpSocket) -> None:
        # While it is open nobody else has its queue.
        self._leaving.remove(sock)
        place = self._sockets.index(sock)
        del self._sockets[place]
        self._next -= place < self._next
        self._lost += sock.dropped()
        self._epoll.unregister(sock.fileno())
        sock.close()

    def dropped(self) -> int:
        """Packets that were thrown away because a buffer or a ring was full."""
        return super().dropped() + self._lost + sum(sock.dropped() for sock in self._sockets)
