"""The event loop: deadlines in order, sockets in between, calls from outside."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from dataplane.clock import monotonic_ns
from dataplane.engines.common.loop import SLICE_MIN_NS, SLICE_NS, Loop

MS = 1_000_000


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop("test")
    loop.start()
    yield loop
    loop.close()


def test_timers_fire_in_order_and_never_early(loop: Loop) -> None:
    fired: list[tuple[str, int]] = []
    done = threading.Event()
    now_ns = monotonic_ns()
    due = {"b": now_ns + 20 * MS, "a": now_ns + 10 * MS, "c": now_ns + 20 * MS + 1, "past": 1}

    def arm() -> None:
        for name, deadline_ns in due.items():

            def callback(at_ns: int, name: str = name) -> None:
                fired.append((name, at_ns))
                if name == "c":
                    done.set()

            loop.timer(callback).at(deadline_ns)

    loop.call(arm)
    assert done.wait(10)
    assert [name for name, _ in fired] == ["past", "a", "b", "c"]
    assert all(at_ns >= due[name] for name, at_ns in fired)


def test_timers_that_may_be_late_go_along_with_others(loop: Loop) -> None:
    fired: list[str] = []
    done = threading.Event()
    now_ns = monotonic_ns()

    def then() -> None:
        fired.append("then")
        done.set()

    def patient(_at_ns: int) -> None:
        fired.append("patient")
        loop.soon(then)

    def arm() -> None:
        loop.timer(patient).at(now_ns + 5 * MS, 10_000 * MS)
        loop.timer(lambda _: fired.append("strict")).at(now_ns + 20 * MS)
        loop.timer(lambda _: fired.append("early")).at(now_ns + 20_000 * MS, 1)

    loop.call(arm)
    assert done.wait(5)
    assert fired == ["strict", "patient", "then"]


def test_only_the_latest_deadline_of_a_timer_counts(loop: Loop) -> None:
    fired: list[int] = []
    done = threading.Event()
    now_ns = monotonic_ns()

    def arm() -> None:
        moved, cancelled, kept = (loop.timer(fired.append) for _ in range(3))
        moved.at(now_ns + 5 * MS)
        moved.at(now_ns + 30 * MS)
        cancelled.at(now_ns + 5 * MS)
        cancelled.at(None)
        kept.at(now_ns + 10 * MS)
        kept.no_later_than(now_ns + 90 * MS)
        kept.no_later_than(None)
        loop.timer(lambda _: done.set()).at(now_ns + 60 * MS)

    loop.call(arm)
    assert done.wait(10)
    assert len(fired) == 2
    assert fired[0] >= now_ns + 10 * MS
    assert fired[1] >= now_ns + 30 * MS


def test_a_reader_that_never_ends_does_not_keep_timers_waiting(loop: Loop) -> None:
    reading, writing = os.pipe()
    fired = threading.Event()
    reads = 0

    def reader(_events: int) -> bool:
        nonlocal reads
        reads += 1
        return True

    os.write(writing, b"x")
    loop.call(lambda: loop.register(reading, reader))
    loop.call(lambda: loop.timer(lambda _: fired.set()).at(monotonic_ns() + MS))
    assert fired.wait(10)
    assert reads > 1
    loop.call(lambda: loop.unregister(reading))
    os.close(reading)
    os.close(writing)


def test_timers_that_are_always_due_do_not_keep_readers_waiting(loop: Loop) -> None:
    reading, writing = os.pipe()
    read = threading.Event()

    def reader(_events: int) -> bool:
        os.read(reading, 1)
        read.set()
        return False

    def rearm(_now_ns: int) -> None:
        timer.at(monotonic_ns() - 1)

    timer = loop.timer(rearm)
    loop.call(lambda: loop.register(reading, reader))
    loop.call(lambda: timer.at(1))
    os.write(writing, b"x")
    assert read.wait(10)
    loop.call(lambda: timer.at(None))
    loop.call(lambda: loop.unregister(reading))
    os.close(reading)
    os.close(writing)


def test_call_gives_back_what_happened(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("no")

    assert loop.call(lambda: 42) == 42
    with pytest.raises(ValueError, match=r"^no$"):
        loop.call(fail)
    loop.post(fail)
    assert loop.call(threading.get_ident) != threading.get_ident()
    assert "a call into the event loop failed" in caplog.text


def test_work_in_steps_leaves_others_their_turns(loop: Loop) -> None:
    happened: list[str] = []
    fd = os.eventfd(1, os.EFD_NONBLOCK)

    def read(_events: int) -> bool:
        os.eventfd_read(fd)
        happened.append("packet")
        return False

    def steps() -> Iterator[None]:
        timer = loop.timer(lambda _now_ns: happened.append("timer"))
        timer.at(monotonic_ns() + SLICE_MIN_NS // 2)
        for _ in range(3):
            busy_until_ns = monotonic_ns() + SLICE_MIN_NS
            while monotonic_ns() < busy_until_ns:
                pass
            happened.append("step")
            yield
        loop.register(fd, read)
        busy_until_ns = monotonic_ns() + SLICE_NS
        while monotonic_ns() < busy_until_ns:
            pass
        yield
        happened.append("end")
        loop.unregister(fd)

    loop.work(steps())
    assert happened == ["step", "timer", "step", "step", "packet", "end"]
    os.close(fd)


def test_work_in_steps_goes_on_where_others_take_all_the_time(loop: Loop) -> None:
    """Each slice takes at least half as long as the timer that is always late before it."""
    step_ns, late_ns, steps_before = SLICE_MIN_NS // 2, 6 * SLICE_MIN_NS, [0]

    def busy(for_ns: int) -> None:
        until_ns = monotonic_ns() + for_ns
        while monotonic_ns() < until_ns:
            pass

    def fire(_now_ns: int) -> None:
        busy(late_ns)
        steps_before.append(0)
        timer.at(1)

    timer = loop.timer(fire)

    def steps() -> Iterator[None]:
        timer.at(1)
        while len(steps_before) < 6:
            busy(step_ns)
            steps_before[-1] += 1
            yield
        timer.at(None)

    loop.work(steps())
    # None was let go before the first slice.
    assert steps_before[0] <= SLICE_MIN_NS // step_ns
    assert max(steps_before[1:-1]) > SLICE_MIN_NS // step_ns


def test_what_a_step_raises_ends_the_work(loop: Loop) -> None:
    def steps() -> Iterator[None]:
        yield
        raise KeyError("step")

    with pytest.raises(KeyError, match="step"):
        loop.work(steps())
    loop.work(iter(()))


def test_a_closed_loop_takes_nothing_any_more() -> None:
    """Threads that outlive it may post all the same: nothing is called, and no descriptor
    that somebody else has been given since is written to."""
    loop = Loop("closed")
    loop.start()
    calls: list[str] = []
    loop.call(lambda: calls.append("before"))
    loop.close()
    others = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(8)]
    try:
        loop.post(lambda: calls.append("after"))
        for fd in others:
            with pytest.raises(BlockingIOError):
                os.eventfd_read(fd)
        with pytest.raises(RuntimeError, match="the event loop is closed"):
            loop.call(lambda: None)
        loop.close()
    finally:
        for fd in others:
            os.close(fd)
    assert calls == ["before"]


def test_a_call_that_a_closed_loop_has_not_carried_out_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is made when the thread has ended, and the loop is not closed yet."""
    loop = Loop("closed")
    loop.start()
    failed: list[RuntimeError] = []

    def call() -> None:
        try:
            loop.call(lambda: None)
        except RuntimeError as error:
            failed.append(error)

    caller = threading.Thread(target=call, daemon=True)
    join = loop._thread.join

    def join_and_call(timeout_s: float) -> None:
        join(timeout_s)
        caller.start()
        while not loop._posted:
            time.sleep(0.001)

    monkeypatch.setattr(loop._thread, "join", join_and_call)
    loop.close()
    caller.join(5.0)
    assert [str(error) for error in failed] == ["the event loop is closed"]


def test_nobody_wakes_up_for_a_deadline_that_was_superseded(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()
    turns = []
    serve = loop._serve_timers
    monkeypatch.setattr(loop, "_serve_timers", lambda: (turns.append(None), serve()))
    now_ns = monotonic_ns()

    def arm() -> None:
        moved = loop.timer(lambda _: None)
        for index in range(50):
            moved.at(now_ns + (5 + index) * MS)
        loop.timer(lambda _: done.set()).at(now_ns + 80 * MS)

    loop.call(arm)
    assert done.wait(10)
    assert len(turns) < 10
