"""NETCONF filters and paths, translated between XML namespaces and module names.

libyang addresses nodes as ``/module:node``; a prefix is repeated only where the module changes.
NETCONF uses XML namespaces. ``modules`` is always a mapping from namespace to module name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lxml import etree

from tools.netconf_server.errors import ErrorTag, RpcError, bad_element, protocol_error
from tools.netconf_server.messages import BASE_NS, children, local_name, namespace_of, qname

ALL_NODES = "/*"

_LITERAL_OR_PREFIX = re.compile(
    r"""(?P<literal>"[^"]*"|'[^']*')|(?<![\w.-])(?P<prefix>[A-Za-z_][\w.-]*):(?=[A-Za-z_*])"""
)
_LITERAL_OR_STEP = re.compile(
    r"""(?P<literal>"[^"]*"|'[^']*')|(?P<lead>[/\[])(?P<name>[A-Za-z_@][\w.:@-]*)|(?P<close>\])"""
)
_PREDICATE = re.compile(r"""\[(?:"[^"]*"|'[^']*'|[^\]"'])*\]""")
_QNAME_VALUE = re.compile(r"([A-Za-z_][\w.-]*):([A-Za-z_][\w.-]*)")


def filter_to_xpaths(element: etree._Element | None, modules: Mapping[str, str]) -> list[str]:
    """XPaths in module names for a ``<filter>`` element (RFC 6241 sections 6 and 8.9).

    None (no filter) selects everything; an empty list selects nothing.

    :raises RpcError: the filter's type or its select attribute is wrong.
    """
    if element is None:
        return [ALL_NODES]
    kind = _attribute(element, "type") or "subtree"
    if kind == "subtree":
        return subtree_to_xpaths(element, modules)
    if kind == "xpath":
        select = _attribute(element, "select")
        if select is None:
            raise protocol_error(
                ErrorTag.MISSING_ATTRIBUTE,
                "<filter> of type xpath lacks select",
                ("bad-attribute", "select"),
                ("bad-element", "filter"),
            )
        return [xpath_to_modules(select, element.nsmap, modules)]
    raise protocol_error(
        ErrorTag.BAD_ATTRIBUTE,
        f"filter type {kind!r} is not supported",
        ("bad-attribute", "type"),
        ("bad-element", "filter"),
    )


def _attribute(element: etree._Element, name: str) -> str | None:
    """An attribute with or without the base namespace: both are seen in practice."""
    value = element.get(name)
    return value if value is not None else element.get(qname(BASE_NS, name))


def xpath_to_modules(
    xpath: str, namespaces: Mapping[str | None, str], modules: Mapping[str, str]
) -> str:
    """Replace the prefixes of an XPath, outside its literals, by module names.

    :raises RpcError: a prefix is not declared, or its namespace is not implemented.
    """

    def replace(match: re.Match[str]) -> str:
        prefix = match["prefix"]
        if prefix is None:
            return match[0]
        namespace = namespaces.get(prefix)
        if namespace is None:
            raise _bad_xpath(f"prefix {prefix!r} is not declared")
        if namespace not in modules:
            raise _bad_xpath(f"namespace {namespace!r} is not implemented")
        return f"{modules[namespace]}:"

    return _LITERAL_OR_PREFIX.sub(replace, xpath)


def _bad_xpath(message: str) -> RpcError:
    return protocol_error(
        ErrorTag.INVALID_VALUE,
        f"filter: {message}",
        ("bad-attribute", "select"),
        ("bad-element", "filter"),
    )


def subtree_to_xpaths(element: etree._Element, modules: Mapping[str, str]) -> list[str]:
    """The XPaths that together select what a subtree filter selects.

    Attribute match expressions are ignored: YANG data has no attributes. A namespace that is not
    implemented selects nothing; an element without namespace matches in every module.
    """
    if (element.text or "").strip() and not children(element):
        raise bad_element("filter", "a subtree filter cannot hold text alone")
    return [path for child in children(element) for path in _select(child, "", modules)]


