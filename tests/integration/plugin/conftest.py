"""Fixtures: a Session-Sender and a Session-Reflector that run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.plugin.element import SENDER_ADDRESS, Element, elements


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Element, Element]]:
    """Two elements whose daemons do not run yet."""
    with elements(tmp_path) as pair:
        yield pair


@pytest.fixture
def sender(pair: tuple[Element, Element]) -> Element:
    """A Session-Sender without sessions, facing a Session-Reflector of SSIDs 1 to 3."""
    sender, reflector = pair
    served = [
        {"ssid": ssid, "sender-address": SENDER_ADDRESS, "reflector-mode": "stateful"}
        for ssid in (1, 2, 3)
    ]
    served.append({"ssid": 1, "sender-address": "any", "reflector-mode": "stateless"})
    reflector.edit({"session-reflector": {"session": served}})
    sender.edit({"session-sender": {"source-address": SENDER_ADDRESS}})
    reflector.start()
    sender.start()
    return sender


@pytest.fixture
def reflector(pair: tuple[Element, Element]) -> Element:
    return pair[1]
