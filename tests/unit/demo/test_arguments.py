"""The options of the demonstration, before anything is set up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[3] / "tools/demo.sh"


def test_help_needs_nothing_but_python(tmp_path: Path) -> None:
    # Without site-packages it is the interpreter of a machine that is not set up.
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PATH": f"{tmp_path}:/usr/bin:/bin", "STAMP_VENV": str(tmp_path / "none")}
    done = subprocess.run(
        [str(DEMO), "--help"], env=environment, capture_output=True, text=True, check=True
    )
    for option in ("--json FILE", "--duration SECONDS", "--keep"):
        assert option in done.stdout
