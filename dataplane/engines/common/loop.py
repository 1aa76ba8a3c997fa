"""One thread that waits for sockets and for points in time.

Deadlines are absolute CLOCK_MONOTONIC nanoseconds in a heap. A timerfd wakes
the thread `SPIN_NS` early, because epoll's own time-out counts in whole
milliseconds, and the rest is waited out by reading the clock. A timer that may
be late by some slack is served together with others: the heap is ordered by when
each must be served at the latest, and whoever is due by then goes along. A reader is
called again and again for as long as it says that there is more; deadlines
that pass meanwhile are served between the calls, so that neither starves.
"""

from __future__ import annotations

import ctypes
import functools
import heapq
import itertools
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from dataplane.clock import monotonic_ns
from dataplane.engines.common.time_slice import PATIENT_NS, ask_for_slice

T = TypeVar("T")

SPIN_NS = 50_000
"""The clock is read in a busy loop for at most this long before each deadline."""

EASY_NS = 10_000_000
"""Slack of what nobody waits for: it goes along with something else, and no clock is read
in a loop for it."""

SLICE_NS = 5_000_000
"""How long work in steps goes on before others get their turn."""

SLICE_MIN_NS = 500_000
"""The same where a deadline has passed: what is always late does not stop all work."""

FLOOD_NS = 100_000_000
"""How long after it was last told of a flood of packets the thread stays patient."""

CALL_TIMEOUT_S = 30.0
"""How long another thread waits for the loop to carry out a call."""

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1

log = logging.getLogger(__name__)


