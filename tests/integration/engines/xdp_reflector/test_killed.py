"""What a process with the xdp engine leaves behind that is killed, and what the next one does."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.engines.network import Network, eventually, inside
from tests.integration.engines.xdp_reflector.running import BASE, ask, program_on

pytestmark = pytest.mark.integration

HOLDER = """
import sys
from pathlib import Path
from dataplane.config import Node, Reflector, ReflectorMode, ReflectorSession
from dataplane.engines.base import EngineContext
from dataplane.engines.xdp.engine import XdpEngine

def heard(report):
    status = getattr(report, "status", None)
    if status is not None:
        print(status.oper_state.value, flush=True)

session = ReflectorSession(5, mode=ReflectorMode.STATEFUL)
engine = XdpEngine(EngineContext(Path(sys.argv[1]), heard))
engine.configure(Node(reflector=Reflector(
    engine="xdp", interfaces=("vb",), sessions={session.key: session}
)))
sys.stdin.read()
engine.close()
"""

Holder = subprocess.Popen[str]


@pytest.fixture
def start(network: Network, tmp_path: Path) -> Iterator[Callable[[], Holder]]:
    """A process whose Session-Reflector runs; it ends properly where its input does."""
    with contextlib.ExitStack() as holders:

        def start() -> Holder:
            with inside(network.reflector):
                holder = holders.enter_context(
                    subprocess.Popen(
                        [sys.executable, "-c", HOLDER, str(tmp_path)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                )
            holders.callback(holder.kill)
            assert holder.stdout is not None
            assert "running\n" in holder.stdout
            return holder

        yield start


def kill(holder: Holder) -> None:
    holder.kill()
    holder.wait()


def end(holder: Holder) -> None:
    holder.communicate(timeout=30)
    assert holder.returncode == 0


@pytest.fixture
def numbers(asking: socket.socket) -> Callable[[int], list[int]]:
    """Those of so many replies."""

    def number() -> int:
        found: int = struct.unpack_from("!I", ask(asking, 5, BASE))[0]
        return found

    return lambda count: [number() for _ in range(count)]


def test_no_number_is_given_again(
    start: Callable[[], Holder], numbers: Callable[[int], list[int]]
) -> None:
    first = start()
    numbers(3)
    # Long enough that the store is up to date, and the next look at the counter not due.
    time.sleep(0.6)
    given = numbers(20)
    kill(first)
    second = start()
    more = numbers(3)
    assert min(more) > max(given) == 22
    end(second)
    start()
    assert numbers(1) == [max(more) + 1]


def test_the_program_is_detached(network: Network, start: Callable[[], Holder]) -> None:
    holder = start()
    assert program_on(network.reflector, "vb")
    kill(holder)
    eventually(lambda: not program_on(network.reflector, "vb"), "the program is detached")


def test_loopback_forwards_no_longer(network: Network, start: Callable[[], Holder]) -> None:
    def settings() -> list[str]:
        with inside(network.reflector):
            return [
                Path(f"/proc/sys/net/{family}/conf/lo/forwarding").read_text().strip()
                for family in ("ipv6", "ipv4")
            ]

    with inside(network.reflector):
        Path("/proc/sys/net/ipv4/conf/lo/forwarding").write_text("1")
    assert settings() == ["0", "1"]
    kill(start())
    assert settings() == ["1", "1"]
    kill(start())
    end(start())
    assert settings() == ["0", "1"]
    # It is nobody's doing that it is set now.
    with inside(network.reflector):
        Path("/proc/sys/net/ipv6/conf/lo/forwarding").write_text("1")
    end(start())
    assert settings() == ["1", "1"]
