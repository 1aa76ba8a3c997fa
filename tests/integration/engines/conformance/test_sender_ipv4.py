"""What is peculiar to a Session-Sender over IPv4, or beside one over IPv6."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest

from dataplane.config import ReflectorMode
from dataplane.engines import registry
from dataplane.engines.base import OperState
from tests.integration.engines.conformance import wire
from tests.integration.engines.conformance.sending import (
    INTERVAL_US,
    IPV4,
    OLD_SESSION,
    PORT,
    SENDER_PORT,
    SESSION,
    SSID,
    Sending,
)
from tests.integration.engines.conformance.stand import (
    MAIN,
    Running,
)
from tests.integration.engines.network import eventually, ip

pytestmark = pytest.mark.integration

TRANSIT = IPv6Address("fc00:e::1")
OLD = IPV4.link


@pytest.fixture
def sending(running: Running) -> Sending:
    return Sending(running, IPV4)


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
        session = dataclasses.replace(OLD_SESSION, **change)
        node = sending.node(session, interfaces=("n0",))
        assert list(registry.refusals(node)) == [f"session {SSID}: {reason}"]


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
