"""How the roles of an engine reach the network.

A role opens one transport for each local address and port. Everything above
(sessions, schedules, stores, states) is the same whatever carries the packets.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from dataplane.addresses import endpoint, is_link_local
from dataplane.config import IPAddress
from dataplane.engines.base import Role
from dataplane.measurement import TimestampMethod


class Datagram(NamedTuple):
    """One received UDP payload and what the kernel said about it."""

    data: bytes
    source: str
    source_port: int
    scope_id: int
    hop_limit: int | None
    traffic_class: int
    destination: bytes
    """16 bytes (`dataplane.addresses`): the local address that it was sent to. Of IPv4, all
    zero where it was sent to a broadcast or multicast address."""

    interface: int
    """Index of the interface on which it arrived."""

    received_ns: int
    """CLOCK_REALTIME of the kernel's receive path, or of reading."""

    kernel_stamped: bool

    @property
    def zone(self) -> int:
        """Index of the link that its link-local addresses belong to (RFC 4007); 0 where
        there are none."""
        return self.interface if is_link_local(self.destination) else self.scope_id

    @property
    def received_method(self) -> TimestampMethod:
        """How `received_ns` was taken."""
        return TimestampMethod.KERNEL_SOFTWARE if self.kernel_stamped else TimestampMethod.USERSPACE


class Transport(Protocol):
    """One local address and port; belongs to the thread of its loop."""

    def fileno(self) -> int:
        """What epoll waits for: readable while `receive` has something."""

    def close(self) -> None: ...

    def receive(self) -> Datagram | None:
        """The next packet; None where there is none."""

    def dress(self, rthdr: bytes, traffic_class: int, hop_limit: int) -> None:
        """Send from now on with this SRH (as `rthdr_for_socket` makes it; empty:
        none), Traffic Class and Hop Limit. Raises OSError."""

    def send(self, payload: bytes, address: str, port: int) -> int:
        """Transmit a Session-Sender packet from the local address; the identifier
        under which `transmitted` may tell its timestamp. Raises OSError."""

    def answer(self, payload: bytes | bytearray, request: Datagram) -> None:
        """Transmit a reply to where `request` came from, from the address that it
        was sent to. Raises OSError."""

    def transmitted(self) -> Iterator[tuple[int, int]]:
        """Identifier and CLOCK_REALTIME nanoseconds of packets that have left."""

    def dropped(self) -> int:
        """Packets so far that there was no room to keep until they were read."""


class OpenTransport(Protocol):
    def __call__(self, role: Role, address: IPAddress, port: int) -> Transport:
        """Listen; the unspecified address is for any of its family. Raises OSError."""


def drop_text(count: int, address: IPAddress, port: int) -> str:
    """What an operator is told when `Transport.dropped` has grown by `count`."""
    to = endpoint(address, port)
    return f"the kernel dropped {count} packets to {to}: receive buffer full"


def is_local(address: IPAddress) -> bool:
    """Whether this network namespace has the address now: bound sockets do not tell."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def bind_error(address: IPAddress, port: int, error: OSError) -> str:
    """What an operator is told: "cannot bind [fd00::1]:49862: Cannot assign …"."""
    return f"cannot bind {endpoint(address, port)}: {os.strerror(error.errno or 0)}"
