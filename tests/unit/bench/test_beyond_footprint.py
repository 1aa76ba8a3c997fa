"""What a process costs, and when sessions are not measured."""

from __future__ import annotations

import mmap
import os
import time
from types import SimpleNamespace
from typing import cast

import pytest

from dataplane.session_state import Counters
from tools.bench.beyond import footprint
from tools.bench.beyond.footprint import Settings, cpu_ns, measure, resident_bytes
from tools.bench.beyond.pair import HostEnd
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
    # Fresh from the kernel: memory of the allocator may have been touched before.
    with mmap.mmap(-1, 32 << 20) as content:
        before = resident_bytes(os.getpid())
        content.write(b"x" * len(content))
        assert resident_bytes(os.getpid()) >= before + len(content) // 2


def test_a_process_that_has_died_is_not_measured() -> None:
    with pytest.raises(BenchError, match=r"^the engine's process has died$"):
        footprint._of_family(2**22 + 1, resident_bytes)


def sending(*counters: Counters) -> HostEnd:
    fake = SimpleNamespace(
        engine="any", counters=lambda ssids: dict(zip(ssids, counters, strict=True))
    )
    return cast(HostEnd, fake)


def check(*since: tuple[int, int]) -> None:
    """Sessions that have sent and received so many packets since they were watched."""
    before = {ssid: Counters(sent=100, received=40) for ssid in range(1, len(since) + 1)}
    after = [Counters(sent=100 + sent, received=40 + received) for sent, received in since]
    footprint._check_answers(sending(*after), before)


def test_packets_lost_before_the_measurement_do_not_count() -> None:
    check((10, 10), (10, 9))


def test_one_packet_may_be_under_way() -> None:
    check((5, 4))


def test_many_lost_packets_are_no_working_sessions() -> None:
    with pytest.raises(BenchError) as caught:
        check((20, 20), (20, 10))
    assert str(caught.value) == (
        "engine any: of 40 packets only 30 have an answer: either end may be overloaded"
    )


def test_a_session_without_an_answer_is_named() -> None:
    counters = [Counters(sent=5, received=received) for received in (5, 0, 5, 0)]
    with pytest.raises(BenchError) as caught:
        footprint._check_all_answered(sending(*counters), range(1, 5))
    assert str(caught.value) == (
        "engine any: 2 of 4 sessions have no answer, session 2 is one of them"
    )


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
