"""The headers that programs share with user space, and the layouts there: two accounts of
one thing."""

from __future__ import annotations

import enum
import re
from pathlib import Path

import pytest

from dataplane import histogram
from dataplane.bpf.btf import map_types
from dataplane.bpf.program import BpfModule
from dataplane.engines.driver import layouts
from dataplane.engines.xdp import collector_layouts, reflector_layouts
from dataplane.measurement import RecordFlag
from dataplane.reflector_store import HandedUp
from dataplane.session_state import DISCARD_INDEX, DISCARD_SLOTS
from dataplane.stamp.errors import DiscardReason
from tests.integration.engines.driver.compiled import as_compiled, enumeration, macros
from tests.integration.engines.xdp.conftest import SOURCES

pytestmark = pytest.mark.integration

SHARED = Path(layouts.__file__).with_name("shared.h").read_text()
REFLECTION = (SOURCES / "reflection.h").read_text()
COLLECTION = (SOURCES / "collection.h").read_text()


@pytest.mark.parametrize("name", [*layouts.MAPS, *reflector_layouts.MAPS])
def test_layouts_are_the_compilers(reflector_module: BpfModule, name: str) -> None:
    kinds = (layouts.MAPS | reflector_layouts.MAPS)[name]
    for ours, compiled in zip(kinds, map_types(reflector_module.map_fd(name)), strict=True):
        if ours is not None:
            assert as_compiled(ours, compiled.name) == compiled


@pytest.mark.parametrize("name", collector_layouts.MAPS)
def test_layouts_of_the_collector_are_the_compilers(collector_module: BpfModule, name: str) -> None:
    _, compiled = map_types(collector_module.map_fd(name))
    assert as_compiled(collector_layouts.MAPS[name], compiled.name) == compiled


@pytest.mark.parametrize(
    ("prefix", "text", "flags"),
    [
        ("INTERFACE_", SHARED, layouts.InterfaceFlag),
        ("LOCAL_", SHARED, layouts.LocalFlag),
        ("SSID_", REFLECTION, reflector_layouts.SsidFlag),
        ("REFLECTOR_", REFLECTION, reflector_layouts.ReflectorFlag),
        ("SESSION_", REFLECTION, reflector_layouts.SessionFlag),
    ],
)
def test_flags(prefix: str, text: str, flags: type[enum.IntFlag]) -> None:
    assert macros(prefix, text) == {flag.name: flag.value for flag in flags}


@pytest.mark.parametrize("limit", ["VLAN_TAGS_MAX", "PORT_WORDS"])
def test_limits(limit: str) -> None:
    assert macros("", SHARED)[limit] == getattr(layouts, limit)


@pytest.mark.parametrize(
    "limit", ["SESSIONS_MAX", "SEGMENTS_MAX", "SOURCES_MAX", "SSIDS_IN_WORD", "WORDS_OF_SSIDS"]
)
def test_limits_of_the_reflector(limit: str) -> None:
    assert macros("", REFLECTION)[limit] == getattr(reflector_layouts, limit)


def test_reasons() -> None:
    handed_up = enumeration("handed_up", REFLECTION)
    assert handed_up.pop("UP_REASONS") == reflector_layouts.UP_REASONS
    assert handed_up == {f"UP_{reason.name}": reason.value for reason in HandedUp}
    discarded = enumeration("discarded", REFLECTION)
    assert discarded.pop("DISCARD_REASONS") == reflector_layouts.DISCARD_REASONS == DISCARD_SLOTS
    for name, index in discarded.items():
        assert DISCARD_INDEX[DiscardReason[name.removeprefix("DISCARD_")]] == index


@pytest.mark.parametrize(
    "limit",
    ["SSIDS", "COLLECTOR_INTERFACES", "COMMANDS", "ORDER_MAX", "DIRECTIONS", "BUCKETS"],
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
