"""A Session-Sender over IPv4: its requests, and what it makes of the answers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from dataplane.config import ReflectorMode
from dataplane.engines import registry
from dataplane.engines.base import OperState
from dataplane.measurement import TimestampMethod
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.timestamp import TimestampFormat, decode_timestamp
from tests.integration.engines.conformance import wire
from tests.integration.engines.conformance.sending import (
    INTERVAL_US,
    PORT,
    SENDER_PORT,
    SESSION,
    SSID,
    Request,
    Sending,
    Wrap,
)
from tests.integration.engines.conformance.stand import (
    DECAPSULATING_IPV4,
    MAIN,
    OTHER,
    VLAN,
    Running,
)
from tests.integration.engines.network import eventually, ip

pytestmark = pytest.mark.integration

OLD, OLD_OTHER = MAIN.over_ipv4(), OTHER.over_ipv4()
TRANSIT = IPv6Address("fc00:e::1")
STRANGER = IPv4Address("192.0.2.9")
OLD_SESSION = dataclasses.replace(
    SESSION, source_address=OLD.here, reflector_address=OLD.there, dscp=46
)
BACK: dict[str, Any] = {"source": OLD.there, "destination": OLD.here}
"""Addresses of an answer."""


@pytest.fixture
def sending(running: Running) -> Sending:
    """The engine, if it can; else that it says so."""
    made = Sending(running)
    refusal = f"engine {running.name} does not support IPv4"
    refusals = list(registry.refusals(made.node(OLD_SESSION)))
    if 4 not in running.able.address_families:
        assert refusals == [f"session {SSID}: {refusal}"]
        pytest.skip(refusal)
    assert refusals == []
    return made


@pytest.mark.parametrize("fmt", TimestampFormat, ids=str)
def test_requests_on_the_wire(sending: Sending, fmt: TimestampFormat) -> None:
    before_ns = time.time_ns()
    sending.configure(dataclasses.replace(OLD_SESSION, timestamp_format=fmt))
    requests = sending.requests(5)
    after_ns = time.time_ns()
    fields = [Request.read(request.payload) for request in requests]
    assert [f.sequence for f in fields] == list(range(len(requests)))
    times = [decode_timestamp(f.t1, fmt, before_ns) for f in fields]
    assert before_ns < times[0] < times[-1] < after_ns
    for request, field in zip(requests, fields, strict=True):
        assert (request.source, request.destination) == (OLD.here, OLD.there)
        assert request.ports == (SENDER_PORT, PORT)
        assert (request.hop_limit, request.traffic_class) == (255, 46 << 2)
        assert (field.ssid, field.mbz) == (SSID, bytes(28))


def test_ttl_and_ports(sending: Sending) -> None:
    session = dataclasses.replace(
        OLD_SESSION, hop_limit=9, sender_udp_port=50_000, reflector_udp_port=50_001
    )
    sending.configure(session)
    (request, *_) = sending.requests(1)
    assert (request.hop_limit, request.ports) == (9, (50_000, 50_001))


def test_what_is_not_one_family_is_refused(sending: Sending) -> None:
    for change, reason in (
        (
            {"segments": (TRANSIT,)},
            f"packets to {OLD.there} cannot take a path of SRv6 segments: it is not IPv6",
        ),
        (
            {"source_address": MAIN.here},
            f"source {MAIN.here} and reflector {OLD.there} are of different address families",
        ),
    ):
        node = sending.node(dataclasses.replace(OLD_SESSION, **change))
        assert list(registry.refusals(node)) == [f"session {SSID}: {reason}"]


def within(*path: IPv6Address) -> Wrap:
    """Encapsulated to the SID that the path ends with; without an SRH if that is all."""

    def wrap(packet: bytes) -> bytes:
        if len(path) == 1:
            return wire.ipv6(MAIN.there, path[0], wire.NH_IPV4, packet)
        header = wire.srh(path, 0, wire.NH_IPV4)
        return wire.ipv6(MAIN.there, path[-1], wire.NH_ROUTING, header + packet)

    return wrap


FORMS: dict[str, Wrap | None] = {
    "plain": None,
    "End.DX4": within(DECAPSULATING_IPV4),
    "End.DX4, SRH": within(TRANSIT, DECAPSULATING_IPV4),
}


@pytest.mark.parametrize("form", FORMS)
def test_replies_in_every_header_form(sending: Sending, form: str) -> None:
    sending.configure(OLD_SESSION)
    sending.serve(
        sending.received(5),
        "5 replies",
        lambda request: sending.answer(request, wrap=FORMS[form], **BACK),
    )
    snapshot = sending.running.session(SSID)
    assert snapshot.duplicates == 0
    assert not any(snapshot.discards.values())
    for record in sending.running.results.fetch(SSID, 100):
        assert record.t1_ns < record.t2_ns <= record.t3_ns < record.t4_ns
        assert record.sender_ttl == 255
        assert record.t1_method != TimestampMethod.UNKNOWN.code
        assert record.t4_method == TimestampMethod.KERNEL_SOFTWARE.code
    assert not any(map(wire.is_unreachable, sending.stand.frames(MAIN)))


def test_replies_on_a_vlan(sending: Sending) -> None:
    sending.stand.add_vlan()
    link = VLAN.over_ipv4()
    session = dataclasses.replace(
        OLD_SESSION, source_address=link.here, reflector_address=link.there
    )
    sending.configure(session, interfaces=(VLAN.device,))
    for request in sending.requests(3, link):
        sending.answer(request, link=link, source=link.there, destination=link.here)
    eventually(sending.received(3), "3 replies")


WRONG: dict[str, tuple[DiscardReason, dict[str, Any]]] = {
    "43 bytes": (DiscardReason.TRUNCATED, {"cut": 43}),
    "Multiplier 0": (DiscardReason.ZERO_MULTIPLIER, {"error": 0x8000}),
    "from another port": (DiscardReason.WRONG_PORT, {"ports": (863, SENDER_PORT)}),
    "from another address": (DiscardReason.WRONG_ADDRESS, {"source": STRANGER}),
    "to a packet never sent": (
        DiscardReason.UNEXPECTED_SEQUENCE,
        {"sender_sequence": 1_000_000},
    ),
    "with another SSID": (DiscardReason.SSID_MISMATCH, {"ssid": 77}),
    "on a wrong interface": (DiscardReason.WRONG_INTERFACE, {"link": OTHER}),
}


@pytest.mark.parametrize("case", WRONG)
def test_replies_that_are_discarded(sending: Sending, case: str) -> None:
    reason, wrong = WRONG[case]
    sending.configure(OLD_SESSION, interfaces=(MAIN.device,))
    (request, *_) = sending.requests(1)
    sending.answer(request, **(BACK | wrong))
    sending.discarded(reason)
    assert sending.running.session(SSID).received == 0
    sending.serve(
        sending.received(2), "2 good replies", lambda request: sending.answer(request, **BACK)
    )


NOT_OURS: dict[str, dict[str, Any]] = {
    "to another node": {"destination": STRANGER},
    "to another address of ours": {"destination": OLD_OTHER.here},
    "to another port": {"ports": (PORT, 50_123)},
    "encapsulated to another node": {"wrap": within(TRANSIT)},
    "by the other family": {"source": MAIN.there, "destination": MAIN.here},
}


@pytest.mark.parametrize("case", NOT_OURS)
def test_replies_that_the_kernel_would_not_deliver(sending: Sending, case: str) -> None:
    sending.configure(OLD_SESSION)
    (request, *_) = sending.requests(1)
    sending.answer(request, **(BACK | NOT_OURS[case]))
    sending.serve(
        sending.received(2), "2 good replies", lambda request: sending.answer(request, **BACK)
    )
    snapshot = sending.running.session(SSID)
    assert snapshot.received <= snapshot.next_sequence - 1
    assert snapshot.duplicates == 0
    assert not any(snapshot.discards.values())


def answered_at(sending: Sending) -> Callable[[wire.Seen], None]:
    """Answers from where the request went to."""
    return lambda request: sending.answer(
        request, source=request.destination, destination=request.source
    )


@pytest.mark.parametrize("sessions", [1, 12], ids=["one each", "bursts"])
def test_sessions_of_both_families(sending: Sending, sessions: int) -> None:
    """They share a UDP port number and an engine, not a socket."""
    both = [
        dataclasses.replace(
            session,
            ssid=10 * sessions * family + at + 1,
            interval_us=max(INTERVAL_US, 20_000 * sessions),
            reflector_mode=ReflectorMode.STATELESS,
        )
        for family, session in enumerate((SESSION, OLD_SESSION))
        for at in range(sessions)
    ]
    sending.configure(*both)
    sending.serve(
        lambda: all(sending.received(3, session.ssid)() for session in both),
        "3 replies each",
        answered_at(sending),
    )
    for session in both:
        snapshot = sending.running.session(session.ssid)
        assert not any(snapshot.discards.values())
        assert snapshot.duplicates == 0


def test_the_address_comes_and_goes(sending: Sending) -> None:
    sending.configure(OLD_SESSION)
    ip("-n", sending.stand.node, "address", "delete", f"{OLD.here}/26", "dev", "n0")
    status = sending.running.await_session(SSID, OperState.FAILED)
    assert status.last_error == (
        f"cannot bind {OLD.here}:{SENDER_PORT}: Cannot assign requested address"
    )
    sending.stand.restore(MAIN)
    sending.running.await_session(SSID, OperState.RUNNING)


def test_a_network_that_is_unreachable(sending: Sending) -> None:
    there = IPv4Address("203.0.113.1")
    ip("-n", sending.stand.node, "route", "delete", "default")
    sending.configure(dataclasses.replace(OLD_SESSION, reflector_address=there))

    def told() -> bool:
        return sending.running.statuses(SSID)[-1].last_error is not None

    eventually(told, "an error")
    error = sending.running.statuses(SSID)[-1].last_error
    assert error == f"cannot send to {there}:{PORT}: Network is unreachable"
