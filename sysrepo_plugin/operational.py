"""The operational state, collected when a client asks for it.

Nothing here waits for the host process: status is what it last reported, and
results are read from memory that is shared with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

from dataplane.clock import read_clock_status
from dataplane.engines.base import EngineError, OperState
from dataplane.host.client import EngineHost
from dataplane.session_state import SessionSnapshot
from sysrepo_plugin.changes import Changes
from sysrepo_plugin.requests import Request, parse_request
from sysrepo_plugin.state import (
    Tree,
    driver_state,
    reflector_counters,
    reflector_session_state,
    reflector_state,
    refused_state,
    sender_state,
    session_state,
)

LOG = logging.getLogger(__name__)


class Operational:
    """Gives the operational state of the node."""

    def __init__(self, host: EngineHost, changes: Changes) -> None:
        self._host = host
        self._changes = changes

    def tree(self, request_xpath: str | None) -> Tree | None:
        """The state below container `stamp`, at least what `request_xpath` selects."""
        request = parse_request(request_xpath)
        node = self._changes.node
        tree: Tree = {}
        refusals = self._changes.refusals
        if request.sender and (node.sender is not None or refusals.sender):
            tree["session-sender"] = sender_state(
                self._sender_sessions(request),
                engine_restarts=self._host.restarts,
                clock=read_clock_status(),
                discards=self._host.sender_discards(),
                driver=self._host.sender_driver(),
            )
        if request.reflector and (node.reflector is not None or refusals.reflector):
            tree |= self._reflector()
        return tree or None

    def _sender_sessions(self, request: Request) -> Iterator[Tree]:
        depths = self._changes.presentation.record_depth
        for ssid, status in sorted(self._host.status().items()):
            # A session that is being deleted may still be known to the host.
            if ssid in depths and (request.ssids is None or ssid in request.ssids):
                depth = depths[ssid] if request.history else 0
                starting = status.oper_state is OperState.STARTING
                snapshot = None if starting else self._snapshot(ssid, depth)
                yield session_state(ssid, status, snapshot, history=request.history)
        for ssid, reason in self._changes.refusals.sender.items():
            if request.ssids is None or ssid in request.ssids:
                yield refused_state(reason) | {"ssid": ssid}

    def _snapshot(self, ssid: int, records: int) -> SessionSnapshot | None:
        try:
            return self._host.results.snapshot(ssid, records)
        except EngineError as error:
            LOG.warning("no results of session %d: %s", ssid, error)
            return None

    def _reflector(self) -> Tree:
        refusals = self._changes.refusals.reflector
        status = self._host.reflector_status()
        if status is None:
            return {"session-reflector": refused_state(refusals[0])} if refusals else {}
        if refusals:
            # It runs without these sessions, which have no error of their own.
            status = replace(status, last_error=refusals[0])
        results = self._host.results.reflector()
        if results is None:
            return {"session-reflector": reflector_state(status, None, ())}
        counters = reflector_counters(results.received, results.reflected, results.discards)
        sessions = [
            reflector_session_state(key, session) for key, session in results.sessions.items()
        ]
        tree = reflector_state(status, counters, sessions)
        if status.attachments or results.driver_answered:
            tree["driver"] = driver_state(
                status.attachments, results.driver_answered, results.handed_up
            )
        return {"session-reflector": tree}
