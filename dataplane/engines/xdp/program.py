"""The reflector's program: loaded, with its maps."""

from __future__ import annotations

import struct
from pathlib import Path

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_PASS, run_program
from dataplane.engines.xdp.reflector_tables import ReflectorTables
from dataplane.stamp.session_reflector import SessionKey

SOURCE = Path(__file__).with_name("reflector.c")
FUNCTION = "reflector"

_NUMBERS = struct.Struct("=IIQ")
"""struct numbers_request: slot, how many, the first of them."""


class ReflectorProgram:
    """Compiles for some two seconds when it is made. Raises BpfError and LoadError."""

    def __init__(self) -> None:
        self._module = BpfModule(SOURCE)
        try:
            self.fd = self._module.load(FUNCTION)
            self._numbers_fd = self._module.load("take_numbers")
            self._module.free_compiler()
            self.tables = ReflectorTables(self._module)
        except Exception:
            self._module.close()
            raise

    def take_numbers(self, key: SessionKey, count: int) -> int:
        """The first of `count` sequence numbers of a stateful session, of which the
        program will use none. KeyError: no such session."""
        request = _NUMBERS.pack(self.tables.slots[key], count, 0)
        run = run_program(self._numbers_fd, request)
        if run.action != XDP_PASS:
            raise KeyError(key)
        first: int = _NUMBERS.unpack(run.data)[2]
        return first & 0xFFFFFFFF

    def close(self) -> None:
        """The kernel keeps the program for as long as it is attached."""
        self._module.close()
