"""What becomes of a program that is loaded in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from dataplane.bpf.program import BpfError
from dataplane.engines.common.loop import Loop
from dataplane.engines.driver import loading
from dataplane.engines.driver.loading import Load


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop("test")
    loop.start()
    yield loop
    loop.close()


class Made:
    """A program that is asked whether it was closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


Told = queue.Queue[tuple[str, object]]


def under_way(loop: Loop, make: Callable[[], Made]) -> tuple[Load[Made], Told]:
    told: Told = queue.Queue()
    load = Load(
        *("test-load", loop, make),
        lambda program: told.put(("loaded", program)),
        lambda problem: told.put(("refused", problem)),
    )
    return load, told


def test_what_is_made_is_told(loop: Loop) -> None:
    program = Made()
    _, told = under_way(loop, lambda: program)
    assert told.get(timeout=10) == ("loaded", program)
    assert not program.closed.is_set()


def test_memory_is_given_back_before_packets_are_sent(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    def make() -> Made:
        happened.append("made")
        return Made()

    monkeypatch.setattr(loading, "give_back", lambda: happened.append("given back"))
    _, told = under_way(loop, make)
    told.get(timeout=10)
    assert happened == ["made", "given back"]


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (BpfError("no compiler"), "the XDP program cannot be loaded: no compiler"),
        (OSError("no memory"), "the XDP program cannot be loaded: no memory"),
        (KeyError("clocks"), "the XDP program cannot be loaded: KeyError: 'clocks'"),
    ],
)
def test_whatever_goes_wrong_is_told(loop: Loop, error: Exception, problem: str) -> None:
    def fail() -> Made:
        raise error

    _, told = under_way(loop, fail)
    assert told.get(timeout=10) == ("refused", problem)


@pytest.mark.parametrize("error", [None, OSError("no memory")])
def test_what_is_abandoned_is_closed_when_it_is_there(loop: Loop, error: Exception | None) -> None:
    let_go, program = threading.Event(), Made()

    def make() -> Made:
        assert let_go.wait(10)
        if error is not None:
            raise error
        return program

    load, told = under_way(loop, make)
    loop.call(load.abandon)
    let_go.set()
    if error is None:
        assert program.closed.wait(10)
    for thread in threading.enumerate():
        if thread.name == "test-load":
            thread.join()
    loop.call(lambda: None)
    assert told.empty()


def test_what_is_abandoned_before_it_is_handed_over_is_closed(loop: Loop) -> None:
    program, begun = Made(), threading.Event()

    def make() -> Made:
        assert begun.wait(10)
        return program

    load, told = under_way(loop, make)
    (thread,) = (each for each in threading.enumerate() if each.name == "test-load")
    # A process does not end under it.
    assert not thread.daemon

    def busy() -> None:
        begun.set()
        thread.join()
        load.abandon()

    loop.call(busy)
    loop.call(lambda: None)
    assert program.closed.is_set()
    assert told.empty()
