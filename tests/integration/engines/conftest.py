from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.engines.network import Network


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test configures runs when it goes on, however busy the machine is."""
    monkeypatch.setattr("dataplane.engines.xdp.collector.WAIT_S", 60.0)


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as built:
        yield built
