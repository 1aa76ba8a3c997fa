"""The Session-Reflector from configuration to configuration, and when things go missing."""

from __future__ import annotations

import dataclasses

import pytest

from dataplane.config import Node, ReflectorMode, ReflectorSession
from dataplane.engines.base import OperState
from dataplane.stamp.errors import DiscardReason
from tests.integration.engines.conformance import wire
from tests.integration.engines.conformance.reflecting import PORT, SSID, Reflecting
from tests.integration.engines.conformance.stand import MAIN, OTHER, Running, grace
from tests.integration.engines.network import eventually, ip

pytestmark = pytest.mark.integration


@pytest.fixture
def reflecting(running: Running) -> Reflecting:
    return Reflecting(running)


def test_a_disabled_role_keeps_silent(reflecting: Reflecting) -> None:
    reflecting.configure()
    assert reflecting.exchange(wire.request(1, SSID)).sequence == 1
    reflecting.running.configure(reflecting.node(enabled=False))
    reflecting.running.await_reflector(OperState.DISABLED)
    reflecting.send(wire.request(2, SSID))
    grace()
    assert reflecting.stand.seen(MAIN) == []
    reflecting.configure()
    assert reflecting.exchange(wire.request(3, SSID)).sequence == 3
    assert reflecting.running.reflector().received == 2


def test_a_role_that_goes_leaves_nothing(reflecting: Reflecting) -> None:
    reflecting.configure()
    reflecting.running.configure(Node())
    assert reflecting.running.results.reflector() is None
    reflecting.send(wire.request(1, SSID))
    grace()
    assert reflecting.stand.seen(MAIN) == []
    with reflecting.stand.socket_on_node() as other:
        other.bind(("::", PORT))
    reflecting.configure()
    assert reflecting.exchange(wire.request(3, SSID)).sequence == 3


def test_an_edit_leaves_equal_sessions_alone(reflecting: Reflecting) -> None:
    kept = ReflectorSession(SSID, mode=ReflectorMode.STATEFUL)
    changed = ReflectorSession(6, mode=ReflectorMode.STATEFUL)
    reflecting.configure(kept, changed)
    for ssid in (SSID, 6):
        assert reflecting.exchange(wire.request(9, ssid)).sequence == 0
    reflecting.configure(kept, dataclasses.replace(changed, sender_address=MAIN.there))
    assert reflecting.exchange(wire.request(9, SSID)).sequence == 1
    assert reflecting.exchange(wire.request(9, 6)).sequence == 0
    assert reflecting.running.reflector().received == 4


def test_a_thousand_sessions(reflecting: Reflecting) -> None:
    sessions = [ReflectorSession(ssid, MAIN.there) for ssid in range(1, 1_001)]
    reflecting.configure(*sessions)
    for ssid in (1, 500, 1_000):
        assert reflecting.exchange(wire.request(ssid, ssid)).ssid == ssid


def test_an_address_that_is_missing_and_comes_back(reflecting: Reflecting) -> None:
    reflecting.configure(source_address=MAIN.here)
    assert reflecting.exchange(wire.request(1, SSID)).sequence == 1
    ip("-n", reflecting.stand.node, "-6", "address", "delete", f"{MAIN.here}/64", "dev", "n0")
    error = reflecting.running.await_reflector(OperState.FAILED)
    assert error == f"cannot bind [{MAIN.here}]:{PORT}: Cannot assign requested address"
    reflecting.stand.restore(MAIN)
    reflecting.running.await_reflector(OperState.RUNNING)
    assert reflecting.exchange(wire.request(2, SSID)).sequence == 2


def test_only_the_source_address_is_listened_on(reflecting: Reflecting) -> None:
    reflecting.configure(source_address=MAIN.here)
    reflecting.send(wire.request(1, SSID), OTHER)
    reflecting.send(wire.request(1, SSID), MAIN, destination=OTHER.here)
    assert reflecting.exchange(wire.request(2, SSID)).sequence == 2
    assert reflecting.stand.seen(OTHER) == []
    snapshot = reflecting.running.reflector()
    assert snapshot.received == 1
    assert not any(snapshot.discards.values())


def test_an_interface_that_is_missing_and_comes(reflecting: Reflecting) -> None:
    reflecting.running.configure(reflecting.node(interfaces=("n0", "n5")))
    assert reflecting.running.await_reflector(OperState.FAILED) == "interface n5 does not exist"
    reflecting.send(wire.request(1, SSID))
    grace()
    assert reflecting.stand.seen(MAIN) == []
    ip("-n", reflecting.stand.node, "link", "add", "n5", "type", "veth", "peer", "name", "n6")
    reflecting.running.await_reflector(OperState.RUNNING)
    assert reflecting.exchange(wire.request(2, SSID)).sequence == 2


def test_interfaces_may_change(reflecting: Reflecting) -> None:
    reflecting.configure(interfaces=("n1",))
    reflecting.send(wire.request(1, SSID))
    reflecting.discarded(DiscardReason.WRONG_INTERFACE)
    reflecting.configure(interfaces=("n0", "n1"))
    assert reflecting.exchange(wire.request(2, SSID)).sequence == 2
    assert reflecting.exchange(wire.request(3, SSID), OTHER).sequence == 3


def test_a_port_that_is_taken(reflecting: Reflecting) -> None:
    with reflecting.stand.socket_on_node() as other:
        other.bind(("::", PORT))
        reflecting.running.configure(reflecting.node())
        error = reflecting.running.await_reflector(OperState.FAILED)
        assert error == f"cannot bind [::]:{PORT}: Address already in use"
    reflecting.running.await_reflector(OperState.RUNNING)
    assert reflecting.exchange(wire.request(2, SSID)).sequence == 2


def test_counters_outlive_the_engine(reflecting: Reflecting) -> None:
    session = ReflectorSession(SSID, mode=ReflectorMode.STATEFUL)
    reflecting.configure(session)
    assert reflecting.exchange(wire.request(1, SSID)).sequence == 0
    reflecting.running.resume(reflecting.node(session), {})
    reflecting.running.await_reflector(OperState.RUNNING)
    assert reflecting.exchange(wire.request(2, SSID)).sequence == 1
    served = reflecting.running.reflector().sessions[SSID, None]
    assert (served.received, served.reflected) == (2, 2)


def test_no_icmp_error_for_what_is_answered(reflecting: Reflecting) -> None:
    """A sniffer alone would leave it to the kernel to refuse each request."""
    reflecting.configure()
    for sequence in range(20):
        reflecting.send(wire.request(sequence, SSID))
    eventually(lambda: reflecting.running.reflector().reflected == 20, "20 replies")
    grace()
    frames = reflecting.stand.frames(MAIN)
    assert len([frame for frame in frames if wire.seen(frame)]) == 20
    assert not any(map(wire.is_unreachable, frames))
