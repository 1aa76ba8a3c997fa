from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.engines.network import Network


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as built:
        yield built
