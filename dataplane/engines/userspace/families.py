"""What differs between UDP sockets of IPv6 and of IPv4: ipv6(7), ip(7).

Addresses come and go in 16 bytes (`dataplane.addresses`).
"""

from __future__ import annotations

import socket
import struct
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dataplane.addresses import LENGTH, MAPPED, is_link_local
from dataplane.engines.common.batch import Batch

Octets = npt.NDArray[np.uint8]

NAME = 28
"""Bytes of the longer of the two socket addresses."""

_MAPPED_WORDS = np.frombuffer(MAPPED, np.uint32)

_CMSG = struct.Struct("=Qii")
"""struct cmsghdr: length with the header, level, type."""


class Family(Protocol):
    """Options and structures of one family."""

    domain: int
    level: int
    receive_address: int
    """Option that asks for `address` messages."""

    receive_headers: tuple[int, int]
    """Options that ask for `hop_limit` and `traffic_class` messages."""

    address: int
    """Type of the message with a local address and an interface, of packets that
    arrive and of those that are sent."""

    hop_limit: int
    """Type of the message with a received Hop Limit or TTL: 4 bytes."""

    traffic_class: int
    """Type of the message with a received Traffic Class or TOS."""

    traffic_class_type: Any
    error: int
    """Type of the message with a struct sock_extended_err."""

    set_hop_limit: int
    set_traffic_class: int
    name_length: int

    def sender(self, name: tuple[Any, ...]) -> tuple[str, int, int]:
        """Address, port and scope of a peer as `socket.recvmsg` gives it."""

    def peer(self, address: str, port: int, scope_id: int) -> tuple[Any, ...]:
        """A peer as `socket.sendmsg` takes it."""

    def name(self, address: bytes, port: int, scope_id: int) -> bytes:
        """A peer as sendmsg(2) takes it."""

    def source(self, address: bytes, scope_id: int) -> bytes:
        """The value of an `address` message that sends from `address`; all zero is for
        the address that the socket is bound to. The kernel wants the link of one that is
        link-local."""

    def local(self, value: bytes) -> tuple[bytes, int]:
        """Destination, and index of the interface, of a received `address` message."""

    def read_names(self, names: Octets, batch: Batch) -> None:
        """Sources, their ports and scopes into the first rows of `batch`."""

    def read_local(self, values: Octets, batch: Batch, rows: slice) -> None:
        """`local` of many: 20 bytes a row, of which it uses as many as it needs."""


class _IPv6:
    domain = int(socket.AF_INET6)
    level = int(socket.IPPROTO_IPV6)
    receive_address = 49
    receive_headers = (51, 66)
    address = 50
    hop_limit = 52
    traffic_class = 67
    traffic_class_type = np.int32
    error = 25
    set_hop_limit = 16
    set_traffic_class = 67
    name_length = 28

    _NAME = struct.Struct("=HH4x16sI")
    """struct sockaddr_in6: family, port, flow label, address, scope."""

    _PKTINFO = struct.Struct("=16sI")
    """struct in6_pktinfo."""

    def sender(self, name: tuple[Any, ...]) -> tuple[str, int, int]:
        address = name[0].partition("%")[0]
        if address.startswith("::ffff:") and "." in address:
            address = "::"
        return address, name[1], name[3]

    def peer(self, address: str, port: int, scope_id: int) -> tuple[Any, ...]:
        return address, port, 0, scope_id

    def name(self, address: bytes, port: int, scope_id: int) -> bytes:
        return self._NAME.pack(self.domain, socket.htons(port), address, scope_id)

    def source(self, address: bytes, scope_id: int) -> bytes:
        return self._PKTINFO.pack(address, scope_id if is_link_local(address) else 0)

    def local(self, value: bytes) -> tuple[bytes, int]:
        destination, interface = self._PKTINFO.unpack_from(value)
        return destination, interface

    def read_names(self, names: Octets, batch: Batch) -> None:
        count = len(names)
        words = np.ascontiguousarray(names[:, 8:24]).view(np.uint32)
        batch.source[:count] = words.view(np.uint64)
        mapped = (words[:, :3] == _MAPPED_WORDS).all(axis=1)
        if mapped.any():
            batch.source[:count][mapped] = 0
        batch.source_port[:count] = _port(names)
        batch.scope_id[:count] = np.ascontiguousarray(names[:, 24:28]).view(np.uint32)[:, 0]

    def read_local(self, values: Octets, batch: Batch, rows: slice) -> None:
        batch.destination[rows] = np.ascontiguousarray(values[:, :16]).view(np.uint64)
        batch.interface[rows] = np.ascontiguousarray(values[:, 16:20]).view(np.uint32)[:, 0]


class _IPv4:
    domain = int(socket.AF_INET)
    level = int(socket.IPPROTO_IP)
    receive_address = 8
    receive_headers = (12, 13)
    address = 8
    hop_limit = 2
    traffic_class = 1
    traffic_class_type = np.uint8
    error = 11
    set_hop_limit = 2
    set_traffic_class = 1
    name_length = 16

    _NAME = struct.Struct("=HH4s8x")
    """struct sockaddr_in: family, port, address."""

    _PKTINFO = struct.Struct("=I4s4s")
    """struct in_pktinfo: interface, an address of this node that answers for the
    destination, destination as in the header. The two differ where the packet was sent
    to many: whether an address is a broadcast one only the kernel knows."""

    def sender(self, name: tuple[Any, ...]) -> tuple[str, int, int]:
        return name[0], name[1], 0

    def peer(self, address: str, port: int, scope_id: int) -> tuple[Any, ...]:
        return address, port

    def name(self, address: bytes, port: int, scope_id: int) -> bytes:
        return self._NAME.pack(self.domain, socket.htons(port), address[-4:])

    def source(self, address: bytes, scope_id: int) -> bytes:
        return self._PKTINFO.pack(0, address[-4:], bytes(4))

    def local(self, value: bytes) -> tuple[bytes, int]:
        interface, ours, destination = self._PKTINFO.unpack_from(value)
        return MAPPED + destination if ours == destination else bytes(LENGTH), interface

    def read_names(self, names: Octets, batch: Batch) -> None:
        count = len(names)
        _map(batch.source[:count], names[:, 4:8])
        batch.source_port[:count] = _port(names)
        batch.scope_id[:count] = 0

    def read_local(self, values: Octets, batch: Batch, rows: slice) -> None:
        words = np.ascontiguousarray(values[:, :12]).view(np.uint32)
        destination = batch.destination[rows]
        _map(destination, values[:, 8:12])
        destination[words[:, 1] != words[:, 2]] = 0
        batch.interface[rows] = words[:, 0]


def _port(names: Octets) -> npt.NDArray[Any]:
    return names[:, 2].astype(np.uint16) << 8 | names[:, 3]


def _map(column: npt.NDArray[np.uint64], ipv4: Octets) -> None:
    """Write IPv4 addresses into a column of 16 bytes a row."""
    octets = column.view(np.uint8)
    octets[:, : len(MAPPED)] = np.frombuffer(MAPPED, np.uint8)
    octets[:, len(MAPPED) :] = ipv4


IPV6: Family = _IPv6()
IPV4: Family = _IPv4()


def family_of(version: int) -> Family:
    """Of an address's `version`."""
    return IPV6 if version == 6 else IPV4


def message(level: int, kind: int, value: bytes) -> bytes:
    """A control message as sendmsg(2) takes it, padded to its alignment."""
    data = _CMSG.pack(_CMSG.size + len(value), level, kind) + value
    return data + bytes(-len(data) % 8)
