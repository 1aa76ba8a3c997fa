"""The session state machine, driven without any transport."""

from __future__ import annotations

import pytest
from lxml import etree

from tools.netconf_server import messages
from tools.netconf_server.errors import ErrorTag, RpcError, application_error
from tools.netconf_server.framing import FrameReader, encode
from tools.netconf_server.messages import BASE_1_0, BASE_1_1, BASE_NS, qname
from tools.netconf_server.session import (
    HelloReceived,
    NetconfSession,
    RpcReceived,
    SessionEnded,
    SessionState,
)

NC = {"nc": BASE_NS}


def hello(*bases: str, extra: str = "") -> bytes:
    listing = "".join(f"<capability> {base} </capability>" for base in bases)
    text = f'<hello xmlns="{BASE_NS}"><capabilities>{listing}</capabilities>{extra}</hello>'
    return encode(text.encode(), chunked=False)


def rpc(content: str, attributes: str = 'message-id="1"') -> bytes:
    return f'<rpc xmlns="{BASE_NS}" {attributes}>{content}</rpc>'.encode()


def opened(*bases: str) -> NetconfSession:
    session = NetconfSession(7, (BASE_1_0, BASE_1_1))
    session.data_to_send()
    session.receive_data(hello(*bases))
    assert session.next_event() == HelloReceived(bases)
    return session


def sent(session: NetconfSession) -> list[etree._Element]:
    reader = FrameReader()
    if session.chunked:
        reader.switch_to_chunked()
    reader.feed(session.data_to_send())
    found = []
    while (message := reader.next_message()) is not None:
        found.append(etree.fromstring(message))
    assert reader.pending_bytes == 0
    return found


def tags(session: NetconfSession) -> list[str | None]:
    return [reply.findtext("nc:rpc-error/nc:error-tag", None, NC) for reply in sent(session)]


def test_hello_is_sent_first() -> None:
    session = NetconfSession(7, (BASE_1_0, BASE_1_1))
    root = etree.fromstring(session.data_to_send().removesuffix(b"]]>]]>"))
    assert root.tag == qname(BASE_NS, "hello")
    assert [item.text for item in root.iterfind(".//nc:capability", NC)] == [BASE_1_0, BASE_1_1]
    assert root.findtext("nc:session-id", None, NC) == "7"


@pytest.mark.parametrize(
    ("bases", "chunked"),
    [((BASE_1_0,), False), ((BASE_1_1,), True), ((BASE_1_0, BASE_1_1), True)],
)
def test_framing_follows_the_common_base(bases: tuple[str, ...], chunked: bool) -> None:
    session = opened(*bases)
    session.receive_data(encode(rpc("<get/>"), chunked=chunked))
    event = session.next_event()
    assert isinstance(event, RpcReceived)
    session.reply(event.rpc, [])
    assert session.data_to_send().startswith(b"\n#" if chunked else b"<?xml")


def test_a_request_may_follow_the_hello_in_the_same_bytes() -> None:
    session = NetconfSession(7, (BASE_1_0, BASE_1_1))
    stream = hello(BASE_1_1) + encode(rpc("<get/>"), chunked=True)
    events = []
    for index in range(len(stream)):
        session.receive_data(stream[index : index + 1])
        while (event := session.next_event()) is not None:
            events.append(type(event))
    assert events == [HelloReceived, RpcReceived]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (hello("urn:x"), "bad hello: no common base capability"),
        (hello(), "bad hello: <hello> without capabilities"),
        (
            hello(BASE_1_1, extra="<session-id>4</session-id>"),
            "bad hello: a client's <hello> must not hold a session-id",
        ),
        (b"<rpc/>]]>]]>", "bad hello: expected <hello>, got <rpc>"),
        (b"<hello]]>]]>", "bad hello: not well-formed: "),
        (b"", "peer closed the transport"),
    ],
)
def test_bad_hello_ends_the_session(data: bytes, reason: str) -> None:
    session = NetconfSession(7, (BASE_1_0, BASE_1_1))
    session.receive_data(data)
    event = session.next_event()
    assert isinstance(event, SessionEnded)
    assert event.reason.startswith(reason)
    assert session.state is SessionState.ENDED
    assert session.next_event() is None


