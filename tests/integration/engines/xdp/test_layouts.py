"""shared.h and layouts.py are two accounts of one thing."""

from __future__ import annotations

import enum
import re

import numpy as np
import pytest

from dataplane.bpf.btf import Field, Structure, map_types
from dataplane.bpf.program import BpfModule
from dataplane.engines.xdp import layouts
from dataplane.reflector_store import HandedUp
from dataplane.session_state import DISCARD_INDEX, DISCARD_SLOTS
from dataplane.stamp.errors import DiscardReason
from tests.integration.engines.xdp.conftest import SOURCES

pytestmark = pytest.mark.integration

SHARED = (SOURCES / "shared.h").read_text()


def as_compiled(dtype: np.dtype[np.void], name: str) -> Structure:
    fields = {}
    assert dtype.fields is not None
    for field in dtype.names or ():
        kind, offset = dtype.fields[field][:2]
        fields[field] = Field(offset, kind.itemsize)
    return Structure(name, dtype.itemsize, fields)


@pytest.mark.parametrize("name", layouts.MAPS)
def test_layouts_are_the_compilers(reflector_module: BpfModule, name: str) -> None:
    for ours, compiled in zip(
        layouts.MAPS[name], map_types(reflector_module.map_fd(name)), strict=True
    ):
        if ours is not None:
            assert as_compiled(ours, compiled.name) == compiled


def macros(prefix: str) -> dict[str, int]:
    found = re.findall(rf"#define {prefix}(\w+)\s+(\d+)", SHARED)
    return {name: int(value) for name, value in found}


def enumeration(name: str) -> dict[str, int]:
    body = re.search(rf"enum {name} \{{(.*?)\}};", SHARED, re.DOTALL)
    assert body is not None
    members = {}
    following = 0
    for member, value in re.findall(
        r"^\s*(\w+)(?:\s*=\s*(\d+))?\s*,", re.sub(r"/\*.*?\*/", "", body[1]), re.MULTILINE
    ):
        members[member] = following = int(value) if value else following
        following += 1
    return members


@pytest.mark.parametrize(
    ("prefix", "flags"),
    [
        ("SSID_", layouts.SsidFlag),
        ("INTERFACE_", layouts.InterfaceFlag),
        ("LOCAL_", layouts.LocalFlag),
        ("REFLECTOR_", layouts.ReflectorFlag),
        ("SESSION_", layouts.SessionFlag),
    ],
)
def test_flags(prefix: str, flags: type[enum.IntFlag]) -> None:
    assert macros(prefix) == {flag.name: flag.value for flag in flags}


@pytest.mark.parametrize(
    "limit", ["SESSIONS_MAX", "SEGMENTS_MAX", "SOURCES_MAX", "SSIDS_IN_WORD", "WORDS_OF_SSIDS"]
)
def test_limits(limit: str) -> None:
    assert macros("")[limit] == getattr(layouts, limit)


def test_reasons() -> None:
    handed_up = enumeration("handed_up")
    assert handed_up.pop("UP_REASONS") == layouts.UP_REASONS
    assert handed_up == {f"UP_{reason.name}": reason.value for reason in HandedUp}
    discarded = enumeration("discarded")
    assert discarded.pop("DISCARD_REASONS") == layouts.DISCARD_REASONS == DISCARD_SLOTS
    for name, index in discarded.items():
        assert DISCARD_INDEX[DiscardReason[name.removeprefix("DISCARD_")]] == index
