"""netconf-console2, told how to reach a network element of the lab."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tools.lab.lab import NetconfAccess
from tools.stamp_client import STAMP_NS

PREFIX = "s"
"""For the names of the module srv6-stamp in XPaths."""


def console_command(access: NetconfAccess, arguments: Sequence[str]) -> list[str]:
    """The command line that has netconf-console2 do what `arguments` say."""
    return [
        *(str(Path(sys.executable).with_name("netconf-console2")),),
        *("--host", access.host, "--port", str(access.port)),
        *("--user", access.user, "--privKeyFile", str(access.key_file)),
        # Its default password would be tried as the key's passphrase, and the key has none.
        *("--password", "", "--ns", f"{PREFIX}={STAMP_NS}"),
        *arguments,
    ]
