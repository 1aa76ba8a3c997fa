"""The XDP hook of interfaces, which both roles of an engine may want.

An interface has one program: that of the role which wants it, or, where both do, the
collector's with the reflector's behind it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from dataplane.engines.base import Attachment, Role
from dataplane.engines.hook_claims import HookClaims
from dataplane.engines.xdp.attach import Attachments
from dataplane.engines.xdp.interfaces import Interface

_Roles = frozenset[Role]
_BOTH = frozenset(Role)


class Hook:
    """Belongs to one thread."""

    def __init__(self, claims: HookClaims | None = None) -> None:
        self._claims = claims or HookClaims()
        self._wanted: dict[Role, dict[str, Interface]] = {}
        self._attachments: dict[_Roles, Attachments] = {}
        self._first: int | None = None
        self._set_next: Callable[[int], None] | None = None
        self._reflector: int | None = None

    def reflector(self, program: int) -> Share:
        """For a Session-Reflector's program."""
        self._reflector = program
        return self._share(Role.REFLECTOR, program)

    def collector(self, program: int, first: int, set_next: Callable[[int], None]) -> Share:
        """For a collector's program; `first` is the one that has another one behind it,
        which is what `set_next` makes it."""
        self._first, self._set_next = first, set_next
        return self._share(Role.SENDER, program)

    def _share(self, role: Role, program: int) -> Share:
        self._attachments[frozenset({role})] = Attachments(program)
        self._wanted[role] = {}
        if self._wanted.keys() == _BOTH:
            assert self._first is not None
            assert self._set_next is not None
            assert self._reflector is not None
            self._set_next(self._reflector)
            self._attachments[_BOTH] = Attachments(self._first)
        return Share(self, role)

    def refresh(self, role: Role, wanted: Iterable[Interface]) -> str | None:
        """Have `role` served on `wanted` and nowhere else; what is in the way of that."""
        self._wanted[role] = {interface.name: interface for interface in wanted}
        vacated = self._claims.claim(self, self._interfaces())
        vacant = vacated.union(
            one.interface for each in self._attachments.values() for one in each.attachments
        )
        parts: dict[_Roles, list[Interface]] = {roles: [] for roles in self._attachments}
        for name, interface in self._interfaces().items():
            if name in vacant:
                interface = dataclasses.replace(interface, program_id=0)
            parts[self._roles(name)].append(interface)
        for roles, attachments in self._attachments.items():
            stay = {one.interface for one in attachments.attachments}
            attachments.refresh([one for one in parts[roles] if one.name in stay])
        problem = None
        for roles, attachments in self._attachments.items():
            found = attachments.refresh(parts[roles])
            if role in roles:
                problem = problem or found
        return problem

    def attachments(self, role: Role) -> tuple[Attachment, ...]:
        """Where `role` is served, by name of the interface."""
        found = [
            one
            for roles, attachments in self._attachments.items()
            if role in roles
            for one in attachments.attachments
        ]
        return tuple(sorted(found, key=lambda one: one.interface))

    def generic(self, role: Role) -> frozenset[int]:
        """Indices of the interfaces where `role` is served in generic mode."""
        found: frozenset[int] = frozenset()
        for roles, attachments in self._attachments.items():
            if role in roles:
                found |= frozenset(attachments.generic)
        return found

    def leave(self, role: Role) -> None:
        """`role` has no program any more."""
        self.refresh(role, ())
        for roles in [each for each in self._attachments if role in each]:
            self._attachments.pop(roles).close()
        self._wanted.pop(role, None)

    def _interfaces(self) -> dict[str, Interface]:
        return {name: one for each in self._wanted.values() for name, one in each.items()}

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
