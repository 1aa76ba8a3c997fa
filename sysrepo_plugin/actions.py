"""The actions of a Session-Sender's session: the paper's Start, Stop and
GetStampSessionResults, and clear."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dataplane.engines.base import EngineError
from dataplane.host.client import EngineHost
from sysrepo_plugin.changes import Changes
from sysrepo_plugin.datastore import TOP, ActionHandler, JsonTree, Refused
from sysrepo_plugin.state import record_state

SESSION = f"{TOP}/session-sender/session"


class Actions:
    """The handlers, by the schema path of their action."""

    def __init__(self, host: EngineHost, changes: Changes) -> None:
        self._host = host
        self._changes = changes

    def handlers(self) -> dict[str, ActionHandler]:
        return {
            f"{SESSION}/start": self._on_session(self._start),
            f"{SESSION}/stop": self._on_session(self._stop),
            f"{SESSION}/clear": self._on_session(self._clear),
            f"{SESSION}/fetch-results": self._on_session(self._fetch_results),
        }

    def _start(self, ssid: int, values: JsonTree) -> None:
        self._host.start(ssid, values.get("duration"))

    def _stop(self, ssid: int, _values: JsonTree) -> None:
        self._host.stop(ssid)

    def _clear(self, ssid: int, _values: JsonTree) -> None:
        self._host.clear(ssid)

    def _fetch_results(self, ssid: int, values: JsonTree) -> JsonTree:
        # Once records are taken, nothing may fail: they would be lost.
        before = self._host.results.snapshot(ssid)
        records = self._host.results.fetch(ssid, values["max"])
        one_way = before.round_trip is None
        return {
            "remaining": max(0, before.records_pending - len(records)),
            "dropped": before.records_dropped,
            "result": [record_state(record, one_way=one_way) for record in records],
        }

    def _on_session(self, action: Callable[[int, JsonTree], JsonTree | None]) -> ActionHandler:
        def handler(keys: Mapping[str, str], values: Mapping[str, Any]) -> JsonTree | None:
            ssid = int(keys["ssid"])
            # The host knows nothing of a session that is configured and cannot be run.
            if (reason := self._changes.refusals.sender.get(ssid)) is not None:
                raise Refused(f"session {ssid} cannot be run: {reason}")
            try:
                return action(ssid, dict(values))
            except EngineError as error:
                raise Refused(str(error)) from error

        return handler
