"""What a sender session needs of the port that it sends through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dataplane.config import SenderSession
from dataplane.engines.common.schedule import Schedule
from dataplane.measurement import TimestampMethod

if TYPE_CHECKING:
    from dataplane.engines.common.run import SenderRun


class Transmitter(Protocol):
    """The port that a session sends through."""

    @property
    def t1_method(self) -> TimestampMethod: ...

    emptied_ns: int
    """CLOCK_MONOTONIC before which no reply has arrived that has not been taken in."""

    def problem(self) -> str | None:
        """What keeps sessions from running now; tried anew with each call."""

    def dress(self, run: SenderRun) -> OSError | None:
        """Set what goes with the session's packets; what failed, if anything."""

    def enqueue(self, run: SenderRun) -> None:
        """Have `run.send`, or `run.prepare` and `run.sent`, called at once."""

    def hold(self, due_ns: int) -> None:
        """Return when the packet that is due then may be handed over: in time to leave when
        it is due. To be called at most `EARLY_NS` before that."""

    def transmit(self, run: SenderRun, sequence: int, payload: bytes, t1_ns: int) -> OSError | None:
        """Send; what failed, if anything."""

    def drain(self) -> None:
        """Take in all replies that have arrived."""

    def ending(self, run: SenderRun) -> None:
        """Have `run.complete` called soon, if not at once."""

    def changed(self, ssid: int) -> None:
        """To be told that a session has another store."""

    @property
    def schedule(self) -> Schedule | None:
        """Of the sessions of the port together; None where each has its timers."""

    def lane_of(self, config: SenderSession) -> int:
        """A number for what packets have in common that may share a burst."""
