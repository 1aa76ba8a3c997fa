"""A program at the other end of a link, so that it takes the frames of one."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_FLAGS_DRV_MODE, XDP_PASS, attach_xdp
from tests.integration.engines.network import inside

SOURCE = Path(__file__).parents[1] / "bpf" / "counting.c"


@contextlib.contextmanager
def counting_at(namespace: str, device: str) -> Iterator[None]:
    """A program that passes everything on is attached to a device, in its driver."""
    module = BpfModule(SOURCE, {"ACTION": XDP_PASS})
    try:
        with inside(namespace):
            index = socket.if_nametoindex(device)
            link = attach_xdp(module.load("counting"), index, XDP_FLAGS_DRV_MODE)
        try:
            yield
        finally:
            os.close(link)
    finally:
        module.close()
