"""The NETCONF operations (RFC 6241 section 7 and 8.6, RFC 6022 section 3.1, RFC 5277 section 2.1).

One function an operation: it checks the parameters and calls the :class:`Datastore`. To add one,
write the function and register it with :func:`operation`; announce it in ``capabilities.py`` if it
belongs to a capability. What is not in the table is an RPC of some YANG module, or an action.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lxml import etree

from tools.netconf_server import messages
from tools.netconf_server.errors import (
    ErrorTag,
    RpcError,
    application_error,
    bad_element,
    missing_element,
    not_supported,
    protocol_error,
    unknown_element,
)
from tools.netconf_server.filters import filter_to_xpaths
from tools.netconf_server.messages import (
    BASE_NS,
    MONITORING_NS,
    NOTIFICATION_NS,
    YANG_NS,
    children,
    local_name,
    qname,
)
from tools.netconf_server.notifications import (
    DEFAULT_STREAM,
    Outbox,
    SubscriptionRequest,
    check_times,
    parse_time,
)

CONFIGURATION_DATASTORES = ("running",)
"""Datastores that a client may name; the others need capabilities that are not announced."""
CREATE_SUBSCRIPTION = qname(NOTIFICATION_NS, "create-subscription")
_DATASTORE_NAMES = ("running", "candidate", "startup", "url")


class Datastore(Protocol):
    """What the operations need of the datastore, for one session and its user.

    Every method raises RpcError with the errors to send. Requests and output are lxml elements;
    datastore contents come as serialized sibling elements.
    """

    @property
    def modules(self) -> Mapping[str, str]:
        """Namespace to module name, implemented modules."""

    def authorize(self, operation: etree._Element) -> None:
        """Check that the user may execute the operation."""

    def get(self, xpaths: Sequence[str]) -> bytes:
        """Running configuration and operational state."""

    def get_config(self, datastore: str, xpaths: Sequence[str]) -> bytes:
        """Configuration."""

    def edit_config(
        self,
        datastore: str,
        config: etree._Element,
        default_operation: str,
        test_option: str,
    ) -> None:
        """Change the configuration, wholly or not at all."""

    def validate(self, datastore: str) -> None:
        """Validate a datastore."""

    def validate_config(self, config: etree._Element) -> None:
        """Validate a complete configuration that came with the request."""

    def lock(self, datastore: str) -> None:
        """Take the global lock."""

    def unlock(self, datastore: str) -> None:
        """Release the global lock."""

    def get_schema(self, identifier: str, version: str | None, language: str) -> str:
        """Text of a YANG module."""

    def rpc(self, operation: etree._Element) -> list[etree._Element]:
        """Call an RPC; its output."""

    def action(self, tree: etree._Element) -> list[etree._Element]:
        """Call an action within its data tree; its output."""

    def subscribe(self, request: SubscriptionRequest, outbox: Outbox) -> None:
        """Put notifications into the outbox from now on, instead of an earlier one."""


class SessionControl(Protocol):
    """What the operations need of the server."""

    def outbox(self) -> Outbox:
        """A new outbox for the session's notifications, sent after the reply.

        :raises RpcError: the session has a subscription that is not over.
        """

    def close(self) -> None:
        """End this session after its reply."""

    def kill(self, session_id: int) -> bool:
        """End another session and release what it holds; False if there is none."""


@dataclass(frozen=True)
class OperationContext:
    """The session for which an operation runs."""

    session_id: int
    datastore: Datastore
    control: SessionControl


Handler = Callable[[OperationContext, etree._Element], list[etree._Element]]
"""Carries out an operation; returns the content of the reply, empty for ``<ok/>``."""

OPERATIONS: dict[str, Handler] = {}
"""Operation element in Clark notation to its handler."""


def operation(namespace: str, name: str) -> Callable[[Handler], Handler]:
    """Register a handler."""

    def register(handler: Handler) -> Handler:
        OPERATIONS[qname(namespace, name)] = handler
        return handler

    return register


def execute(context: OperationContext, element: etree._Element) -> list[etree._Element]:
    """Carry out one operation. :raises RpcError: it failed; the errors are for the reply."""
    handler = OPERATIONS.get(str(element.tag))
    if handler is not None:
        context.datastore.authorize(element)
        return handler(context, element)
    if element.tag == qname(YANG_NS, "action"):
        trees = children(element)
        if len(trees) != 1:
            raise bad_element("action", "<action> must hold exactly one data tree")
        return context.datastore.action(trees[0])
    if messages.namespace_of(element) == BASE_NS:
        raise not_supported(f"<{local_name(element)}> is not supported")
    return context.datastore.rpc(element)


def _child(element: etree._Element, name: str) -> etree._Element | None:
    return element.find(qname(str(messages.namespace_of(element)), name))


def _required(element: etree._Element, name: str) -> etree._Element:
    child = _child(element, name)
    if child is None:
        raise missing_element(local_name(element), name)
    return child


def _text(element: etree._Element | None) -> str | None:
    return None if element is None else (element.text or "").strip()


def _choice(element: etree._Element, name: str, allowed: Sequence[str], default: str) -> str:
    value = _text(_child(element, name))
    if value is None:
        return default
    if value not in allowed:
        raise protocol_error(
            ErrorTag.INVALID_VALUE,
            f"{name} {value!r} is not one of {', '.join(allowed)}",
            ("bad-element", name),
        )
    return value


def _only(element: etree._Element, *names: str, also: etree._Element | None = None) -> None:
    """Refuse parameters that the operation does not have; ``also`` is one of another namespace."""
    namespace = str(messages.namespace_of(element))
    for child in children(element):
        if child is not also and child.tag not in {qname(namespace, name) for name in names}:
            raise unknown_element(local_name(child), local_name(element))


def _datastore(element: etree._Element, parameter: str) -> str:
    """The datastore that ``<source>`` or ``<target>`` names."""
    names = [local_name(child) for child in children(_required(element, parameter))]
    if len(names) != 1:
        raise bad_element(parameter, f"<{parameter}> must name one datastore")
    if names[0] not in _DATASTORE_NAMES:
        raise unknown_element(names[0], parameter)
    if names[0] not in CONFIGURATION_DATASTORES:
        raise not_supported(f"{names[0]} is not supported as {parameter}")
    return names[0]


def _data(xml: bytes) -> list[etree._Element]:
    data = messages.new_element(BASE_NS, "data")
    data.extend(messages.parse_fragment(xml))
    return [data]


@operation(BASE_NS, "get")
def get(context: OperationContext, element: etree._Element) -> list[etree._Element]:
    """RFC 6241 section 7.7."""
    _only(element, "filter")
    xpaths = filter_to_xpaths(_child(element, "filter"), context.datastore.modules)
    return _data(context.datastore.get(xpaths))


@operation(BASE_NS, "get-config")
def get_config(context: OperationContext, element: etree._Element) -> list[etree._Element]:
    """RFC 6241 section 7.1."""
    _only(element, "source", "filter")
    source = _datastore(element, "source")
    xpaths = filter_to_xpaths(_child(element, "filter"), context.datastore.modules)
    return _data(context.datastore.get_config(source, xpaths))


@operation(BASE_NS, "edit-config")
def edit_config(context: OperationContext, element: etree._Element) -> list[etree._Element]:
    """RFC 6241 section 7.2. Edits are atomic, so stop-on-error rolls back as well."""
    _only(element, "target", "default-operation", "test-option", "error-option", "config", "url")
    target = _datastore(element, "target")
    default_operation = _choice(element, "default-operation", ("merge", "replace", "none"), "merge")
    test_option = _choice(
        element, "test-option", ("test-then-set", "set", "test-only"), "test-then-set"
    )
    error_option = _choice(
        element,
        "error-option",
        ("stop-on-error", "continue-on-error", "rollback-on-error"),
        "stop-on-error",
    )
    if error_option == "continue-on-error":
        raise not_supported("error-option continue-on-error is not supported: edits are atomic")
    if _child(element, "url") is not None:
        raise not_supported("<url> is not supported")
    context.datastore.edit_config(
        target, _required(element, "config"), default_operation, test_option
    )
    return []


@operation(BASE_NS, "validate")
def validate(context: OperationContext, element: etree._Element) -> list[etree._Element]:
    """RFC 6241 section 8.6.4.1."""
    _only(element, "source")
    config = _child(_required(element, "source"), "config")
    if config is None:
        context.datastore.validate(_datastore(element, "source"))
    else:
        context.datastore.validate_config(config)
    return []


@operation(BASE_NS, "lock")
def lock(context: OperationContext, element: etree._Element) -> list[etree._Element]:
    """RFC 6241 section 7.5."""
    _only(element, "target")
    context.datastore.lock(_datastore(element, "target"))
    return []


@operation(BASE_NS, "unlock")
def unlock(context: OperationContext, element: etree._Element) -> list[etree._Element]:
    """RFC 6241 section 7.6."""
    _only(element, "target")
    context.datastore.unlock(_datastore(element, "target"))
    return []


@operation(BASE_NS, "close-session")
def close_session(context: OperationContext, element: etree._Element) -> list[etree._Element]:
    """RFC 6241 section 7.8."""
    _only(element)
    context.control.close()
    return []


@operation(BASE_NS, "kill-session")
def kill_session(context: OperationContext, element: etree._Element) -> list[etree._Element]:
    """RFC 6241 section 7.9."""
    _only(element, "session-id")
    text = _text(_required(element, "session-id")) or ""
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 0xFFFF_FFFF:
        raise protocol_error(
            ErrorTag.INVALID_VALUE, f"bad session-id {text!r}", ("bad-element", "session-id")
        )
    if int(text) == context.session_id:
        raise protocol_error(
            ErrorTag.INVALID_VALUE,
            "a session cannot kill itself; use close-session",
            ("bad-element", "session-id"),
        )
    if not context.control.kill(int(text)):
        raise application_error(
            ErrorTag.INVALID_VALUE, f"there is no session {text}", ("bad-element", "session-id")
        )
    return []


@operation(MONITORING_NS, "get-schema")
def get_schema(context: OperationContext, element: etree._Element) -> list[etree._Element]:
    """RFC 6022 section 3.1."""
    _only(element, "identifier", "version", "format")
    identifier = _text(_required(element, "identifier")) or ""
    version = _text(_child(element, "version"))
    language = (_text(_child(element, "format")) or "yang").rpartition(":")[2]
    data = messages.new_element(MONITORING_NS, "data")
    data.text = context.datastore.get_schema(identifier, version, language)
    return [data]


@operation(NOTIFICATION_NS, "create-subscription")
def create_subscription(context: OperationContext, element: etree._Element) -> list[etree._Element]:
    """RFC 5277 section 2.1.1."""
    # ncclient puts the filter into the base namespace.
    wanted = _child(element, "filter")
    if wanted is None:
        wanted = element.find(qname(BASE_NS, "filter"))
    _only(element, "stream", "filter", "startTime", "stopTime", also=wanted)
    start, stop = (_text(_child(element, name)) for name in ("startTime", "stopTime"))
    if start is None and stop is not None:
        raise missing_element("create-subscription", "startTime")
    request = SubscriptionRequest(
        _text(_child(element, "stream")) or DEFAULT_STREAM,
        filter_to_xpaths(wanted, context.datastore.modules),
        None if start is None else parse_time("startTime", start),
        None if stop is None else parse_time("stopTime", stop),
    )
    check_times(request.start_ns, request.stop_ns, time.time_ns())
    context.datastore.subscribe(request, context.control.outbox())
    return []


def failure_of(error: Exception) -> RpcError:
    """The errors to send for an exception that no operation expects: a fault of the server."""
    return application_error(
        ErrorTag.OPERATION_FAILED, f"internal error: {type(error).__name__}: {error}"
    )
