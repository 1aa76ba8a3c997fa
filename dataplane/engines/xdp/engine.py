"""The `xdp` engine as the host process sees it.

The Session-Reflector is a program at the XDP hook with the userspace engine behind
it (`reflector.py`). The Session-Sender is the userspace engine's, but that replies
are collected by a program at the XDP hook (`collector.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.clock import REFRESH_NS, Clock
from dataplane.config import Node, Sender
from dataplane.engines.base import Capabilities, EngineContext, EngineError, Resume
from dataplane.engines.common.loop import EASY_NS, Loop
from dataplane.engines.userspace import engine as userspace
from dataplane.engines.xdp.capabilities import CAPABILITIES, NAME
from dataplane.engines.xdp.collector import CollectorRole
from dataplane.engines.xdp.hook import Hook
from dataplane.engines.xdp.reflector import ReflectorRole
from dataplane.engines.xdp.renaming import renamed
from dataplane.mapped_file import StoreError

__all__ = ["CAPABILITIES", "XdpEngine", "create"]


class XdpEngine:
    """One thread that looks after the program, and the userspace engine's for packets."""

    def __init__(self, context: EngineContext) -> None:
        self._clock = Clock()
        self._loop = Loop("xdp-engine")
        hook = Hook(context.hook_claims)
        self._collector = CollectorRole(
            *(self._loop, self._clock, hook, context.emit), lambda: self._sender.wake()
        )
        self._sender = userspace.create_behind(renamed(context, NAME), self._collector)
        self._reflector = ReflectorRole(NAME, self._loop, self._clock, context, hook)
        self._sends: Sender | None = None
        self._timer = self._loop.timer(self._tick)
        self._loop.start()
        self._loop.call(lambda: self._timer.at(0))

    @property
    def name(self) -> str:
        return NAME

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def configure(self, node: Node, resume: Mapping[int, Resume] | None = None) -> None:
        """See `Engine`. Sessions that cannot wait for the program begin when it is there;
        what is as it was does not wait at all.

        Raises EngineError where the Session-Reflector's counters have no room.
        """

        def reflect() -> None:
            try:
                self._reflector.configure(node.reflector)
            except StoreError as error:
                raise EngineError(str(error)) from error

        self._loop.call(lambda: self._collector.configure(node.sender))
        if node.sender is not None and node.sender != self._sends:
            self._collector.wait(resumed=bool(resume))
        self._sends = node.sender
        self._sender.configure(Node(sender=node.sender), resume)
        self._loop.call(reflect)

    def start(self, ssid: int, duration_s: int | None) -> None:
        self._sender.start(ssid, duration_s)

    def stop(self, ssid: int) -> None:
        self._sender.stop(ssid)

    def clear(self, ssid: int) -> None:
        self._sender.clear(ssid)

    def announce(self, ssid: int, packets: int) -> int:
        return self._sender.announce(ssid, packets)

    def ping(self) -> None:
        self._sender.ping()
        self._loop.call(lambda: None)

    def freshen(self) -> None:
        self._sender.freshen()

    def close(self) -> None:
        def let_go() -> None:
            self._timer.at(None)
            self._reflector.close()
            self._collector.close()

        self._sender.close()
        self._loop.call(let_go)
        self._loop.close()

    def _tick(self, now_ns: int) -> None:
        self._timer.at(now_ns + REFRESH_NS, EASY_NS)
        self._clock.refresh(now_ns)
        self._reflector.tick()
        self._collector.tick()


def create(context: EngineContext) -> XdpEngine:
    return XdpEngine(context)
