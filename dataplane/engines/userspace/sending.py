"""Bursts of payloads of equal length to one peer, with one passage through the kernel.

UDP segmentation offload (udp(7), UDP_SEGMENT): the kernel routes one large packet
with one set of headers, SRH included, and cuts it up where it leaves. What that
costs is shared by the whole burst. See docs/userspace-io.md for what it is worth.

Where the kernel or a device cannot do it, the payloads are sent one by one: on that
route, and for a while, for routes change and others lead through other devices.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys

import numpy as np
import numpy.typing as npt

from dataplane.addresses import LENGTH, text_of
from dataplane.clock import monotonic_ns
from dataplane.engines.userspace.families import IPV6, NAME, Family, message

SO_TIMESTAMPING = 37
UDP_SEGMENT = 103

_UNSTAMPED = message(socket.SOL_SOCKET, SO_TIMESTAMPING, bytes(4))
"""No transmit timestamp is wanted, which would be one for a whole burst."""

_CONTROL = 128
"""Bytes for all control messages."""

RETRY_NS = 60_000_000_000
"""A route that has refused a burst is tried again after this long."""

REFUSED_MAX = 1_024
"""Such routes that are remembered; the others are tried each time."""

_UNSUPPORTED = (errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.EOPNOTSUPP, errno.ENOPROTOOPT)


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Message(ctypes.Structure):
    """struct msghdr, of a 64-bit machine."""

    _fields_ = (
        ("name", ctypes.c_uint64),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.c_uint64),
        ("vector_length", ctypes.c_uint64),
        ("control", ctypes.c_uint64),
        ("control_length", ctypes.c_uint64),
        ("flags", ctypes.c_int32),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_libc.sendmsg.restype = ctypes.c_ssize_t


class BurstSender:
    """The message that bursts are sent with; it belongs to one socket."""

    def __init__(self, fd: int, family: Family = IPV6) -> None:
        self._fd = fd
        self._family = family
        self._name = (ctypes.c_char * NAME)()
        self._control = (ctypes.c_char * _CONTROL)()
        self._without = self._with = 0
        """Bytes of control messages without segmentation, and with."""
        self._vector = _Vector()
        self._message = _Message(
            name=ctypes.addressof(self._name),
            name_length=family.name_length,
            vector=ctypes.addressof(self._vector),
            vector_length=1,
            control=ctypes.addressof(self._control),
        )
        self._pointer = ctypes.addressof(self._message)
        self._refused: dict[tuple[bytes, bytes, int], tuple[int, int]] = {}
        """By SRH, destination and scope: the error number, and when it was."""
        self._peer: tuple[bytes, int, int] | None = None
        self._said: tuple[bytes, int, int] | None = None

    @property
    def limitation(self) -> str | None:
        """Why bursts have lately been sent one by one, and where to, for one."""
        # A route that is in use is tried, and refuses, a while after it is due.
        since_ns = monotonic_ns() - 2 * RETRY_NS
        for (_, destination, _), (number, refused_ns) in self._refused.items():
            if refused_ns > since_ns:
                return (
                    f"packets to {text_of(destination)} are sent one by one: "
                    f"UDP segmentation offload is refused: {os.strerror(number)}"
                )
        return None

    def send(
        self,
        payloads: npt.NDArray[np.uint8],
        source: bytes | None,
        destination: bytes,
        port: int,
        scope_id: int,
        rthdr: bytes = b"",
    ) -> int:
        """See `BatchTransport.send_burst`; a `source` of None is the bound address, `rthdr`
        the SRH that the socket is dressed in."""
        count, size = len(payloads), payloads.shape[1]
        self._address(destination, port, scope_id)
        self._say(source or bytes(LENGTH), scope_id, size)
        route, number = (rthdr, destination, scope_id), 0
        if count > 1 and not self._refuses(route):
            self._message.control_length = self._with
            number = self._send(payloads, count * size)
            if not number:
                if self._refused:
                    self._refused.pop(route, None)
                return count
            if number not in _UNSUPPORTED:
                raise OSError(number, os.strerror(number))
        left = self._send_singly(payloads)
        if number and left == count:
            if len(self._refused) >= REFUSED_MAX and route not in self._refused:
                del self._refused[next(iter(self._refused))]
            self._refused[route] = number, monotonic_ns()
        return left

    def _refuses(self, route: tuple[bytes, bytes, int]) -> bool:
        if not self._refused or route not in self._refused:
            return False
        return monotonic_ns() - self._refused[route][1] < RETRY_NS

    def _send_singly(self, payloads: npt.NDArray[np.uint8]) -> int:
        count, size = len(payloads), payloads.shape[1]
        self._message.control_length = self._without
        for row in range(count):
            number = self._send(payloads[row], size)
            if number and not row:
                raise OSError(number, os.strerror(number))
            if number:
                return row
        return count

    def _send(self, payloads: npt.NDArray[np.uint8], size: int) -> int:
        """The error number, 0 where there is none."""
        self._vector.base = payloads.ctypes.data
        self._vector.length = size
        if _libc.sendmsg(self._fd, self._pointer, 0) < 0:
            return ctypes.get_errno()
        return 0

    def _address(self, destination: bytes, port: int, scope_id: int) -> None:
        peer = destination, port, scope_id
        if peer != self._peer:
            self._peer = peer
            name = self._family.name(*peer)
            ctypes.memmove(self._name, name, len(name))

    def _say(self, source: bytes, scope_id: int, size: int) -> None:
        said = source, scope_id, size
        if said != self._said:
            self._said = said
            family = self._family
            address = family.source(source, scope_id)
            always = message(family.level, family.address, address) + _UNSTAMPED
            segment = message(socket.IPPROTO_UDP, UDP_SEGMENT, size.to_bytes(2, sys.byteorder))
            control = always + segment
            ctypes.memmove(self._control, control, len(control))
            self._without, self._with = len(always), len(control)
