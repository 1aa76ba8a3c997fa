"""Replies on their way through a Collector, one by one and in runs."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Ignored(enum.Enum):
    """A valid reply that makes no record."""

    DUPLICATE = "duplicate"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class Run:
    """Replies that arrived in time and in order, each the first to its packet."""

    sequences: npt.NDArray[np.int64]
    """Of their packets, unwrapped, ascending."""

    numbers: npt.NDArray[np.int64] | None
    """The Session-Reflector's, unwrapped; None where it is stateless."""


class Outlook(NamedTuple):
    """Replies make a run where they are to packets that are under way and not yet
    forgotten, in order, in time and before the end of the computation interval."""

    newest: int
    """Sequence number of the packet sent last."""

    first: int
    """Of the first one that this Collector knows of."""

    window: int
    """Packets that are remembered."""

    mask: int
    highest: int
    """Sequence number above which replies are in order."""

    end_ns: int
    """From when on a reply belongs to the next interval."""

    timeout_ns: int
    stateful: bool
    latest: int
    """The Session-Reflector's latest number, unwrapped, where it is stateful."""

    room: int
    """Replies that a run may have."""


class Reply(NamedTuple):
    """What is in a Session-Reflector packet, decoded; nanoseconds since 1970 UTC."""

    sender_sequence: int
    """32 bits."""

    sequence: int
    """The Session-Reflector's, 32 bits."""

    t1_ns: int
    t2_ns: int
    t3_ns: int
    t4_ns: int
    t4_method: int
    """`TimestampMethod.code`."""

    sender_ttl: int
    flags: int
    """`RecordFlag` bits."""

    estimate: int
    """The Session-Reflector's Error Estimate as a 16-bit wire value."""
