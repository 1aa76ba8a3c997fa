"""Reading and editing through ncclient (RFC 6241 sections 6, 7.1, 7.2, 7.7, 8.6 and 8.9)."""

from __future__ import annotations

from typing import Any

import pytest
from lxml import etree
from ncclient import manager
from ncclient.operations import RPCError

from tests.conformance.conftest import Lab

pytestmark = pytest.mark.integration

NC_NS = "urn:ietf:params:xml:ns:netconf:base:1.0"
TEST_NS = "urn:example:netconf-test"
T = {"t": TEST_NS}
ITEMS = "<item><name>a</name><value>1</value></item><item><name>b</name><value>2</value></item>"


def config(content: str) -> str:
    return (
        f'<config xmlns="{NC_NS}" xmlns:nc="{NC_NS}">'
        f'<top xmlns="{TEST_NS}" xmlns:i="{TEST_NS}">{content}</top></config>'
    )


def edit(session: manager.Manager, content: str, **options: Any) -> None:
    assert session.edit_config(target="running", config=config(content), **options).ok


def fail(session: manager.Manager, content: str, **options: Any) -> RPCError:
    with pytest.raises(RPCError) as failure:
        session.edit_config(target="running", config=config(content), **options)
    error: RPCError = failure.value
    return error


def top(session: manager.Manager) -> dict[str, Any]:
    """The configuration below ``top``: leafs as text, items as a dictionary."""
    data = session.get_config(source="running", filter=("subtree", f'<top xmlns="{TEST_NS}"/>'))
    found: dict[str, Any] = {}
    for node in data.data_ele.iterfind("t:top/*", T):
        name = etree.QName(node).localname
        if name == "item":
            found[node.findtext("t:name", None, T)] = node.findtext("t:value", None, T)
        else:
            found[name] = node.text
    return found


def test_get_joins_configuration_and_state(lab: Lab) -> None:
    with lab.connect() as session:
        edit(session, ITEMS)
        everything = session.get().data_ele
        assert everything.findtext("t:top/t:item[t:name='b']/t:value", None, T) == "2"
        assert everything.findtext("t:top/t:item[t:name='b']/t:state/t:packets", None, T) == "200"
        only = session.get_config(source="running").data_ele
        assert only.findtext("t:top/t:item[t:name='b']/t:value", None, T) == "2"
        assert only.find(".//t:state", T) is None


FILTERS = [
    ("subtree", f'<top xmlns="{TEST_NS}"><item><name/></item></top>', ["name", "name"]),
    (
        "subtree",
        f'<top xmlns="{TEST_NS}"><item><name>b</name></item></top>',
        ["name", "value"],
    ),
    (
        "subtree",
        f'<top xmlns="{TEST_NS}"><item><value>1</value><name/></item></top>',
        ["name", "value"],
    ),
    ("subtree", '<top xmlns=""><item><name>b</name><value/></item></top>', ["name", "value"]),
    ("subtree", f'<top xmlns="{TEST_NS}"><nothing/></top>', []),
    ("subtree", '<top xmlns="urn:example:unknown"/>', []),
    ("xpath", (T, "/t:top/t:item[t:name='a']/t:value"), ["name", "value"]),
    ("xpath", (T, "//t:item[t:value > 5]"), []),
]


@pytest.mark.parametrize("operation", ["get", "get-config"])
def test_filters(lab: Lab, operation: str) -> None:
    with lab.connect() as session:
        edit(session, ITEMS + "<mtu>1400</mtu>")
        for kind, expression, expected in FILTERS:
            if operation == "get":
                data = session.get(filter=(kind, expression)).data_ele
            else:
                data = session.get_config(source="running", filter=(kind, expression)).data_ele
            found = [
                etree.QName(node).localname
                for node in data.iterfind(".//t:item/*", T)
                if etree.QName(node).localname != "state"
            ]
            assert found == expected, expression
            assert data.find(".//t:mtu", T) is None


def test_what_one_filter_selects_is_of_one_moment(lab: Lab) -> None:
    one = "<item><name>{}</name><state><reading/></state></item>"
    both = f'<top xmlns="{TEST_NS}">{one.format("a")}{one.format("b")}</top>'
    with lab.connect() as session:
        edit(session, ITEMS)
        for _ in range(2):
            data = session.get(filter=("subtree", both)).data_ele
            first, second = (node.text for node in data.iterfind(".//t:reading", T))
            assert first == second is not None


def test_identity_in_a_filter(lab: Lab) -> None:
    with lab.connect() as session:
        edit(session, "<shade>i:red</shade><mtu>1400</mtu>")
        for value, count in (("x:red", 1), ("x:blue", 0)):
            data = session.get_config(
                source="running",
                filter=(
                    "subtree",
                    f'<top xmlns="{TEST_NS}" xmlns:x="{TEST_NS}">'
                    f"<shade>{value}</shade><mtu/></top>",
                ),
            )
            assert len(data.data_ele.findall("t:top/t:mtu", T)) == count


