"""What the roles send and receive through: a sniffer, a raw socket and a held port."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import socket
from collections.abc import Iterator

import dataplane.engines.scapy.quiet  # noqa: F401  isort: skip
from scapy.layers.inet import IP
from scapy.packet import Packet

from dataplane.addresses import address_of, text_of
from dataplane.clock import Clock, wall_ns
from dataplane.config import IPAddress
from dataplane.engines.base import Role
from dataplane.engines.common.transport import Datagram
from dataplane.engines.scapy.delivery import Delivered, deliver
from dataplane.engines.scapy.filters import ipv4_filter, ipv4_in_ipv6_filter, stamp_filter
from dataplane.engines.scapy.kernel import Kernel
from dataplane.engines.scapy.layers import (
    SessionReflectorTest,
    SessionSenderTest,
    timestamp_format,
)
from dataplane.engines.scapy.port_holder import hold
from dataplane.engines.scapy.sniffing import Sniffed, SniffedIPv4, SniffedIPv6, Sniffer
from dataplane.engines.scapy.transmission import RawSocket, datagram, over_ip, restamp
from dataplane.stamp.timestamp import encode_timestamp

BACKLOG = 4_096
"""Dissected packets that wait for the event loop; those that find it full are
counted as dropped."""

log = logging.getLogger(__name__)


class ScapyTransport:
    """One local address and port; a `Transport`.

    The sniffer has a thread of its own, in which packets are dissected; an eventfd
    wakes the event loop for them. Raises OSError from the constructor, `send`
    and `answer`.
    """

    def __init__(self, role: Role, address: IPAddress, port: int, clock: Clock) -> None:
        self._receives, self._sends = _tests(role)
        self._address = address
        self._port = port
        self._clock = clock
        self._kernel = Kernel()
        self._queue: collections.deque[Datagram] = collections.deque()
        self._overflown = 0
        self._dress: tuple[bytes, int, int] = (b"", 0, 255)
        with contextlib.ExitStack() as opened:
            opened.callback(self._kernel.close)
            self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            opened.callback(os.close, self._eventfd)
            opened.enter_context(hold(address, port))
            self._raw = opened.enter_context(RawSocket(address.version))
            self._sniffer = self._sniff()
            self._opened = opened.pop_all()

    def fileno(self) -> int:
        return self._eventfd

    def close(self) -> None:
        self._sniffer.close()
        self._opened.close()

    def receive(self) -> Datagram | None:
        if not self._queue:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._eventfd)
        return self._queue.popleft() if self._queue else None

    def dress(self, rthdr: bytes, traffic_class: int, hop_limit: int) -> None:
        self._dress = rthdr, traffic_class, hop_limit

    def send(self, payload: bytes, address: str, port: int) -> int:
        source = str(self._address)
        self._transmit(payload, source, address, port)
        return 0

    def answer(self, payload: bytes | bytearray, request: Datagram) -> None:
        source = text_of(request.destination)
        self._transmit(bytes(payload), source, request.source, request.source_port, request.zone)

    def transmitted(self) -> Iterator[tuple[int, int]]:
        """None: T1 is read right before the packet leaves."""
        return iter(())

    def dropped(self) -> int:
        # Asked for once a second: the moment to see whether all is well.
        if not self._sniffer.alive:
            log.error("the sniffer of port %d has ended and is started anew", self._port)
            self._overflown += self._sniffer.lost()
            self._sniffer.close()
            self._sniffer = self._sniff()
        return self._overflown + self._sniffer.lost()

    def _sniff(self) -> Sniffer:
        if self._address.version == 6:
            return Sniffer([(SniffedIPv6, stamp_filter(self._port))], self._take)
        return Sniffer(
            [
                (SniffedIPv4, ipv4_filter(self._port)),
                (SniffedIPv6, ipv4_in_ipv6_filter(self._port)),
            ],
            self._take,
        )

    def _transmit(
        self, payload: bytes, source: str, destination: str, port: int, scope_id: int = 0
    ) -> None:
        test = self._sends(payload)
        packet = datagram(over_ip(source, destination, *self._dress), self._port, port, test)
        wire = bytearray(bytes(packet))
        now = encode_timestamp(wall_ns(), timestamp_format(test.Z), self._clock.status.tai_offset_s)
        restamp(wire, len(payload), now)
        self._raw.send_bytes(wire, packet, scope_id)

    def _take(self, packet: Packet) -> None:
        """Called in the sniffer's thread with every packet that passes its filter."""
        assert isinstance(packet, SniffedIPv6 | SniffedIPv4)
        try:
            delivered = deliver(packet, self._address, self._port, self._kernel)
            if delivered is not None:
                self._keep(packet, delivered)
        except Exception:
            log.exception("a sniffed packet could not be handled")

    def _keep(self, packet: Sniffed, delivered: Delivered) -> None:
        ip, udp = delivered.ip, delivered.udp
        # Scapy goes by port numbers to find out what UDP carries; the role knows.
        udp.remove_payload()
        udp.add_payload(self._receives(delivered.payload))
        if log.isEnabledFor(logging.DEBUG):
            log.debug("received %r", packet)
        index = socket.if_nametoindex(packet.interface)
        four = isinstance(ip, IP)
        for payload in _datagrams(delivered.payload, packet.segment_length):
            if len(self._queue) >= BACKLOG:
                self._overflown += 1
                continue
            self._queue.append(
                Datagram(
                    payload,
                    source=ip.src,
                    source_port=udp.sport,
                    scope_id=index if not four and address_of(ip.src).is_link_local else 0,
                    hop_limit=ip.ttl if four else ip.hlim,
                    traffic_class=ip.tos if four else ip.tc,
                    destination=delivered.destination,
                    interface=index,
                    received_ns=packet.received_ns,
                    kernel_stamped=packet.kernel_stamped,
                )
            )
        os.eventfd_write(self._eventfd, 1)


def _datagrams(payload: bytes, length: int) -> list[bytes]:
    """A burst of UDP_SEGMENT cut apart, where `length` says that it is one."""
    if not length:
        return [payload]
    return [payload[at : at + length] for at in range(0, len(payload), length)]


def _tests(role: Role) -> tuple[type[Packet], type[Packet]]:
    """The layers that a role receives and sends."""
    if role is Role.SENDER:
        return SessionReflectorTest, SessionSenderTest
    return SessionSenderTest, SessionReflectorTest
