"""Programs are compiled and loaded in a thread of their own: nobody waits for the compiler."""

from __future__ import annotations

import ctypes
import errno
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from dataplane.bpf.program import BpfError
from dataplane.bpf.syscall import LoadError
from dataplane.engines.common.loop import Loop

T = TypeVar("T")

_libc = ctypes.CDLL(None)

log = logging.getLogger(__name__)


def not_filled_text(error: Exception) -> str:
    """What an operator is told where a program's maps do not take what they should hold."""
    if getattr(error, "errno", None) == errno.E2BIG:
        return "the tables of the XDP program are full"
    return f"the tables of the XDP program cannot be filled: {error}"


def load_aside(
    name: str,
    loop: Loop,
    make: Callable[[], T],
    loaded: Callable[[T], None],
    refused: Callable[[str], None],
) -> threading.Thread:
    """Have `make` called in a thread `name`, and one of the others in that of `loop`:
    `loaded` with what it has made, or `refused` with the text for the operator."""

    def load() -> None:
        try:
            program = make()
            # The compiler leaves some 40 MB that are free. To give them back takes
            # milliseconds in which others wait for memory: better before packets are sent.
            _libc.malloc_trim(0)
        except Exception as error:
            # Whoever waits is to hear of it, whatever it was.
            problem = _refused_text(error)
            loop.post(lambda: refused(problem))
        else:
            loop.post(lambda: loaded(program))

    thread = threading.Thread(target=load, name=name, daemon=True)
    thread.start()
    return thread


def _refused_text(error: Exception) -> str:
    if isinstance(error, LoadError):
        return f"the kernel refuses the XDP program: {error.reason}"
    if isinstance(error, BpfError | OSError):
        return f"the XDP program cannot be loaded: {error}"
    log.error("loading an XDP program failed", exc_info=error)
    return f"the XDP program cannot be loaded: {type(error).__name__}: {error}"
