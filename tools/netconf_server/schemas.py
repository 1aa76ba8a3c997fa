"""The YANG modules of a datastore: what is there, and their text (RFC 6022 section 3.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import libyang

from tools.netconf_server.capabilities import ModuleInfo
from tools.netconf_server.errors import (
    ErrorTag,
    ErrorType,
    NetconfError,
    RpcError,
    application_error,
)

_YANG_1_1 = 2
"""``LYS_VERSION_1_1``."""
_FILE_NAME = re.compile(r"(?P<name>[A-Za-z_][\w.-]*)(@(?P<revision>\d{4}-\d{2}-\d{2}))?\.yang")
_SUBMODULE = re.compile(r"\s*submodule\s+[\"']?(?P<name>[\w.-]+)", re.ASCII)
_BELONGS_TO = re.compile(r"belongs-to\s+[\"']?(?P<module>[\w.-]+)", re.ASCII)
_COMMENTS = re.compile(r"/\*.*?\*/|(?m:^\s*//.*$)", re.DOTALL)


def list_modules(context: Any) -> tuple[ModuleInfo, ...]:
    """Every module of a libyang context (a C pointer), imported ones included."""
    return tuple(_describe(module) for module in libyang.Context(cdata=context))


def _describe(module: Any) -> ModuleInfo:
    cdata = module.cdata
    return ModuleInfo(
        name=module.name(),
        revision=libyang.util.c2str(cdata.revision) or "",
        namespace=libyang.util.c2str(cdata.ns) or "",
        implemented=module.implemented(),
        yang_1_1=cdata.parsed.version == _YANG_1_1,
        features=tuple(feature.name() for feature in module.features() if feature.state()),
    )


def list_submodules(folder: Path, modules: Iterable[ModuleInfo]) -> tuple[ModuleInfo, ...]:
    """Submodules in the repository's folder of YANG files that belong to one of the modules."""
    owners = {module.name: module for module in modules}
    found: list[ModuleInfo] = []
    for path in sorted(folder.glob("*.yang")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None or match["name"] in owners:
            continue
        text = _COMMENTS.sub("", path.read_text(encoding="utf-8"))
        belongs = _BELONGS_TO.search(text) if _SUBMODULE.match(text) else None
        owner = owners.get(belongs["module"]) if belongs else None
        if owner is not None:
            found.append(
                ModuleInfo(
                    match["name"],
                    match["revision"] or "",
                    owner.namespace,
                    implemented=False,
                    yang_1_1=owner.yang_1_1,
                )
            )
    return tuple(found)


def find_schema(
    schemas: Iterable[ModuleInfo], identifier: str, version: str | None, language: str
) -> ModuleInfo:
    """The one schema that a ``<get-schema>`` asks for.

    :raises RpcError: there is none, or more than one.
    """
    matches = [
        schema
        for schema in schemas
        if schema.name == identifier and version in (None, schema.revision)
    ]
    if language != "yang" or not matches:
        wanted = f"{identifier}@{version}" if version else identifier
        raise application_error(
            ErrorTag.INVALID_VALUE, f"there is no schema {wanted} in format {language}"
        )
    if len(matches) > 1:
        raise RpcError(
            NetconfError(
                ErrorType.APPLICATION,
                ErrorTag.OPERATION_FAILED,
                f"schema {identifier} has more than one version",
                app_tag="data-not-unique",
            )
        )
    return matches[0]


def schema_text(context: Any, folder: Path, schema: ModuleInfo) -> str:
    """The YANG text as it was installed, or as libyang prints a module that is built in."""
    names = [f"{schema.name}.yang"]
    if schema.revision:
        names.insert(0, f"{schema.name}@{schema.revision}.yang")
    for name in names:
        path = folder / name
        if path.is_file():
            return path.read_text(encoding="utf-8")
    for module in libyang.Context(cdata=context):
        info = _describe(module)
        if (info.name, info.revision) == (schema.name, schema.revision):
            return str(module.print_mem("yang"))
    raise application_error(ErrorTag.OPERATION_FAILED, f"the text of {schema.name} is not there")
