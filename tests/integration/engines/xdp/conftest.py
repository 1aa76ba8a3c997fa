from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import dataplane.engines.xdp
from dataplane.bpf.program import BpfModule

SOURCES = Path(dataplane.engines.xdp.__file__).parent


@pytest.fixture(scope="package")
def reflector_module() -> Iterator[BpfModule]:
    """The reflector with a clock that the tests set."""
    module = BpfModule(SOURCES / "reflector.c", {"FIXED_CLOCK": 1})
    module.load("reflector")
    module.free_compiler()
    yield module
    module.close()
