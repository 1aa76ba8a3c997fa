from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataplane.engines.base import Event
from dataplane.host.client import EngineHost
from tests.integration.engines.network import Network, inside


class Host:
    """A supervised host process in a namespace, and the events it has caused."""

    def __init__(self, namespace: str, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.events: list[Event] = []
        self.changed = threading.Event()
        with inside(namespace):
            self.engine = EngineHost(state_dir, self.events.append)


StartHost = Callable[[str], Host]


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as built:
        yield built


@pytest.fixture
def start_host() -> Iterator[StartHost]:
    folder = Path(tempfile.mkdtemp(prefix="stamp-test-", dir="/dev/shm"))
    started: list[Host] = []

    def start(namespace: str) -> Host:
        host = Host(namespace, folder / f"{namespace}-{len(started)}")
        started.append(host)
        return host

    yield start
    for host in started:
        host.engine.close()
    shutil.rmtree(folder)
