"""Changes of the running configuration: check first, act when all have agreed.

sysrepo asks every subscriber ("change"), and only when none refuses says
"done"; otherwise those that agreed are told "abort". Everything that can be
refused is refused at "change", and nothing is touched before "done": so a
refused edit leaves running sessions exactly as they were, and an abort has
nothing to undo but the preparation.

What is there at the start ("enabled") has been agreed to without us: of it everything runs
that can, and the rest is shown as failed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from dataplane.config import Node
from dataplane.engines.base import Capabilities, EngineError
from dataplane.host.messages import difference
from sysrepo_plugin.configuration import (
    ConfigurationError,
    Presentation,
    check,
    node_from_tree,
    presentation_from_tree,
)
from sysrepo_plugin.datastore import Refused
from sysrepo_plugin.fit import NO_REFUSALS, Refusals, fit_part

LOG = logging.getLogger(__name__)

RETRY_S = 1.0
"""Between two attempts to apply a configuration while there is no host process."""

LOGGED_MAX = 10
"""Refused sessions at the start that have a line of their own in the log."""

Prepared = tuple[Node, Presentation, Refusals]


class Changes:
    """Turns sysrepo's change events into calls of `apply`."""

    def __init__(
        self,
        capabilities_of: Callable[[str], Capabilities],
        apply: Callable[[Node], None],
    ) -> None:
        self._capabilities_of = capabilities_of
        self._apply = apply
        self._prepared: Prepared | None = None
        self._closed = threading.Event()
        self.node = Node()
        """The configuration that all have agreed to."""

        self.presentation = Presentation({})
        """What belongs to `node` and concerns the operational state alone."""

        self.refusals = NO_REFUSALS
        """What is configured and cannot be run; only ever of the configuration at the start."""

    def close(self) -> None:
        """Stop trying to apply what could not be applied."""
        self._closed.set()

    def handle(self, event: str, tree: Mapping[str, Any] | None) -> None:
        """Raises Refused for "change"."""
        match event:
            case "change":
                try:
                    self._prepared = self._prepare(tree)
                except Refused as refusal:
                    LOG.info("edit refused: %s", refusal)
                    raise
            case "enabled":
                self._prepared = self._prepare_start(tree)
            case "done":
                self._commit(self._prepared or self._prepare(tree))
                self._prepared = None
            case "abort":
                LOG.info("edit withdrawn: another subscriber refused it")
                self._prepared = None

    def _prepare(self, tree: Mapping[str, Any] | None) -> Prepared:
        try:
            node = node_from_tree(tree)
            check(node, self._capabilities_of)
        except ConfigurationError as error:
            raise Refused(str(error), error.path) from error
        return node, presentation_from_tree(tree), NO_REFUSALS

    def _prepare_start(self, tree: Mapping[str, Any] | None) -> Prepared:
        try:
            return self._prepare(tree)
        except Refused as refusal:
            node, refusals = fit_part(tree or {}, self._capabilities_of)
            reasons = (*refusals.sender.values(), *refusals.reflector) or (str(refusal),)
        for reason in reasons[:LOGGED_MAX]:
            LOG.error("in running, and not run: %s", reason)
        LOG.error(
            "%d in all; until they are mended, as by sysrepocfg --edit=vi -d running -m srv6-stamp,"
            " every other edit is refused",
            len(reasons),
        )
        return node, presentation_from_tree(tree), refusals

    def _commit(self, prepared: Prepared) -> None:
        before = self.node
        self.node, self.presentation, self.refusals = prepared
        node = self.node
        try:
            self._apply(node)
        except EngineError as error:
            LOG.error("configuration not applied, trying again: %s", error)
            retry = threading.Thread(target=self._reapply, args=(node,), daemon=True)
            retry.start()
        else:
            LOG.info("configuration applied: %s", _summary(before, node))

    def _reapply(self, node: Node) -> None:
        # All have agreed by now: it is too late to refuse, and giving up would
        # leave the node doing something else than its configuration says.
        while not self._closed.wait(RETRY_S) and self.node is node:
            try:
                self._apply(node)
            except EngineError as error:
                LOG.error("configuration still not applied: %s", error)
            else:
                LOG.info("configuration applied: %s", _summary(Node(), node))
                return


def _summary(before: Node, node: Node) -> str:
    """What there is now, and how many sessions are not as they were."""
    delta = difference(before, node)
    parts = []
    for name, old, role, change in (
        ("Session-Sender", before.sender, node.sender, delta.sender),
        ("Session-Reflector", before.reflector, node.reflector, delta.reflector),
    ):
        if role is None or change is None:
            parts.append(f"no {name}")
            continue
        # To another engine each session is new.
        moved = old is not None and old.engine != role.engine
        new_or_changed = len(role.sessions if moved else change.settings.sessions)
        parts.append(
            f"{name} on engine {role.engine}{'' if role.enabled else ' (disabled)'}, "
            f"{len(role.sessions)} sessions, {new_or_changed} of them new or changed, "
            f"{len(change.removed)} removed"
        )
    return "; ".join(parts)
