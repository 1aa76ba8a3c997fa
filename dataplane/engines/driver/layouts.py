"""The structures of shared.h, as numpy sees them.

A test compares names, offsets and sizes with what the compiler has made of
shared.h, and the numbers below with the macros there.
"""

from __future__ import annotations

import enum

import numpy as np

ADDRESS_BYTES = 16
VLAN_TAGS_MAX = 2
PORT_WORDS = 1_024


def structure(*fields: tuple[str, object] | tuple[str, object, object]) -> np.dtype[np.void]:
    """Laid out as the compiler lays out a `struct` of these members."""
    return np.dtype(list(fields), align=True)


ADDRESS = np.dtype((np.uint8, ADDRESS_BYTES))
BE16 = np.dtype(">u2")
MAC = np.dtype((np.uint8, 6))

CLOCK = structure(
    ("tai_offset_s", np.uint64),
    ("error_estimate", np.uint32),
    ("reserved", np.uint32),
    ("fixed_ns", np.uint64, 2),
)

INTERFACE_KEY = structure(("ifindex", np.uint32), ("vlan", np.uint32, VLAN_TAGS_MAX))
INTERFACE = structure(("ifindex", np.uint32), ("flags", np.uint16), ("mac", MAC))

LOCAL = structure(("flags", np.uint32))


class LocalFlag(enum.IntFlag):
    """Why a destination is this node's."""

    ADDRESS = 1
    DECAPSULATES_IPV6 = 2
    DECAPSULATES_IPV4 = 4


class InterfaceFlag(enum.IntFlag):
    SRV6 = 1
    GENERIC = 2
    LOOSE = 4
    STRICT = 8
    SIGNED = 16


MAPS: dict[str, tuple[np.dtype[np.void] | None, np.dtype[np.void]]] = {
    "clocks": (None, CLOCK),
    "interfaces": (INTERFACE_KEY, INTERFACE),
    "locals": (None, LOCAL),
}
"""Key (None: an index or an address) and value of every map, by its name."""
