"""What Session-Sender packets have in common that may share a burst."""

from __future__ import annotations

import functools
from ipaddress import IPv6Address
from typing import NamedTuple

from dataplane.config import IPAddress, SenderSession
from dataplane.srv6 import complete_path, rthdr_for_socket
from dataplane.stamp.timestamp import TimestampFormat


class Lane(NamedTuple):
    segments: tuple[IPv6Address, ...]
    dscp: int
    hop_limit: int
    destination: IPAddress
    port: int
    timestamp_format: TimestampFormat


def lane_of(config: SenderSession) -> Lane:
    return Lane(
        config.segments,
        config.dscp,
        config.hop_limit,
        config.reflector_address,
        config.reflector_udp_port,
        config.timestamp_format,
    )


@functools.lru_cache(maxsize=4096)
def rthdr_towards(segments: tuple[IPv6Address, ...], destination: IPAddress) -> bytes:
    """The SRH of a path that ends at `destination` as `Transport.dress` wants it."""
    if not segments:
        return b""
    assert isinstance(destination, IPv6Address)
    return rthdr_for_socket(complete_path(segments, destination))
