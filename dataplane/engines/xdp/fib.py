"""Lets programs ask the FIB on a node that does not forward IPv6.

`bpf_fib_lookup` answers for an interface that forwards, and programs ask on behalf of
the loopback interface, as the kernel does for packets of its own. Whether a node
forwards packets is another setting, that of all interfaces: it stays as it is.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

LOOPBACK_FORWARDING = Path("/proc/sys/net/ipv6/conf/lo/forwarding")
"""Of the calling thread's network namespace."""


class FibAccess:
    """The setting, until this object is closed. Where it cannot be made, replies go
    back to the neighbour that the request came from."""

    def __init__(self) -> None:
        self._changed = False
        self.refresh()

    def refresh(self) -> None:
        """Make the setting, if it has not been made or has been undone."""
        with contextlib.suppress(OSError):
            if LOOPBACK_FORWARDING.read_text().strip() == "0":
                LOOPBACK_FORWARDING.write_text("1")
                self._changed = True

    def close(self) -> None:
        if self._changed:
            self._changed = False
            with contextlib.suppress(OSError):
                LOOPBACK_FORWARDING.write_text("0")
