"""What the engine asks of a configuration, without what it needs to run."""

from __future__ import annotations

import subprocess
import sys

from dataplane.config import Node, Reflector, ReflectorSession, Sender
from dataplane.engines import registry


def test_interfaces_have_to_be_named() -> None:
    refused = list(registry.refusals(Node(reflector=Reflector(engine="xdp"))))
    assert refused == ["engine xdp needs the names of the interfaces that requests arrive on"]
    refused = list(registry.refusals(Node(sender=Sender(engine="xdp"))))
    assert refused == ["engine xdp needs the names of the interfaces that replies arrive on"]
    named = Node(
        Sender(engine="xdp", interfaces=("eth0",)), Reflector(engine="xdp", interfaces=("eth0",))
    )
    assert list(registry.refusals(named)) == []


def test_sessions_are_bounded() -> None:
    most = registry.capabilities("xdp").reflector_sessions_max
    assert most is not None
    assert most >= 4_096
    sessions = {(ssid, None): ReflectorSession(ssid) for ssid in range(1, most + 2)}
    reflector = Reflector(engine="xdp", interfaces=("eth0",), sessions=sessions)
    assert list(registry.refusals(Node(reflector=reflector))) == [
        f"engine xdp reflects at most {most} sessions, not {most + 1}"
    ]


def test_bcc_is_imported_when_it_is_needed() -> None:
    code = (
        "import sys; from dataplane.engines import registry; registry.capabilities('xdp');"
        "sys.exit('bcc' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
