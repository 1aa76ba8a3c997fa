"""The XDP hook of interfaces, which both roles of an engine may want.

An interface has one program: that of the role which wants it, or, where both do, the
collector's with the reflector's behind it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from dataplane.engines.base import Attachment, Role
from dataplane.engines.driver.attach import Attachments, Wanted
from dataplane.engines.driver.interfaces import Interface
from dataplane.engines.hook_claims import HookClaims

_Roles = frozenset[Role]
_BOTH = frozenset(Role)


class Hook:
    """Belongs to one thread."""

    def __init__(self, claims: HookClaims | None = None) -> None:
        self._claims = claims or HookClaims()
        self._wanted: dict[Role, dict[str, Interface]] = {}
        self._programs: dict[_Roles, int] = {}
        self._attachments = Attachments()
        self._first: int | None = None
        self._set_next: Callable[[int], None] | None = None

    def reflector(self, program: int) -> Share:
        """For a Session-Reflector's program."""
        return self._share(Role.REFLECTOR, program)

    def collector(self, program: int, first: int, set_next: Callable[[int], None]) -> Share:
        """For a collector's program; `first` is the one that has another one behind it,
        which is what `set_next` makes it."""
        self._first, self._set_next = first, set_next
        return self._share(Role.SENDER, program)

    def _share(self, role: Role, program: int) -> Share:
        self._programs[frozenset({role})] = program
        self._wanted[role] = {}
        reflector = self._programs.get(frozenset({Role.REFLECTOR}))
        if reflector is not None and self._first is not None and self._set_next is not None:
            self._set_next(reflector)
            self._programs[_BOTH] = self._first
        return Share(self, role)

    def refresh(self, role: Role, wanted: Iterable[Interface]) -> str | None:
        """Have `role` served on `wanted` and nowhere else; what is in the way of that."""
        self._wanted[role] = {interface.name: interface for interface in wanted}
        names = {name for each in self._wanted.values() for name in each}
        vacated = self._claims.claim(self, names)
        places = {}
        for asking, interfaces in self._wanted.items():
            # What was seen last is nearest to the truth.
            for name, interface in interfaces.items():
                if name not in places or asking is role:
                    if name in vacated:
                        interface = dataclasses.replace(interface, program_id=0)
                    roles = self._roles(name)
                    places[name] = Wanted(interface, self._programs[roles], Role.REFLECTOR in roles)
        problems = self._attachments.refresh(places.values())
        return next((problems[name] for name in self._wanted[role] if name in problems), None)

    def attachments(self, role: Role) -> tuple[Attachment, ...]:
        """Where `role` is served, by name of the interface."""
        found = map(self._attachments.of, sorted(self._wanted.get(role, ())))
        return tuple(attachment for attachment in found if attachment is not None)

    def generic(self, role: Role) -> frozenset[int]:
        """Indices of the interfaces where `role` is served in generic mode."""
        names = self._attachments.generic & self._wanted.get(role, {}).keys()
        return frozenset(map(self._attachments.index, names))

    def leave(self, role: Role) -> None:
        """`role` has no program any more."""
        self.refresh(role, ())
        del self._wanted[role]
        for roles in [each for each in self._programs if role in each]:
            del self._programs[roles]
        if role is Role.SENDER:
            self._first = self._set_next = None

    def _roles(self, name: str) -> _Roles:
        return frozenset(role for role, wanted in self._wanted.items() if name in wanted)


class Share:
    """What one role has of a hook; `Attachments` in its eyes."""

    def __init__(self, hook: Hook, role: Role) -> None:
        self._hook = hook
        self._role = role

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        return self._hook.attachments(self._role)

    @property
    def generic(self) -> frozenset[int]:
        return self._hook.generic(self._role)

    def refresh(self, wanted: Iterable[Interface]) -> str | None:
        return self._hook.refresh(self._role, wanted)

    def close(self) -> None:
        self._hook.leave(self._role)
