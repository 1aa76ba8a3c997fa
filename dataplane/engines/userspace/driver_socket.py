"""A UDP socket, and beside it AF_XDP sockets for the packets that do not need the kernel.

Which way a packet comes is decided by the program in the driver, packet by packet.
What is sent leaves through the UDP socket: the kernel routes it, finds the neighbour
and adds the SRH.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from ipaddress import IPv6Address

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
    closed before it has been emptied.
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
        self._next = 0
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

    def _receive_next(self, batch: Batch) -> bool:
        """From the socket whose turn it is; whether it may have more."""
        turn, sockets = self._next, self._sockets
        if turn >= len(sockets):
            self._next = 0
            return super().receive_batch(batch)
        self._next = turn + 1
        sock = sockets[turn]
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
