"""Event notifications on their way to one client (RFC 5277), without I/O.

sysrepo's thread puts them into an :class:`Outbox`, the event loop takes them out. sysrepo holds the
sender, and every other subscriber, back until a notification is taken from it: putting never waits.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock

from tools.netconf_server.errors import bad_element

LOG = logging.getLogger(__name__)

EVENTS_NS = "urn:ietf:params:xml:ns:netmod:notification"
"""Of the events that a replay adds (RFC 5277 section 5)."""
DEFAULT_STREAM = "NETCONF"
DEFAULT_MAX_QUEUED = 10_000

_SECOND_NS = 1_000_000_000
_DATE_TIME = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.(?P<fraction>\d+))?(?P<zone>Z|[+-]\d\d:\d\d)",
    re.ASCII,
)


@dataclass(frozen=True)
class SubscriptionRequest:
    """The parameters of a ``<create-subscription>``."""

    stream: str
    xpaths: Sequence[str]
    """What the filter selects, in module names."""
    start_ns: int | None = None
    """Replay from here on, in nanoseconds since 1970; None without replay."""
    stop_ns: int | None = None
    """The end of the subscription; None for the end of the session."""


@dataclass(frozen=True)
class Notification:
    """One event."""

    time_ns: int
    """When it happened, in nanoseconds since 1970."""
    content: bytes
    """The element below ``<eventTime>``."""
    last: bool = False
    """The subscription is over."""


class Outbox:
    """What waits for one session's client: at most ``limit`` notifications, the newest are dropped.

    ``wake`` is called, in the thread that puts, when the outbox is no longer empty.
    """

    def __init__(self, session_id: int, limit: int, wake: Callable[[], None]) -> None:
        self.dropped = 0
        self._session_id = session_id
        self._limit = limit
        self._wake = wake
        self._waiting: deque[Notification] = deque()
        self._full = False
        self._lock = Lock()

    def put(self, notification: Notification) -> None:
        """Add one, or drop it."""
        with self._lock:
            if len(self._waiting) >= self._limit:
                self.dropped += 1
                first, self._full = not self._full, True
            else:
                first = False
                self._waiting.append(notification)
            wake = len(self._waiting) == 1
        if first:
            LOG.warning(
                "session %d: %d notifications wait for the client, more are dropped",
                self._session_id,
                self._limit,
            )
        if wake:
            self._wake()

    def put_event(self, name: str, time_ns: int, *, last: bool = False) -> None:
        """Add an event of RFC 5277 itself, which is never dropped."""
        content = f'<{name} xmlns="{EVENTS_NS}"/>'.encode()
        with self._lock:
            self._waiting.append(Notification(time_ns, content, last))
        self._wake()

    def take(self) -> Notification | None:
        """The oldest, None if none waits."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            caught_up, self._full = self._full, False
        if caught_up:
            LOG.warning(
                "session %d: the client has caught up, %d notifications dropped so far",
                self._session_id,
                self.dropped,
            )
        return None


def format_time(time_ns: int) -> str:
    """An ``<eventTime>``, with nanoseconds (RFC 3339)."""
    seconds, fraction_ns = divmod(time_ns, _SECOND_NS)
    date = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{date}.{fraction_ns:09}Z"


def parse_time(name: str, text: str) -> int:
    """Nanoseconds since 1970 of the parameter ``name``.

    :raises RpcError: the text is no date and time of RFC 3339.
    """
    match = _DATE_TIME.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        seconds = int(datetime.fromisoformat(match["date"] + match["zone"]).timestamp())
    except (ValueError, OverflowError):
        raise bad_element(name, f"{name} {text!r} is not a date and time of RFC 3339") from None
    return seconds * _SECOND_NS + int((match["fraction"] or "").ljust(9, "0")[:9])


def check_times(start_ns: int | None, stop_ns: int | None, now_ns: int) -> None:
    """:raises RpcError: there is no such replay (RFC 5277 section 2.1.1)."""
    if start_ns is None:
        return
    if start_ns > now_ns:
        raise bad_element("startTime", "startTime is in the future")
    if stop_ns is not None and stop_ns <= start_ns:
        raise bad_element("stopTime", "stopTime is not later than startTime")
