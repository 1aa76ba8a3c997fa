"""The interfaces that packets of a role may arrive on."""

from __future__ import annotations

import socket


class InterfaceFilter:
    """Names from configuration, as the kernel's indices of the moment.

    An interface that is deleted and created again comes back with another
    index, so `refresh` is to be called now and then.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._indices: frozenset[int] | None = None
        self.missing: str | None = None
        """Which interface is missing, for the operator."""
        self.refresh()

    def refresh(self) -> str | None:
        """Ask the kernel again; returns `missing`."""
        indices = set()
        missing = None
        for name in self._names:
            try:
                indices.add(socket.if_nametoindex(name))
            except OSError:
                missing = missing or f"interface {name} does not exist"
        self._indices = frozenset(indices) if self._names else None
        self.missing = missing
        return missing

    @property
    def indices(self) -> frozenset[int] | None:
        """Those of the interfaces that exist; None where any will do."""
        return self._indices

    def admits(self, index: int) -> bool:
        return self._indices is None or index in self._indices
