"""The interfaces, addresses and SIDs that receiving in the driver depends on.

The kernel is asked in a thread of its own: on a router its answer may take long, and
packets do not wait for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from dataplane.clock import monotonic_ns
from dataplane.config import IPAddress
from dataplane.engines.base import Role
from dataplane.engines.common.loop import EASY_NS, Loop
from dataplane.engines.driver.doorbell import Doorbell
from dataplane.engines.driver.interfaces import LOOK_NS, Devices, Interface, Kernel
from dataplane.engines.driver.layouts import LocalFlag

NICE = 10
"""Added to the thread's niceness: packets go first, also where they share its core."""

Names = Mapping[Role, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """How things stood when they were looked at."""

    names: Names
    """What was asked for: the interfaces of each role."""

    devices: Devices
    """Of all roles."""

    by_role: dict[Role, Devices]
    locals: dict[IPAddress, LocalFlag]

    def interfaces(self, roles: Collection[Role]) -> tuple[Interface, ...]:
        """Of these roles."""
        theirs = {
            each.index for role, devices in self.by_role.items() if role in roles
            for each in devices.interfaces
        }  # fmt: skip
        return tuple(each for each in self.devices.interfaces if each.index in theirs)


class Watch:
    """Looks every `LOOK_NS`, and whenever the kernel says that something has changed."""

    def __init__(self, tell: Callable[[Surroundings], None]) -> None:
        """Watches the calling thread's network namespace; `tell` is called in the thread
        of this object."""
        self._tell = tell
        self._names: Names = {}
        self._kernel = Kernel()
        self._doorbell = Doorbell()
        self._loop = Loop("userspace-watch")
        self._timer = self._loop.timer(self._tick)
        self._loop.register(self._doorbell.fileno(), self._rung)
        self._loop.start()
        self._loop.call(self._begin)

    def _begin(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        self._timer.at(monotonic_ns() + LOOK_NS, EASY_NS)

    def ask(self, names: Names) -> Surroundings:
        """Look at once, and watch these interfaces from now on. From any other thread."""

        def change() -> Surroundings:
            self._names = names
            return self._look()

        return self._loop.call(change)

    def close(self) -> None:
        """From any other thread; nothing is told afterwards."""
        self._loop.close()
        self._kernel.close()
        self._doorbell.close()

    def _look(self) -> Surroundings:
        kernel, names = self._kernel, self._names
        every = tuple(sorted({name for each in names.values() for name in each}))
        found = {each: kernel.devices(each) for each in {every, *names.values()}}
        by_role = {role: found[each] for role, each in names.items()}
        return Surroundings(names, found[every], by_role, kernel.locals())

    def _tick(self, now_ns: int) -> None:
        self._timer.at(now_ns + LOOK_NS, EASY_NS)
        if self._names:
            self._tell(self._look())

    def _rung(self, _events: int) -> bool:
        if self._doorbell.rung() and self._names:
            self._tell(self._look())
        return False
