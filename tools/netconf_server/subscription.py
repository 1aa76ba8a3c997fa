"""A ``<create-subscription>`` becomes subscriptions of sysrepo, one for each module (RFC 5277)."""

from __future__ import annotations

from threading import Lock
from typing import Any

from tools.netconf_server import native
from tools.netconf_server.errors import ErrorTag, protocol_error
from tools.netconf_server.filters import ALL_NODES
from tools.netconf_server.native import NotificationEvent
from tools.netconf_server.notifications import (
    DEFAULT_STREAM,
    Notification,
    Outbox,
    SubscriptionRequest,
)

MODULE = """
module notifications {
  namespace "urn:ietf:params:xml:ns:netconf:notification:1.0";
  prefix ncEvent;
  rpc create-subscription;
}
"""
"""By what name access control knows the operation; no package brings the module itself."""


class Subscription:
    """The notifications of one session: the streams of several modules become one."""

    def __init__(
        self,
        connection: Any,
        session: Any,
        context: Any,
        request: SubscriptionRequest,
        outbox: Outbox,
    ) -> None:
        """:raises RpcError: there is no such stream, nothing is selected, or no replay.

        :raises NativeError: the filter is wrong.
        """
        xpath = None if request.xpaths == [ALL_NODES] else " | ".join(request.xpaths)
        modules = _select(context, request.stream, xpath)
        if request.start_ns is not None and not any(
            native.has_replay(connection, module) for module in modules
        ):
            raise protocol_error(
                ErrorTag.OPERATION_FAILED, "replay is not switched on for these notifications"
            )
        self._outbox = outbox
        self._lock = Lock()
        self._replaying = self._running = len(modules)
        self._native = native.NotificationSubscription(
            session, modules, xpath, request.start_ns, request.stop_ns, self._on_event
        )

    def close(self) -> None:
        """Nothing is put into the outbox afterwards."""
        self._native.close()

    def _on_event(self, event: NotificationEvent, time_ns: int, content: bytes) -> None:
        if event is NotificationEvent.REPLAY_COMPLETE:
            with self._lock:
                self._replaying -= 1
                complete = self._replaying == 0
            if complete:
                self._outbox.put_event("replayComplete", time_ns)
        elif event is NotificationEvent.STOP_TIME:
            with self._lock:
                self._running -= 1
                complete = self._running == 0
            if complete:
                self._outbox.put_event("notificationComplete", time_ns, last=True)
        else:
            self._outbox.put(Notification(time_ns, content))


def _select(context: Any, stream: str, xpath: str | None) -> list[str]:
    """The modules to subscribe to. The stream of a module has its name, as in netopeer2."""
    modules = native.notifying_modules(context, None)
    if stream != DEFAULT_STREAM:
        if stream not in modules:
            raise protocol_error(
                ErrorTag.INVALID_VALUE, f"there is no stream {stream!r}", ("bad-element", "stream")
            )
        modules = [stream]
    if xpath is not None:
        concerned = native.notifying_modules(context, xpath) if xpath else []
        modules = [module for module in modules if module in concerned]
    if not modules:
        raise protocol_error(
            ErrorTag.INVALID_VALUE, "the filter selects no notification", ("bad-element", "filter")
        )
    return modules
