"""The two phases of a change: nothing is touched before all have agreed."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from dataplane.config import Node
from dataplane.engines.base import Capabilities, EngineError
from sysrepo_plugin import changes as module
from sysrepo_plugin.changes import Changes
from sysrepo_plugin.datastore import Refused


def reflector(port: int) -> dict[str, Any]:
    return {
        "session-reflector": {
            "enabled": True,
            "engine": "userspace",
            "udp-port": port,
            "rate-limit": "unlimited",
            "require-configured-session": True,
        }
    }


class Recorder:
    def __init__(self) -> None:
        self.applied: list[Node] = []

    def __call__(self, node: Node) -> None:
        self.applied.append(node)

    @property
    def ports(self) -> list[int]:
        return [node.reflector.udp_port for node in self.applied if node.reflector]


def capabilities(_: str) -> Capabilities:
    return Capabilities()


def test_applied_when_all_have_agreed() -> None:
    apply = Recorder()
    changes = Changes(capabilities, apply)
    changes.handle("change", reflector(1000))
    assert apply.applied == []
    changes.handle("done", reflector(1000))
    assert apply.ports == [1000]


def test_the_configuration_at_start_is_applied() -> None:
    apply = Recorder()
    changes = Changes(capabilities, apply)
    changes.handle("enabled", reflector(1000))
    changes.handle("done", reflector(1000))
    assert apply.ports == [1000]


def test_an_abort_touches_nothing() -> None:
    apply = Recorder()
    changes = Changes(capabilities, apply)
    changes.handle("change", reflector(1000))
    changes.handle("done", reflector(1000))
    before = changes.node
    changes.handle("change", reflector(2000))
    changes.handle("abort", None)
    assert apply.ports == [1000]
    assert changes.node is before


def test_a_refusal_touches_nothing_and_says_why() -> None:
    apply = Recorder()
    changes = Changes(capabilities, apply)
    tree = reflector(1000)
    tree["session-reflector"]["source-address"] = "ff02::1"
    with pytest.raises(Refused) as refusal:
        changes.handle("change", tree)
    assert str(refusal.value) == (
        "/srv6-stamp:stamp/session-reflector/source-address: "
        "the source address ff02::1 is not a unicast address"
    )
    assert apply.applied == []
    assert changes.node == Node()


def test_what_could_not_be_applied_is_applied_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    applied = threading.Event()
    attempts = []

    def apply(node: Node) -> None:
        attempts.append(node)
        if len(attempts) < 3:
            raise EngineError("the data-plane host is not running")
        applied.set()

    changes = Changes(capabilities, apply)
    changes.handle("change", reflector(1000))
    changes.handle("done", reflector(1000))
    assert applied.wait(10)
    assert attempts == [changes.node] * 3
    changes.close()


def test_edits_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    changes = Changes(capabilities, Recorder())
    changes.handle("change", reflector(1000))
    changes.handle("done", reflector(1000))
    tree = reflector(1000)
    tree["session-reflector"]["source-address"] = "ff02::1"
    with pytest.raises(Refused):
        changes.handle("change", tree)
    changes.handle("change", reflector(2000))
    changes.handle("abort", None)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "INFO",
            "configuration applied: no Session-Sender; Session-Reflector on engine userspace,"
            " 0 sessions, 0 of them new or changed, 0 removed",
        ),
        (
            "INFO",
            "edit refused: /srv6-stamp:stamp/session-reflector/source-address:"
            " the source address ff02::1 is not a unicast address",
        ),
        ("INFO", "edit withdrawn: another subscriber refused it"),
    ]


def test_to_another_engine_all_sessions_are_new(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    changes = Changes(capabilities, Recorder())
    tree = reflector(1000)
    session = {"sender-address": "any", "reflector-mode": "stateless", "timestamp-format": "ntp"}
    tree["session-reflector"]["session"] = [
        {"ssid": ssid, "enabled": True, "sender-udp-port": 862} | session for ssid in (1, 2)
    ]
    for engine in ("userspace", "userspace", "scapy"):
        tree["session-reflector"]["engine"] = engine
        changes.handle("change", tree)
        changes.handle("done", tree)
    told = [record.getMessage().partition(" on ")[2] for record in caplog.records]
    assert told == [
        f"engine {text} of them new or changed, 0 removed"
        for text in ("userspace, 2 sessions, 2", "userspace, 2 sessions, 0", "scapy, 2 sessions, 2")
    ]
