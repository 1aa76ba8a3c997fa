"""The log of what happens to sessions.

Ten thousand sessions that start at once are one line: changes that are alike are held
back for a moment, and told together.
"""

from __future__ import annotations

import logging
import threading

from dataplane.engines.base import Event, HostRestarted, OperState, Role, SessionStateChanged

LOG = logging.getLogger(__name__)

WINDOW_S = 0.5
"""How long a change of state waits for others like it."""

LISTED_MAX = 10
"""Sessions that one line names; more are counted."""

Alike = tuple[OperState, str]
"""The new state and its reason."""


class EventLog:
    """Logs events; `put` is called from one thread."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._lock = threading.Lock()
        self._waiting: dict[Alike, list[int]] = {}
        self._held: set[int] = set()
        self._timer: threading.Timer | None = None

    def put(self, event: Event) -> None:
        """Log `event`, at once or with others of the moment."""
        match event:
            case HostRestarted(count=count, reason=reason):
                LOG.warning("engine host process restarted (%d times so far): %s", count, reason)
            case SessionStateChanged(role=Role.SENDER, ssid=int(ssid)):
                self._hold(ssid, (event.new, event.reason))
            case SessionStateChanged(role=Role.REFLECTOR):
                _log("the Session-Reflector", "is", event.new, event.reason)

    def close(self) -> None:
        """Log what still waits."""
        self._tell()

    def _hold(self, ssid: int, alike: Alike) -> None:
        if ssid in self._held:
            # What one session goes through is told in its order.
            self._tell()
        with self._lock:
            self._held.add(ssid)
            self._waiting.setdefault(alike, []).append(ssid)
            if self._timer is None:
                self._timer = threading.Timer(self._window_s, self._tell)
                self._timer.daemon = True
                self._timer.start()

    def _tell(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            waiting, self._waiting = self._waiting, {}
            self._held, self._timer = set(), None
        for (state, reason), ssids in waiting.items():
            if len(ssids) == 1:
                _log(f"session {ssids[0]}", "is", state, reason)
            else:
                _log(f"sessions {_listed(ssids)}", "are", state, reason)


def _listed(ssids: list[int]) -> str:
    text = ", ".join(map(str, ssids[:LISTED_MAX]))
    more = len(ssids) - LISTED_MAX
    return f"{text} and {more} more" if more > 0 else text


def _log(who: str, verb: str, state: OperState, reason: str) -> None:
    level = logging.WARNING if state is OperState.FAILED else logging.INFO
    LOG.log(level, "%s %s %s%s", who, verb, state.value, f": {reason}" if reason else "")
