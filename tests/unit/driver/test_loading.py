"""What becomes of a program that is loaded in a thread of its own."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator

import pytest

from dataplane.bpf.program import BpfError
from dataplane.engines.common.loop import Loop
from dataplane.engines.driver import loading
from dataplane.engines.driver.loading import load_aside


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop("test")
    loop.start()
    yield loop
    loop.close()


def outcome(loop: Loop, make: Callable[[], str]) -> tuple[str, str]:
    told: queue.Queue[tuple[str, str]] = queue.Queue()
    load_aside(
        *("test-load", loop, make),
        lambda program: told.put(("loaded", program)),
        lambda problem: told.put(("refused", problem)),
    )
    return told.get(timeout=10)


def test_what_is_made_is_told(loop: Loop) -> None:
    assert outcome(loop, lambda: "program") == ("loaded", "program")


def test_memory_is_given_back_before_packets_are_sent(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    class Libc:
        def malloc_trim(self, _pad: int) -> None:
            happened.append("trimmed")

    def make() -> str:
        happened.append("made")
        return "program"

    monkeypatch.setattr(loading, "_libc", Libc())
    outcome(loop, make)
    assert happened == ["made", "trimmed"]


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (BpfError("no compiler"), "the XDP program cannot be loaded: no compiler"),
        (OSError("no memory"), "the XDP program cannot be loaded: no memory"),
        (KeyError("clocks"), "the XDP program cannot be loaded: KeyError: 'clocks'"),
    ],
)
def test_whatever_goes_wrong_is_told(loop: Loop, error: Exception, problem: str) -> None:
    def fail() -> str:
        raise error

    assert outcome(loop, fail) == ("refused", problem)
