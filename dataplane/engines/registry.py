"""The engines by name.

An engine's module is imported when it is first asked for: its libraries are
no burden to a node that does not use it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from dataplane.config import Node
from dataplane.engines.base import (
    Capabilities,
    Engine,
    EngineContext,
    EngineError,
    check_reflector,
    check_reflector_session,
    check_sender,
    check_sender_role,
)

ENGINES: dict[str, str] = {
    "scapy": "dataplane.engines.scapy.engine",
    "userspace": "dataplane.engines.userspace.engine",
    "xdp": "dataplane.engines.xdp.engine",
}
"""Name to the module that has `CAPABILITIES: Capabilities` and
`create(context: EngineContext) -> Engine`."""


def capabilities(name: str) -> Capabilities:
    """What the engine can do. Raises EngineError: no such engine, or not usable here."""
    found: Capabilities = _module(name).CAPABILITIES
    return found


def create(name: str, context: EngineContext) -> Engine:
    """A new engine. Raises EngineError: no such engine, or not usable here."""
    engine: Engine = _module(name).create(context)
    return engine


def refusals(node: Node) -> Iterator[str]:
    """Why `node` cannot be run, each naming its session; nothing if it can."""
    sender, reflector = node.sender, node.reflector
    if sender is not None:
        try:
            able = capabilities(sender.engine)
        except EngineError as error:
            yield str(error)
        else:
            for _, reason in check_sender_role(sender.engine, able, sender):
                yield reason
            for session in sender.sessions.values():
                for _, reason in check_sender(sender.engine, able, session):
                    yield f"session {session.ssid}: {reason}"
    if reflector is not None:
        try:
            able = capabilities(reflector.engine)
        except EngineError as error:
            yield str(error)
        else:
            for _, reason in check_reflector(reflector.engine, able, reflector):
                yield reason
            for served in reflector.sessions.values():
                for _, reason in check_reflector_session(reflector.engine, able, served):
                    yield f"reflector session {served.ssid}: {reason}"


def _module(name: str) -> Any:
    path = ENGINES.get(name)
    if path is None:
        raise EngineError(f"there is no engine {name}; there are: {', '.join(sorted(ENGINES))}")
    try:
        return importlib.import_module(path)
    except ImportError as error:
        raise EngineError(f"engine {name} cannot be used here: {error}") from error
