"""The process in which the bench runs an engine: `python -m tools.bench.system_process`.

It does what the host process of the data plane does, without being supervised:
one engine, one role, nothing else on its core. Line by line, it is asked on its
standard input and answers on its standard output, in JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataplane.config import Node, Reflector, ReflectorMode, ReflectorSession, Sender, SenderSession
from dataplane.engines import registry
from dataplane.engines.base import (
    Engine,
    EngineContext,
    ReflectorStatusReport,
    Report,
    SenderStatusReport,
)
from tools.bench import topology
from tools.bench.namespace import set_nice

CAPACITY = 1 << 18
"""Packets of one session that can be awaited at once."""

_INTERVAL_US = 3_600_000_000
"""Sessions send one packet when they start, and then not again while they are measured."""

_LOSS_TIMEOUT_MS = (CAPACITY // 2 - 1_000) * (_INTERVAL_US // 1_000)


def reflector_node(engine: str, sessions: int, sids: int) -> Node:
    """A Session-Reflector with SSIDs 1..sessions, which answers with `sids` SIDs."""
    path = topology.path_to(topology.GENERATOR, sids, topology.BACK)
    served = [
        ReflectorSession(ssid, topology.GENERATOR, segments=path, mode=ReflectorMode.STATEFUL)
        for ssid in range(1, sessions + 1)
    ]
    return Node(
        reflector=Reflector(
            engine=engine,
            interfaces=(topology.NEAR,),
            source_address=topology.SYSTEM,
            sessions={session.key: session for session in served},
        )
    )


def collector_node(engine: str, sessions: int, sids: int) -> Node:
    """Session-Sender sessions with SSIDs 1..sessions, which await `CAPACITY` packets each."""
    path = topology.path_to(topology.GENERATOR, sids, topology.BACK)
    sent = [
        SenderSession(
            ssid,
            topology.GENERATOR,
            topology.SYSTEM,
            segments=path,
            interval_us=_INTERVAL_US,
            loss_timeout_ms=_LOSS_TIMEOUT_MS,
            reflector_mode=ReflectorMode.STATEFUL,
        )
        for ssid in range(1, sessions + 1)
    ]
    return Node(
        sender=Sender(
            engine=engine,
            interfaces=(topology.NEAR,),
            sessions={session.ssid: session for session in sent},
        )
    )


class Process:
    """One engine that does as it is told."""

    def __init__(self, engine: str, state_dir: Path) -> None:
        self._states: dict[int | None, str] = {}
        self._errors: dict[int | None, str] = {}
        self._engine: Engine = registry.create(engine, EngineContext(state_dir, self._note))

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "configure":
                make = reflector_node if request["role"] == "reflector" else collector_node
                node = make(self._engine.name, request["sessions"], request["sids"])
                refusals = list(registry.refusals(node))
                if refusals:
                    return {"error": "; ".join(refusals)}
                self._engine.configure(node)
                return {}
            case "state":
                return {
                    "states": sorted(set(self._states.values())),
                    "errors": sorted(set(self._errors.values())),
                }
            case "announce":
                firsts = {
                    self._engine.announce(ssid, request["packets"])
                    for ssid in range(1, request["sessions"] + 1)
                }
                return {"firsts": sorted(firsts)}
            case "freshen":
                self._engine.freshen()
                return {}
            case "usage":
                used = resource.getrusage(resource.RUSAGE_SELF)
                return {
                    "cpu_ns": int((used.ru_utime + used.ru_stime) * 1e9),
                    "rss_bytes": used.ru_maxrss * 1024,
                }
            case "close":
                self._engine.close()
                return {}
        return {"error": f"cannot {request['do']}"}

    def _note(self, report: Report) -> None:
        if isinstance(report, SenderStatusReport):
            key: int | None = report.ssid
        elif isinstance(report, ReflectorStatusReport):
            key = None
        else:
            return
        if report.status is not None:
            self._states[key] = report.status.oper_state.value
            if report.status.last_error is not None:
                self._errors[key] = report.status.last_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--core", type=int)
    arguments = parser.parse_args()
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
        set_nice(0)
    process = Process(arguments.engine, arguments.state_dir)
    for line in sys.stdin:
        try:
            reply = process.answer(json.loads(line))
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
