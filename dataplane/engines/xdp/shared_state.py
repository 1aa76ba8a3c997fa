"""State of a session that the userspace engine serves beside the program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dataplane.stamp.session_reflector import SessionState


class _Kept:
    """An attribute that is the state's own."""

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, owner: Any, _kind: type) -> int:
        value: int = getattr(owner._state, self._name)
        return value

    def __set__(self, owner: Any, value: int) -> None:
        setattr(owner._state, self._name, value)


class SharedState:
    """Counts as `state` does, and takes sequence numbers from where the program does.

    A number is taken by one atomic addition to the program's own counter, so that
    none is given twice and none is left out, whichever path is taken.
    """

    def __init__(self, state: SessionState, take: Callable[[int], int]) -> None:
        self._state = state
        self._take = take

    received = _Kept()
    reflected = _Kept()
    last_received_ns = _Kept()
    t2_method = _Kept()
    t3_method = _Kept()

    @property
    def next_sequence(self) -> int:
        """Only for reading; it may be taken by the time it is read."""
        return self._take(0)

    @next_sequence.setter
    def next_sequence(self, value: int) -> None:
        raise AttributeError("a sequence number that is shared is taken, not set")

    def take(self, count: int) -> int:
        return self._take(count)
