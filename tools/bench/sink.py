"""Where packets end and are counted: `sink.c` on the generator's side, and the bare
programs that engines are compared with on the system's."""

from __future__ import annotations

import os
import socket
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_FLAGS_DRV_MODE, attach_xdp
from tools.bench.namespace import inside

_SOURCE = Path(__file__).parent / "bpf" / "sink.c"
_PROGRAMS = ("sink_near", "sink_far", "bare_drop")
"""In the order of their entries in the map."""


@dataclass(frozen=True, slots=True)
class Counts:
    """`struct counts` of sink.c: packets by what they look like."""

    encapsulated: int
    """IPv6 in IPv6: data that has been forwarded."""

    reflected: int
    """UDP over IPv6, with or without an SRH."""

    plain: int
    """Other IPv6: neighbour discovery, ICMPv6 errors."""

    other: int

    def since(self, earlier: Counts) -> Counts:
        return Counts(
            *(now - then for now, then in zip(astuple(self), astuple(earlier), strict=True))
        )


COUNTS = np.dtype([(field.name, np.uint64) for field in fields(Counts)])


class Sinks:
    """The programs, and what they have counted."""

    def __init__(self) -> None:
        """Raises BpfError or LoadError."""
        self._module = BpfModule(_SOURCE, {"SINKS": len(_PROGRAMS)})
        self._programs = {
            name: self._module.load(name) for name in (*_PROGRAMS, "bare_tx", "pass_on")
        }
        self._counts = self._module.array("counts", COUNTS)
        self._module.free_compiler()
        self._links: dict[tuple[str, str], int] = {}

    def program(self, name: str) -> int:
        """The descriptor of a program, which belongs to this object."""
        return self._programs[name]

    def attach(self, program: str, namespace: str, device: str) -> None:
        """In native mode. Raises OSError."""
        with inside(namespace):
            index = socket.if_nametoindex(device)
            self._links[namespace, device] = attach_xdp(
                self._programs[program], index, XDP_FLAGS_DRV_MODE
            )

    def detach(self, namespace: str, device: str) -> None:
        """Nothing where nothing is attached."""
        link = self._links.pop((namespace, device), None)
        if link is not None:
            os.close(link)

    def counts(self, program: str) -> Counts:
        entry = self._counts[_PROGRAMS.index(program)]
        return Counts(**{name: int(entry[name]) for name in COUNTS.names or ()})

    def close(self) -> None:
        """Detach everything."""
        for place in list(self._links):
            self.detach(*place)
        del self._counts
        self._module.close()
