"""When one session sends next, and when its losses are looked for: by timers of its own,
or, where many sessions share a port, by the schedule of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataplane.config import SenderSession
from dataplane.engines.common.loop import Loop, Timer
from dataplane.engines.common.schedule import Schedule

if TYPE_CHECKING:
    from dataplane.engines.common.run import SenderRun

EARLY_NS = 40_000
"""So much before it is due a packet that has a timer of its own is begun: nine in ten are
made, and have gone through the kernel, within that. The others wait (`Transmitter.hold`),
and none leaves before it is due."""

SLACK = 100
"""Where many sessions share a port, a packet may leave later than it is due by this part
of its interval, so that others go along with it."""

SLOW_NS = 200_000_000
SLOW_SLACK = 20
"""The same where intervals are as long as that, or longer."""

SLACK_MAX_NS = 50_000_000

EXPIRY_SLACK = 20
"""A loss, or the end of an interval, may be told later by this part of the loss timeout.
What is counted does not depend on it."""

EXPIRY_SLACK_MAX_NS = 100_000_000

PHASE_MAX_NS = 1_000_000_000
"""Sessions that start by themselves are spread over their interval, or over
this much of it, so that a thousand of them do not send at the same moment."""

_GOLDEN = 0x9E3779B1
_NS_PER_US = 1_000


def slack_ns_of(interval_ns: int) -> int:
    """How late a packet of such a session may leave."""
    return min(interval_ns // (SLACK if interval_ns < SLOW_NS else SLOW_SLACK), SLACK_MAX_NS)


def phase_ns_of(config: SenderSession) -> int:
    """How much later than others such a session begins that starts by itself."""
    spread_ns = min(config.interval_us * _NS_PER_US, PHASE_MAX_NS)
    return (config.ssid * _GOLDEN & 0xFFFFFFFF) * spread_ns >> 32


class Plan:
    """Of one run, which is handed in each time: the two know each other for as long as
    something is planned, and need no garbage collection afterwards. A session goes over to
    its port's schedule, or leaves it, when it is planned the next time."""

    __slots__ = ("_loop", "_schedule", "_timers")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._schedule: Schedule | None = None
        self._timers: tuple[Timer, Timer] | None = None

    @property
    def shared(self) -> bool:
        """Whether others are planned with it."""
        return self._schedule is not None

    def packet_at(self, run: SenderRun, due_ns: int | None) -> None:
        """None: none is to be sent."""
        schedule, config = self._current(run), run.config
        if schedule is None:
            self._own(run)[0].at(None if due_ns is None else due_ns - EARLY_NS)
        else:
            schedule.send_at(config.ssid, due_ns, slack_ns_of(config.interval_us * _NS_PER_US))

    def expiry_at(self, run: SenderRun, due_ns: int | None) -> None:
        schedule, config = self._current(run), run.config
        slack_ns = min(config.loss_timeout_ms * 1_000_000 // EXPIRY_SLACK, EXPIRY_SLACK_MAX_NS)
        if schedule is None:
            # One that fires early does no harm, and leaves the heap small.
            self._own(run)[1].no_later_than(due_ns, slack_ns)
        else:
            schedule.watch(config.ssid, due_ns, slack_ns)

    def nothing(self, run: SenderRun) -> None:
        if self._timers is not None:
            for timer in self._timers:
                timer.at(None)
            self._timers = None
        if self._schedule is not None:
            self._schedule.forget(run.config.ssid)
            self._schedule = None

    def _own(self, run: SenderRun) -> tuple[Timer, Timer]:
        if self._timers is None:
            loop = self._loop
            sending = loop.timer(lambda _now_ns: run.port.enqueue(run))
            self._timers = sending, loop.timer(run.collect)
        return self._timers

    def _current(self, run: SenderRun) -> Schedule | None:
        schedule = run.port.schedule
        if schedule is not None and ((own := run.collector) is None or own.row.table is None):
            schedule = None
        if schedule is not self._schedule:
            self.nothing(run)
            self._schedule = schedule
            run.plan()
        return schedule
