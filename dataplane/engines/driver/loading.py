"""Programs are compiled and loaded in a thread of their own: nobody waits for the compiler."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from dataplane.allocator import give_back
from dataplane.bpf.program import BpfError
from dataplane.bpf.syscall import LoadError
from dataplane.engines.common.loop import Loop


class Program(Protocol):
    """What is loaded."""

    def close(self) -> None: ...


P = TypeVar("P", bound=Program)

log = logging.getLogger(__name__)


def not_filled_text(error: Exception) -> str:
    """What an operator is told where a program's maps do not take what they should hold."""
    if getattr(error, "errno", None) == errno.E2BIG:
        return "the tables of the XDP program are full"
    return f"the tables of the XDP program cannot be filled: {error}"


class Load(Generic[P]):
    """One program, under way: `make` is called in a thread `name`, and one of the others in
    that of `loop`, `loaded` with what it has made, or `refused` with the text for the operator.

    What else is here belongs to the thread of `loop`.
    """

    def __init__(
        self,
        name: str,
        loop: Loop,
        make: Callable[[], P],
        loaded: Callable[[P], None],
        refused: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._make, self._loaded, self._refused = make, loaded, refused
        self._wanted = True
        self._program: P | None = None
        self._handing_over = threading.Lock()
        # No daemon, as that of `loop` is: a process that ends while the compiler works crashes.
        threading.Thread(target=self._run, name=name, daemon=False).start()

    def abandon(self) -> None:
        """Nobody is told any more, nor waits: the program is closed once it is there."""
        with self._handing_over:
            self._wanted = False
            program, self._program = self._program, None
        if program is not None:
            program.close()

    def _run(self) -> None:
        try:
            program = self._make()
            # The compiler leaves some 40 MB that are free. To give them back takes
            # milliseconds in which others wait for memory: better before packets are sent.
            give_back()
        except Exception as error:
            # Whoever waits is to hear of it, whatever it was.
            problem = _refused_text(error)
            self._loop.post(lambda: self._tell_refused(problem))
            return
        with self._handing_over:
            if self._wanted:
                self._program = program
                self._loop.post(self._hand_over)
                return
        program.close()

    def _hand_over(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            self._loaded(program)

    def _tell_refused(self, problem: str) -> None:
        if self._wanted:
            self._refused(problem)


def _refused_text(error: Exception) -> str:
    if isinstance(error, LoadError):
        return f"the kernel refuses the XDP program: {error.reason}"
    if isinstance(error, BpfError | OSError):
        return f"the XDP program cannot be loaded: {error}"
    log.error("loading an XDP program failed", exc_info=error)
    return f"the XDP program cannot be loaded: {type(error).__name__}: {error}"
