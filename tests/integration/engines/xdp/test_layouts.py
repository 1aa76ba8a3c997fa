"""shared.h and layouts.py are two accounts of one thing."""

from __future__ import annotations

import enum
import re

import numpy as np
import pytest

from dataplane import histogram
from dataplane.bpf.btf import Field, Structure, map_types
from dataplane.bpf.program import BpfModule
from dataplane.engines.xdp import collector_layouts, layouts
from dataplane.measurement import RecordFlag
from dataplane.reflector_store import HandedUp
from dataplane.session_state import DISCARD_INDEX, DISCARD_SLOTS
from dataplane.stamp.errors import DiscardReason
from tests.integration.engines.xdp.conftest import SOURCES

pytestmark = pytest.mark.integration

SHARED = (SOURCES / "shared.h").read_text()
COLLECTION = (SOURCES / "collection.h").read_text()


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


@pytest.mark.parametrize("name", collector_layouts.MAPS)
def test_layouts_of_the_collector_are_the_compilers(collector_module: BpfModule, name: str) -> None:
    _, compiled = map_types(collector_module.map_fd(name))
    assert as_compiled(collector_layouts.MAPS[name], compiled.name) == compiled


def macros(prefix: str, text: str = SHARED) -> dict[str, int]:
    found = re.findall(rf"#define {prefix}(\w+)\s+(\d+)\b", text)
    return {name: int(value) for name, value in found}


def enumeration(name: str, text: str = SHARED) -> dict[str, int]:
    body = re.search(rf"enum {name} \{{(.*?)\}};", text, re.DOTALL)
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
    "limit",
    [
        "SESSIONS_MAX",
        "SEGMENTS_MAX",
        "SOURCES_MAX",
        "SSIDS_IN_WORD",
        "VLAN_TAGS_MAX",
        "WORDS_OF_SSIDS",
    ],
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


@pytest.mark.parametrize(
    "limit",
    ["SSIDS", "PORT_WORDS", "COLLECTOR_INTERFACES", "ORDER_MAX", "DIRECTIONS", "BUCKETS"],
)
def test_limits_of_the_collector(limit: str) -> None:
    assert macros("", COLLECTION)[limit] == getattr(collector_layouts, limit)
    if limit == "BUCKETS":
        assert collector_layouts.BUCKETS == histogram.BUCKETS


def test_flags_of_the_collector() -> None:
    for prefix, flags in (
        ("COMMAND_", collector_layouts.Command),
        ("COLLECTION_", collector_layouts.CollectionFlag),
    ):
        assert macros(prefix, COLLECTION) == {flag.name: flag.value for flag in flags}
    records = macros("RECORD_", COLLECTION)
    assert records.pop("FLAGS") == sum(RecordFlag)
    assert records == {flag.name: flag.value for flag in collector_layouts.SlotFlag}
    assert macros("COLLECTOR_", COLLECTION)["PARTIAL"] == collector_layouts.CollectorFlag.PARTIAL
    shifts = re.findall(r"#define COLLECTOR_(\w+) \(1ULL << (\d+)\)", COLLECTION)
    assert {name: 1 << int(shift) for name, shift in shifts} == {
        flag.name: flag.value for flag in collector_layouts.AdmittedFlag
    }


def test_reasons_of_the_collector() -> None:
    reasons = enumeration("collector_up", COLLECTION)
    assert reasons.pop("COLLECTOR_UP_REASONS") == collector_layouts.UP_REASONS
    assert reasons == {
        f"COLLECTOR_UP_{reason.name}": reason.value for reason in collector_layouts.CollectorUp
    }
    assert enumeration("outcome", COLLECTION) == {
        f"OUTCOME_{outcome.name}": outcome.value for outcome in collector_layouts.Outcome
    }
