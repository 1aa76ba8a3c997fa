"""Programs at the XDP hook of a veth, beside those of others."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import (
    XDP_FLAGS_DRV_MODE,
    XDP_FLAGS_SKB_MODE,
    attach_xdp,
    program_info,
)
from dataplane.engines.base import AttachmentMode
from dataplane.engines.driver import attach
from dataplane.engines.driver.attach import Attachments, Wanted
from dataplane.engines.driver.interfaces import Interface, Kernel, program_on
from tests.integration.engines.network import Network, inside, ip

pytestmark = pytest.mark.integration

NO_PROGRAM = NO_INTERFACE = 0x7FFFFFFF

SOURCE = """
int own(struct xdp_md *ctx) { return XDP_PASS; }
int other(struct xdp_md *ctx) { return XDP_PASS; }
"""


@dataclass
class Place:
    """An interface without a program, seen from its namespace, and programs for it."""

    interface: Interface
    own: int
    other: int

    @property
    def index(self) -> int:
        return self.interface.index


@pytest.fixture
def place(network: Network, tmp_path: Path) -> Iterator[Place]:
    source = tmp_path / "programs.c"
    source.write_text(SOURCE)
    module = BpfModule(source)
    try:
        with inside(network.sender):
            kernel = Kernel()
            (interface,) = kernel.devices(("va",)).interfaces
            kernel.close()
            yield Place(interface, module.load("own"), module.load("other"))
    finally:
        module.close()


@pytest.mark.parametrize("theirs", [XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE])
@pytest.mark.parametrize("transmits", [False, True])
def test_a_program_that_has_come_since_the_look_is_named(
    place: Place, theirs: int, transmits: bool
) -> None:
    assert place.interface.drops_frames
    link = attach_xdp(place.other, place.index, theirs)
    identifier = program_info(place.other).identifier
    attachments = Attachments()
    try:
        assert attachments.refresh([Wanted(place.interface, place.own, transmits)]) == {
            "va": f"interface va has the XDP program other (id {identifier}), which is not replaced"
        }
        assert program_on(place.index) == identifier
        assert attachments.attachments == ()
    finally:
        attachments.close()
        os.close(link)


def test_nor_is_one_replaced_whose_name_is_not_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_identifier: int) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(attach, "program_by_id", denied)
    seen = replace(place.interface, program_id=1234)
    assert Attachments().refresh([Wanted(seen, place.own, False)]) == {
        "va": "interface va has the XDP program of someone else (id 1234), which is not replaced"
    }


def in_generic_mode_because(place: Place) -> str | None:
    attachments = Attachments()
    try:
        assert attachments.refresh([Wanted(place.interface, place.own, False)]) == {}
        (attachment,) = attachments.attachments
        assert attachment.mode is AttachmentMode.GENERIC
        return attachment.note
    finally:
        attachments.close()


def test_the_mtu_of_the_other_end_is_too_large(network: Network, place: Place) -> None:
    ip("-n", network.router, "link", "set", "ra", "mtu", "9000")
    assert in_generic_mode_because(place) == (
        "the MTU of va is too large for an XDP program, or that of its other end is"
    )


@pytest.mark.parametrize(
    ("number", "note"),
    [
        (
            errno.EINVAL,
            "the driver of va refuses the XDP program, "
            "as drivers do where the MTU is too large for one",
        ),
        (errno.EOPNOTSUPP, "no XDP in the driver of va: Operation not supported"),
    ],
)
def test_the_driver_refuses(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: int, note: str
) -> None:
    def refusing(program: int, index: int, flags: int) -> int:
        if flags == XDP_FLAGS_DRV_MODE:
            raise OSError(number, os.strerror(number))
        return attach_xdp(program, index, flags)

    monkeypatch.setattr(attach, "attach_xdp", refusing)
    assert in_generic_mode_because(place) == note


def test_one_that_has_gone_since_the_look_has_no_name(place: Place) -> None:
    seen = replace(place.interface, program_id=NO_PROGRAM)
    assert Attachments().refresh([Wanted(seen, place.own, False)]) == {
        "va": "interface va had another XDP program, which has gone meanwhile"
    }


def test_no_program_on_an_interface_that_is_not_there(place: Place) -> None:
    assert program_on(place.index) == 0
    assert program_on(NO_INTERFACE) == 0
