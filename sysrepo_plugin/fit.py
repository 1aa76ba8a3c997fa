"""What of a configuration can be run where not all of it can.

While no daemon runs, nobody refuses an edit: at its start it may find in `running` what it
would have refused. One bad leaf is no reason to measure nothing: each session is judged by
itself, with its role's settings and its paths, as the whole would be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dataplane.config import Node, Reflector, Sender, SenderSession
from dataplane.engines.base import Capabilities
from sysrepo_plugin.configuration import ConfigurationError, Tree, check, node_from_tree


@dataclass(frozen=True, slots=True)
class Refusals:
    """What is not run, and why: "<YANG path>: <reason>"."""

    sender: Mapping[int, str]
    """The sessions of the Session-Sender, by SSID."""

    reflector: tuple[str, ...] = ()
    """The Session-Reflector or sessions of it."""

    def __len__(self) -> int:
        return len(self.sender) + len(self.reflector)


NO_REFUSALS = Refusals({})


def fit_part(tree: Tree, capabilities_of: Callable[[str], Capabilities]) -> tuple[Node, Refusals]:
    """What of `tree` can be run, and why the rest cannot."""
    paths = {path["name"]: path for path in tree.get("path", ())}

    def judged(role: str, *sessions: Tree) -> Node:
        """A role with these sessions alone. Raises ConfigurationError."""
        names = {session.get(leaf) for session in sessions for leaf in ("path", "return-path")}
        part: dict[str, Any] = {"path": [paths[name] for name in names if name in paths]}
        part[role] = {**tree[role], "session": sessions}
        node = node_from_tree(part)
        check(node, capabilities_of)
        return node

    sender, sender_refusals = _sender(tree, judged)
    reflector, reflector_refusals = _reflector(tree, judged)
    return Node(sender, reflector), Refusals(sender_refusals, reflector_refusals)


Judged = Callable[..., Node]


def _sender(tree: Tree, judged: Judged) -> tuple[Sender | None, dict[int, str]]:
    found: dict[int, SenderSession] = {}
    refused: dict[int, str] = {}
    if "session-sender" not in tree:
        return None, {}
    for session in tree["session-sender"].get("session", ()):
        try:
            node = judged("session-sender", session)
        except ConfigurationError as error:
            refused[session["ssid"]] = str(error)
        else:
            assert node.sender is not None
            found |= node.sender.sessions
    try:
        alone = judged("session-sender").sender
    except ConfigurationError:
        # Each of its sessions is refused for that as well.
        return None, refused
    assert alone is not None
    return replace(alone, sessions=found), refused


def _reflector(tree: Tree, judged: Judged) -> tuple[Reflector | None, tuple[str, ...]]:
    if "session-reflector" not in tree:
        return None, ()
    fit, refused = [], []
    try:
        judged("session-reflector")
    except ConfigurationError as error:
        return None, (str(error),)
    for session in tree["session-reflector"].get("session", ()):
        try:
            judged("session-reflector", session)
        except ConfigurationError as error:
            refused.append(str(error))
        else:
            fit.append(session)
    try:
        return judged("session-reflector", *fit).reflector, tuple(refused)
    except ConfigurationError as error:
        # More sessions than the engine has room for.
        return None, (*refused, str(error))
