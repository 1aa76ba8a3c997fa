"""Notifications leave from a thread of their own.

sysrepo may have to ask us for operational data to validate one, which must
not happen in the thread that answers.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from dataplane.engines.base import Event, IntervalClosed, Role, SessionStateChanged

LOG = logging.getLogger(__name__)

QUEUE_LENGTH = 10_000
"""Notifications that may wait; more are dropped and counted."""

Send = Callable[[str, dict[str, Any]], None]


def notification_of(event: Event) -> tuple[str, dict[str, Any]] | None:
    """Name and content of the notification for `event`; None where it has none."""
    match event:
        case SessionStateChanged(role=Role.SENDER, ssid=int(ssid)):
            values: dict[str, Any] = {"ssid": ssid, "oper-state": event.new.value}
            if event.old is not None:
                values["previous-state"] = event.old.value
            if event.reason:
                values["reason"] = event.reason
            return "session-state-change", values
        case IntervalClosed(ssid=ssid, number=number):
            return "interval-closed", {"ssid": ssid, "number": number}
    return None


class Notifier:
    """Queues events and sends their notifications."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(QUEUE_LENGTH)
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def start(self, send: Send) -> None:
        """Send what is queued, and what will be, by `send`."""
        self._thread = threading.Thread(target=self._run, args=(send,), name="notifier")
        self._thread.start()

    def put(self, event: Event) -> None:
        """Queue the notification for `event`; never blocks."""
        notification = notification_of(event)
        if notification is None:
            return
        try:
            self._queue.put_nowait(notification)
        except queue.Full:
            self.dropped += 1
            # At 1, 2, 4, 8 …: many that are dropped at once are not as many lines.
            if self.dropped.bit_count() == 1:
                LOG.warning("notification queue full: %d dropped so far", self.dropped)

    def close(self) -> None:
        """Send what is queued, and end."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self, send: Send) -> None:
        while (notification := self._queue.get()) is not None:
            name, values = notification
            try:
                send(name, values)
            except Exception:
                LOG.exception("cannot send notification %s", name)
