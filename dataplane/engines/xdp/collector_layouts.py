"""The structures of collection.h, as numpy sees them; a test compares, as for driver/layouts.py."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np

from dataplane.engines.driver.layouts import ADDRESS, BE16, structure

SSIDS = 65_536
COLLECTOR_INTERFACES = 4_096
COMMANDS = 1_024
ORDER_MAX = 1_024
DIRECTIONS = 3
BUCKETS = 1_664
UP_REASONS = 16


SLOT = structure(
    ("sent_ns", np.uint64),
    ("t1_ns", np.int64),
    ("tag", np.uint64),
    ("t2_ns", np.int64),
    ("t3_ns", np.int64),
    ("t4_ns", np.int64),
    ("index", np.uint64),
    ("reflector_sequence", np.uint32),
    ("error_estimate", np.uint16),
    ("sender_ttl", np.uint8),
    ("flags", np.uint8),
)

DELAY_SUMS = structure(
    ("origin_ns", np.int64),
    ("last_ns", np.int64),
    ("min_ns", np.int64),
    ("max_ns", np.int64),
    ("sum_low", np.uint64),
    ("sum_high", np.uint64),
    ("squares_low", np.uint64),
    ("squares_high", np.uint64),
    ("squares_top", np.uint64),
    ("ipdv_low", np.uint64),
    ("ipdv_high", np.uint64),
    ("ipdv_max_ns", np.uint64),
    ("octave", np.uint64),
)

INTERVAL_SUMS = structure(
    ("samples", np.uint64),
    ("pairs", np.uint64),
    ("duplicates", np.uint64),
    ("late", np.uint64),
    ("reordered", np.uint64),
    ("reserved", np.uint64),
    ("delay", DELAY_SUMS, DIRECTIONS),
)

RUNNING = structure(
    ("received", np.uint64),
    ("highest", np.uint64),
    ("reordered", np.uint64),
    ("breaks", np.uint64),
    ("turns", np.uint32),
    ("next_number", np.uint32),
    ("previous_sequence", np.uint64),
    ("previous_ns", np.int64, DIRECTIONS),
)

COLLECTION = structure(
    ("lock", np.uint64),
    ("next_sequence", np.uint64),
    ("settled", np.uint64),
    ("boundary", np.uint64),
    ("horizon_ns", np.uint64),
    ("interval_ns", np.uint64),
    ("timeout_ns", np.uint64),
    ("mask", np.uint64),
    ("reflector", ADDRESS),
    ("local", ADDRESS),
    ("reflector_port", BE16),
    ("local_port", BE16),
    ("flags", np.uint32),
    ("pseudo", np.uint64),
    ("earliest_t1_ns", np.int64),
    ("running", RUNNING),
    ("origin_ns", np.int64, DIRECTIONS),
    ("interval", INTERVAL_SUMS, 2),
    ("running_then", RUNNING),
    ("interval_then", INTERVAL_SUMS, 2),
    ("order", np.uint32, ORDER_MAX),
    ("histogram", np.uint32, (2, DIRECTIONS, BUCKETS)),
)

COLLECTOR_CONFIG = structure(
    ("monotonic_offset_ns", np.uint64),
    ("flags", np.uint32),
    ("reserved", np.uint32),
)

COLLECTOR_COUNTERS = structure(
    ("collected", np.uint64),
    ("duplicates", np.uint64),
    ("late", np.uint64),
    ("handed_up", np.uint64, UP_REASONS),
)

ORIGINS = ("forward_origin_ns", "backward_origin_ns", "round_trip_origin_ns")
"""Fields of `COMMAND`, by direction."""

COMMAND = structure(
    ("ssid", np.uint16),
    ("parity", np.uint16),
    ("flags", np.uint32),
    ("now_ns", np.uint64),
    ("settled", np.uint64),
    ("boundary", np.uint64),
    ("sequence", np.uint64),
    ("t1_ns", np.int64),
    ("t2_ns", np.int64),
    ("t3_ns", np.int64),
    ("t4_ns", np.int64),
    *((name, np.int64) for name in ORIGINS),
    ("reflector_sequence", np.uint32),
    ("error_estimate", np.uint16),
    ("sender_ttl", np.uint8),
    ("record_flags", np.uint8),
    ("outcome", np.uint32),
    ("reserved_too", np.uint32),
)


class SlotFlag(enum.IntFlag):
    """`RECORD_*`; the first two are `RecordFlag`."""

    SENDER_SYNCHRONIZED = 1
    REFLECTOR_SYNCHRONIZED = 2
    T1_KERNEL = 4
    T4_USER = 8
    PARITY = 16


class CollectorFlag(enum.IntFlag):
    PARTIAL = 1


class AdmittedFlag(enum.IntFlag):
    """Beside the MAC address of an interface, `COLLECTOR_*`."""

    ADMITTED = 1 << 48
    SRV6 = 1 << 49
    SIGNED = 1 << 50


class CollectionFlag(enum.IntFlag):
    STATEFUL = 1


class Command(enum.IntFlag):
    """What the control program is to do, in this order."""

    RECORD = 1
    BREAK_PAIRS = 2
    COPY = 4
    RESET = 8
    BOUNDARY = 16
    ORIGIN = 32


class Outcome(enum.IntEnum):
    """What has become of a reply."""

    NONE = 0
    RECORDED = 1
    DUPLICATE = 2
    LATE = 3
    COPY = 4
    AHEAD = 5
    BUSY = 6


class CollectorUp(enum.IntEnum):
    """Why a packet to a Session-Sender's port goes up to user space."""

    FORM = 0
    LENGTH = 1
    SHORT = 2
    TRAILER = 3
    SESSION = 4
    PEER = 5
    INTERFACE = 6
    CHECKSUM = 7
    MULTIPLIER = 8
    SEQUENCE = 9
    COPY = 10
    AHEAD = 11
    BUSY = 12


