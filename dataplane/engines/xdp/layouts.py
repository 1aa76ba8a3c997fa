"""The structures of shared.h, as numpy sees them.

A test compares names, offsets and sizes with what the compiler has made of
shared.h, and the numbers below with the macros and enumerations there.
"""

from __future__ import annotations

import enum

import numpy as np

from dataplane.reflector_store import HANDED_UP_SLOTS
from dataplane.session_state import DISCARD_SLOTS

ADDRESS_BYTES = 16
SSIDS_IN_WORD = 32
WORDS_OF_SSIDS = 2_048
SESSIONS_MAX = 16_384
"""Sessions of a reflector; slot 0 is for requests without one."""

SEGMENTS_MAX = 16
SOURCES_MAX = 65_536
VLAN_TAGS_MAX = 2


def _struct(*fields: tuple[str, object] | tuple[str, object, object]) -> np.dtype[np.void]:
    return np.dtype(list(fields), align=True)


ADDRESS = np.dtype((np.uint8, ADDRESS_BYTES))
BE16 = np.dtype(">u2")
MAC = np.dtype((np.uint8, 6))

CLOCK = _struct(
    ("tai_offset_s", np.uint64),
    ("error_estimate", np.uint32),
    ("reserved", np.uint32),
    ("fixed_ns", np.uint64, 2),
)

INTERFACE_KEY = _struct(("ifindex", np.uint32), ("vlan", np.uint32, VLAN_TAGS_MAX))
INTERFACE = _struct(("ifindex", np.uint32), ("flags", np.uint16), ("mac", MAC))

LOCAL = _struct(("flags", np.uint32))

REFLECTOR_CONFIG = _struct(
    ("address", ADDRESS),
    ("port", BE16),
    ("flags", np.uint16),
    ("epoch", np.uint32),
    ("rate_interval_ns", np.uint64),
    ("rate_burst_ns", np.uint64),
)

SESSION_KEY = _struct(("address", ADDRESS), ("ssid", BE16), ("reserved", np.uint16))
SESSION = _struct(
    ("slot", np.uint32),
    ("sender_port", BE16),
    ("flags", np.uint8),
    ("segments", np.uint8),
    ("segment", ADDRESS, SEGMENTS_MAX),
)
SESSION_STATE = _struct(
    ("next_sequence", np.uint64),
    ("answered", np.uint64),
    ("last_received_ns", np.uint64),
)


class LocalFlag(enum.IntFlag):
    """Why a destination is this node's."""

    ADDRESS = 1
    DECAPSULATES_IPV6 = 2
    DECAPSULATES_IPV4 = 4


class SsidFlag(enum.IntFlag):
    """What sessions an SSID has."""

    ONE_SENDER = 1
    ANY_SENDER = 2


class InterfaceFlag(enum.IntFlag):
    SRV6 = 1
    GENERIC = 2
    LOOSE = 4
    STRICT = 8


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

REFLECTOR_COUNTERS = _struct(
    ("answered", np.uint64),
    ("handed_up", np.uint64, UP_REASONS),
    ("discarded", np.uint64, DISCARD_REASONS),
)

NEXT_HOP = _struct(
    ("local", ADDRESS),
    ("next", ADDRESS),
    ("until_ns", np.uint64),
    ("epoch", np.uint32),
    ("ingress", np.uint32),
    ("vlan", np.uint32, VLAN_TAGS_MAX),
    ("egress", np.uint32),
    ("destination_mac", MAC),
    ("source_mac", MAC),
    ("mtu", np.uint32),
    ("device", INTERFACE),
)

MAPS: dict[str, tuple[np.dtype[np.void] | None, np.dtype[np.void]]] = {
    "clocks": (None, CLOCK),
    "interfaces": (INTERFACE_KEY, INTERFACE),
    "locals": (None, LOCAL),
    "reflector_configs": (None, REFLECTOR_CONFIG),
    "sessions": (SESSION_KEY, SESSION),
    "session_states": (None, SESSION_STATE),
    "reflector_counts": (None, REFLECTOR_COUNTERS),
    "next_hops": (None, NEXT_HOP),
}
"""Key (None: an index or an address) and value of every map, by its name."""
