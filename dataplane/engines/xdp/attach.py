"""A program at the XDP hook of interfaces.

Rules that hold here:

- A program is attached by a link (bpf_link), which ends with the process that holds
  it, however that ends.
- Another program that is already there is never replaced.
- Where a driver has no XDP of its own the kernel's generic one serves, which is slower.
"""

from __future__ import annotations

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
)
from dataplane.engines.base import Attachment, AttachmentMode
from dataplane.engines.xdp.interfaces import Interface

_VETH_NOTE = "the other end needs GRO or an XDP program, or it drops what is sent from here"
"""A veth takes frames of an XDP program only where it has a NAPI instance."""

_OCCUPIED = (errno.EBUSY, errno.EEXIST)


class AttachError(Exception):
    """A program cannot be attached; the text is for the operator."""


@dataclass(slots=True)
class _Link:
    ifindex: int
    fd: int
    attachment: Attachment


class Attachments:
    """Where one program is attached. The interfaces are those of the calling thread's
    network namespace."""

    def __init__(self, program: int) -> None:
        self._program = program
        self._links: dict[str, _Link] = {}

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """By name of the interface."""
        return tuple(self._links[name].attachment for name in sorted(self._links))

    def refresh(self, wanted: Iterable[Interface]) -> str | None:
        """Be attached to `wanted` and to nothing else; what is in the way of that."""
        interfaces = {interface.name: interface for interface in wanted}
        for name, link in list(self._links.items()):
            interface = interfaces.get(name)
            if interface is None or not _is_there(link, interface):
                self._detach(name)
        problem = None
        for name, interface in sorted(interfaces.items()):
            if name not in self._links:
                try:
                    self._links[name] = _attach(self._program, interface)
                except AttachError as error:
                    problem = problem or str(error)
        return problem

    def close(self) -> None:
        """Be attached to nothing."""
        for name in list(self._links):
            self._detach(name)

    def _detach(self, name: str) -> None:
        os.close(self._links.pop(name).fd)


def _is_there(link: _Link, interface: Interface) -> bool:
    """Whether it is the same interface still, and nobody has forced the link off."""
    return link.ifindex == interface.index and link_ifindex(link.fd) == interface.index


def _attach(program: int, interface: Interface) -> _Link:
    if interface.program_id:
        raise AttachError(_occupied_text(interface))
    try:
        fd = attach_xdp(program, interface.index, XDP_FLAGS_DRV_MODE)
    except OSError as native:
        return _attach_generic(program, interface, native)
    note = _VETH_NOTE if interface.needs_redirect else None
    return _Link(interface.index, fd, Attachment(interface.name, AttachmentMode.NATIVE, note))


def _attach_generic(program: int, interface: Interface, native: OSError) -> _Link:
    if native.errno in _OCCUPIED:
        raise AttachError(f"interface {interface.name} has another XDP program") from native
    why = f"no XDP in the driver of {interface.name}: {os.strerror(native.errno or 0)}"
    try:
        fd = attach_xdp(program, interface.index, XDP_FLAGS_SKB_MODE)
    except OSError as generic:
        text = os.strerror(generic.errno or 0)
        raise AttachError(f"no XDP program can be attached to {interface.name}: {text}") from None
    return _Link(interface.index, fd, Attachment(interface.name, AttachmentMode.GENERIC, why))


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