def test_reply_echoes_the_attributes_and_counts() -> None:
    session = opened(BASE_1_1)
    session.receive_data(
        encode(rpc("<get/>", 'message-id="&lt;1" xmlns:e="urn:e" e:u="fred"'), chunked=True)
    )
    event = session.next_event()
    assert isinstance(event, RpcReceived)
    session.reply_error(event.rpc, application_error(ErrorTag.IN_USE, "no \x00 control"))
    data = session.data_to_send()
    assert b'e:u="fred"' in data
    session.reply(event.rpc, [etree.Element(qname(BASE_NS, "data"))])
    (reply,) = sent(session)
    assert dict(reply.attrib) == {"message-id": "<1", "{urn:e}u": "fred"}
    assert [etree.QName(child).localname for child in reply] == ["data"]
    assert (session.statistics.in_rpcs, session.statistics.out_rpc_errors) == (1, 1)


@pytest.mark.parametrize(
    ("message", "tag"),
    [
        (rpc("<get/>", ""), "missing-attribute"),
        (rpc(""), "missing-element"),
        (rpc("<get/><get/>"), "bad-element"),
        (b"<rpc", "malformed-message"),
        (b"<x/>", "malformed-message"),
        (b"<a>\xff</a>", "malformed-message"),
        (b'<!DOCTYPE a [<!ENTITY e "x">]>' + rpc("<get>&e;</get>"), "malformed-message"),
    ],
)
def test_bad_messages_with_base_1_1_are_answered(message: bytes, tag: str) -> None:
    session = opened(BASE_1_1)
    session.receive_data(encode(message, chunked=True) + encode(rpc("<get/>"), chunked=True))
    assert isinstance(session.next_event(), RpcReceived)
    assert tags(session) == [tag]
    assert session.statistics.in_bad_rpcs == 1


def test_malformed_message_with_base_1_0_ends_the_session() -> None:
    session = opened(BASE_1_0)
    session.receive_data(encode(b"<rpc", chunked=False) + encode(rpc("<get/>"), chunked=False))
    event = session.next_event()
    assert isinstance(event, SessionEnded)
    assert event.reason.startswith("malformed message: not well-formed")
    assert session.data_to_send() == b""


def test_framing_error_ends_the_session() -> None:
    session = opened(BASE_1_1)
    session.receive_data(b"]]>]]>")
    assert session.next_event() == SessionEnded(
        "framing error: expected LF before a chunk, got byte 0x5d"
    )


def test_errors_carry_everything() -> None:
    error = messages.NetconfError(
        messages.ErrorType.APPLICATION,
        ErrorTag.OPERATION_FAILED,
        "wrong",
        app_tag="tag",
        path="/m:a/m:b",
        path_namespaces={"m": "urn:m"},
        info=(("bad-element", "b"),),
    )
    root = messages.build_error(error)
    assert [(etree.QName(node).localname, node.text) for node in root] == [
        ("error-type", "application"),
        ("error-tag", "operation-failed"),
        ("error-severity", "error"),
        ("error-app-tag", "tag"),
        ("error-path", "/m:a/m:b"),
        ("error-message", "wrong"),
        ("error-info", None),
    ]
    path = root.find("nc:error-path", NC)
    assert path is not None
    assert path.nsmap["m"] == "urn:m"
    assert root.findtext("nc:error-info/nc:bad-element", None, NC) == "b"
    with pytest.raises(ValueError, match="at least one"):
        RpcError()


def test_notifications() -> None:
    session = opened(BASE_1_1)
    session.notify("2026-01-01T00:00:00.000000001Z", b'<e xmlns="urn:e"><n>1</n></e>')
    (notification,) = sent(session)
    assert notification.tag == qname(messages.NOTIFICATION_NS, "notification")
    assert [(child.tag, child.text) for child in notification] == [
        (qname(messages.NOTIFICATION_NS, "eventTime"), "2026-01-01T00:00:00.000000001Z"),
        ("{urn:e}e", None),
    ]
    assert session.statistics.out_notifications == 1


def test_no_notification_follows_the_end() -> None:
    session = opened(BASE_1_1)
    session.end("close-session")
    session.notify("2026-01-01T00:00:00Z", b"<e/>")
    assert session.data_to_send() == b""
    assert session.statistics.out_notifications == 0
