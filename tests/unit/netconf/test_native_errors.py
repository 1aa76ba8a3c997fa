"""Errors of the libraries as NETCONF errors, edits, capabilities and monitoring data."""

from __future__ import annotations

import pytest
from lxml import etree

from tools.netconf_server.capabilities import BASE_CAPABILITIES, ModuleInfo, build_capabilities
from tools.netconf_server.edits import OPERATION, complete_replacement, without_empty_removals
from tools.netconf_server.errors import ErrorTag, ErrorType, NetconfError
from tools.netconf_server.messages import BASE_NS
from tools.netconf_server.native_errors import (
    BothCases,
    ErrorItem,
    NativeError,
    RefusedNode,
    SrCode,
    both_cases,
    locking_session,
    refused_node,
    to_rpc_error,
)

MODULES = {"urn:a": "mod-a"}


def convert(origin: str, *items: ErrorItem, app_tag: str | None = None) -> tuple[NetconfError, ...]:
    error = NativeError(origin, items[0].code, list(items))
    return to_rpc_error(error, MODULES, lambda path, message: app_tag).errors


def test_codes_are_those_of_the_library() -> None:
    lib = pytest.importorskip("_sysrepo").lib
    names = {
        f"SR_ERR_{code.name}": code.value for code in SrCode if hasattr(lib, f"SR_ERR_{code.name}")
    }
    assert names["SR_ERR_VALIDATION_FAILED"] == 9
    assert {name: getattr(lib, name) for name in names} == names


def test_must_violation() -> None:
    (error,) = convert(
        "sysrepo",
        ErrorItem(SrCode.VALIDATION_FAILED, 'a > b (path "/mod-a:t/u")'),
        app_tag="bounds",
    )
    assert error == NetconfError(
        ErrorType.APPLICATION,
        ErrorTag.OPERATION_FAILED,
        "a > b",
        app_tag="bounds",
        path="/mod-a:t/mod-a:u",
        path_namespaces={"mod-a": "urn:a"},
    )


def test_must_violation_found_by_libyang() -> None:
    item = ErrorItem(7, "a > b", app_tag="must-violation", path="/mod-a:t/u")
    (error,) = convert("libyang", item, app_tag="bounds")
    assert (error.tag, error.app_tag) == (ErrorTag.OPERATION_FAILED, "bounds")


def test_words_of_a_provider_are_no_must_violation() -> None:
    item = ErrorItem(SrCode.CALLBACK_FAILED, "/mod-a:t/u: a > b")
    (error,) = convert("sysrepo", item, app_tag="bounds")
    assert error.app_tag is None


def test_what_the_words_of_sysrepo_tell() -> None:
    assert refused_node(ErrorItem(6, 'Node "l" to be created already exists.')) == RefusedNode(
        "l", "create", True
    )
    assert refused_node(ErrorItem(5, 'Node "l" to be deleted does not exist.')) == RefusedNode(
        "l", "delete", False
    )
    assert refused_node(ErrorItem(5, 'Node "l" does not exist.')) == RefusedNode("l", "none", False)
    assert refused_node(ErrorItem(SrCode.CALLBACK_FAILED, 'Node "l" does not exist.')) is None
    assert refused_node(ErrorItem(5, "gone")) is None
    assert locking_session(ErrorItem(12, 'Module "m" is DS-locked by session 29.')) == 29
    assert locking_session(ErrorItem(12, "locked")) is None
    assert locking_session(ErrorItem(9, 'Module "m" is DS-locked by session 29.')) is None


def test_two_cases_of_a_choice() -> None:
    text = 'Data for both cases "a" and "b" exist.'
    item = ErrorItem(SrCode.VALIDATION_FAILED, f'{text} (path "/mod-a:t/l/c")')
    assert both_cases(item) == BothCases("/mod-a:t/l", frozenset({"a", "b"}))
    assert both_cases(ErrorItem(SrCode.VALIDATION_FAILED, text)) is None
    assert both_cases(ErrorItem(SrCode.CALLBACK_FAILED, item.message)) is None


