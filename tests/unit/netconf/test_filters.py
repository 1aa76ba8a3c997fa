"""Filters and paths between XML namespaces and module names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from tools.netconf_server.errors import ErrorTag, RpcError
from tools.netconf_server.filters import (
    filter_to_xpaths,
    path_to_xml,
    split_path_message,
    xpath_literal,
    xpath_to_modules,
)

MODULES = {"urn:a": "mod-a", "urn:b": "mod-b"}


def select(content: str) -> list[str]:
    return filter_to_xpaths(
        etree.fromstring(f'<filter xmlns="urn:nc" type="subtree">{content}</filter>'), MODULES
    )


@pytest.mark.parametrize(
    ("content", "xpaths"),
    [
        ("", []),
        ('<t xmlns="urn:a"/>', ["/mod-a:t"]),
        ('<t xmlns="urn:a"/><u xmlns="urn:b"/>', ["/mod-a:t", "/mod-b:u"]),
        ('<t xmlns="urn:x"/>', []),
        ('<t xmlns="urn:a"><u xmlns="urn:x"/></t>', []),
        ('<t xmlns=""/>', ["/*[local-name()='t']"]),
        ('<t xmlns="urn:a"><l><k> 1 </k></l></t>', ["/mod-a:t/mod-a:l[mod-a:k='1']"]),
        (
            '<t xmlns="urn:a"><l><k>1</k><v/><s xmlns="urn:b"><x/></s></l></t>',
            [
                "/mod-a:t/mod-a:l[mod-a:k='1']/mod-a:k",
                "/mod-a:t/mod-a:l[mod-a:k='1']/mod-a:v",
                "/mod-a:t/mod-a:l[mod-a:k='1']/mod-b:s/mod-b:x",
            ],
        ),
        (
            '<t xmlns="urn:a"><k>1</k><m>2</m></t>',
            ["/mod-a:t[mod-a:k='1'][mod-a:m='2']"],
        ),
        (
            '<t xmlns="urn:a" xmlns:p="urn:b"><k>p:one</k></t>',
            ["/mod-a:t[mod-a:k='p:one' or mod-a:k='mod-b:one']"],
        ),
        ('<t xmlns="urn:a"><k>q:one</k></t>', ["/mod-a:t[mod-a:k='q:one']"]),
        ('<t xmlns="urn:a"><k>it\'s</k></t>', ['/mod-a:t[mod-a:k="it\'s"]']),
        ('<t xmlns="urn:a">5</t>', ["/mod-a:t[.='5']"]),
        ('<t xmlns="urn:a"><!-- c --><u/></t>', ["/mod-a:t/mod-a:u"]),
    ],
)
def test_subtree(content: str, xpaths: list[str]) -> None:
    assert select(content) == xpaths


@pytest.mark.parametrize(
    ("xpath", "expected"),
    [
        ("/p:t/p:l[p:k='q:x']", "/mod-a:t/mod-a:l[mod-a:k='q:x']"),
        ('//q:u[.="p:t"]', '//mod-b:u[.="p:t"]'),
        ("/child::p:t/descendant::q:*", "/child::mod-a:t/descendant::mod-b:*"),
        ("/p:t|/q:u", "/mod-a:t|/mod-b:u"),
        ("/p:t[count(p:l)>1 and p:x]", "/mod-a:t[count(mod-a:l)>1 and mod-a:x]"),
    ],
)
def test_xpath_prefixes(xpath: str, expected: str) -> None:
    assert xpath_to_modules(xpath, {"p": "urn:a", "q": "urn:b"}, MODULES) == expected


def bad(text: str) -> tuple[ErrorTag, str]:
    with pytest.raises(RpcError) as failure:
        filter_to_xpaths(etree.fromstring(text), MODULES)
    error = failure.value.errors[0]
    return error.tag, error.message


def test_bad_filters() -> None:
    assert bad('<filter type="xpath"/>') == (
        ErrorTag.MISSING_ATTRIBUTE,
        "<filter> of type xpath lacks select",
    )
    assert bad('<filter type="regex"/>') == (
        ErrorTag.BAD_ATTRIBUTE,
        "filter type 'regex' is not supported",
    )
    assert bad('<filter type="xpath" select="/p:t"/>') == (
        ErrorTag.INVALID_VALUE,
        "filter: prefix 'p' is not declared",
    )
    assert bad('<filter xmlns:p="urn:x" type="xpath" select="/p:t"/>') == (
        ErrorTag.INVALID_VALUE,
        "filter: namespace 'urn:x' is not implemented",
    )
    assert bad("<filter>text</filter>")[0] is ErrorTag.BAD_ELEMENT


def test_no_filter_selects_everything() -> None:
    assert filter_to_xpaths(None, MODULES) == ["/*"]


@given(st.text(st.sampled_from("ab'\" ]"), max_size=12))
def test_literals_have_the_value_of_the_text(text: str) -> None:
    assert etree.XML("<a/>").xpath(f"string({xpath_literal(text)})") == text


@pytest.mark.parametrize(
    ("path", "expected", "namespaces"),
    [
        ("/mod-a:t/l[k='x/y:z']/v", "/mod-a:t/mod-a:l[mod-a:k='x/y:z']/mod-a:v", {"mod-a"}),
        ("/mod-a:t/mod-b:u/v", "/mod-a:t/mod-b:u/mod-b:v", {"mod-a", "mod-b"}),
        (
            "/mod-a:t/l[k='1'][m='2']/v",
            "/mod-a:t/mod-a:l[mod-a:k='1'][mod-a:m='2']/mod-a:v",
            {"mod-a"},
        ),
        ("/mod-a:t/l[3]", "/mod-a:t/mod-a:l[3]", {"mod-a"}),
        ("/mod-a:t/n[.='v']", "/mod-a:t/mod-a:n[.='v']", {"mod-a"}),
    ],
)
def test_path_to_xml(path: str, expected: str, namespaces: set[str]) -> None:
    found = path_to_xml(path, MODULES)
    assert found is not None
    assert found[0] == expected
    assert set(found[1]) == namespaces
    assert found[1]["mod-a"] == "urn:a"


def test_path_of_an_unknown_module() -> None:
    assert path_to_xml("/other:t", MODULES) is None


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ("/mod-a:t/l[k='a: b]']: why not", "/mod-a:t/l[k='a: b]']"),
        ("/mod-a:t: why", "/mod-a:t"),
        ("/mod-a:t is wrong: why", None),
        ("/mod-a:t:", None),
        ("no path: here", None),
    ],
)
def test_path_of_a_refusal(message: str, path: str | None) -> None:
    assert split_path_message(message)[0] == path