class _Itimerspec(ctypes.Structure):
    """struct itimerspec; timerfd_create(2)."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


_libc = ctypes.CDLL(None, use_errno=True)


class _TimerFd:
    def __init__(self) -> None:
        self.fd = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._spec = _Itimerspec()
        self._pointer = ctypes.byref(self._spec)

    def arm(self, deadline_ns: int) -> None:
        """Arming clears an expiry that was not read; 0 disarms."""
        self._spec.value_s, self._spec.value_ns = divmod(deadline_ns, 1_000_000_000)
        _libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, self._pointer, None)

    def close(self) -> None:
        os.close(self.fd)


class Timer:
    """A callback that is due at one time, later at another, or never."""

    __slots__ = ("_callback", "_deadline_ns", "_loop")

    def __init__(self, loop: Loop, callback: Callable[[int], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._deadline_ns: int | None = None

    def at(self, deadline_ns: int | None, slack_ns: int = 0) -> None:
        """Due at `deadline_ns`, or up to `slack_ns` later, and at no other time;
        None: never."""
        if deadline_ns != self._deadline_ns:
            self._deadline_ns = deadline_ns
            if deadline_ns is not None:
                self._loop.push(deadline_ns, slack_ns, self)

    def no_later_than(self, deadline_ns: int | None, slack_ns: int = 0) -> None:
        """Due at `deadline_ns` unless it is due earlier."""
        if deadline_ns is not None and (
            self._deadline_ns is None or deadline_ns < self._deadline_ns
        ):
            self.at(deadline_ns, slack_ns)

    def fire(self, deadline_ns: int, now_ns: int) -> None:
        """Called by the loop; an entry of the heap that was superseded does nothing."""
        if self.is_due(deadline_ns):
            self._deadline_ns = None
            self._callback(now_ns)

    def is_due(self, deadline_ns: int) -> bool:
        """Whether that deadline still stands."""
        return deadline_ns == self._deadline_ns


Reader = Callable[[int], bool]
"""Reads a bounded amount, given the epoll events; True if there may be more."""


class LoopClosedError(RuntimeError):
    """Nobody carries out a call any more."""

    def __init__(self) -> None:
        super().__init__("the event loop is closed")


class Loop:
    """Everything but `start`, `call`, `work`, `post` and `close` belongs to the loop's own
    thread."""

    def __init__(self, name: str) -> None:
        self._epoll = select.epoll()
        self._timerfd = _TimerFd()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._readers: dict[int, Reader] = {}
        self._heap: list[tuple[int, int, int, Timer]] = []
        self._soon: list[Callable[[], None]] = []
        self._count = itertools.count()
        self._posted: deque[Callable[[], None]] = deque()
        self._waiting: set[Future[Any]] = set()
        self._flood_over_ns = 0
        self._closing = False
        self._closed = False
        self._posting = threading.Lock()
        self._epoll.register(self._timerfd.fd, select.EPOLLIN)
        self._epoll.register(self._wakeup, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def post(self, function: Callable[[], None]) -> None:
        """Have the loop call `function` soon; nothing, once the loop is closed."""
        # Descriptors are given to others again: nobody else's is to be written to.
        with self._posting:
            if not self._closed:
                self._enqueue(function)

    def _enqueue(self, function: Callable[[], None]) -> None:
        self._posted.append(function)
        os.eventfd_write(self._wakeup, 1)

    def call(self, function: Callable[[], T]) -> T:
        """Call `function` in the loop and wait for what it returns or raises.

        Raises LoopClosedError once the loop is closed, also while it waits.
        """
        future: Future[T] = Future()

        def carry_out() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        return self._await(future, carry_out, CALL_TIMEOUT_S)

    def work(self, steps: Iterator[None]) -> None:
        """Take all `steps` in the loop, and wait until that is done, however long it takes;
        raises as `call`.

        Between slices of them timers and sockets have their turn.
        """
        future: Future[None] = Future()

        def all_steps() -> Iterator[None]:
            try:
                yield from steps
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        self._await(future, lambda: self.begin(all_steps()), None)

    def begin(self, steps: Iterator[None], left_ns: int | None = None) -> None:
        """Within the loop: take a slice of `steps` now, and the others as `work` does.

        A slice takes at least half as long as others have had since `left_ns`, when the one
        before ended: where they take all the time that there is, steps still get a third.
        """
        begun_ns = monotonic_ns()
        least_ns = max(SLICE_MIN_NS, (begun_ns - (left_ns or begun_ns)) // 2)
        for _ in steps:
            now_ns = monotonic_ns()
            spent_ns = now_ns - begun_ns
            if spent_ns >= least_ns and (spent_ns >= SLICE_NS or self.overdue()):
                self.post(functools.partial(self.begin, steps, now_ns))
                return

    def _await(self, future: Future[T], function: Callable[[], None], timeout_s: float | None) -> T:
        with self._posting:
            if self._closed:
                raise LoopClosedError
            self._waiting.add(future)
            self._enqueue(function)
        try:
            return future.result(timeout_s)
        finally:
            self._waiting.discard(future)

    def close(self) -> None:
        """End the thread, once and for all. What is registered stays open."""
        if self._closed:
            return

        def finish() -> None:
            self._closing = True

        self.post(finish)
        self._thread.join(CALL_TIMEOUT_S)
        with self._posting:
            self._closed = True
            self._epoll.close()
            self._timerfd.close()
            os.close(self._wakeup)
        # What was posted after the thread's last look.
        for future in tuple(self._waiting):
            if not future.done():
                future.set_exception(LoopClosedError())

    def register(self, fd: int, reader: Reader) -> None:
        self._readers[fd] = reader
        self._epoll.register(fd, select.EPOLLIN)

    def unregister(self, fd: int) -> None:
        del self._readers[fd]
        self._epoll.unregister(fd)

    def pause(self, fd: int) -> None:
        """Have its reader called for errors alone."""
        self._epoll.modify(fd, 0)

    def resume(self, fd: int) -> None:
        self._epoll.modify(fd, select.EPOLLIN)

    def push(self, deadline_ns: int, slack_ns: int, timer: Timer) -> None:
        entry = deadline_ns + slack_ns, next(self._count), deadline_ns, timer
        heapq.heappush(self._heap, entry)

    def soon(self, function: Callable[[], None]) -> None:
        """To be called by a timer: `function` is called when all that are due were."""
        self._soon.append(function)

    def timer(self, callback: Callable[[int], None]) -> Timer:
        return Timer(self, callback)

    def flooded(self) -> None:
        """To be called by a reader that has found many packets: for a while, kernel threads
        that would fill the rings it empties may interrupt this one."""
        if not self._flood_over_ns:
            ask_for_slice(PATIENT_NS)
        self._flood_over_ns = monotonic_ns() + FLOOD_NS

    def overdue(self) -> bool:
        """Whether others should have their turn for a deadline's sake."""
        return bool(self._heap) and self._heap[0][0] <= monotonic_ns()

    def _run(self) -> None:
        pending: dict[int, int] = {}
        while not self._closing:
            self._serve_timers()
            posted = False
            for fd, events in self._wait(block=not pending):
                if fd == self._wakeup:
                    posted = True
                elif fd != self._timerfd.fd:
                    pending[fd] = pending.get(fd, 0) | events
            for fd, events in list(pending.items()):
                reader = self._readers.get(fd)
                if reader is None or not self._guarded(reader, events):
                    del pending[fd]
                if self.overdue():
                    self._serve_timers()
            if posted:
                self._serve_posted()

    def _wait(self, block: bool) -> list[tuple[int, int]]:
        if not block:
            return self._epoll.poll(0)
        if self._flood_over_ns and monotonic_ns() > self._flood_over_ns:
            self._flood_over_ns = 0
            ask_for_slice(0)
        # Nobody wakes up for an entry that was superseded.
        while self._heap and not self._heap[0][3].is_due(self._heap[0][2]):
            heapq.heappop(self._heap)
        if not self._heap:
            self._timerfd.arm(0)
            return self._epoll.poll()
        latest_ns, _, deadline_ns, _ = self._heap[0]
        if latest_ns - monotonic_ns() > SPIN_NS:
            self._timerfd.arm(latest_ns - SPIN_NS)
            events = self._epoll.poll()
            if any(fd != self._timerfd.fd for fd, _ in events):
                return events
        while monotonic_ns() < deadline_ns:
            pass
        return self._epoll.poll(0)

    def _serve_timers(self) -> None:
        """Those that are due now, each once: a timer that sets itself to the
        past again waits until the sockets have had their turn."""
        heap = self._heap
        now_ns = monotonic_ns()
        due = []
        while heap and heap[0][2] <= now_ns:
            due.append(heapq.heappop(heap))
        for _, _, deadline_ns, timer in due:
            try:
                timer.fire(deadline_ns, monotonic_ns())
            except Exception:
                log.exception("a timer of the event loop failed")
        while self._soon:
            try:
                self._soon.pop()()
            except Exception:
                log.exception("what timers led to failed")

    def _serve_posted(self) -> None:
        os.eventfd_read(self._wakeup)
        for _ in range(len(self._posted)):
            try:
                self._posted.popleft()()
            except Exception:
                log.exception("a call into the event loop failed")

    def _guarded(self, reader: Reader, events: int) -> bool:
        try:
            return reader(events)
        except Exception:
            log.exception("a reader of the event loop failed")
            return False
