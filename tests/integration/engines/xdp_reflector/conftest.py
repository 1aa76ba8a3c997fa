from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataplane.engines.base import OperState
from tests.integration.engines.network import SENDER, Network, inside
from tests.integration.engines.xdp_reflector.running import SERVED, Running


@pytest.fixture
def run(network: Network) -> Iterator[Callable[[], Running]]:
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:
        running: list[Running] = []

        def start() -> Running:
            running.append(Running(network.reflector, Path(folder)))
            return running[-1]

        yield start
        for each in running:
            each.close()


@pytest.fixture
def reflector(run: Callable[[], Running]) -> Running:
    """One that serves `SERVED`."""
    started = run()
    started.serve(SERVED)
    started.becomes(OperState.RUNNING)
    return started


@pytest.fixture
def asking(network: Network) -> Iterator[socket.socket]:
    with inside(network.sender):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind((str(SENDER), 50_000))
    sock.settimeout(5)
    yield sock
    sock.close()
