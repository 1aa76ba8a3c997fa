"""STAMP packets as a capture has seen them, and which of them belong to which record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.measurement import Record

PACKET = np.dtype(
    [
        ("ns", np.int64),
        ("ssid", np.uint16),
        ("sequence", np.uint32),
        ("request", np.bool_),
        ("outgoing", np.bool_),
    ]
)
"""One packet: the kernel's timestamp (CLOCK_REALTIME), SSID, the *Session-Sender's*
sequence number, whether it is a request, and whether it leaves the interface."""

Packets = npt.NDArray[Any]
"""Of `PACKET`, in the order in which they passed."""

_SEQUENCE_BITS = 32


def select(packets: Packets, *, request: bool, outgoing: bool) -> Packets:
    """Those of one kind that go one way."""
    found: Packets = packets[(packets["request"] == request) & (packets["outgoing"] == outgoing)]
    return found


def record_keys(ssid: int, records: Sequence[Record]) -> npt.NDArray[np.uint64]:
    """SSID and sequence number in one integer, comparable with `packet_keys`."""
    sequences = np.fromiter((record.sequence for record in records), np.uint64, len(records))
    mask = np.uint64((1 << _SEQUENCE_BITS) - 1)
    return np.uint64(ssid << _SEQUENCE_BITS) | (sequences & mask)


def packet_keys(packets: Packets) -> npt.NDArray[np.uint64]:
    """SSID and sequence number in one integer."""
    shift = np.uint64(_SEQUENCE_BITS)
    return packets["ssid"].astype(np.uint64) << shift | packets["sequence"].astype(np.uint64)


def errors_ns(
    keys: npt.NDArray[np.uint64], timestamps_ns: Sequence[int], packets: Packets
) -> npt.NDArray[np.int64]:
    """Timestamp minus capture, for each key that the capture has seen exactly once."""
    seen, first, times = np.unique(packet_keys(packets), return_index=True, return_counts=True)
    once = times == 1
    _, ours, theirs = np.intersect1d(keys, seen[once], assume_unique=True, return_indices=True)
    stamps = np.asarray(timestamps_ns, np.int64)[ours]
    found: npt.NDArray[np.int64] = stamps - packets["ns"][first[once][theirs]]
    return found
