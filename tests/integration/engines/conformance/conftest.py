"""The engine under test, on a stand of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.engines.registry import ENGINES
from tests.integration.engines.conformance.stand import Running, Stand


@pytest.fixture
def stand() -> Iterator[Stand]:
    with Stand() as built:
        yield built


@pytest.fixture(params=sorted(ENGINES))
def running(request: pytest.FixtureRequest, stand: Stand) -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:
        engine = Running(stand, request.param, Path(folder))
        yield engine
        engine.close()
