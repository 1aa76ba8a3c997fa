"""Engines as the YANG leaf `engine` selects them, from the edit to the state."""

from __future__ import annotations

import json
import os
import sys
import time

import pytest

from dataplane.engines.userspace.demand import DEMAND_SETTING
from tests.integration.engines.network import eventually
from tests.integration.plugin.element import (
    REFLECTOR,
    SENDER,
    ClientError,
    Element,
    Tree,
)
from tests.integration.plugin.test_stampd import other_subscriber, session, sessions
from tests.integration.slow_compiler import slow_compiler

pytestmark = pytest.mark.integration


def select(role: str, engine: str) -> Tree:
    return {role: {"engine": engine}}


def test_scapy_measures_and_reflects(sender: Element, reflector: Element) -> None:
    reflector.edit(select("session-reflector", "scapy"))
    sender.edit(select("session-sender", "scapy"))
    sender.edit(sessions(session(1, interval="20000")))
    sender.await_received(1, 20)
    state = sender.session(1)
    assert state["oper-state"] == "running"
    assert state["active-engine"] == "scapy"
    assert (state["t1-method"], state["t4-method"]) == ("userspace", "kernel-software")
    assert "last-error" not in state
    for record in state["measurement"]:
        t1, t2, t3, t4 = (int(record[name]) for name in ("t1", "t2", "t3", "t4"))
        assert t1 < t2 < t3 < t4
        assert record["session-sender-ttl"] == 255
    served = reflector.state(REFLECTOR)["session-reflector"]
    assert (served["engine"], served["oper-state"]) == ("scapy", "running")
    assert int(served["counters"]["reflected"]) >= 20
    (reflected,) = (entry for entry in served["session"] if "last-received" in entry)
    assert (reflected["t2-method"], reflected["t3-method"]) == ("kernel-software", "userspace")


def test_a_session_moves_between_engines(sender: Element, reflector: Element) -> None:
    sender.edit(sessions(session(1)))
    sender.await_received(1, 5)
    for engine in ("scapy", "userspace"):
        sender.edit(select("session-sender", engine))
        assert sender.session(1)["active-engine"] == engine
        sender.await_received(1, 5)
        assert sender.session(1)["oper-state"] == "running"


def test_what_scapy_lacks_is_refused(sender: Element, reflector: Element) -> None:
    text = (
        f"{SENDER}/session[ssid='2']/interval: engine scapy needs an interval of at least 10000 us"
    )
    sender.edit(sessions(session(2, interval="9999")))
    sender.await_received(2, 5)
    with pytest.raises(ClientError) as refusal:
        sender.edit(select("session-sender", "scapy"))
    assert text in str(refusal.value)
    assert sender.session(2)["active-engine"] == "userspace"
    sender.edit(sessions(session(2, interval="10000")))
    sender.edit(select("session-sender", "scapy"))
    sender.await_received(2, 5)
    with pytest.raises(ClientError) as refusal:
        sender.edit(sessions(session(2, interval="9999")))
    assert text in str(refusal.value)
    sender.await_received(2, 5)
    with pytest.raises(ClientError) as refusal:
        reflector.edit(
            {
                "path": [
                    {
                        "name": "long",
                        "segment": [{"index": n, "sid": f"fc00::{n}"} for n in range(1, 18)],
                    }
                ],
                "session-reflector": {
                    "engine": "scapy",
                    "session": [{"ssid": 9, "sender-address": "any", "return-path": "long"}],
                },
            }
        )
    assert (
        f"{REFLECTOR}/session[ssid='9'][sender-address='any']/return-path: "
        "engine scapy supports at most 16 segments, not 17"
    ) in str(refusal.value)


def test_xdp_reflects(sender: Element, reflector: Element) -> None:
    with pytest.raises(ClientError) as refusal:
        reflector.edit(select("session-reflector", "xdp"))
    assert (
        f"{REFLECTOR}/interface: "
        "engine xdp needs the names of the interfaces that requests arrive on"
    ) in str(refusal.value)
    reflector.edit({"session-reflector": {"engine": "xdp", "interface": ["wan0"]}})
    sender.edit(sessions(session(1, interval="20000")))
    sender.await_received(1, 20)

    def served() -> Tree:
        return reflector.state(REFLECTOR)["session-reflector"]

    eventually(lambda: int(served()["driver"]["answered"]) >= 20, "the driver answers")
    state = served()
    assert (state["active-engine"], state["oper-state"]) == ("xdp", "running")
    interface = state["driver"]["interface"][0]
    assert (interface["name"], interface["mode"]) == ("wan0", "generic")
    assert int(state["counters"]["reflected"]) >= int(state["driver"]["answered"])
    (reflected,) = (entry for entry in state["session"] if "last-received" in entry)
    assert reflected["t2-method"] == reflected["t3-method"] == "kernel-software"
    reflector.edit(select("session-reflector", "userspace"))
    before = int(sender.session(1)["counters"]["received"])
    sender.await_received(1, before + 20)
    assert "driver" not in served()