MAPS: dict[str, np.dtype[np.void]] = {
    "no_collection": COLLECTION,
    "no_slots": SLOT,
    "collector_configs": COLLECTOR_CONFIG,
    "collector_counts": COLLECTOR_COUNTERS,
    "commands": COMMAND,
}
"""Values of maps, by name."""

_CODES = {"u8": "Q", "i8": "q", "u4": "I", "u2": "H", "u1": "B"}


def codes(kind: np.dtype[Any]) -> str:
    """What `struct` calls the members of a numpy structure without gaps."""
    if kind.subdtype is not None:
        base, shape = kind.subdtype
        return codes(base) * int(np.prod(shape))
    if kind.names is None:
        return _CODES[kind.str[1:]]
    assert kind.fields is not None
    return "".join(codes(kind.fields[name][0]) for name in kind.names)


def word_at(structure: np.dtype[np.void], name: str, size: int = 8) -> int:
    """Where a field stands, in words of so many bytes."""
    assert structure.fields is not None
    at: int = structure.fields[name][1]
    assert at % size == 0
    return at // size


NEXT_SEQUENCE_AT = word_at(COLLECTION, "next_sequence")
RECEIVED_AT, HIGHEST_AT, BREAKS_AT = (
    word_at(COLLECTION, "running") + word_at(RUNNING, name)
    for name in ("received", "highest", "breaks")
)
"""Places in `COLLECTION`, in words, of what is read and written one by one."""

TURNS_AT = word_at(COLLECTION, "running", 4) + word_at(RUNNING, "turns", 4)
"""Likewise, in words of 4 bytes."""

RUNNING_THEN_AT, INTERVAL_THEN_AT, ORIGINS_AT, HISTOGRAM_AT = (
    word_at(COLLECTION, name)
    for name in ("running_then", "interval_then", "origin_ns", "histogram")
)
"""Likewise, of many sessions at once."""
