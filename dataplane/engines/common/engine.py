"""An engine of one event loop thread, as the host process sees it; its transport is given."""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.clock import REFRESH_NS, Clock, StepAlarm, monotonic_ns, wall_ns
from dataplane.config import Node
from dataplane.engines.base import Capabilities, EngineContext, EngineError, Resume
from dataplane.engines.common.collecting import Collecting, CollectingHere
from dataplane.engines.common.loop import EASY_NS, Loop
from dataplane.engines.common.reflector import ReflectorRole
from dataplane.engines.common.sender import SenderRole
from dataplane.engines.common.transport import OpenTransport
from dataplane.mapped_file import StoreError


class LoopEngine:
    """One event loop thread for everything; the methods wait until it has done its part."""

    def __init__(
        self,
        name: str,
        capabilities: Capabilities,
        context: EngineContext,
        clock: Clock,
        open_transport: OpenTransport,
        collecting: Collecting | None = None,
    ) -> None:
        """`collecting` is None for an engine that collects replies itself."""
        self._name = name
        self._capabilities = capabilities
        self._clock = clock
        self._loop = Loop(f"{name}-engine")
        self._sender = SenderRole(
            *(name, self._loop, clock, context, open_transport), collecting or CollectingHere()
        )
        self._reflector = ReflectorRole(
            *(name, self._loop, clock, context, open_transport), capabilities.address_families
        )
        self._timer = self._loop.timer(self._tick)
        self._alarm = StepAlarm()
        self._loop.register(self._alarm.fileno(), self._stepped)
        self._loop.start()
        self._loop.call(lambda: self._timer.at(0))

    @property
    def name(self) -> str:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def configure(self, node: Node, resume: Mapping[int, Resume] | None = None) -> None:
        """Raises EngineError where the Session-Reflector's counters have no room."""

        def reflect() -> None:
            try:
                self._reflector.configure(node.reflector)
            except StoreError as error:
                raise EngineError(str(error)) from error

        self._loop.work(self._sender.configure(node.sender, resume or {}))
        self._loop.call(reflect)

    def start(self, ssid: int, duration_s: int | None) -> None:
        self._loop.call(lambda: self._sender.start(ssid, duration_s))

    def stop(self, ssid: int) -> None:
        self._loop.call(lambda: self._sender.stop(ssid))

    def clear(self, ssid: int) -> None:
        self._loop.call(lambda: self._sender.clear(ssid))

    def announce(self, ssid: int, packets: int) -> int:
        return self._loop.call(lambda: self._sender.announce(ssid, packets))

    def ping(self) -> None:
        self._loop.call(lambda: None)

    def freshen(self) -> None:
        self._loop.work(self._sender.freshen())

    def wake(self) -> None:
        """Something that sessions may wait for is there: have them look. From any thread."""
        self._loop.post(self._sender.mend)

    def close(self) -> None:
        self._loop.call(self._let_go)
        self._loop.close()

    def _let_go(self) -> None:
        """In the loop, at a stroke: no timer comes in between."""
        self._timer.at(None)
        self._loop.unregister(self._alarm.fileno())
        self._alarm.close()
        self._sender.close()
        self._reflector.close()

    def _tick(self, now_ns: int) -> None:
        self._timer.at(now_ns + REFRESH_NS, EASY_NS)
        self._clock.refresh(now_ns)
        self._sender.tick(now_ns)
        self._reflector.tick()

    def _stepped(self, _events: int) -> bool:
        if self._alarm.rung():
            self._clock.look(monotonic_ns(), wall_ns())
        return False
