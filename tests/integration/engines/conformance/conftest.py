"""The engine under test, on a stand of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.engines.registry import ENGINES
from tests.integration.engines.conformance.stand import MAIN, Running, Stand


@pytest.fixture
def stand() -> Iterator[Stand]:
    with Stand() as built:
        yield built


IN_DRIVER = "userspace-in-driver"
"""The userspace engine with interfaces, where it receives by AF_XDP."""


@pytest.fixture(params=[*sorted(ENGINES), IN_DRIVER])
def running(request: pytest.FixtureRequest, stand: Stand) -> Iterator[Running]:
    in_driver = request.param == IN_DRIVER
    if in_driver:
        # On a busy machine the compiler takes its time.
        waited = "dataplane.engines.userspace.driver_receiving.WAIT_S"
        request.getfixturevalue("monkeypatch").setattr(waited, 60.0)
    name = "userspace" if in_driver else request.param
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:
        engine = Running(stand, name, Path(folder), everywhere=in_driver)
        yield engine
        engine.close()
    assert not stand.has_program(MAIN)
