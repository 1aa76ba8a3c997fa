"""What the engine can do; nothing is imported here that not every machine has."""

from __future__ import annotations

from dataplane.engines.base import Capabilities
from dataplane.engines.xdp.reflector_layouts import SEGMENTS_MAX, SESSIONS_MAX

NAME = "xdp"

CAPABILITIES = Capabilities(
    address_families=frozenset({4, 6}),
    min_interval_us=1_000,
    max_segments=SEGMENTS_MAX,
    needs_interfaces=True,
    counters_lag_ms=100,
    reflector_sessions_max=SESSIONS_MAX // 2,
)
"""Half of the slots stay vacant, for sessions that change all at once."""
