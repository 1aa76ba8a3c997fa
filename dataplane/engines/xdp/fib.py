"""Lets programs ask the FIB on a node that does not forward packets.

`bpf_fib_lookup` answers for an interface that forwards, and programs ask on behalf of
the loopback interface, as the kernel does for packets of its own. Whether a node
forwards packets is another setting, that of all interfaces: it stays as it is.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

LOOPBACK_FORWARDING = tuple(
    Path(f"/proc/sys/net/{family}/conf/lo/forwarding") for family in ("ipv6", "ipv4")
)
"""Of the calling thread's network namespace."""


class FibAccess:
    """The setting of both families, until this object is closed. Where it cannot be made,
    replies go back to the neighbour that the request came from.

    `note` is a file of its own: which settings were 0 before, one path a line. It is there
    before they are 1, so that the successor of a process that was killed undoes them.
    """

    def __init__(self, note: Path) -> None:
        self._note = note
        self._changed: set[Path] = set()
        with contextlib.suppress(OSError):
            noted = note.read_text().splitlines()
            self._changed.update(path for path in LOOPBACK_FORWARDING if str(path) in noted)
        self.refresh()

    def refresh(self) -> None:
        """Make the setting, if it has not been made or has been undone."""
        for setting in LOOPBACK_FORWARDING:
            with contextlib.suppress(OSError):
                if setting.read_text().strip() == "0":
                    changed = self._changed | {setting}
                    self._note.write_text("".join(f"{path}\n" for path in sorted(changed)))
                    setting.write_text("1")
                    self._changed = changed

    def close(self) -> None:
        for setting in self._changed:
            with contextlib.suppress(OSError):
                setting.write_text("0")
        self._changed.clear()
        self._note.unlink(missing_ok=True)
