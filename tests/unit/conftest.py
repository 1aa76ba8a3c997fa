"""The YANG module, loaded as a network element has it."""

from __future__ import annotations

from collections.abc import Iterator

import libyang
import pytest

from tools.repository import STAMP_FEATURES, STAMP_MODULE, search_directories


@pytest.fixture(scope="session")
def context() -> Iterator[libyang.Context]:
    paths = ":".join(str(path) for path in search_directories())
    with libyang.Context(search_path=paths) as context:
        context.load_module(STAMP_MODULE, enabled_features=list(STAMP_FEATURES))
        yield context
