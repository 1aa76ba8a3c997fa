"""A large change reaches the loop in small steps that end where one step would."""

from __future__ import annotations

from ipaddress import IPv6Address

from dataplane.config import Sender, SenderSession
from dataplane.engines.common.engine import STAGE, stages


def sender(interval_us: int, *ssids: int) -> Sender:
    address = IPv6Address("fd00::1")
    sessions = {s: SenderSession(s, address, address, interval_us=interval_us) for s in ssids}
    return Sender(sessions=sessions)


def test_the_last_stage_is_the_new_configuration() -> None:
    old, new = sender(1_000, *range(1, 40)), sender(2_000, *range(20, 100))
    steps = list(stages(old, new))
    assert steps[-1][0] == new
    before = old
    for step, named in steps:
        assert step is not None
        changed = [s for s, value in step.sessions.items() if before.sessions.get(s) != value]
        assert len(changed) <= STAGE
        # In the first, the role itself may differ, and sessions may be gone.
        assert named == (None if before is old else changed)
        # Nothing that stays is ever missing: it would be removed.
        assert set(old.sessions) & set(new.sessions) <= set(step.sessions)
        before = step


def test_without_changed_sessions_there_is_one_stage() -> None:
    same = sender(1_000, 1, 2, 3)
    assert list(stages(same, same)) == [(same, None)]
    assert list(stages(None, Sender())) == [(Sender(), None)]
    assert list(stages(same, None)) == [(None, None)]
