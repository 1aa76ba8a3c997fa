"""What a reader of the stores keeps between two looks."""

from __future__ import annotations

import gc
from ipaddress import IPv6Address
from pathlib import Path

from dataplane.config import SenderSession
from dataplane.engines.base import session_store_path
from dataplane.host.results import Results
from dataplane.measurement import RecordRing
from dataplane.session_state import SessionState
from dataplane.store import SessionStore


def overlays() -> int:
    return sum(isinstance(each, SessionState | RecordRing) for each in gc.get_objects())


def test_nothing_that_a_look_needs_outlives_it(tmp_path: Path) -> None:
    config = SenderSession(1, IPv6Address("fd00::2"), IPv6Address("fd00::1"))
    SessionStore.create(session_store_path(tmp_path, 1), config).close()
    results, before = Results(tmp_path), overlays()
    assert results.snapshot(1, records=3).records == []
    assert results.fetch(1, 3) == []
    assert results.discard(1) == 0
    assert results.open_ssids() == (1,)
    assert overlays() == before
    results.remove_all()
