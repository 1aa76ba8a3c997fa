"""Compiling, loading and running programs, and what is said when that fails."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from dataplane.bpf.btf import Field, Structure, map_types
from dataplane.bpf.program import BpfError, BpfModule, whole_text
from dataplane.bpf.syscall import (
    XDP_DROP,
    XDP_FLAGS_SKB_MODE,
    XDP_PASS,
    LoadError,
    attach_xdp,
    delete_element,
    link_ifindex,
    lookup_element,
    lookup_per_cpu,
    map_info,
    possible_cpus,
    program_by_id,
    program_info,
    run_program,
    update_element,
)
from tests.integration.engines.xdp.conftest import in_own_namespace

pytestmark = pytest.mark.integration

SOURCES = Path(__file__).parent
PACKET = bytes(64)


def test_maps_are_shared() -> None:
    module = BpfModule(SOURCES / "counting.c", {"ACTION": XDP_DROP})
    try:
        program = module.load("counting")
        module.free_compiler()
        run = run_program(program, PACKET, repeat=10)
        assert (run.action, run.data) == (XDP_DROP, PACKET)
        counted = module.array("shared", [("packets", "u8"), ("bytes", "u8")])
        assert counted[0].tolist() == (10, 640)
        counted["packets"] = 90
        run_program(program, PACKET)
        assert counted[0].tolist() == (91, 704)
        here = lookup_per_cpu(module.map_fd("everywhere"), bytes(4), 8)
        assert len(here) == possible_cpus()
        assert sum(struct.unpack("=Q", value)[0] for value in here) == 11
        with pytest.raises(ValueError, match="map shared has entries of 16 bytes, not 8"):
            module.array("shared", np.uint64)
    finally:
        module.close()


def test_entries() -> None:
    module = BpfModule(SOURCES / "counting.c", {"ACTION": XDP_PASS})
    try:
        fd = module.map_fd("by_name")
        key, value = b"ab", b"cdefghij"
        assert lookup_element(fd, key, 8) is None
        update_element(fd, key, value)
        assert lookup_element(fd, key, 8) == value
        assert delete_element(fd, key)
        assert not delete_element(fd, key)
        for number in range(4):
            update_element(fd, struct.pack("=H", number), value)
        with pytest.raises(OSError, match="Argument list too long"):
            update_element(fd, b"zz", value)
        info = map_info(fd)
        assert (info.name, info.key_size, info.value_size, info.max_entries) == ("by_name", 2, 8, 4)
    finally:
        module.close()


def test_types_of_maps() -> None:
    module = BpfModule(SOURCES / "counting.c", {"ACTION": XDP_PASS})
    try:
        key, value = map_types(module.map_fd("shared"))
        assert (key.name, key.size) == ("int", 4)
        assert value == Structure("counted", 16, {"packets": Field(0, 8), "bytes": Field(8, 8)})
    finally:
        module.close()


def test_what_the_compiler_says() -> None:
    with pytest.raises(BpfError, match=r"(?s)broken\.c does not compile:.*broken\.c:5:.*nowhere"):
        BpfModule(SOURCES / "broken.c")


def test_what_the_verifier_says() -> None:
    module = BpfModule(SOURCES / "refused.c")
    try:
        with pytest.raises(LoadError) as refusal:
            module.load("refused")
        assert refusal.value.reason == "R1 offset is outside of the packet"
        assert str(refusal.value).endswith("program refused is refused: Permission denied")
    finally:
        module.close()


def test_includes_come_with_their_places() -> None:
    text = whole_text(SOURCES / "counting.c")
    assert text.count("struct counted {") == 1
    assert '#line 1 "counted.h"' in text
    assert '#include "counted.h"' not in text


def test_a_link_is_attached_for_as_long_as_it_is_held() -> None:
    module = BpfModule(SOURCES / "counting.c", {"ACTION": XDP_PASS})
    try:
        program = module.load("counting")
        info = program_info(program)
        assert info.name == "counting"
        assert program_by_id(info.identifier) == info
        with in_own_namespace():
            link = attach_xdp(program, 1, XDP_FLAGS_SKB_MODE)
            assert link_ifindex(link) == 1
            with pytest.raises(OSError, match=r"busy|exists"):
                attach_xdp(program, 1, XDP_FLAGS_SKB_MODE)
            os.close(link)
            os.close(attach_xdp(program, 1, XDP_FLAGS_SKB_MODE))
    finally:
        module.close()