def test_bad_filter(lab: Lab) -> None:
    with lab.connect() as session:
        for xpath in ("/t:top[", "count(/t:top)"):
            with pytest.raises(RPCError) as failure:
                session.get(filter=("xpath", (T, xpath)))
            assert failure.value.tag == "invalid-value", xpath


def test_node_operations(lab: Lab) -> None:
    with lab.connect() as session:
        edit(session, ITEMS)
        edit(session, '<item nc:operation="merge"><name>a</name><value>11</value></item>')
        assert top(session) == {"a": "11", "b": "2"}
        edit(session, '<item nc:operation="replace"><name>a</name></item>')
        assert top(session) == {"a": None, "b": "2"}
        edit(session, '<item nc:operation="create"><name>c</name><value>3</value></item>')
        assert top(session) == {"a": None, "b": "2", "c": "3"}
        assert fail(session, '<item nc:operation="create"><name>c</name></item>').tag == (
            "data-exists"
        )
        edit(session, '<item nc:operation="delete"><name>c</name></item>')
        assert fail(session, '<item nc:operation="delete"><name>c</name></item>').tag == (
            "data-missing"
        )
        edit(session, '<item nc:operation="remove"><name>c</name></item>')
        edit(session, '<item><name>b</name><value nc:operation="delete"/></item>')
        assert top(session) == {"a": None, "b": None}


def test_default_operations(lab: Lab) -> None:
    with lab.connect() as session:
        edit(session, ITEMS + "<mtu>1400</mtu>")
        edit(
            session,
            '<item><name>a</name><value nc:operation="replace">5</value></item>',
            default_operation="none",
        )
        assert top(session) == {"a": "5", "b": "2", "mtu": "1400"}
        error = fail(
            session,
            '<item><name>zz</name><value nc:operation="merge">5</value></item>',
            default_operation="none",
        )
        assert error.tag == "data-missing"
        edit(session, "<lower>3</lower>", default_operation="replace")
        assert top(session) == {"lower": "3"}


def test_replace_covers_the_whole_datastore(lab: Lab) -> None:
    acm = "urn:ietf:params:xml:ns:yang:ietf-netconf-acm"
    with lab.connect() as session:
        edit(session, ITEMS)
        session.edit_config(
            target="running",
            config=f'<config xmlns="{NC_NS}"><nacm xmlns="{acm}">'
            "<write-default>permit</write-default></nacm></config>",
            default_operation="replace",
        )
        assert top(session) == {}
        data = session.get_config(source="running").data_ele
        assert data.findtext("n:nacm/n:write-default", None, {"n": acm}) == "permit"


def test_edits_are_atomic(lab: Lab) -> None:
    with lab.connect() as session:
        edit(session, ITEMS)
        for option in ("stop-on-error", "rollback-on-error"):
            fail(
                session,
                '<mtu>1400</mtu><item nc:operation="create"><name>a</name></item>',
                error_option=option,
            )
            assert top(session) == {"a": "1", "b": "2"}
        edit(session, "<mtu>1300</mtu>")
        assert top(session) == {"a": "1", "b": "2", "mtu": "1300"}


def test_test_only_changes_nothing(lab: Lab) -> None:
    with lab.connect() as session:
        edit(session, "<mtu>1400</mtu>", test_option="test-only")
        assert top(session) == {}
        error = fail(session, "<lower>4</lower><upper>3</upper>", test_option="test-only")
        assert error.message == "upper must not be less than lower"
        edit(session, "<mtu>1400</mtu>", test_option="test-then-set")
        assert top(session) == {"mtu": "1400"}


def test_validate(lab: Lab) -> None:
    with lab.connect() as session:
        assert session.validate(source="running").ok
        good = etree.fromstring(config("<lower>3</lower><upper>4</upper>"))
        assert session.validate(source=good).ok
        bad = etree.fromstring(config("<lower>4</lower><upper>3</upper>"))
        with pytest.raises(RPCError) as failure:
            session.validate(source=bad)
        assert failure.value.message == "upper must not be less than lower"
        assert failure.value.app_tag == "bounds"


def test_must_without_an_app_tag_is_a_must_violation(lab: Lab) -> None:
    """RFC 7950 section 15.4, whichever operation finds it."""
    content = "<lower>4</lower><ceiling>3</ceiling>"
    with lab.connect() as session:
        with pytest.raises(RPCError) as failure:
            session.validate(source=etree.fromstring(config(content)))
        for error in (
            fail(session, content),
            fail(session, content, test_option="test-only"),
            failure.value,
        ):
            assert (error.type, error.tag, error.app_tag, error.path, error.message) == (
                "application",
                "operation-failed",
                "must-violation",
                "/netconf-test:top/netconf-test:ceiling",
                "ceiling must not be less than lower",
            )
        with pytest.raises(RPCError) as failure:
            session.validate(source=etree.fromstring(config("<lower>4</lower><upper>3</upper>")))
        assert (failure.value.tag, failure.value.app_tag) == ("operation-failed", "bounds")


