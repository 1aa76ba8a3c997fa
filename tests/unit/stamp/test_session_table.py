"""Rows of sessions that come and go."""

from __future__ import annotations

from dataplane.arena import Arena
from dataplane.stamp.session_table import DUE_NS, EXTRA, LATEST_NS, NEVER, SessionTable


def test_a_new_session_finds_nothing_of_the_one_before_it() -> None:
    table = SessionTable(Arena())
    table.cells[:, 6:9] = 5
    table.row(7)
    expected = [NEVER if column in (DUE_NS, LATEST_NS) else 0 for column in range(EXTRA)]
    assert table.cells[:, 7].tolist() == expected
    assert (table.cells[:, [6, 8]] == 5).all()
