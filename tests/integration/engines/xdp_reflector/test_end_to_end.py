"""From a sender of the userspace engine to the reflector of the xdp engine, and back."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataplane.config import Node, Sender, SenderSession
from dataplane.engines.base import (
    AttachmentMode,
    EngineContext,
    OperState,
    ReflectorStatusReport,
    session_store_path,
)
from dataplane.engines.userspace import engine as userspace
from dataplane.reflector_store import HandedUp
from dataplane.store import SessionStore
from tests.integration.engines.network import SENDER, Network, eventually, inside
from tests.integration.engines.other_end import counting_at
from tests.integration.engines.xdp_reflector.running import SERVED, SESSION, Running, attached

pytestmark = pytest.mark.integration


@pytest.fixture
def sender(network: Network) -> Iterator[Callable[[SenderSession], SessionStore]]:
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:
        with inside(network.sender):
            engine = userspace.create(EngineContext(Path(folder), lambda _report: None))
        stores: list[SessionStore] = []

        def start(session: SenderSession) -> SessionStore:
            engine.configure(Node(sender=Sender(sessions={session.ssid: session})))
            path = session_store_path(Path(folder), session.ssid)
            stores.append(SessionStore.open(path, writable=False))
            return stores[-1]

        yield start
        for store in stores:
            store.close()
        engine.close()


def measured(reflector: Running, store: SessionStore) -> None:
    """All 200 packets have been measured, and all are accounted for on both sides."""
    eventually(lambda: store.snapshot().received == 200, "all replies have arrived")
    snapshot = store.snapshot(200)
    assert (snapshot.loss.round_trip, snapshot.duplicates, snapshot.reordered) == (0, 0, 0)
    assert [record.reflector_sequence for record in snapshot.records] == list(range(200))
    for record in snapshot.records:
        assert record.t1_ns < record.t2_ns <= record.t3_ns < record.t4_ns
    eventually(lambda: reflector.counted().sessions[5, SENDER].reflected == 200, "all are counted")
    eventually(
        lambda: reflector.counted().sessions[5, SENDER].next_sequence == 200,
        "the store is ahead of a busy session alone",
    )
    counted = reflector.counted()
    # What finds no neighbour entry goes up, and is answered there.
    assert counted.driver_answered + counted.handed_up[HandedUp.NEXT_HOP] == 200
    assert counted.driver_answered > 150


def test_end_to_end_generic(
    run: Callable[[], Running], sender: Callable[[SenderSession], SessionStore]
) -> None:
    reflector = run()
    reflector.serve(SERVED)
    status = reflector.becomes(OperState.RUNNING)
    assert attached(status) == [("vb", AttachmentMode.GENERIC)]
    assert status.attachments[0].note == (
        "the other end of vb has no XDP program, and would take no frames of one here"
    )
    measured(reflector, sender(SESSION))


def test_end_to_end_native(
    network: Network,
    run: Callable[[], Running],
    sender: Callable[[SenderSession], SessionStore],
) -> None:
    reflector = run()
    with counting_at(network.router, "rb"):
        reflector.serve(SERVED)
        assert attached(reflector.becomes(OperState.RUNNING)) == [("vb", AttachmentMode.NATIVE)]
        measured(reflector, sender(SESSION))

    def generic() -> bool:
        status = reflector.status
        return status is not None and attached(status) == [("vb", AttachmentMode.GENERIC)]

    eventually(generic, "the mode follows the other end")
    states = [
        r.status.oper_state
        for r in reflector.reports
        if isinstance(r, ReflectorStatusReport) and r.status
    ]
    assert OperState.FAILED not in states
