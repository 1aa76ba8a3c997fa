"""Errors of sysrepo and libyang, and their translation to NETCONF (RFC 6241 appendix A).

The libraries say most in words. The texts matched here are those of sysrepo 3.7 and libyang 3.13;
a text that is not recognised still reaches the client whole, as operation-failed or invalid-value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from tools.netconf_server.errors import ErrorTag, ErrorType, NetconfError, RpcError
from tools.netconf_server.filters import path_to_xml, schema_path, split_path_message


class SrCode(IntEnum):
    """``sr_error_t``."""

    OK = 0
    INVAL_ARG = 1
    LY = 2
    SYS = 3
    NO_MEMORY = 4
    NOT_FOUND = 5
    EXISTS = 6
    INTERNAL = 7
    UNSUPPORTED = 8
    VALIDATION_FAILED = 9
    OPERATION_FAILED = 10
    UNAUTHORIZED = 11
    LOCKED = 12
    TIME_OUT = 13
    CALLBACK_FAILED = 14


@dataclass(frozen=True)
class ErrorItem:
    """One error as the library stored it."""

    code: int
    """:class:`SrCode` for sysrepo, ``LY_ERR`` for libyang."""
    message: str
    error_type: str | None = None
    tag: str | None = None
    app_tag: str | None = None
    path: str | None = None
    """libyang data path."""
    info: tuple[tuple[str, str], ...] = field(default=())


class NativeError(Exception):
    """A C call failed. ``items`` holds every error the library stored, at least one."""

    def __init__(self, origin: str, code: int, items: list[ErrorItem]) -> None:
        super().__init__("; ".join(item.message for item in items))
        self.origin = origin
        """"sysrepo" or "libyang"."""
        self.code = code
        self.items = items


MustAppTag = Callable[[str, str], str | None]
"""Error-app-tag of the ``must`` with this error-message at a libyang data path; None without one.

A ``must`` that names no error-app-tag has "must-violation" (RFC 7950 section 15.4)."""

MUST_VIOLATION = "must-violation"

_PATH_SUFFIX = re.compile(r'(?P<text>.*) \(path "(?P<path>/.*)"\)', re.DOTALL)
_ATTRIBUTE = re.compile(r"(?P<parent>.*)/@([\w.-]+:)?(?P<name>[\w.-]+)", re.DOTALL)
_QUOTED = re.compile(r'"([^"]*)"')

_TEXTS: tuple[tuple[re.Pattern[str], ErrorTag, str | None, str | None], ...] = tuple(
    (re.compile(pattern), tag, app_tag, info)
    for pattern, tag, app_tag, info in (
        (r'No module with namespace "', ErrorTag.UNKNOWN_NAMESPACE, None, "bad-namespace"),
        (r'Node "[^"]*" not found', ErrorTag.UNKNOWN_ELEMENT, None, "bad-element"),
        (r"Unexpected data state node", ErrorTag.UNKNOWN_ELEMENT, None, "bad-element"),
        (r"List instance is missing its key", ErrorTag.MISSING_ELEMENT, None, "bad-element"),
        (r"Mandatory choice", ErrorTag.DATA_MISSING, "missing-choice", None),
        (r"Mandatory node", ErrorTag.MISSING_ELEMENT, None, "bad-element"),
        (r"Invalid leafref value", ErrorTag.DATA_MISSING, "instance-required", None),
        (r"Invalid instance-identifier", ErrorTag.DATA_MISSING, "instance-required", None),
        (r"Too many ", ErrorTag.OPERATION_FAILED, "too-many-elements", None),
        (r"Too few ", ErrorTag.OPERATION_FAILED, "too-few-elements", None),
        (r"Unique data leaf", ErrorTag.OPERATION_FAILED, "data-not-unique", None),
        (r"Must condition ", ErrorTag.OPERATION_FAILED, MUST_VIOLATION, None),
        (r"Invalid metadata|Unknown XML attribute", ErrorTag.BAD_ATTRIBUTE, None, None),
        (r"Text value .* inside an inner node", ErrorTag.BAD_ELEMENT, None, None),
        (r"Data for both cases ", ErrorTag.BAD_ELEMENT, None, "bad-element"),
        (r"Duplicate instance", ErrorTag.BAD_ELEMENT, None, "bad-element"),
        (r"Node .* to be created already exists", ErrorTag.DATA_EXISTS, None, None),
        (r"Node .* does not exist", ErrorTag.DATA_MISSING, None, None),
        (r"Nested operation .* does not exist", ErrorTag.DATA_MISSING, None, None),
        (r"Missing the operation node", ErrorTag.MISSING_ELEMENT, None, None),
    )
)

_LOCKED = re.compile(r'Module "[^"]*" is (?:DS-|already )?locked by (?:this )?session (\d+)\.')
_REFUSED_NODES: tuple[tuple[re.Pattern[str], str, bool], ...] = (
    (re.compile(r'Node "([^"]*)" to be created already exists\.'), "create", True),
    (re.compile(r'Node "([^"]*)" to be deleted does not exist\.'), "delete", False),
    (re.compile(r'Node "([^"]*)" does not exist\.'), "none", False),
)

_BOTH_CASES = re.compile(r'Data for both cases "(?P<one>[^"]*)" and "(?P<other>[^"]*)" exist\.')

_CODES: dict[int, ErrorTag] = {
    SrCode.INVAL_ARG: ErrorTag.INVALID_VALUE,
    SrCode.LY: ErrorTag.INVALID_VALUE,
    SrCode.NO_MEMORY: ErrorTag.RESOURCE_DENIED,
    SrCode.NOT_FOUND: ErrorTag.DATA_MISSING,
    SrCode.EXISTS: ErrorTag.DATA_EXISTS,
    SrCode.UNSUPPORTED: ErrorTag.OPERATION_NOT_SUPPORTED,
    SrCode.UNAUTHORIZED: ErrorTag.ACCESS_DENIED,
    SrCode.LOCKED: ErrorTag.IN_USE,
}


@dataclass(frozen=True)
class RefusedNode:
    """What sysrepo says of a node whose operation does not fit the datastore; not where it is."""

    name: str
    operation: str
    """The edit operation that the node has or inherits."""
    exists: bool
    """Whether the node is in the datastore; the operation needs the contrary."""


def refused_node(item: ErrorItem) -> RefusedNode | None:
    """The node of a data-exists or data-missing without a path; None for other errors."""
    if item.path is not None or item.code == SrCode.CALLBACK_FAILED:
        return None
    for pattern, operation, exists in _REFUSED_NODES:
        match = pattern.fullmatch(item.message)
        if match is not None:
            return RefusedNode(match[1], operation, exists)
    return None


@dataclass(frozen=True)
class BothCases:
    """What libyang says of a choice with data of two cases; the entry of a list is not said."""

    parent: str
    """Schema path of the node that the choice is in."""
    cases: frozenset[str]


def both_cases(item: ErrorItem) -> BothCases | None:
    """The choice with data of two cases; None for other errors."""
    located = _PATH_SUFFIX.fullmatch(item.message)
    match = _BOTH_CASES.fullmatch(located["text"]) if located is not None else None
    if located is None or match is None or item.code == SrCode.CALLBACK_FAILED:
        return None
    parent = located["path"].rpartition("/")[0]
    return BothCases(parent, frozenset((match["one"], match["other"])))


def is_missing_action_parent(item: ErrorItem) -> bool:
    """Whether an action was refused because the instance it belongs to does not exist."""
    return item.code != SrCode.CALLBACK_FAILED and item.message.startswith("Nested operation ")


def locking_session(item: ErrorItem) -> int | None:
    """sysrepo's id of the session whose lock stands in the way; None for other errors."""
    match = _LOCKED.fullmatch(item.message) if item.code == SrCode.LOCKED else None
    return int(match[1]) if match is not None else None