ITEM = "item[netconf-test:name='{}']"
REFUSED_NODES: list[tuple[str, dict[str, str], str, list[str]]] = [
    # content, options, tag, steps below top
    (
        '<item nc:operation="delete"><name>a</name></item>'
        '<item nc:operation="delete"><name>zz</name></item>',
        {},
        "data-missing",
        [ITEM.format("zz")],
    ),
    (
        '<item nc:operation="create"><name>n</name></item>'
        '<item nc:operation="create"><name>b</name></item>',
        {},
        "data-exists",
        [ITEM.format("b")],
    ),
    (
        '<item><name>b</name><value nc:operation="create">7</value></item>',
        {},
        "data-exists",
        [ITEM.format("b"), "value"],
    ),
    (
        '<item><name>n</name><value nc:operation="delete"/></item>',
        {},
        "data-missing",
        [ITEM.format("n"), "value"],
    ),
    (
        '<item><name>a</name><tag nc:operation="delete">q/r</tag></item>',
        {},
        "data-missing",
        [ITEM.format("a"), "tag[.='q/r']"],
    ),
    ('<mtu nc:operation="delete"/>', {}, "data-missing", ["mtu"]),
    ('<mtu nc:operation="delete">1500</mtu>', {}, "data-missing", ["mtu"]),
    (
        '<item><name>a</name></item><item><name>zz</name><value nc:operation="merge">5</value>'
        "</item>",
        {"default_operation": "none"},
        "data-missing",
        [ITEM.format("zz")],
    ),
    (
        '<item nc:operation="delete"><name>zz</name></item>',
        {"test_option": "test-only"},
        "data-missing",
        [ITEM.format("zz")],
    ),
]


def test_refused_node_is_located(lab: Lab) -> None:
    with lab.connect() as session:
        edit(session, ITEMS)
        for content, options, tag, steps in REFUSED_NODES:
            error = fail(session, content, **options)
            assert (error.tag, error.path) == (
                tag,
                "/netconf-test:top" + "".join(f"/netconf-test:{step}" for step in steps),
            ), content
            assert top(session) == {"a": "1", "b": "2"}, content


ERRORS = [
    # content, tag, app-tag, path, beginning of the message
    ("<foo/>", "unknown-element", None, "top", 'Node "foo" not found'),
    ("<mtu>12</mtu>", "invalid-value", None, "top/mtu", "Unsatisfied range"),
    ("<mtu>x</mtu>", "invalid-value", None, "top/mtu", "Invalid type uint16"),
    ("<item><value>1</value></item>", "missing-element", None, "top/item", "List instance is mis"),
    (
        "<lower>4</lower><upper>3</upper>",
        "operation-failed",
        "bounds",
        "top/upper",
        "upper must not be less than lower",
    ),
    (
        "<active-item>zz</active-item>",
        "data-missing",
        "instance-required",
        "top/active-item",
        "Invalid leafref value",
    ),
    (
        "<mtu>666</mtu>",
        "operation-failed",
        None,
        "top/mtu",
        "/netconf-test:top/mtu: 666 is not served here",
    ),
    ('<foo nc:operation="remove"/>', "unknown-element", None, None, 'Node "foo" not found'),
    ('<item nc:operation="remove"/>', "missing-element", None, None, "List instance"),
    ('<mtu nc:operation="frob">9</mtu>', "bad-attribute", None, "top/mtu", "Invalid enumeration"),
    (
        '<item><name>a</name><x xmlns="urn:none"/></item>',
        "unknown-namespace",
        None,
        None,
        'No module with namespace "urn:none"',
    ),
]


def test_errors_say_what_and_where(lab: Lab) -> None:
    with lab.connect() as session:
        for content, tag, app_tag, path, message in ERRORS:
            error = fail(session, content)
            assert (error.tag, error.app_tag) == (tag, app_tag), content
            assert error.message.startswith(message), content
            if path is not None:
                steps = "".join(f"/netconf-test:{step}" for step in path.split("/"))
                assert error.path == steps, content
                element = error.xml.find(f"{{{NC_NS}}}error-path")
                assert element.nsmap["netconf-test"] == TEST_NS
        assert top(session) == {}
        edit(session, "<mtu>1400</mtu>")


def test_what_is_not_announced_is_refused(lab: Lab) -> None:
    with lab.connect() as session:
        for datastore in ("candidate", "startup"):
            request = etree.fromstring(
                f'<get-config xmlns="{NC_NS}"><source><{datastore}/></source></get-config>'
            )
            with pytest.raises(RPCError) as failure:
                session.dispatch(request)
            assert failure.value.tag == "operation-not-supported"
        error = fail(session, "<mtu>1400</mtu>", error_option="continue-on-error")
        assert error.tag == "operation-not-supported"
        assert top(session) == {}
