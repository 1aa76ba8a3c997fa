"""Where the fields of a session's store are, counted from where its parts begin.

In words of 8 bytes, as an arena has them (`dataplane.arena`): for whoever works on many
stores at once.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.measurement import RECORD, RingHeader
from dataplane.session_state import IntervalState, SessionHead, SessionState
from dataplane.statistics import DelayState


def word_of(structure: Any, name: str) -> int:
    """Where a field is in its structure, in words."""
    at: int = getattr(structure, name).offset
    assert at % 8 == 0
    return at // 8


def words_of(structure: Any) -> int:
    return ctypes.sizeof(structure) // 8


HEAD_AT = word_of(SessionState, "head")
VERSION = HEAD_AT + word_of(SessionHead, "version")
CLOSED_AT = HEAD_AT + word_of(SessionHead, "closed")
COUNTERS_AT = HEAD_AT + word_of(SessionHead, "counters")
LAST_RECEIVED_AT = HEAD_AT + word_of(SessionHead, "last_received_ns")
T1_METHOD_AT = 8 * HEAD_AT + SessionHead.t1_method.offset  # type: ignore[attr-defined]
T4_METHOD_AT = 8 * HEAD_AT + SessionHead.t4_method.offset  # type: ignore[attr-defined]
"""Of the state. The methods are in bytes."""

INTERVALS_AT = word_of(SessionState, "interval")
INTERVAL_WORDS = words_of(IntervalState)
DELAYS_AT = INTERVALS_AT + word_of(IntervalState, "delay")
"""Of the interval of parity 0; that of the other one is `INTERVAL_WORDS` behind."""

DELAY_WORDS = words_of(DelayState)
DELAY_STATE = np.dtype(
    [
        (name, np.float64 if kind is ctypes.c_double else np.int64)
        for name, kind in DelayState._fields_
    ]
)
assert DELAY_STATE.itemsize == 8 * DELAY_WORDS

RING_WORDS = words_of(RingHeader)
RING_HEAD_AT = word_of(RingHeader, "head")
RECORD_WORDS = RECORD.size // 8
"""Of the ring of records, which are behind its header."""


def begin_write(
    words: npt.NDArray[np.int64], states: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Have readers wait for these states (`SessionHead.version`): what `end_write` wants."""
    versions: npt.NDArray[np.int64] = words[states + VERSION] | 1
    words[states + VERSION] = versions
    return versions


def end_write(
    words: npt.NDArray[np.int64], states: npt.NDArray[np.int64], versions: npt.NDArray[np.int64]
) -> None:
    words[states + VERSION] = versions + 1
