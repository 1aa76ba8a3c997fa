"""The engine as a Session-Reflector, and hand-made requests to it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dataplane.config import Node, Reflector, ReflectorSession
from dataplane.engines import registry
from dataplane.engines.base import OperState, Role
from dataplane.stamp.errors import DiscardReason
from tests.integration.engines.conformance import wire
from tests.integration.engines.conformance.stand import MAIN, Link, Running, grace
from tests.integration.engines.network import eventually

PORT, SENDER_PORT = 862, 49862
SSID = 5


def role(*sessions: ReflectorSession, engine: str, **settings: Any) -> Node:
    served = sessions or (ReflectorSession(SSID),)
    reflector = Reflector(engine=engine, sessions={each.key: each for each in served})
    return Node(reflector=dataclasses.replace(reflector, **settings))


class Reflecting:
    def __init__(self, running: Running) -> None:
        self.running = running
        self.stand = running.stand
        if not running.has(Role.REFLECTOR):
            refusal = f"engine {running.name} has no Session-Reflector"
            assert list(registry.refusals(self.node())) == [refusal]
            pytest.skip(refusal)

    def node(self, *sessions: ReflectorSession, **settings: Any) -> Node:
        return role(*sessions, engine=self.running.name, **settings)

    def configure(self, *sessions: ReflectorSession, **settings: Any) -> None:
        self.running.configure(self.node(*sessions, **settings))
        self.running.await_reflector(OperState.RUNNING)

    def send(self, payload: bytes, link: Link = MAIN, **header: Any) -> None:
        """A plain request in its usual headers, as far as `header` says nothing else."""
        self.stand.inject(link, packet(payload, link, **header))

    def answers(self, number: int, link: Link = MAIN) -> list[wire.Seen]:
        """The next `number` replies; no more come."""
        found: list[wire.Seen] = []

        def enough() -> bool:
            found.extend(self.stand.seen(link))
            return len(found) >= number

        eventually(enough, f"{number} replies")
        grace()
        enough()
        assert len(found) == number
        assert all(reply.checksum_right for reply in found)
        return found

    def answer(self, link: Link = MAIN) -> wire.Seen:
        (found,) = self.answers(1, link)
        return found

    def exchange(self, payload: bytes, link: Link = MAIN, **header: Any) -> wire.Reflected:
        self.send(payload, link, **header)
        return wire.Reflected.read(self.answer(link).payload)

    def discarded(self, *reasons: DiscardReason) -> None:
        """Wait for exactly these to be counted; nothing has been answered."""
        wanted = {reason: reasons.count(reason) for reason in reasons}

        def counted() -> dict[DiscardReason, int]:
            return {
                reason: count
                for reason, count in self.running.reflector().discards.items()
                if count
            }

        eventually(lambda: sum(counted().values()) >= len(reasons), f"discards: {wanted}")
        grace()
        assert counted() == wanted
        assert self.stand.seen(MAIN) == []


def packet(
    payload: bytes,
    link: Link = MAIN,
    *,
    ports: tuple[int, int] = (SENDER_PORT, PORT),
    hop_limit: int = 64,
    traffic_class: int = 0,
    source: Any = None,
    destination: Any = None,
    **udp: Any,
) -> bytes:
    source, destination = source or link.there, destination or link.here
    within = wire.ipv6 if source.version == 6 else wire.ipv4
    return within(
        source,
        destination,
        wire.NH_UDP,
        wire.udp(source, destination, ports, payload, **udp),
        hop_limit=hop_limit,
        traffic_class=traffic_class,
    )
