"""What is told of one sender session: how it stands, and which of its intervals are over."""

from __future__ import annotations

import dataclasses

from dataplane.clock import wall_ns
from dataplane.engines.base import (
    WANT_TO_RUN,
    EngineContext,
    IntervalClosed,
    OperState,
    SenderStatusReport,
    SessionStatus,
)


class SessionReports:
    __slots__ = ("_context", "_ssid", "_told", "status")

    def __init__(self, ssid: int, engine: str, context: EngineContext) -> None:
        self.status = SessionStatus(OperState.STOPPED, engine, wall_ns())
        self._ssid = ssid
        self._context = context
        self._told: SessionStatus | None = None

    def enter(self, state: OperState, reason: str, error: str | None = None) -> None:
        old = self.status
        since_ns = old.since_ns if state is old.oper_state else wall_ns()
        new = dataclasses.replace(
            old, oper_state=state, since_ns=since_ns, last_error=error or old.last_error
        )
        if state not in WANT_TO_RUN:
            new = dataclasses.replace(new, run_started_ns=None, duration_s=None)
        if new != self._told:
            self._told = new
            self._tell(new, reason)

    def begin_run(self, start_ns: int, first_sequence: int, duration_s: int | None) -> None:
        """To be told with the state that is entered next."""
        self.status = dataclasses.replace(
            self.status,
            run_started_ns=start_ns,
            run_first_sequence=first_sequence,
            duration_s=duration_s,
        )

    def note_error(self, text: str) -> None:
        """Something went wrong that does not end the run."""
        if text != self.status.last_error:
            self._tell(dataclasses.replace(self.status, last_error=text), text)

    def intervals_closed(self, numbers: list[int]) -> None:
        for number in numbers:
            self._context.emit(IntervalClosed(self._ssid, number))

    def _tell(self, status: SessionStatus, reason: str) -> None:
        self.status = status
        self._context.emit(SenderStatusReport(self._ssid, status, reason))
