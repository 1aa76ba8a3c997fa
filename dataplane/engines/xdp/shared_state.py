"""State of a session that the userspace engine serves beside the program."""

from __future__ import annotations

from collections.abc import Callable

from dataplane.stamp.session_reflector import SessionState


class SharedState:
    """Counts as `state` does, and takes sequence numbers from where the program does.

    A number is taken by one atomic addition to the program's own counter, so that
    none is given twice and none is left out, whichever path is taken.
    """

    def __init__(self, state: SessionState, take: Callable[[int], int]) -> None:
        self._state = state
        self._take = take

    @property
    def received(self) -> int:
        return self._state.received

    @received.setter
    def received(self, value: int) -> None:
        self._state.received = value

    @property
    def reflected(self) -> int:
        return self._state.reflected

    @reflected.setter
    def reflected(self, value: int) -> None:
        self._state.reflected = value

    @property
    def last_received_ns(self) -> int:
        return self._state.last_received_ns

    @last_received_ns.setter
    def last_received_ns(self, value: int) -> None:
        self._state.last_received_ns = value

    @property
    def t2_method(self) -> int:
        return self._state.t2_method

    @t2_method.setter
    def t2_method(self, value: int) -> None:
        self._state.t2_method = value

    @property
    def t3_method(self) -> int:
        return self._state.t3_method

    @t3_method.setter
    def t3_method(self, value: int) -> None:
        self._state.t3_method = value

    @property
    def next_sequence(self) -> int:
        """Only for reading; it may be taken by the time it is read."""
        return self._take(0)

    @next_sequence.setter
    def next_sequence(self, value: int) -> None:
        raise AttributeError("a sequence number that is shared is taken, not set")

    def take(self, count: int) -> int:
        return self._take(count)
