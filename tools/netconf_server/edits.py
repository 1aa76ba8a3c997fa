"""Preparation of a ``<config>`` before it becomes a sysrepo edit (RFC 6241 section 7.2)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from lxml import etree

from tools.netconf_server.messages import BASE_NS, children, qname

OPERATION = qname(BASE_NS, "operation")
"""The per-node operation attribute."""
_REMOVING = ("delete", "remove")

Identity = Callable[[etree._Element], object]
"""What tells the instances of one top-level node apart: keys or value; None for a single node."""


def serialize_nodes(nodes: Sequence[etree._Element]) -> bytes:
    """Sibling elements with the namespace declarations in scope."""
    return b"".join(etree.tostring(node, encoding="utf-8", with_tail=False) for node in nodes)


def without_empty_removals(nodes: Sequence[etree._Element]) -> list[etree._Element] | None:
    """Copies of the nodes without those that are removed and carry no value.

    ``<mtu nc:operation="delete"/>`` is allowed although its empty value fits no number; everything
    else can be parsed strictly. None if there is no such node.
    """
    found = False
    kept: list[etree._Element] = []
    for node in nodes:
        duplicate = copy.deepcopy(node)
        if _prune(duplicate, False):
            found = True
            if _is_empty(node):
                continue
        kept.append(duplicate)
    return kept if found else None


def _is_empty(node: etree._Element) -> bool:
    return not children(node) and not (node.text or "").strip()


def _prune(node: etree._Element, removed: bool) -> bool:
    removed = removed or node.get(OPERATION) in _REMOVING
    if removed and _is_empty(node):
        return True
    found = False
    for child in children(node):
        if _prune(child, removed):
            found = True
            if _is_empty(child):
                node.remove(child)
    return found


def complete_replacement(
    nodes: Sequence[etree._Element], current: Sequence[etree._Element], identity: Identity
) -> list[etree._Element]:
    """The nodes, and a removal of every current top-level node that they do not replace.

    default-operation "replace" replaces the whole datastore (RFC 6241 section 7.2), while a sysrepo
    edit only touches the nodes it names.
    """
    replaced = {(node.tag, identity(node)) for node in nodes}
    removals: list[etree._Element] = []
    for node in current:
        if (node.tag, identity(node)) not in replaced:
            removal = copy.deepcopy(node)
            removal.set(OPERATION, "remove")
            removals.append(removal)
    return [*nodes, *removals]
