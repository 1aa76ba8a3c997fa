"""The structures of driver.h, as numpy sees them; a test compares the two."""

from __future__ import annotations

import enum

import numpy as np

from dataplane.engines.driver.layouts import ADDRESS, BE16

RECEIVERS_MAX = 4_096

RECEIVER_KEY = np.dtype(
    [
        ("address", ADDRESS),
        ("ifindex", np.uint32),
        ("queue", np.uint32),
        ("port", BE16),
        ("reserved", np.uint16),
    ]
)

ARRIVALS_CONFIG = np.dtype([("flags", np.uint64)])


class ArrivalsFlag(enum.IntFlag):
    PARTIAL = 1


ARRIVAL = np.dtype(
    [
        ("source", np.uint64, 2),
        ("destination", np.uint64, 2),
        ("received_ns", np.int64),
        ("length", np.uint32),
        ("ifindex", np.uint32),
        ("source_port", BE16),
        ("hop_limit", np.uint8),
        ("traffic_class", np.uint8),
        ("reserved", np.uint32),
    ]
)

MAPS: dict[str, tuple[np.dtype[np.void] | None, np.dtype[np.void] | None]] = {
    "receivers": (RECEIVER_KEY, None),
    "arrivals_configs": (None, ARRIVALS_CONFIG),
}
"""Key and value of every map that is a structure, by the map's name."""
