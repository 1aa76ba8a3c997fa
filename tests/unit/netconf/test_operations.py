"""Operations: parameters in, datastore calls and errors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from lxml import etree

from tools.netconf_server.errors import ErrorTag, RpcError, application_error
from tools.netconf_server.messages import BASE_NS, NOTIFICATION_NS, YANG_NS
from tools.netconf_server.notifications import Outbox, SubscriptionRequest
from tools.netconf_server.operations import OperationContext, execute


class Recorder:
    """Stands for the datastore and for the server; keeps what was asked of it."""

    modules: Mapping[str, str] = {"urn:a": "mod-a"}

    def __init__(self, denied: bool = False) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.denied = denied

    def authorize(self, operation: etree._Element) -> None:
        if self.denied:
            raise application_error(ErrorTag.ACCESS_DENIED, "denied")

    def get(self, xpaths: Sequence[str]) -> bytes:
        self.calls.append(("get", xpaths))
        return b'<t xmlns="urn:a"/><t xmlns="urn:a"/>'

    def get_config(self, datastore: str, xpaths: Sequence[str]) -> bytes:
        self.calls.append(("get_config", datastore, xpaths))
        return b""

    def edit_config(
        self, datastore: str, config: etree._Element, default_operation: str, test_option: str
    ) -> None:
        self.calls.append(("edit_config", datastore, len(config), default_operation, test_option))

    def validate(self, datastore: str) -> None:
        self.calls.append(("validate", datastore))

    def validate_config(self, config: etree._Element) -> None:
        self.calls.append(("validate_config", len(config)))

    def lock(self, datastore: str) -> None:
        self.calls.append(("lock", datastore))

    def unlock(self, datastore: str) -> None:
        self.calls.append(("unlock", datastore))

    def get_schema(self, identifier: str, version: str | None, language: str) -> str:
        self.calls.append(("get_schema", identifier, version, language))
        return "module a {}"

    def rpc(self, operation: etree._Element) -> list[etree._Element]:
        self.calls.append(("rpc", operation.tag))
        return []

    def action(self, tree: etree._Element) -> list[etree._Element]:
        self.calls.append(("action", tree.tag))
        return []

    def subscribe(self, request: SubscriptionRequest, outbox: Outbox) -> None:
        self.calls.append(("subscribe", request))

    def outbox(self) -> Outbox:
        return Outbox(4, 1, lambda: None)

    def close(self) -> None:
        self.calls.append(("close",))

    def kill(self, session_id: int) -> bool:
        self.calls.append(("kill", session_id))
        return session_id == 5


def run(recorder: Recorder, operation: str) -> list[etree._Element]:
    root = etree.fromstring(f'<rpc xmlns="{BASE_NS}">{operation}</rpc>')
    return execute(OperationContext(4, recorder, recorder), root[0])


MONITORING = "urn:ietf:params:xml:ns:yang:ietf-netconf-monitoring"
SUBSCRIBE = f'<create-subscription xmlns="{NOTIFICATION_NS}">{{}}</create-subscription>'
CALLS = [
    ("<get/>", ("get", ["/*"])),
    ('<get><filter><t xmlns="urn:a"/></filter></get>', ("get", ["/mod-a:t"])),
    ("<get-config><source><running/></source></get-config>", ("get_config", "running", ["/*"])),
    (
        "<edit-config><target><running/></target><config><a/><b/></config></edit-config>",
        ("edit_config", "running", 2, "merge", "test-then-set"),
    ),
    (
        "<edit-config><target><running/></target><default-operation> none </default-operation>"
        "<test-option>test-only</test-option><error-option>rollback-on-error</error-option>"
        "<config/></edit-config>",
        ("edit_config", "running", 0, "none", "test-only"),
    ),
    ("<validate><source><running/></source></validate>", ("validate", "running")),
    ("<validate><source><config><a/></config></source></validate>", ("validate_config", 1)),
    ("<lock><target><running/></target></lock>", ("lock", "running")),
    ("<unlock><target><running/></target></unlock>", ("unlock", "running")),
    ("<close-session/>", ("close",)),
    ("<kill-session><session-id>5</session-id></kill-session>", ("kill", 5)),
    (
        f'<get-schema xmlns="{MONITORING}"><identifier>a</identifier></get-schema>',
        ("get_schema", "a", None, "yang"),
    ),
    (
        f'<get-schema xmlns="{MONITORING}" xmlns:m="{MONITORING}"><identifier>a</identifier>'
        "<version>2020-01-01</version><format>m:yin</format></get-schema>",
        ("get_schema", "a", "2020-01-01", "yin"),
    ),
    (SUBSCRIBE.format(""), ("subscribe", SubscriptionRequest("NETCONF", ["/*"]))),
    (
        # As ncclient writes it.
        SUBSCRIBE.format(
            f'<filter xmlns="{BASE_NS}"><t xmlns="urn:a"/></filter><stream>mod-a</stream>'
        ),
        ("subscribe", SubscriptionRequest("mod-a", ["/mod-a:t"])),
    ),
    (
        SUBSCRIBE.format(
            "<startTime>1970-01-01T01:00:01+01:00</startTime>"
            "<stopTime>1970-01-01T00:00:01.0000000019Z</stopTime>"
        ),
        ("subscribe", SubscriptionRequest("NETCONF", ["/*"], 1_000_000_000, 1_000_000_001)),
    ),
    ('<call xmlns="urn:a"/>', ("rpc", "{urn:a}call")),
    (f'<action xmlns="{YANG_NS}"><t xmlns="urn:a"/></action>', ("action", "{urn:a}t")),
]


@pytest.mark.parametrize(("operation", "call"), CALLS)
def test_calls(operation: str, call: tuple[Any, ...]) -> None:
    recorder = Recorder()
    run(recorder, operation)
    assert recorder.calls == [call]


def test_data_is_wrapped() -> None:
    (data,) = run(Recorder(), "<get/>")
    assert data.tag == f"{{{BASE_NS}}}data"
    assert [child.tag for child in data] == ["{urn:a}t", "{urn:a}t"]


EDIT = "<edit-config><target><running/></target>{}<config/></edit-config>"


@pytest.mark.parametrize(
    ("operation", "tag", "message"),
    [
        ("<get-config/>", "missing-element", "<get-config> lacks <source>"),
        ("<get><x/></get>", "unknown-element", "<x> is unknown in <get>"),
        ("<lock><target/></lock>", "bad-element", "<target> must name one datastore"),
        ("<lock><target><x/></target></lock>", "unknown-element", "<x> is unknown in <target>"),
        (
            "<lock><target><candidate/></target></lock>",
            "operation-not-supported",
            "candidate is not supported as target",
        ),
        (
            EDIT.format("<default-operation>x</default-operation>"),
            "invalid-value",
            "default-operation 'x' is not one of merge, replace, none",
        ),
        (
            EDIT.format("<error-option>continue-on-error</error-option>"),
            "operation-not-supported",
            "error-option continue-on-error is not supported: edits are atomic",
        ),
        (
            "<edit-config><target><running/></target></edit-config>",
            "missing-element",
            "<edit-config> lacks <config>",
        ),
        (
            "<kill-session><session-id>4</session-id></kill-session>",
            "invalid-value",
            "a session cannot kill itself; use close-session",
        ),
        (
            "<kill-session><session-id>6</session-id></kill-session>",
            "invalid-value",
            "there is no session 6",
        ),
        (
            "<kill-session><session-id>-1</session-id></kill-session>",
            "invalid-value",
            "bad session-id '-1'",
        ),
        (
            SUBSCRIBE.format("<stopTime>2036-01-01T00:00:00Z</stopTime>"),
            "missing-element",
            "<create-subscription> lacks <startTime>",
        ),
        (
            SUBSCRIBE.format("<startTime>2020-02-30T00:00:00Z</startTime>"),
            "bad-element",
            "startTime '2020-02-30T00:00:00Z' is not a date and time of RFC 3339",
        ),
        (
            SUBSCRIBE.format("<startTime>9999-01-01T00:00:00Z</startTime>"),
            "bad-element",
            "startTime is in the future",
        ),
        (
            SUBSCRIBE.format(
                "<startTime>2020-01-01T00:00:00Z</startTime>"
                "<stopTime>2020-01-01T00:00:00Z</stopTime>"
            ),
            "bad-element",
            "stopTime is not later than startTime",
        ),
        ("<commit/>", "operation-not-supported", "<commit> is not supported"),
        (
            f'<action xmlns="{YANG_NS}"/>',
            "bad-element",
            "<action> must hold exactly one data tree",
        ),
    ],
)
def test_errors(operation: str, tag: str, message: str) -> None:
    with pytest.raises(RpcError) as failure:
        run(Recorder(), operation)
    assert [(error.tag.value, error.message) for error in failure.value.errors] == [(tag, message)]


@pytest.mark.parametrize("operation", [operation for operation, _ in CALLS[:-2]])
def test_nothing_happens_without_authorization(operation: str) -> None:
    recorder = Recorder(denied=True)
    with pytest.raises(RpcError, match=r"^denied$"):
        run(recorder, operation)
    assert recorder.calls == []
