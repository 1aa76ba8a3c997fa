"""NETCONF messages: bytes to lxml elements and back (RFC 6241 sections 3, 4 and 8.1).

Nothing here expands entities or reads external documents: a message with a document type
declaration is refused, wherever in the message the declaration's opening stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

from tools.netconf_server.errors import ErrorTag, ErrorType, NetconfError, RpcError

BASE_NS = "urn:ietf:params:xml:ns:netconf:base:1.0"
MONITORING_NS = "urn:ietf:params:xml:ns:yang:ietf-netconf-monitoring"
NOTIFICATION_NS = "urn:ietf:params:xml:ns:netconf:notification:1.0"
YANG_NS = "urn:ietf:params:xml:ns:yang:1"
BASE_1_0 = "urn:ietf:params:netconf:base:1.0"
BASE_1_1 = "urn:ietf:params:netconf:base:1.1"

_DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'


class MalformedMessage(Exception):
    """The bytes are no acceptable XML document."""


class HelloError(Exception):
    """A ``<hello>`` breaks RFC 6241 section 8.1: the session has to be ended."""


@dataclass(frozen=True)
class Rpc:
    """One ``<rpc>``: its attributes as they came, and its operation element."""

    attributes: Mapping[str, str]
    """Attribute name (``{namespace}name`` or ``name``) to value, in document order."""
    namespaces: Mapping[str | None, str]
    """Prefixes declared on ``<rpc>``, so that the reply can echo prefixed attributes."""
    operation: etree._Element = field(repr=False)


class RpcRejected(Exception):
    """An ``<rpc>`` envelope is wrong; the reply echoes what attributes there are."""

    def __init__(
        self,
        error: NetconfError,
        attributes: Mapping[str, str],
        namespaces: Mapping[str | None, str],
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.attributes = attributes
        self.namespaces = namespaces


def qname(namespace: str, name: str) -> str:
    """Clark notation, as lxml writes a tag."""
    return f"{{{namespace}}}{name}"


def new_element(
    namespace: str, name: str, prefixes: Mapping[str | None, str] | None = None
) -> etree._Element:
    """A root element whose default namespace is its own, with further prefixes declared."""
    nsmap: Any = {None: namespace, **(prefixes or {})}
    return etree.Element(qname(namespace, name), nsmap=nsmap)


def local_name(element: etree._Element) -> str:
    """Name without namespace."""
    return etree.QName(element).localname


def namespace_of(element: etree._Element) -> str | None:
    """Namespace of an element, None if it has none."""
    return etree.QName(element).namespace


def children(element: etree._Element) -> list[etree._Element]:
    """Child elements."""
    return list(element.iterchildren(tag=etree.Element))


def parse(message: bytes) -> etree._Element:
    """The root element of one message; comments and processing instructions are dropped.

    :raises MalformedMessage: not UTF-8, not well-formed, or with a document type declaration.
    """
    try:
        message.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"not UTF-8 at byte {error.start}") from None
    if b"<!DOCTYPE" in message:
        raise MalformedMessage("document type declarations are not allowed")
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        return etree.fromstring(message.strip(), parser)
    except etree.XMLSyntaxError as error:
        raise MalformedMessage(f"not well-formed: {error.msg}") from None


def parse_fragment(xml: bytes) -> list[etree._Element]:
    """The elements of a sequence of sibling elements written by the datastore."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)
    return children(etree.fromstring(b"<r>" + xml + b"</r>", parser))


def serialize(element: etree._Element) -> bytes:
    """A complete document for the wire."""
    return _DECLARATION + etree.tostring(element, encoding="utf-8")


def build_hello(capabilities: Iterable[str], session_id: int) -> bytes:
    """The server's ``<hello>``."""
    hello = new_element(BASE_NS, "hello")
    listing = etree.SubElement(hello, qname(BASE_NS, "capabilities"))
    for capability in capabilities:
        etree.SubElement(listing, qname(BASE_NS, "capability")).text = capability
    etree.SubElement(hello, qname(BASE_NS, "session-id")).text = str(session_id)
    return serialize(hello)


def parse_client_hello(message: bytes) -> tuple[str, ...]:
    """The capabilities of a client's ``<hello>``.

    :raises MalformedMessage: no acceptable XML.
    :raises HelloError: no ``<hello>``, or one that a client must not send.
    """
    root = parse(message)
    if root.tag != qname(BASE_NS, "hello"):
        raise HelloError(f"expected <hello>, got <{local_name(root)}>")
    if root.find(qname(BASE_NS, "session-id")) is not None:
        raise HelloError("a client's <hello> must not hold a session-id")
    found = tuple(
        (element.text or "").strip()
        for element in root.iterfind(
            f"{qname(BASE_NS, 'capabilities')}/{qname(BASE_NS, 'capability')}"
        )
    )
    if not found:
        raise HelloError("<hello> without capabilities")
    return found