def _select(element: etree._Element, parent: str, modules: Mapping[str, str]) -> Iterator[str]:
    step = _step(element, modules)
    if step is None:
        return
    inner = children(element)
    text = (element.text or "").strip()
    if not inner:
        yield f"{parent}/{step}" + (f"[{_equals('.', element, text, modules)}]" if text else "")
        return
    matches = [child for child in inner if not children(child) and (child.text or "").strip()]
    predicates = ""
    for match in matches:
        name = _step(match, modules)
        if name is None:
            return
        predicates += f"[{_equals(name, match, (match.text or '').strip(), modules)}]"
    path = f"{parent}/{step}{predicates}"
    selected = [child for child in inner if child not in matches]
    if not selected:
        yield path
        return
    for match in matches:
        yield f"{path}/{_step(match, modules)}"
    for child in selected:
        yield from _select(child, path, modules)


def _step(element: etree._Element, modules: Mapping[str, str]) -> str | None:
    namespace = namespace_of(element)
    name = local_name(element)
    if namespace is None:
        return f"*[local-name()='{name}']"
    return f"{modules[namespace]}:{name}" if namespace in modules else None


def _equals(operand: str, element: etree._Element, text: str, modules: Mapping[str, str]) -> str:
    """A comparison; a value like ``prefix:name`` is also tried as an identity."""
    comparison = f"{operand}={xpath_literal(text)}"
    value = _QNAME_VALUE.fullmatch(text)
    module = modules.get(element.nsmap.get(value[1], "")) if value else None
    if value is not None and module is not None:
        comparison += f" or {operand}={xpath_literal(f'{module}:{value[2]}')}"
    return comparison


def xpath_literal(text: str) -> str:
    """An XPath 1.0 expression whose value is the text; literals have no escapes there."""
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text:
        return f'"{text}"'
    parts = [f'"{part}"' if part == "'" else f"'{part}'" for part in re.split("(')", text) if part]
    return f"concat({','.join(parts)})"


def split_path_message(message: str) -> tuple[str | None, str]:
    """Path and text of ``/module:node…: text``, the form in which providers refuse; else None.

    The first colon followed by a space outside brackets ends the path.
    """
    if not message.startswith("/"):
        return None, message
    depth = 0
    quote = ""
    for index, char in enumerate(message):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and depth:
            quote = char
        elif char in "[]":
            depth += 1 if char == "[" else -1
        elif char == " " and not depth:
            head = message[:index]
            text = message[index + 1 :]
            return (head[:-1], text) if head.endswith(":") and text else (None, message)
    return None, message


def schema_path(path: str) -> str:
    """A data path without its predicates."""
    return _PREDICATE.sub("", path)


def path_to_xml(path: str, modules: Mapping[str, str]) -> tuple[str, dict[str, str]] | None:
    """A libyang data path with a prefix on every node, and the prefixes' namespaces.

    None if the path names a module that is not in ``modules``.
    """
    namespaces = {name: uri for uri, name in modules.items()}
    used: dict[str, str] = {}
    # A predicate's names belong to the module of the node before the bracket.
    current: list[str] = [""]
    pieces: list[str] = []
    position = 0
    for match in _LITERAL_OR_STEP.finditer(path):
        pieces.append(path[position : match.start()])
        position = match.end()
        if match["literal"] is not None:
            pieces.append(match[0])
        elif match["close"] is not None:
            if len(current) > 1:
                current.pop()
            pieces.append("]")
        else:
            lead = match["lead"]
            if lead == "[":
                current.append(current[-1])
            attribute = "@" if match["name"].startswith("@") else ""
            prefix, _, name = match["name"].removeprefix("@").rpartition(":")
            module = prefix or current[-1]
            if module not in namespaces:
                return None
            if not attribute:
                current[-1] = module
            used[module] = namespaces[module]
            pieces.append(f"{lead}{attribute}{module}:{name}")
    pieces.append(path[position:])
    return "".join(pieces), used
