"""Interrupts of the interface while replies flood in, as the kernel has them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.config import Node as Configuration
from dataplane.config import Sender, SenderSession
from dataplane.engines.base import EngineContext
from dataplane.engines.common.loop import LoopClosedError
from dataplane.engines.userspace.driver_socket import DriverSocket
from dataplane.engines.userspace.engine import UserspaceEngine
from dataplane.engines.userspace.moderation import MODERATION_US, KernelNapi, Napi
from tests.integration.engines.conformance.stand import MAIN, Stand
from tests.integration.engines.network import eventually, inside

pytestmark = pytest.mark.integration

SESSION = SenderSession(5, MAIN.there, MAIN.here, interval_us=20_000)
CONFIGURATION = Configuration(sender=Sender(interfaces=(MAIN.device,), sessions={5: SESSION}))


class Interface:
    """The NAPI instances of the node's interface."""

    def __init__(self, stand: Stand) -> None:
        with inside(stand.node):
            self.control = KernelNapi()
            self.ifindex = socket.if_nametoindex(MAIN.device)

    @property
    def napi(self) -> list[Napi]:
        return self.control.of(self.ifindex)


@pytest.fixture
def engine(stand: Stand) -> Iterator[UserspaceEngine]:
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:
        with inside(stand.node):
            engine = UserspaceEngine(EngineContext(Path(folder), lambda _report: None))
        yield engine
        with contextlib.suppress(LoopClosedError):
            engine.close()


@pytest.fixture
def interface(stand: Stand, engine: UserspaceEngine) -> Iterator[Interface]:
    engine.configure(CONFIGURATION)
    interface = Interface(stand)
    try:
        # A veth has an instance because a program is attached.
        (napi,) = interface.napi
        try:
            interface.control.set(napi)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            pytest.skip("this kernel moderates no NAPI instances one by one (Linux 6.13)")
        assert (napi.deferrals, napi.wait_ns) == (0, 0)
        yield interface
    finally:
        interface.control.close()


def flood(engine: UserspaceEngine) -> None:
    """Tell the engine what it finds out itself where replies come fast enough."""

    def tell() -> None:
        for sock in list(engine._driver._sockets):
            assert isinstance(sock, DriverSocket)
            sock.flooded(overrun=True)

    engine._loop.call(tell)


def test_interrupts_are_moderated_in_a_flood_and_not_afterwards(
    engine: UserspaceEngine, interface: Interface
) -> None:
    (before,) = interface.napi
    flood(engine)
    assert interface.napi == [before._replace(deferrals=1, wait_ns=MODERATION_US * 1_000)]
    eventually(lambda: interface.napi == [before], "interrupts as before")


def test_a_flood_by_udp_sockets_is_none_of_the_interfaces(
    engine: UserspaceEngine, interface: Interface, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    moderation = engine._driver._moderation
    monkeypatch.setattr(moderation, "flooded", lambda _, overrun: told.append(overrun))
    flood(engine)
    assert told
    told.clear()
    engine._loop.call(lambda: engine._driver._attach(()))
    flood(engine)
    assert not told


def test_what_the_operator_has_set_stays(engine: UserspaceEngine, interface: Interface) -> None:
    (found,) = interface.napi
    own = found._replace(deferrals=2, wait_ns=20_000)
    interface.control.set(own)
    flood(engine)
    assert interface.napi == [own]
    interface.control.set(found)


def test_an_engine_that_ends_leaves_interrupts_as_they_were(
    stand: Stand, engine: UserspaceEngine, interface: Interface
) -> None:
    # Keeps the instance where the engine's program goes.
    with inside(stand.node):
        assert os.system(f"ethtool -K {MAIN.device} gro on") == 0
    before = interface.napi
    flood(engine)
    assert interface.napi != before
    engine.close()
    assert [each._replace(identifier=0) for each in interface.napi] == [
        each._replace(identifier=0) for each in before
    ]


def test_an_unknown_instance_is_refused(interface: Interface) -> None:
    with pytest.raises(OSError, match="No such file or directory"):
        interface.control.set(Napi(1, 0, 0))
