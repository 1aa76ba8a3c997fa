"""What the engine can do; known without importing Scapy, which takes its time."""

from __future__ import annotations

from dataplane.engines.base import Capabilities

NAME = "scapy"

CAPABILITIES = Capabilities(
    address_families=frozenset({4, 6}), min_interval_us=10_000, max_segments=16
)
"""Building a packet takes Scapy half a millisecond and dissecting one half of that:
at a hundred packets a second there is room for some sessions more."""
