"""The structures of reflection.h, as numpy sees them; a test compares, as for driver/layouts.py."""

from __future__ import annotations

import enum

import numpy as np

from dataplane.engines.driver.layouts import (
    ADDRESS,
    BE16,
    INTERFACE,
    MAC,
    VLAN_TAGS_MAX,
    structure,
)
from dataplane.reflector_store import HANDED_UP_SLOTS
from dataplane.session_state import DISCARD_SLOTS
from dataplane.stamp.rate_limit import SOURCES_MAX as SOURCES_MAX

SSIDS_IN_WORD = 32
WORDS_OF_SSIDS = 2_048
SESSIONS_MAX = 16_384
"""Sessions of a reflector; slot 0 is for requests without one."""

SEGMENTS_MAX = 16

REFLECTOR_CONFIG = structure(
    ("address", ADDRESS),
    ("port", BE16),
    ("flags", np.uint16),
    ("epoch", np.uint32),
    ("rate_interval_ns", np.uint64),
    ("rate_burst_ns", np.uint64),
)

SESSION_KEY = structure(("address", ADDRESS), ("ssid", BE16), ("reserved", np.uint16))
SESSION = structure(
    ("slot", np.uint32),
    ("sender_port", BE16),
    ("flags", np.uint8),
    ("segments", np.uint8),
    ("segment", ADDRESS, SEGMENTS_MAX),
)
SESSION_STATE = structure(
    ("next_sequence", np.uint64),
    ("answered", np.uint64),
    ("last_received_ns", np.uint64),
)


class SsidFlag(enum.IntFlag):
    """What sessions an SSID has."""

    ONE_SENDER = 1
    ANY_SENDER = 2


class ReflectorFlag(enum.IntFlag):
    ENABLED = 1
    ANY_SESSION = 2
    ONE_ADDRESS = 4
    TRAILERS = 8
    PARTIAL = 16


class SessionFlag(enum.IntFlag):
    ENABLED = 1
    STATEFUL = 2
    FORMAT = 4
    PTP = 8


UP_REASONS = HANDED_UP_SLOTS
DISCARD_REASONS = DISCARD_SLOTS

REFLECTOR_COUNTERS = structure(
    ("answered", np.uint64),
    ("handed_up", np.uint64, UP_REASONS),
    ("discarded", np.uint64, DISCARD_REASONS),
)

NEXT_HOP = structure(
    ("local", ADDRESS),
    ("next", ADDRESS),
    ("until_ns", np.uint64),
    ("epoch", np.uint32),
    ("ingress", np.uint32),
    ("vlan", np.uint32, VLAN_TAGS_MAX),
    ("flow", np.uint32),
    ("local_port", np.uint16),
    ("port", np.uint16),
    ("egress", np.uint32),
    ("destination_mac", MAC),
    ("source_mac", MAC),
    ("mtu", np.uint32),
    ("device", INTERFACE),
)

MAPS: dict[str, tuple[np.dtype[np.void] | None, np.dtype[np.void]]] = {
    "reflector_configs": (None, REFLECTOR_CONFIG),
    "sessions": (SESSION_KEY, SESSION),
    "session_states": (None, SESSION_STATE),
    "reflector_counts": (None, REFLECTOR_COUNTERS),
    "next_hops": (None, NEXT_HOP),
}
"""Key (None: an index or an address) and value of every map, by its name."""
