"""What the engine can do; known without importing Scapy, which takes its time."""

from __future__ import annotations

from dataplane.engines.base import Capabilities

NAME = "scapy"

CAPABILITIES = Capabilities(min_interval_us=10_000, max_segments=16)
"""Building a packet or dissecting one takes up to a millisecond: a hundred packets
a second leave room for some more sessions. IPv6 alone, for the paper's raw socket is."""
