"""NETCONF errors: what an ``<rpc-error>`` says (RFC 6241 section 4.3 and appendix A)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class ErrorType(Enum):
    """The layer in which the error occurred."""

    TRANSPORT = "transport"
    RPC = "rpc"
    PROTOCOL = "protocol"
    APPLICATION = "application"


class ErrorTag(Enum):
    """The error-tags of RFC 6241 appendix A that this server sends."""

    IN_USE = "in-use"
    INVALID_VALUE = "invalid-value"
    TOO_BIG = "too-big"
    MISSING_ATTRIBUTE = "missing-attribute"
    BAD_ATTRIBUTE = "bad-attribute"
    UNKNOWN_ATTRIBUTE = "unknown-attribute"
    MISSING_ELEMENT = "missing-element"
    BAD_ELEMENT = "bad-element"
    UNKNOWN_ELEMENT = "unknown-element"
    UNKNOWN_NAMESPACE = "unknown-namespace"
    ACCESS_DENIED = "access-denied"
    LOCK_DENIED = "lock-denied"
    RESOURCE_DENIED = "resource-denied"
    ROLLBACK_FAILED = "rollback-failed"
    DATA_EXISTS = "data-exists"
    DATA_MISSING = "data-missing"
    OPERATION_NOT_SUPPORTED = "operation-not-supported"
    OPERATION_FAILED = "operation-failed"
    MALFORMED_MESSAGE = "malformed-message"


@dataclass(frozen=True)
class NetconfError:
    """One ``<rpc-error>``."""

    type: ErrorType
    tag: ErrorTag
    message: str
    severity: str = "error"
    app_tag: str | None = None
    path: str | None = None
    """XPath of the node in error, in the prefixes of ``path_namespaces``."""
    path_namespaces: Mapping[str, str] = field(default_factory=dict)
    """Prefix to namespace, declared on ``<error-path>``."""
    info: tuple[tuple[str, str], ...] = ()
    """Name and text of the children of ``<error-info>``, in the NETCONF namespace."""


class RpcError(Exception):
    """An operation failed; its reply holds these errors, at least one."""

    def __init__(self, *errors: NetconfError) -> None:
        if not errors:
            raise ValueError("an RpcError needs at least one NetconfError")
        super().__init__("; ".join(error.message for error in errors))
        self.errors = errors


def protocol_error(tag: ErrorTag, message: str, *info: tuple[str, str]) -> RpcError:
    """An error in the request itself."""
    return RpcError(NetconfError(ErrorType.PROTOCOL, tag, message, info=info))


def application_error(tag: ErrorTag, message: str, *info: tuple[str, str]) -> RpcError:
    """An error while carrying out a well-formed request."""
    return RpcError(NetconfError(ErrorType.APPLICATION, tag, message, info=info))


def missing_element(parent: str, name: str) -> RpcError:
    """``parent`` lacks its mandatory child ``name``."""
    return protocol_error(
        ErrorTag.MISSING_ELEMENT, f"<{parent}> lacks <{name}>", ("bad-element", name)
    )


def bad_element(name: str, message: str) -> RpcError:
    """The value of the parameter ``name`` is not correct."""
    return protocol_error(ErrorTag.BAD_ELEMENT, message, ("bad-element", name))


def unknown_element(name: str, parent: str) -> RpcError:
    """``parent`` holds an element it has no place for."""
    return protocol_error(
        ErrorTag.UNKNOWN_ELEMENT, f"<{name}> is unknown in <{parent}>", ("bad-element", name)
    )


def not_supported(message: str) -> RpcError:
    """The request needs a capability that the server has not announced."""
    return protocol_error(ErrorTag.OPERATION_NOT_SUPPORTED, message)