def test_xdp_collects(sender: Element, reflector: Element) -> None:
    with pytest.raises(ClientError) as refusal:
        sender.edit(select("session-sender", "xdp"))
    assert (
        f"{SENDER}/interface: engine xdp needs the names of the interfaces that replies arrive on"
    ) in str(refusal.value)
    sender.edit({"session-sender": {"engine": "xdp", "interface": ["wan0"]}})
    sender.edit(sessions(session(1, interval="20000")))
    sender.await_received(1, 20)

    def collecting() -> Tree:
        return sender.state(SENDER)["session-sender"].get("driver", {})

    eventually(lambda: int(collecting().get("collected", 0)) >= 20, "the driver collects")
    state = collecting()
    assert [each["name"] for each in state["interface"]] == ["wan0"]
    assert (state["duplicates"], state["late"]) == ("0", "0")
    assert "handed-up" not in state
    sender.edit(select("session-sender", "userspace"))
    sender.await_received(1, 5)
    kept = collecting()
    assert int(kept["collected"]) >= int(state["collected"])


def test_an_edit_does_not_wait_for_the_compiler(sender: Element, reflector: Element) -> None:
    """Not for as long as its client does."""
    sender.stop()
    paths = [slow_compiler(sender.folder / "slow", 6), *filter(None, sys.path)]
    sender.environment |= {"PYTHONPATH": os.pathsep.join(paths)}
    sender.start()
    sender.edit(sessions(session(1), session(2, enabled=False)))
    sender.await_received(1, 5)
    states: dict[int, list[str]] = {1: [], 2: []}
    with other_subscriber(sender, "listen") as listener:
        assert listener.stdout is not None
        begun_s = time.monotonic()
        sender.edit({"session-sender": {"engine": "xdp", "interface": ["wan0"]}})
        assert time.monotonic() - begun_s < 4
        waiting = sender.session(1)
        assert (waiting["oper-state"], waiting["active-engine"]) == ("starting", "xdp")
        assert "last-error" not in waiting
        with pytest.raises(ClientError, match="session 1 has no results"):
            sender.act(1, "fetch-results")
        sender.edit(sessions(session(1, interval="20000")))
        while "running" not in states[1]:
            _, values = json.loads(listener.stdout.readline())
            states[values["ssid"]].append(values["oper-state"])
            assert "failed" not in states[1]
    sender.await_received(1, 5)
    assert states[1] == ["starting", "running"]
    assert set(states[2]) <= {"stopped"}
    assert "last-error" not in sender.session(1)
    assert sender.stop() == 0
    log = sender.log.read_text()
    assert "session 1 is starting: the XDP program is being loaded" in log
    assert "failed" not in log, log
    assert "no results" not in log, log


def test_nor_does_one_that_leaves_the_engine(sender: Element, reflector: Element) -> None:
    sender.stop()
    paths = [slow_compiler(sender.folder / "slow", 20), *filter(None, sys.path)]
    sender.environment |= {"PYTHONPATH": os.pathsep.join(paths)}
    sender.start()
    sender.edit(sessions(session(1, interval="20000")))
    sender.edit({"session-sender": {"engine": "xdp", "interface": ["wan0"]}})
    begun_s = time.monotonic()
    sender.edit(select("session-sender", "scapy"))
    assert time.monotonic() - begun_s < 2
    sender.await_received(1, 5)


def test_userspace_receives_in_the_driver(sender: Element, reflector: Element) -> None:
    for each in (sender, reflector):
        each.stop()
        each.environment |= {DEMAND_SETTING: "0"}
        each.start()
    reflector.edit({"session-reflector": {"interface": ["wan0"]}})
    sender.edit({"session-sender": {"interface": ["wan0"]}})
    sender.edit(sessions(session(1, interval="20000")))
    sender.await_received(1, 20)
    in_driver = [{"name": "wan0", "mode": "native"}]

    def sending() -> Tree:
        return sender.state(SENDER)["session-sender"]

    eventually(lambda: "driver" in sending(), "replies are received in the driver")
    assert sending()["driver"]["interface"] == in_driver
    assert "last-error" not in sender.session(1)
    reflecting = reflector.state(REFLECTOR)["session-reflector"]
    assert reflecting["driver"]["interface"] == in_driver
    assert "last-error" not in reflecting
