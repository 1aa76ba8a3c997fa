"""What the packets of a bench look like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """What the packets look like."""

    data_payload: int = 18
    """Bytes of UDP payload of a data packet; 18 make the smallest Ethernet frame with IPv6."""

    sids: int = 2
    """SIDs that a STAMP packet has visited, and that its reply is to visit; 0: no SRH."""

    sessions: int = 8
    """STAMP sessions that take turns."""
