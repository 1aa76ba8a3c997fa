"""Programs at the XDP hook of interfaces.

Rules that hold here:

- A program is attached by a link (bpf_link), which ends with the process that holds
  it, however that ends.
- Another program that is already there is never replaced.
- Where an interface is to have another program of ours it has one or the other for
  every packet, never none.
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
    program_info,
    update_link,
)
from dataplane.engines.base import Attachment, AttachmentMode
from dataplane.engines.driver.interfaces import Interface, Port, program_on

_OCCUPIED = (errno.EBUSY, errno.EEXIST)


class AttachError(Exception):
    """A program cannot be attached; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An interface, and what it is to have there."""

    interface: Interface
    program: int
    transmits: bool
    """Whether the program sends frames, which not every interface gets rid of."""

    native_only: bool = False
    """Whether it is worth nothing in generic mode."""

    @property
    def frames_lost(self) -> bool:
        return self.transmits and self.interface.drops_frames


@dataclass(slots=True)
class _Link:
    interface: Interface
    fd: int
    program: int
    mode: AttachmentMode
    note: str | None
    """Why the mode is not a better one."""

    could_not: bool
    """Whether the driver has refused it."""

    @property
    def attachment(self) -> Attachment:
        notes = [self.note] if self.note is not None else []
        if self.interface.hides_vlans:
            notes.append(_hides_vlans_text(self.interface))
        notes += map(_handed_on_text, self.interface.handed_on)
        return Attachment(self.interface.name, self.mode, "; ".join(notes) or None)


class Attachments:
    """What is attached, and where. The interfaces are those of the calling thread's
    network namespace."""

    def __init__(self) -> None:
        self._own_ids: set[int] = set()
        self._links: dict[str, _Link] = {}

    @property
    def generic(self) -> frozenset[str]:
        """Names of the interfaces that have their program in generic mode."""
        return frozenset(
            name for name, link in self._links.items() if link.mode is AttachmentMode.GENERIC
        )

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """By name of the interface."""
        return tuple(self._links[name].attachment for name in sorted(self._links))

    def of(self, name: str) -> Attachment | None:
        """What the interface of this name has."""
        link = self._links.get(name)
        return None if link is None else link.attachment

    def index(self, name: str) -> int:
        """Of an interface that has a program."""
        return self._links[name].interface.index

    def refresh(self, wanted: Iterable[Wanted]) -> dict[str, str]:
        """Have what is wanted and nothing else; what is in the way of that, by name of
        the interface."""
        places = {each.interface.name: each for each in wanted}
        for name, link in list(self._links.items()):
            place = places.get(name)
            if place is None or not _is_there(link, place) or not _switched(link, place):
                self._detach(name)
            else:
                link.interface = place.interface
        problems = {}
        for name, place in sorted(places.items()):
            if name not in self._links:
                try:
                    self._links[name] = self._attach(place)
                except AttachError as error:
                    problems[name] = str(error)
        return problems

    def close(self) -> None:
        """Have nothing anywhere."""
        for name in list(self._links):
            self._detach(name)

    def _attach(self, place: Wanted) -> _Link:
        self._own_ids.add(program_info(place.program).identifier)
        # What was detached a moment ago may have been seen there still.
        if place.interface.program_id not in {0, *self._own_ids}:
            raise AttachError(_occupied_text(place.interface.name, place.interface.program_id))
        return _attach(place)

    def _detach(self, name: str) -> None:
        os.close(self._links.pop(name).fd)


def _is_there(link: _Link, place: Wanted) -> bool:
    """Whether it is the same interface still, nobody has forced the link off, and
    the mode is what it would be now."""
    native = link.mode is AttachmentMode.NATIVE
    return (
        link.interface.index == place.interface.index
        and link_ifindex(link.fd) == place.interface.index
        and not (native and place.frames_lost)
        and (native or link.could_not or place.frames_lost)
    )


def _switched(link: _Link, place: Wanted) -> bool:
    """Have `link` hold the program that is wanted; whether it does."""
    if link.program != place.program:
        try:
            update_link(link.fd, place.program)
        except OSError:
            return False
        link.program = place.program
    return True


def _attach(place: Wanted) -> _Link:
    name = place.interface.name
    if place.frames_lost:
        note = f"the other end of {name} has no XDP program, and would take no frames of one here"
        return _attach_generic(place, note, could_not=False)
    try:
        fd = _attach_at(place, XDP_FLAGS_DRV_MODE)
    except OSError as error:
        note = _refused_text(name, error.errno or 0)
        if place.native_only:
            raise AttachError(note) from error
        return _attach_generic(place, note, could_not=True)
    return _Link(place.interface, fd, place.program, AttachmentMode.NATIVE, None, could_not=False)


def _attach_generic(place: Wanted, note: str, could_not: bool) -> _Link:
    try:
        fd = _attach_at(place, XDP_FLAGS_SKB_MODE)
    except OSError as error:
        text = os.strerror(error.errno or 0)
        name = place.interface.name
        raise AttachError(f"no XDP program can be attached to {name}: {text}") from error
    return _Link(place.interface, fd, place.program, AttachmentMode.GENERIC, note, could_not)


def _attach_at(place: Wanted, flags: int) -> int:
    """The descriptor of the link. Raises OSError, and AttachError where another program is
    there: it has come since the interface was looked at."""
    name, index = place.interface.name, place.interface.index
    try:
        return attach_xdp(place.program, index, flags)
    except OSError as error:
        if error.errno not in _OCCUPIED:
            raise
        raise AttachError(_occupied_text(name, program_on(index))) from error


def _refused_text(name: str, number: int) -> str:
    if number == errno.ERANGE:
        # A veth says so, and of its other end's.
        return f"the MTU of {name} is too large for an XDP program, or that of its other end is"
    if number == errno.EINVAL:
        return (
            f"the driver of {name} refuses the XDP program, "
            "as drivers do where the MTU is too large for one"
        )
    return f"no XDP in the driver of {name}: {os.strerror(number)}"


def _hides_vlans_text(interface: Interface) -> str:
    return (
        f"VLAN tags may be taken off frames of {interface.name} before the program sees them: "
        "what may have lost one is left to user space"
    )


def _handed_on_text(port: Port) -> str:
    return (
        f"{port.name} belongs to {port.master}, which gets its frames: they are left to the kernel"
    )


def _occupied_text(name: str, identifier: int) -> str:
    try:
        program = program_by_id(identifier).name or "without a name"
    except OSError as error:
        if error.errno == errno.ENOENT:
            return f"interface {name} had another XDP program, which has gone meanwhile"
        # The names of others' programs are told to CAP_SYS_ADMIN alone.
        program = "of someone else"
    return (
        f"interface {name} has the XDP program {program} (id {identifier}), which is not replaced"
    )
