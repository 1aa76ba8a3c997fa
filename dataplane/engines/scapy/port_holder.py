"""A UDP socket that owns a port and is never read.

The sniffer takes packets from the wire without the kernel knowing that they
are wanted: without a socket on their port the kernel would answer each with an
ICMPv6 port unreachable. The paper keeps it silent with an ip6tables rule. A
socket does so without touching the machine's firewall, shows the port in ss(8),
and keeps others from using it. Its own filter drops everything, so that no
packet waits in memory for a reader who never comes.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from ipaddress import IPv6Address

_IPV6_V6ONLY = 26
_SO_ATTACH_FILTER = 26
_RETURN_ZERO_BYTES = struct.pack("=HBBI", 0x06, 0, 0, 0)
"""struct sock_filter, BPF_RET | BPF_K: keep 0 bytes of each packet."""


def hold(address: IPv6Address | None, port: int) -> socket.socket:
    """Bind; None is for any address. Raises OSError."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_V6ONLY, 1)
        code = ctypes.create_string_buffer(_RETURN_ZERO_BYTES, len(_RETURN_ZERO_BYTES))
        program = struct.pack("@HP", 1, ctypes.addressof(code))
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        sock.bind(("::" if address is None else str(address), port))
    except OSError:
        sock.close()
        raise
    return sock
