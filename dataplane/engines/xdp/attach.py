"""A program at the XDP hook of interfaces.

Rules that hold here:

- A program is attached by a link (bpf_link), which ends with the process that holds
  it, however that ends.
- Another program that is already there is never replaced.
- Where a driver has no XDP of its own the kernel's generic one serves, which is slower.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass

from dataplane.bpf.syscall import (
    XDP_FLAGS_DRV_MODE,
    XDP_FLAGS_SKB_MODE,
    attach_xdp,
    link_ifindex,
    program_by_id,
    program_info,
)
from dataplane.engines.base import Attachment, AttachmentMode
from dataplane.engines.xdp.interfaces import Interface

_OCCUPIED = (errno.EBUSY, errno.EEXIST)


class AttachError(Exception):
    """A program cannot be attached; the text is for the operator."""


@dataclass(slots=True)
class _Link:
    ifindex: int
    fd: int
    attachment: Attachment
    could_not: bool
    """Whether the driver has refused it."""


class Attachments:
    """Where one program is attached. The interfaces are those of the calling thread's
    network namespace."""

    def __init__(self, program: int, *, receives_only: bool = False) -> None:
        """A program that `receives_only` sends nothing by itself: the other end of a veth
        does not matter to it, nor is it worth anything in generic mode."""
        self._program = program
        self._receives_only = receives_only
        self._own_id = program_info(program).identifier
        self._links: dict[str, _Link] = {}

    @property
    def generic(self) -> frozenset[int]:
        """Indices of the interfaces that have the program in generic mode."""
        return frozenset(
            link.ifindex
            for link in self._links.values()
            if link.attachment.mode is AttachmentMode.GENERIC
        )

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """By name of the interface."""
        return tuple(self._links[name].attachment for name in sorted(self._links))

    def refresh(self, wanted: Iterable[Interface]) -> str | None:
        """Be attached to `wanted` and to nothing else; what is in the way of that."""
        interfaces = {interface.name: self._seen(interface) for interface in wanted}
        for name, link in list(self._links.items()):
            interface = interfaces.get(name)
            if interface is None or not _is_there(link, interface):
                self._detach(name)
        problem = None
        for name, interface in sorted(interfaces.items()):
            if name not in self._links:
                try:
                    self._links[name] = self._attach(interface)
                except AttachError as error:
                    problem = problem or str(error)
        return problem

    def close(self) -> None:
        """Be attached to nothing."""
        for name in list(self._links):
            self._detach(name)

    def _attach(self, interface: Interface) -> _Link:
        # What was detached a moment ago may have been seen there still.
        if interface.program_id not in (0, self._own_id):
            raise AttachError(_occupied_text(interface))
        return _attach(self._program, interface, generic=not self._receives_only)

    def _seen(self, interface: Interface) -> Interface:
        """An interface in this program's eyes."""
        sends = interface.drops_frames and not self._receives_only
        return dataclasses.replace(interface, drops_frames=sends)

    def _detach(self, name: str) -> None:
        os.close(self._links.pop(name).fd)


def _is_there(link: _Link, interface: Interface) -> bool:
    """Whether it is the same interface still, nobody has forced the link off, and
    the mode is what it would be now."""
    native = link.attachment.mode is AttachmentMode.NATIVE
    return (
        link.ifindex == interface.index
        and link_ifindex(link.fd) == interface.index
        and not (native and interface.drops_frames)
        and (native or link.could_not or interface.drops_frames)
    )


def _attach(program: int, interface: Interface, generic: bool) -> _Link:
    name = interface.name
    if interface.drops_frames:
        note = f"the other end of {name} has no XDP program, and would take no frames of one here"
        return _attach_generic(program, interface, note, could_not=False)
    try:
        fd = attach_xdp(program, interface.index, XDP_FLAGS_DRV_MODE)
    except OSError as error:
        if error.errno in _OCCUPIED:
            raise AttachError(f"interface {name} has another XDP program") from error
        note = f"no XDP in the driver of {name}: {os.strerror(error.errno or 0)}"
        if not generic:
            raise AttachError(note) from error
        return _attach_generic(program, interface, note, could_not=True)
    return _Link(interface.index, fd, Attachment(name, AttachmentMode.NATIVE, None), False)


def _attach_generic(program: int, interface: Interface, note: str, could_not: bool) -> _Link:
    name = interface.name
    try:
        fd = attach_xdp(program, interface.index, XDP_FLAGS_SKB_MODE)
    except OSError as error:
        text = os.strerror(error.errno or 0)
        raise AttachError(f"no XDP program can be attached to {name}: {text}") from error
    attachment = Attachment(name, AttachmentMode.GENERIC, note)
    return _Link(interface.index, fd, attachment, could_not)


def _occupied_text(interface: Interface) -> str:
    identifier = interface.program_id
    try:
        name = program_by_id(identifier).name or "without a name"
    except OSError:
        name = "that has gone"
    return (
        f"interface {interface.name} has the XDP program {name} (id {identifier}), "
        "which is not replaced"
    )