def to_rpc_error(
    error: NativeError,
    modules: Mapping[str, str],
    must_app_tag: MustAppTag = lambda path, message: None,
) -> RpcError:
    """Every stored error as an ``<rpc-error>``.

    ``modules`` maps namespaces to module names, for the error-path.
    """
    items = error.items
    if len(items) > 1:
        # sysrepo appends a summary without any detail.
        items = [item for item in items if item.message != "RPC input validation failed."] or items
    return RpcError(*(_convert(error.origin, item, modules, must_app_tag) for item in items))


def _convert(
    origin: str, item: ErrorItem, modules: Mapping[str, str], must_app_tag: MustAppTag
) -> NetconfError:
    message, path = item.message, item.path
    located = _PATH_SUFFIX.fullmatch(message)
    if located is not None:
        message, path = located["text"], path or located["path"]
    elif path is None and origin == "sysrepo":
        path = split_path_message(message)[0]
    tag, app_tag, info = _classify(origin, item, message)
    attribute = _ATTRIBUTE.fullmatch(path or "")
    if attribute is not None:
        path = attribute["parent"]
        tag = ErrorTag.BAD_ATTRIBUTE
        info = (
            ("bad-attribute", attribute["name"]),
            ("bad-element", re.split("[/:]", schema_path(path))[-1]),
        )
    if path is not None and not _is_from_provider(origin, item):
        violated = must_app_tag(path, message)
        if violated is not None:
            tag, app_tag = ErrorTag.OPERATION_FAILED, violated
    error_path: tuple[str, dict[str, str]] | None = None
    if path is not None:
        error_path = path_to_xml(path, modules)
    return NetconfError(
        _error_type(origin, item),
        tag,
        message,
        app_tag=app_tag,
        path=error_path[0] if error_path else None,
        path_namespaces=error_path[1] if error_path else {},
        info=info,
    )


def _error_type(origin: str, item: ErrorItem) -> ErrorType:
    if item.error_type is not None:
        try:
            return ErrorType(item.error_type)
        except ValueError:
            return ErrorType.APPLICATION
    # RFC 8341 section 3.4.4 and its siblings: denial happens before the application.
    denied = origin == "sysrepo" and item.code in (SrCode.LOCKED, SrCode.UNAUTHORIZED)
    return ErrorType.PROTOCOL if denied else ErrorType.APPLICATION


def _is_from_provider(origin: str, item: ErrorItem) -> bool:
    return origin == "sysrepo" and item.code == SrCode.CALLBACK_FAILED


def _classify(
    origin: str, item: ErrorItem, message: str
) -> tuple[ErrorTag, str | None, tuple[tuple[str, str], ...]]:
    """Tag, app-tag and error-info."""
    if item.tag is not None:
        try:
            return ErrorTag(item.tag), item.app_tag, item.info
        except ValueError:
            return ErrorTag.OPERATION_FAILED, item.app_tag, item.info
    if _is_from_provider(origin, item):
        # A provider's own words must not be taken for the library's.
        return ErrorTag.OPERATION_FAILED, item.app_tag, item.info
    for pattern, tag, app_tag, info_name in _TEXTS:
        if pattern.match(message):
            quoted = _QUOTED.search(message)
            info = ((info_name, quoted[1]),) if info_name and quoted else ()
            return tag, item.app_tag or app_tag, info
    if origin == "libyang":
        return ErrorTag.INVALID_VALUE, item.app_tag, ()
    return _CODES.get(item.code, ErrorTag.OPERATION_FAILED), item.app_tag, item.info
