"""A UDP socket that owns a port and is never read.

The sniffer takes packets from the wire without the kernel knowing that they
are wanted: without a socket on their port the kernel would answer each with an
ICMP port unreachable. The paper keeps it silent with an ip6tables rule. A
socket does so without touching the machine's firewall, shows the port in ss(8),
and keeps others from using it. Its own filter drops everything, so that no
packet waits in memory for a reader who never comes.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from dataplane.config import IPAddress

_IPV6_V6ONLY = 26
_SO_ATTACH_FILTER = 26
_RETURN_ZERO_BYTES = struct.pack("=HBBI", 0x06, 0, 0, 0)
"""struct sock_filter, BPF_RET | BPF_K: keep 0 bytes of each packet."""


def hold(address: IPAddress, port: int) -> socket.socket:
    """Bind; the unspecified address is for any of its family. Raises OSError."""
    six = address.version == 6
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_V6ONLY, 1)
        code = ctypes.create_string_buffer(_RETURN_ZERO_BYTES, len(_RETURN_ZERO_BYTES))
        program = struct.pack("@HP", 1, ctypes.addressof(code))
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        sock.bind((str(address), port))
    except OSError:
        sock.close()
        raise
    return sock