@pytest.mark.parametrize(
    ("origin", "code", "message", "tag", "info"),
    [
        # RFC 7950 section 8.3.1.
        (
            "sysrepo",
            SrCode.VALIDATION_FAILED,
            'Data for both cases "a" and "b" exist.',
            ErrorTag.BAD_ELEMENT,
            (("bad-element", "a"),),
        ),
        (
            "libyang",
            7,
            'Node "x" not found as a child of "t" node.',
            ErrorTag.UNKNOWN_ELEMENT,
            (("bad-element", "x"),),
        ),
        ("libyang", 7, "Unsatisfied pattern", ErrorTag.INVALID_VALUE, ()),
        ("sysrepo", SrCode.LOCKED, "locked", ErrorTag.IN_USE, ()),
        ("sysrepo", SrCode.TIME_OUT, "too late", ErrorTag.OPERATION_FAILED, ()),
        ("sysrepo", SrCode.UNSUPPORTED, "nobody", ErrorTag.OPERATION_NOT_SUPPORTED, ()),
        # The words of a provider are not interpreted.
        ("sysrepo", SrCode.CALLBACK_FAILED, 'Node "x" not found', ErrorTag.OPERATION_FAILED, ()),
    ],
)
def test_tags(
    origin: str, code: int, message: str, tag: ErrorTag, info: tuple[tuple[str, str], ...]
) -> None:
    (error,) = convert(origin, ErrorItem(code, message))
    assert (error.tag, error.info, error.message) == (tag, info, message)


def test_refusal_of_a_provider_keeps_text_and_path() -> None:
    (error,) = convert("sysrepo", ErrorItem(SrCode.VALIDATION_FAILED, "/mod-a:t/u: too much"))
    assert (error.message, error.path) == ("/mod-a:t/u: too much", "/mod-a:t/mod-a:u")


def test_bad_attribute() -> None:
    (error,) = convert(
        "libyang", ErrorItem(7, "Invalid enum", path="/mod-a:t/l[k='a/b']/@ietf-netconf:operation")
    )
    assert error.tag is ErrorTag.BAD_ATTRIBUTE
    assert error.info == (("bad-attribute", "operation"), ("bad-element", "l"))
    assert error.path == "/mod-a:t/mod-a:l[mod-a:k='a/b']"


def test_all_errors_are_reported_but_not_the_summary() -> None:
    summary = ErrorItem(SrCode.VALIDATION_FAILED, "RPC input validation failed.")
    one, two = ErrorItem(9, "one"), ErrorItem(9, "two")
    assert [error.message for error in convert("sysrepo", one, two, summary)] == ["one", "two"]
    assert len(convert("sysrepo", summary)) == 1


def nodes(text: str) -> list[etree._Element]:
    return list(etree.fromstring(f'<c xmlns="urn:a" xmlns:nc="{BASE_NS}">{text}</c>'))


def test_empty_removals() -> None:
    assert without_empty_removals(nodes("<t><u>1</u></t>")) is None
    edit = nodes(
        '<t><u nc:operation="delete"/><v>1</v><l nc:operation="remove"><k>1</k><w/></l></t>'
    )
    kept = without_empty_removals(edit)
    assert kept is not None
    assert [etree.QName(node).localname for node in kept[0].iter()] == ["t", "v", "l", "k"]
    assert len(edit[0]) == 3
    assert without_empty_removals(nodes('<t nc:operation="delete"/>')) == []


def test_complete_replacement() -> None:
    current = nodes("<t><u>1</u></t><l>1</l><l>2</l>")
    result = complete_replacement(
        nodes("<t/><l>2</l>"),
        current,
        lambda node: node.text if etree.QName(node).localname == "l" else None,
    )
    found = [(etree.QName(n).localname, n.text, n.get(OPERATION)) for n in result]
    assert found == [("t", None, None), ("l", "2", None), ("l", "1", "remove")]
    assert current[1].get(OPERATION) is None


def test_capabilities() -> None:
    modules = [
        ModuleInfo("z", "2020-01-01", "urn:z", True, False, ("f", "g")),
        ModuleInfo("y", "", "urn:y", True, False),
        ModuleInfo("new", "2020-01-01", "urn:new", True, True),
        ModuleInfo("imported", "2020-01-01", "urn:i", False, False),
        ModuleInfo("ietf-netconf", "2013-09-29", BASE_NS, True, True, ("validate",)),
    ]
    assert build_capabilities(modules, "0x1") == (
        *BASE_CAPABILITIES,
        "urn:ietf:params:netconf:capability:validate:1.1",
        "urn:y?module=y",
        "urn:z?module=z&revision=2020-01-01&features=f,g",
    )
