"""What a NETCONF client is told of the sessions of a network element (RFC 5277)."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from tests.conformance.conftest import await_server, running
from tests.conformance.raw_client import NC, RawClient, raw_client
from tests.integration.plugin.element import REFLECTOR_ADDRESS, Element
from tools.netconf_server.messages import NOTIFICATION_NS
from tools.stamp_client import STAMP_NS

pytestmark = pytest.mark.integration


@pytest.fixture
def client(sender: Element, tmp_path: Path) -> Iterator[RawClient]:
    """A NETCONF session with the Session-Sender."""
    # tmp_path may be too long for the address of a socket.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "netconf.sock"
        command = [sys.executable, "-m", "tools.netconf_server.daemon", "--socket", str(path)]
        log = tmp_path / "netconfd.log"
        with running(command, env=sender.environment, log=log) as daemon:
            await_server(daemon, log)
            with raw_client(path) as client:
                client.hello()
                yield client


def subscribe(client: RawClient, name: str) -> None:
    wanted = f'<filter type="subtree"><{name} xmlns="{STAMP_NS}"/></filter>'
    reply = client.rpc(
        f'<create-subscription xmlns="{NOTIFICATION_NS}">{wanted}</create-subscription>'
    )
    assert reply.find("nc:ok", NC) is not None, etree.tostring(reply)


def take(client: RawClient) -> tuple[str, dict[str, str | None]]:
    """Name and leaves of the next notification."""
    message = client.receive()
    assert message is not None
    event = message[1]
    return etree.QName(event).localname, {etree.QName(leaf).localname: leaf.text for leaf in event}


def session(**leaves: object) -> dict[str, object]:
    base = {"ssid": 1, "reflector-address": REFLECTOR_ADDRESS, "interval": "20000"}
    return {"session-sender": {"session": [base | leaves]}}


def test_a_session_starts_and_stops(client: RawClient, sender: Element) -> None:
    sender.edit(session(enabled=False))
    sender.await_state(1, "stopped")
    subscribe(client, "session-state-change")
    sender.act(1, "start")
    sender.await_state(1, "running")
    sender.act(1, "stop")
    states = []
    while not states or states[-1] != "stopped":
        name, leaves = take(client)
        assert name == "session-state-change"
        assert leaves["ssid"] == "1"
        assert not states or leaves["previous-state"] == states[-1]
        states.append(leaves["oper-state"])
    assert "running" in states


def test_intervals_close(client: RawClient, sender: Element) -> None:
    subscribe(client, "interval-closed")
    sender.edit(session(**{"computation-interval": 1}))
    numbers = []
    for _ in range(3):
        name, leaves = take(client)
        assert name == "interval-closed"
        assert leaves["ssid"] == "1"
        numbers.append(int(leaves["number"] or -1))
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]
