"""Scripts of the README's tour, on a node that has nothing to tell."""

from __future__ import annotations

import io
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from ncclient import manager

TOUR = Path(__file__).parents[3] / "docs/tour"


class SilentNode:
    def __enter__(self) -> SilentNode:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def create_subscription(self, **_: Any) -> None:
        pass

    def take_notification(self, block: bool = True, timeout: float | None = None) -> None:
        assert timeout is not None, "this would take for ever"


def test_whoever_waits_for_an_interval_is_told_that_none_was_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.pub"
    key.write_text("ssh-ed25519 AAAA", encoding="ascii")
    access = {"host": "::1", "port": 830, "user": "root", "key_file": "k"}
    node = {"name": "edge2", "netconf": access | {"host_key_file": str(key)}}
    monkeypatch.setattr(manager, "connect", lambda **_: SilentNode())
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"nodes": [node]})))
    monkeypatch.setattr("sys.argv", ["notifications.py", "edge2"])
    with pytest.raises(SystemExit, match="no interval was closed on edge2 within a minute"):
        runpy.run_path(str(TOUR / "notifications.py"))
