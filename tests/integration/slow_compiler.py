"""A compiler of the engine xdp that takes its time, in processes that tests start."""

from __future__ import annotations

from pathlib import Path

_SITECUSTOMIZE = """
import time
from dataplane.engines.xdp import collector

compiled = collector.CollectorProgram

def slowly():
    time.sleep({seconds})
    return compiled()

collector.CollectorProgram = slowly
"""


def slow_compiler(folder: Path, seconds: float) -> str:
    """An entry of PYTHONPATH with which a Session-Sender's program takes `seconds` longer."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(seconds=seconds))
    return str(folder)
