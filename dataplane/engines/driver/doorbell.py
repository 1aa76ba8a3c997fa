"""Rings when something in the network namespace has changed that a program has to know.

What rtnetlink tells is not used but for this: whoever hears the bell asks the kernel
how things stand. A router's routes change all the time; those alone ring that make or
unmake a SID of this node.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator

_RTMGRP_LINK, _RTMGRP_IPV4_ADDRESS, _RTMGRP_IPV6_ADDRESS = 0x1, 0x10, 0x100
_RTMGRP_IPV6_ROUTE, _RTMGRP_IPV6_RULE = 0x400, 0x40000
_NEW_ROUTE, _DELETE_ROUTE = 24, 25
_ENCAP_TYPE = 21
"""RTA_ENCAP_TYPE."""
_SEG6_LOCAL = 7

_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_ATTRIBUTE = struct.Struct("=HH")
_ROUTE_MESSAGE = 12
_BUFFER = 1 << 16


class Doorbell:
    """A netlink socket of the calling thread's network namespace. Raises OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        groups = (
            *(_RTMGRP_LINK, _RTMGRP_IPV4_ADDRESS, _RTMGRP_IPV6_ADDRESS),
            *(_RTMGRP_IPV6_ROUTE, _RTMGRP_IPV6_RULE),
        )
        self._socket.bind((0, sum(groups)))

    def fileno(self) -> int:
        return self._socket.fileno()

    def rung(self) -> bool:
        """Whether anything that matters has been told since the last call."""
        matters = False
        while True:
            try:
                data = self._socket.recv(_BUFFER)
            except BlockingIOError:
                return matters
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                matters = True
                continue
            matters = matters or any(map(_matters, _messages(data)))

    def close(self) -> None:
        self._socket.close()


def _messages(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + _HEADER.size <= len(data):
        length = _HEADER.unpack_from(data, at)[0]
        if length < _HEADER.size:
            return
        yield data[at : at + length]
        at += length + 3 & ~3


def _matters(message: bytes) -> bool:
    kind = _HEADER.unpack_from(message)[1]
    if kind not in (_NEW_ROUTE, _DELETE_ROUTE):
        return True
    at = _HEADER.size + _ROUTE_MESSAGE
    while at + _ATTRIBUTE.size <= len(message):
        length, attribute = _ATTRIBUTE.unpack_from(message, at)
        if attribute == _ENCAP_TYPE:
            return int.from_bytes(message[at + 4 : at + 6], sys.byteorder) == _SEG6_LOCAL
        if length < _ATTRIBUTE.size:
            return False
        at += length + 3 & ~3
    return False
