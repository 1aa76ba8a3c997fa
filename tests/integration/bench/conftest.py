from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tools.bench.bed import Bed, Settings


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """One bed for the tests of a module; this thread stays with the generator meanwhile."""
    affinity = os.sched_getaffinity(0)
    with Bed(Settings(tag="test")) as built:
        os.sched_setaffinity(0, {built.settings.generator_core})
        try:
            yield built
        finally:
            os.sched_setaffinity(0, affinity)
