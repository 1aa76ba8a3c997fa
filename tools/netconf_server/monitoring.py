"""The data of ``ietf-netconf-monitoring`` (RFC 6022 section 2), from plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.netconf_server.capabilities import ModuleInfo
from tools.netconf_server.session import SessionStatistics

MODULE = "ietf-netconf-monitoring"
ROOT = f"/{MODULE}:netconf-state"


@dataclass(frozen=True)
class SessionRecord:
    """One open session."""

    session_id: int
    username: str
    login_time: str
    """Date and time with zone (RFC 3339)."""
    statistics: SessionStatistics


@dataclass
class ServerStatistics:
    """Counters of the server since its start (RFC 6022 section 2.1.5)."""

    start_time: str
    in_bad_hellos: int = 0
    in_sessions: int = 0
    dropped_sessions: int = 0
    """Sessions that ended without close-session or kill-session after the hello exchange."""
    rejected_sessions: int = 0
    """Connections refused because of the session limit; not part of the YANG module."""
    ended: SessionStatistics = field(default_factory=SessionStatistics)
    """Sums over the sessions that are gone."""


@dataclass(frozen=True)
class LockRecord:
    """A global lock."""

    session_id: int
    locked_time: str


def netconf_state(
    *,
    capabilities: Iterable[str],
    schemas: Iterable[ModuleInfo],
    sessions: Iterable[SessionRecord],
    locks: Mapping[str, LockRecord],
    statistics: ServerStatistics,
) -> dict[str, Any]:
    """The ``netconf-state`` container in libyang's dictionary form."""
    sessions = tuple(sessions)
    running: dict[str, Any] = {"name": "running"}
    if "running" in locks:
        running["locks"] = {
            "global-lock": {
                "locked-by-session": locks["running"].session_id,
                "locked-time": locks["running"].locked_time,
            }
        }
    return {
        "netconf-state": {
            "capabilities": {"capability": list(capabilities)},
            "datastores": {"datastore": [running]},
            "schemas": {
                "schema": [
                    {
                        "identifier": schema.name,
                        "version": schema.revision,
                        "format": f"{MODULE}:yang",
                        "namespace": schema.namespace,
                        "location": ["NETCONF"],
                    }
                    for schema in schemas
                ]
            },
            "sessions": {
                "session": [
                    {
                        "session-id": session.session_id,
                        "transport": f"{MODULE}:netconf-ssh",
                        "username": session.username,
                        "login-time": session.login_time,
                        **_counters(session.statistics),
                    }
                    for session in sessions
                ]
            },
            "statistics": {
                "netconf-start-time": statistics.start_time,
                "in-bad-hellos": statistics.in_bad_hellos,
                "in-sessions": statistics.in_sessions,
                "dropped-sessions": statistics.dropped_sessions,
                **_counters(
                    sum_statistics([statistics.ended, *(item.statistics for item in sessions)])
                ),
            },
        }
    }


def sum_statistics(items: Iterable[SessionStatistics]) -> SessionStatistics:
    """Counters added up."""
    total = SessionStatistics()
    for item in items:
        total.in_rpcs += item.in_rpcs
        total.in_bad_rpcs += item.in_bad_rpcs
        total.out_rpc_errors += item.out_rpc_errors
        total.out_notifications += item.out_notifications
    return total


def _counters(statistics: SessionStatistics) -> dict[str, int]:
    return {
        "in-rpcs": statistics.in_rpcs,
        "in-bad-rpcs": statistics.in_bad_rpcs,
        "out-rpc-errors": statistics.out_rpc_errors,
        "out-notifications": statistics.out_notifications,
    }
