"""Where in an edit or a datastore a refusal belongs: sysrepo names the node but not its path."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import _libyang
from libyang.log import temp_log_options
from libyang.util import c2str

from tools.netconf_server import native
from tools.netconf_server.filters import schema_path
from tools.netconf_server.native_errors import (
    BothCases,
    ErrorItem,
    NativeError,
    both_cases,
    is_missing_action_parent,
    refused_node,
)

LOG = logging.getLogger(__name__)

_ly: Any = _libyang.lib
_ly_ffi: Any = _libyang.ffi


def replace_items(error: NativeError, change: Callable[[ErrorItem], ErrorItem]) -> NativeError:
    """The same failure with other words or places."""
    return NativeError(error.origin, error.code, [change(item) for item in error.items])


def locate_action(error: NativeError, operation: Any) -> NativeError:
    """The error of an action, with the path of the instance it needs but which is not there.

    ``operation`` is the action's node in its data tree.
    """
    parent = _ly_ffi.cast("struct lyd_node *", operation.parent)
    path = _data_path(parent) if parent else None

    def located(item: ErrorItem) -> ErrorItem:
        return replace(item, path=item.path or path) if is_missing_action_parent(item) else item

    return replace_items(error, located)


def locate_edit(
    error: NativeError,
    nodes: Callable[[], Iterator[EditNode]],
    exists: Callable[[str], bool | None],
) -> NativeError:
    """The error of an edit, with the paths of the nodes it speaks of.

    ``nodes`` are those of the edit; ``exists`` tells whether the datastore, as it was before the
    edit, holds a path, None if that cannot be told. A path stays unknown if no node fits, which
    happens if the datastore has changed since.
    """

    def located(item: ErrorItem) -> ErrorItem:
        choice = both_cases(item)
        if choice is not None:
            return replace(item, path=_parent_of(choice, nodes()))
        refused = refused_node(item)
        if refused is None:
            return item
        for node in nodes():
            if (node.name, node.operation) != (refused.name, refused.operation):
                continue
            if node.implied and refused.exists:
                continue
            if exists(node.path) is refused.exists:
                return replace(item, path=node.path)
        return item

    return replace_items(error, located)


def _parent_of(choice: BothCases, nodes: Iterator[EditNode]) -> str | None:
    """The first node that has both cases: a choice is no node of its own in a data path."""
    found: dict[str, set[str]] = {}
    for node in nodes:
        if node.case is not None and schema_path(node.parent) == choice.parent:
            cases = found.setdefault(node.parent, set())
            cases.add(node.case)
            if cases >= choice.cases:
                return node.parent
    return None


@dataclass(frozen=True)
class EditNode:
    """A node of an edit, at the time it was parsed."""

    path: str
    """libyang data path with the keys in their canonical form."""
    name: str
    operation: str
    """Its own operation, or the one it inherits."""
    implied: bool
    """A container that exists without being created (RFC 7950 section 7.5.1)."""
    parent: str = ""
    """Path of the node above."""
    case: str | None = None
    """Name of the case it belongs to (RFC 7950 section 7.9)."""


def edit_nodes(tree: Any, default_operation: str, modules: Mapping[str, str]) -> Iterator[EditNode]:
    """The siblings of a parsed edit and what is below them, in document order."""
    return _edit_nodes(tree, "", default_operation, modules)


def _edit_nodes(
    tree: Any, parent: str, inherited: str, modules: Mapping[str, str]
) -> Iterator[EditNode]:
    node = tree
    while node:
        if node.schema:
            path = _data_path(node)
            operation = _operation_of(node) or inherited
            schema = node.schema
            implied = schema.nodetype == _ly.LYS_CONTAINER and not schema.flags & _ly.LYS_PRESENCE
            name = _text(schema.name) or ""
            yield EditNode(path, name, operation, implied, parent, _case_of(schema))
            yield from _edit_nodes(_ly.lyd_child(node), path, operation, modules)
        else:
            # Its value does not fit, so it is there to be removed: libyang has no path for it.
            opaque = _ly_ffi.cast("struct lyd_node_opaq *", node)
            name = _text(opaque.name.name) or ""
            module = modules.get(_text(opaque.name.module_ns) or "", "")
            operation = _opaque_operation(opaque) or inherited
            yield EditNode(f"{parent}/{module}:{name}", name, operation, False)
        node = node.next


def _case_of(schema: Any) -> str | None:
    above = schema.parent
    return _text(above.name) if above and above.nodetype == _ly.LYS_CASE else None


def _operation_of(node: Any) -> str | None:
    meta = node.meta
    while meta:
        if _text(meta.name) == "operation":
            context = node.schema.module.ctx
            return _text(_ly.lyd_value_get_canonical(context, _ly_ffi.addressof(meta.value)))
        meta = meta.next
    return None


def _opaque_operation(opaque: Any) -> str | None:
    attribute = opaque.attr
    while attribute:
        if _text(attribute.name.name) == "operation":
            return _text(attribute.value)
        attribute = attribute.next
    return None


def _text(pointer: Any) -> str | None:
    text: str | None = c2str(pointer) if pointer else None
    return text


def _data_path(node: Any) -> str:
    path = _ly.lyd_path(node, _ly.LYD_PATH_STD, _ly_ffi.NULL, 0)
    try:
        return _text(path) or ""
    finally:
        _ly.free(path)


def node_exists(session: Any, path: str, timeout_ms: int) -> bool | None:
    """Whether the session's datastore holds a node, as more than a default.

    None if it cannot be read: the refusal is worth reporting without its path.
    """
    match = _ly_ffi.new("struct lyd_node **")
    data_path = _ly_ffi.new("char []", path.encode())
    try:
        with native.datastore_tree(session, path, timeout_ms=timeout_ms) as tree:
            if not tree:
                return False
            with temp_log_options():
                status = _ly.lyd_find_path(tree, data_path, 0, match)
            return status == _ly.LY_SUCCESS and not match[0].flags & _ly.LYD_DEFAULT
    except NativeError as error:
        LOG.warning("%s cannot be looked up: %s", path, error)
        return None