def parse_rpc(message: bytes) -> Rpc:
    """Split an ``<rpc>`` envelope.

    :raises MalformedMessage: no acceptable XML, or the root is not ``<rpc>``.
    :raises RpcRejected: no message-id, or not exactly one operation.
    """
    root = parse(message)
    if root.tag != qname(BASE_NS, "rpc"):
        raise MalformedMessage(f"expected <rpc>, got <{local_name(root)}>")
    attributes = {str(name): str(value) for name, value in root.attrib.items()}
    namespaces = dict(root.nsmap)
    operations = children(root)
    error: NetconfError | None = None
    if "message-id" not in attributes:
        error = NetconfError(
            ErrorType.RPC,
            ErrorTag.MISSING_ATTRIBUTE,
            "<rpc> without message-id",
            info=(("bad-attribute", "message-id"), ("bad-element", "rpc")),
        )
    elif not operations:
        error = NetconfError(
            ErrorType.RPC,
            ErrorTag.MISSING_ELEMENT,
            "<rpc> without an operation",
            info=(("bad-element", "operation"),),
        )
    elif len(operations) > 1:
        name = local_name(operations[1])
        error = NetconfError(
            ErrorType.RPC,
            ErrorTag.BAD_ELEMENT,
            f"<rpc> with more than one operation: <{name}>",
            info=(("bad-element", name),),
        )
    if error is not None:
        raise RpcRejected(error, attributes, namespaces)
    return Rpc(attributes, namespaces, operations[0])


def build_reply(
    attributes: Mapping[str, str],
    namespaces: Mapping[str | None, str],
    content: Sequence[etree._Element],
) -> bytes:
    """An ``<rpc-reply>`` that echoes the attributes of the ``<rpc>``; no content means ``<ok/>``.

    The content elements are moved into the reply.
    """
    prefixes: dict[str | None, str] = {
        prefix: uri
        for prefix, uri in namespaces.items()
        if prefix is not None and uri != BASE_NS and prefix != "xml"
    }
    reply = new_element(BASE_NS, "rpc-reply", prefixes)
    for name, value in attributes.items():
        reply.set(name, value)
    if content:
        reply.extend(content)
    else:
        etree.SubElement(reply, qname(BASE_NS, "ok"))
    return serialize(reply)


def build_notification(event_time: str, content: bytes) -> bytes:
    """A ``<notification>`` around a serialized event (RFC 5277 section 4)."""
    head = f'<notification xmlns="{NOTIFICATION_NS}"><eventTime>{event_time}</eventTime>'
    return _DECLARATION + head.encode() + content + b"</notification>"


def build_error(error: NetconfError) -> etree._Element:
    """An ``<rpc-error>`` element."""
    root = new_element(BASE_NS, "rpc-error")

    def add(parent: etree._Element, name: str, text: str) -> None:
        etree.SubElement(parent, qname(BASE_NS, name)).text = _xml_text(text)

    add(root, "error-type", error.type.value)
    add(root, "error-tag", error.tag.value)
    add(root, "error-severity", error.severity)
    if error.app_tag is not None:
        add(root, "error-app-tag", error.app_tag)
    # lxml cannot give the default namespace a second name: such a path would lack its prefix.
    if error.path is not None and BASE_NS not in error.path_namespaces.values():
        declared: Any = dict(error.path_namespaces)
        path = etree.SubElement(root, qname(BASE_NS, "error-path"), nsmap=declared)
        path.text = _xml_text(error.path)
    message = etree.SubElement(root, qname(BASE_NS, "error-message"))
    message.set("{http://www.w3.org/XML/1998/namespace}lang", "en")
    message.text = _xml_text(error.message)
    if error.info:
        info = etree.SubElement(root, qname(BASE_NS, "error-info"))
        for name, text in error.info:
            add(info, name, text)
    return root


def build_error_reply(
    attributes: Mapping[str, str], namespaces: Mapping[str | None, str], failure: RpcError
) -> bytes:
    """An ``<rpc-reply>`` with every error of a failed operation."""
    return build_reply(attributes, namespaces, [build_error(error) for error in failure.errors])


_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot carry (section 2.2, Char)."""


def _xml_text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
