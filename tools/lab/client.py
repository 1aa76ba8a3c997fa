"""NETCONF sessions with the network elements of a lab."""

from __future__ import annotations

from tools.lab.lab import LabNode
from tools.stamp_client import StampClient


def connect(node: LabNode) -> StampClient:
    """Open a NETCONF session with an edge. Raises LabError where it runs no NETCONF
    server, and StampClientError."""
    access = node.netconf
    return StampClient.connect(
        access.host,
        access.port,
        access.user,
        key_file=access.key_file,
        host_key=access.host_key_file.read_text(encoding="ascii").split()[1],
    )
