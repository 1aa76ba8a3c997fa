"""What a process costs, and when sessions are not measured."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from dataplane.session_state import Counters
from tools.bench.beyond import footprint
from tools.bench.beyond.footprint import Settings, cpu_ns, measure, resident_bytes
from tools.bench.errors import BenchError
from tools.bench.extras import Footprint


def test_processor_time_of_another_process_is_that_of_all_its_threads() -> None:
    before = time.process_time_ns()
    seen = cpu_ns(os.getpid())
    assert before <= seen <= time.process_time_ns()


def test_no_such_process() -> None:
    with pytest.raises(OSError, match=r"(Invalid argument|No such process)"):
        cpu_ns(2**22 + 1)


def test_resident_memory_grows_with_what_is_touched() -> None:
    before = resident_bytes(os.getpid())
    content = bytearray(b"x" * (32 << 20))
    assert resident_bytes(os.getpid()) >= before + len(content) // 2


def test_a_process_that_has_died_is_not_measured() -> None:
    with pytest.raises(BenchError, match=r"^the engine's process has died$"):
        footprint._of_family(2**22 + 1, resident_bytes)


def check(*counters: Counters) -> None:
    sending = SimpleNamespace(
        engine="any", counters=lambda ssids: dict(zip(ssids, counters, strict=True))
    )
    footprint._check_answers(sending, range(1, len(counters) + 1))  # type: ignore[arg-type]


def test_sessions_that_are_answered_are_fine() -> None:
    check(Counters(sent=10, received=10), Counters(sent=10, received=9))


def test_a_session_without_an_answer_is_named() -> None:
    with pytest.raises(BenchError) as caught:
        check(*(Counters(sent=5, received=received) for received in (5, 0, 5, 0)))
    assert str(caught.value) == (
        "engine any: 2 of 4 sessions have no answer, session 2 is one of them"
    )


def test_many_lost_packets_are_no_working_sessions() -> None:
    with pytest.raises(BenchError, match=r"^engine any: of 40 packets only 30 have an answer$"):
        check(Counters(sent=20, received=20), Counters(sent=20, received=10))


def test_what_is_out_of_reach_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def measured(engine: str, count: int, settings: Settings) -> tuple[Footprint, float]:
        tried.append(count)
        percent = count * 0.5
        return Footprint(engine, count, None, None, None, percent), percent

    monkeypatch.setattr(footprint, "_measure", measured)
    with pytest.raises(BenchError) as caught:
        list(measure("any", Settings(sessions=(1, 100, 1_000))))
    assert tried == [1, 100]
    assert str(caught.value) == (
        "engine any: 1000 sessions are not tried, at 0.5 % of a processor core for each"
    )
