"""What actions do to a session that goes away meanwhile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from dataplane.engines.base import EngineError
from dataplane.host.client import EngineHost
from sysrepo_plugin.actions import SESSION, Actions
from sysrepo_plugin.changes import Changes
from sysrepo_plugin.datastore import Refused


def test_a_fetch_that_is_refused_takes_no_records() -> None:
    records: list[Any] = [1, 2]

    def fetch(_ssid: int, maximum: int) -> list[Any]:
        taken, records[:maximum] = records[:maximum], []
        return taken

    def snapshot(ssid: int) -> None:
        raise EngineError(f"session {ssid} has no results")

    host = SimpleNamespace(results=SimpleNamespace(fetch=fetch, snapshot=snapshot))
    changes = SimpleNamespace(refusals=SimpleNamespace(sender={}))
    actions = Actions(cast(EngineHost, host), cast(Changes, changes))
    with pytest.raises(Refused, match=r"^session 5 has no results$"):
        actions.handlers()[f"{SESSION}/fetch-results"]({"ssid": "5"}, {"max": 10})
    assert records == [1, 2]
