"""Who has the XDP hook of an interface, among the engines of one process.

Some engines cannot work without a hook; others only work better with it, and leave it
to those.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

Yield = Callable[[frozenset[str]], frozenset[str]]
"""Given the interfaces that are claimed now: let go of their hooks; returns those that
were let go of. Called from any thread."""


class HookClaims:
    """May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[object, frozenset[str]] = {}
        self._yielding: dict[object, Yield] = {}

    def claim(self, owner: object, interfaces: Iterable[str]) -> frozenset[str]:
        """`owner` needs the hooks of exactly these interfaces; those that others have let
        go of for it."""
        names = frozenset(interfaces)
        with self._lock:
            if names:
                self._claims[owner] = names
            else:
                self._claims.pop(owner, None)
            yielding = list(self._yielding.values())
        claimed = self.claimed()
        return frozenset[str]().union(*(let_go(claimed) for let_go in yielding))

    def claimed(self) -> frozenset[str]:
        """Interfaces that are needed by somebody."""
        with self._lock:
            return frozenset[str]().union(*self._claims.values())

    def attend(self, owner: object, let_go: Yield) -> None:
        """`let_go` is called at every claim from now on."""
        with self._lock:
            self._yielding[owner] = let_go

    def leave(self, owner: object) -> None:
        """`owner` neither claims nor yields any more."""
        with self._lock:
            self._claims.pop(owner, None)
            self._yielding.pop(owner, None)
