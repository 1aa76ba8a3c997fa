"""The measurement against network elements that behave, and that do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.unit.demo.samples import CORE1, CORE2, PATHS, make_records, make_state
from tools.demo import measure
from tools.demo.measure import MeasurementError, Run, configure, fetch, watch
from tools.stamp_client import Loss, Node, Record, ReflectorState, SenderSessionState

RUN = Run(PATHS, "fd00:0:1::1", "fd00:0:2::1", interval_us=10_000, packets=50)
NO_LOSS = Loss(forward=0, backward=0, undetermined=0, round_trip=0)
RECORDS = {path.ssid: make_records(path, 50) for path in PATHS}


def states(*oper_states: str) -> dict[int, SenderSessionState]:
    return {
        path.ssid: make_state(path, RECORDS[path.ssid], 50, NO_LOSS, oper_state)
        for path, oper_state in zip(PATHS, oper_states, strict=False)
    }


class FakeElement:
    """A network element that answers from lists; the last answer is repeated."""

    def __init__(
        self,
        sessions: list[dict[int, SenderSessionState]] | None = None,
        reflector: list[ReflectorState] | None = None,
    ) -> None:
        self.log: list[str] = []
        self.edits: list[Node] = []
        self._sessions = sessions or []
        self._reflector = reflector or []

    def edit(self, node: Node) -> None:
        self.log.append("edit")
        self.edits.append(node)

    def sender_sessions(self) -> dict[int, SenderSessionState]:
        return self._sessions.pop(0) if len(self._sessions) > 1 else self._sessions[0]

    def reflector(self) -> ReflectorState:
        self.log.append("reflector")
        return self._reflector.pop(0) if len(self._reflector) > 1 else self._reflector[0]

    def drain(self, ssid: int) -> Iterator[Record]:
        yield from reversed(RECORDS[ssid])


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.time, "sleep", lambda _: None)


def test_the_reflector_is_ready_before_the_sender_starts() -> None:
    sender = FakeElement()
    reflector = FakeElement(reflector=[ReflectorState(None, None), ReflectorState("running", None)])
    configure(RUN, sender, reflector)
    assert reflector.log == ["edit", "reflector", "reflector"]
    assert sender.log == ["edit"]


def test_one_session_for_each_path_with_its_return_path() -> None:
    sender, reflector = measure.sender_node(RUN), measure.reflector_node(RUN)
    assert [(s.ssid, s.path) for s in sender.sender_sessions] == [
        (1, "via-core1"),
        (2, "via-core2"),
    ]
    assert [path.segments for path in sender.paths] == [p.forward.segments for p in PATHS]
    assert [path.segments for path in reflector.paths] == [p.backward.segments for p in PATHS]
    assert {s.reflector_mode for s in sender.sender_sessions} == {"stateful"}
    assert {s.reflector_mode for s in reflector.reflector_sessions} == {"stateful"}
    assert {s.result_depth for s in sender.sender_sessions} == {50}
    names = {path.name for path in reflector.paths}
    assert {s.return_path for s in reflector.reflector_sessions} == names


def test_a_reflector_that_fails() -> None:
    reflector = FakeElement(reflector=[ReflectorState("failed", "port 862 is taken")])
    sender = FakeElement()
    with pytest.raises(
        MeasurementError, match=r"^the Session-Reflector is failed: port 862 is taken$"
    ):
        configure(RUN, sender, reflector)
    assert sender.edits == []


def test_watch_until_both_have_completed() -> None:
    ends = (("running", "running"), ("completed", "running"), ("completed", "completed"))
    sender = FakeElement([states(*end) for end in ends])
    seen: list[list[str | None]] = []
    last = watch(RUN, sender, lambda _, now: seen.append([s.oper_state for s in now.values()]))
    assert seen == [["running", "running"], ["completed", "running"], ["completed", "completed"]]
    assert sorted(last) == [1, 2]


def test_watch_a_session_that_fails() -> None:
    broken = states("running", "failed")
    broken[2] = replace(broken[2], last_error="no route")
    with pytest.raises(MeasurementError, match=r"^session 2 has failed: no route$"):
        watch(RUN, FakeElement([broken]), lambda *_: None)


def test_watch_a_session_that_waits_for_its_engine() -> None:
    sender = FakeElement([states("running", "starting"), states("completed", "completed")])
    assert sorted(watch(RUN, sender, lambda *_: None)) == [1, 2]


def test_watch_a_session_that_is_not_there() -> None:
    with pytest.raises(MeasurementError, match=r"^the Session-Sender does not show session 2$"):
        watch(RUN, FakeElement([states("running")]), lambda *_: None)


def test_watch_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(measure.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(MeasurementError, match=r"^the sessions had not ended after 40 s$"):
        watch(RUN, FakeElement([states("running", "running")]), lambda *_: None)


def test_fetched_records_are_in_order() -> None:
    assert fetch(RUN, FakeElement()) == {1: RECORDS[CORE1.ssid], 2: RECORDS[CORE2.ssid]}
