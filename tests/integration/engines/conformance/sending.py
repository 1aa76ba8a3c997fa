"""The engine as a Session-Sender, and a Session-Reflector by hand."""

from __future__ import annotations

import dataclasses
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from dataplane.config import Node, Sender, SenderSession
from dataplane.engines import registry
from dataplane.engines.base import OperState, Role, SenderDiscards
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.timestamp import TimestampFormat, encode_timestamp
from tests.integration.engines.conformance import wire
from tests.integration.engines.conformance.stand import (
    MAIN,
    OTHER,
    VLAN,
    Link,
    Running,
    grace,
)
from tests.integration.engines.network import eventually

PORT, SENDER_PORT = 862, 49862
SSID = 5
INTERVAL_US = 20_000


@dataclass(frozen=True)
class Family:
    """The addresses of one IP version."""

    version: int
    link: Link
    other: Link
    vlan: Link
    stranger: IPv4Address | IPv6Address

    @property
    def session(self) -> SenderSession:
        return SenderSession(SSID, self.link.there, self.link.here, interval_us=INTERVAL_US)


IPV6 = Family(6, MAIN, OTHER, VLAN, IPv6Address("fd00:9::9"))
IPV4 = Family(4, MAIN.over_ipv4(), OTHER.over_ipv4(), VLAN.over_ipv4(), IPv4Address("192.0.2.9"))
SESSION, OLD_SESSION = IPV6.session, IPV4.session

_REQUEST = struct.Struct("!IQHH28s")

Wrap = Callable[[bytes], bytes]
"""Puts an IP packet into other headers."""


@dataclass(frozen=True)
class Request:
    """The fields of a Session-Sender's packet."""

    sequence: int
    t1: int
    error: int
    ssid: int
    mbz: bytes

    @classmethod
    def read(cls, payload: bytes) -> Request:
        assert len(payload) == wire.BASE
        return cls(*_REQUEST.unpack(payload))


class Sending:
    def __init__(self, running: Running, family: Family = IPV6) -> None:
        """Skips the test where the engine lacks what it takes, and says so."""
        self.running = running
        self.stand = running.stand
        self.family, self.session, self.link = family, family.session, family.link
        if not running.has(Role.SENDER):
            refusal = f"engine {running.name} has no Session-Sender"
            assert list(registry.refusals(self.node(SESSION))) == [refusal]
            pytest.skip(refusal)
        if family.version not in running.able.address_families:
            refusal = f"engine {running.name} does not support IPv{family.version}"
            refusals = list(registry.refusals(self.node(self.session)))
            assert refusals == [f"session {SSID}: {refusal}"]
            pytest.skip(refusal)

    def node(self, *sessions: SenderSession, **settings: Any) -> Node:
        sender = Sender(
            engine=self.running.name, sessions={session.ssid: session for session in sessions}
        )
        return Node(sender=dataclasses.replace(sender, **settings))

    def configure(self, *sessions: SenderSession, **settings: Any) -> None:
        self.running.configure(self.node(*sessions, **settings))
        for session in sessions:
            self.running.await_session(session.ssid, OperState.RUNNING)

    def requests(self, number: int, link: Link = MAIN) -> list[wire.Seen]:
        """The next packets that are sent, at least `number`; they stay without an answer."""
        found: list[wire.Seen] = []

        def enough() -> bool:
            found.extend(self.stand.seen(link))
            return len(found) >= number

        eventually(enough, f"{number} requests")
        assert all(request.checksum_right for request in found)
        return found

    def serve(
        self,
        until: Callable[[], object],
        what: str,
        respond: Callable[[wire.Seen], None] | None = None,
    ) -> None:
        """Answer everything that is sent, until a condition holds."""

        def step() -> object:
            for request in self.stand.seen(MAIN):
                (respond or self.answer)(request)
            return until()

        eventually(step, what)

    def answer(
        self,
        request: wire.Seen,
        *,
        wrap: Wrap | None = None,
        fmt: TimestampFormat = TimestampFormat.NTP,
        link: Link = MAIN,
        **fields: Any,
    ) -> None:
        """As a Session-Reflector whose clock is this machine's."""
        ends = {"source": self.link.there, "destination": self.link.here}
        packet = reply_to(request, fmt=fmt, **(ends | fields))
        self.stand.inject(link, packet if wrap is None else wrap(packet))

    def received(self, number: int, ssid: int = SSID) -> Callable[[], bool]:
        return lambda: self.running.session(ssid).received >= number

    def discarded(self, *reasons: DiscardReason, ssid: int = SSID) -> None:
        """Wait for exactly these to be counted for a session."""
        wanted = {reason: reasons.count(reason) for reason in reasons}

        def counted() -> dict[DiscardReason, int]:
            discards = self.running.session(ssid).discards
            return {reason: count for reason, count in discards.items() if count}

        eventually(lambda: sum(counted().values()) >= len(reasons), f"discards: {wanted}")
        grace()
        assert counted() == wanted

    def strays(self) -> dict[DiscardReason, int]:
        """Packets that belong to no session."""
        found: dict[DiscardReason, int] = {}
        for report in self.running.reports:
            if isinstance(report, SenderDiscards):
                for reason, count in report.packets.items():
                    found[reason] = found.get(reason, 0) + count
        return found


def reply_to(
    request: wire.Seen,
    *,
    fmt: TimestampFormat = TimestampFormat.NTP,
    sequence: int | None = None,
    ssid: int | None = None,
    sender_sequence: int | None = None,
    error: int | None = None,
    source: Any,
    destination: Any,
    ports: tuple[int, int] | None = None,
    cut: int | None = None,
) -> bytes:
    """An IP packet with the answer to `request`, wrong in what is given."""
    asked = Request.read(request.payload)
    now = encode_timestamp(time.time_ns(), fmt)
    z = wire.PTPV2 if fmt is TimestampFormat.PTPV2 else wire.UNSYNCHRONIZED
    payload = wire.reply(
        asked.sequence if sequence is None else sequence,
        asked.ssid if ssid is None else ssid,
        asked.sequence if sender_sequence is None else sender_sequence,
        asked.t1,
        t2=now,
        t3=encode_timestamp(time.time_ns(), fmt),
        error=z if error is None else error,
        sender_error=asked.error,
        ttl=request.hop_limit,
    )
    datagram = wire.udp(source, destination, ports or request.ports[::-1], payload[:cut])
    within = wire.ipv6 if source.version == 6 else wire.ipv4
    return within(source, destination, wire.NH_UDP, datagram)


def behind_srh(*path: IPv6Address, left: int = 0) -> Wrap:
    def wrap(packet: bytes) -> bytes:
        source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
        segments: Sequence[IPv6Address] = (*path, destination)
        header = wire.srh(segments, left, wire.NH_UDP)
        active = segments[len(segments) - 1 - left]
        return wire.ipv6(source, active, wire.NH_ROUTING, header + packet[40:])

    return wrap


def within(*path: IPv6Address, srh: bool = True) -> Wrap:
    """Encapsulated towards the last segment, which it has reached."""

    def wrap(packet: bytes) -> bytes:
        inside = wire.NH_IPV6 if packet[0] >> 4 == 6 else wire.NH_IPV4
        if srh:
            header = wire.srh(path, 0, inside)
            return wire.ipv6(MAIN.there, path[-1], wire.NH_ROUTING, header + packet)
        return wire.ipv6(MAIN.there, path[-1], inside, packet)

    return wrap
