"""Frames of a pool: none is lost when a socket, or the pool itself, is closed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane.engines.base import Role
from dataplane.engines.common.batch import Batch
from dataplane.engines.userspace.driver_socket import DriverSocket
from dataplane.engines.userspace.receiving import Receiver
from dataplane.engines.userspace.xsk import Pool, XdpSocket
from tests.integration.engines.conformance import wire
from tests.integration.engines.conformance.reflecting import packet
from tests.integration.engines.conformance.stand import MAIN
from tests.integration.engines.network import eventually, inside
from tests.integration.engines.userspace.conftest import ANY, FRAMES, PORT, Node

pytestmark = pytest.mark.integration

OTHER_PORT = PORT + 1


def send(node: Node, number: int, port: int = PORT) -> None:
    for sequence in range(number):
        node.stand.inject(MAIN, packet(wire.request(sequence, 5), ports=(49_862, port)))


@pytest.fixture
def sock(node: Node) -> Iterator[DriverSocket]:
    with inside(node.stand.node):
        made = DriverSocket(
            *(Role.REFLECTOR, ANY, OTHER_PORT),
            receiver=Receiver(FRAMES),
            on_close=lambda _: None,
            on_flood=lambda _sock, _overrun: None,
        )
    yield made
    made.close()


@pytest.fixture
def served(node: Node, sock: DriverSocket) -> tuple[XdpSocket, int]:
    """What `sock` reads, and where the program has it."""
    beside = node.open()
    place = node.program.add(ANY, OTHER_PORT, beside)
    sock.attach(beside)
    return beside, place


def test_frames_of_a_closed_socket_are_those_of_the_others(node: Node) -> None:
    other = node.open()
    place = node.program.add(MAIN.here, PORT, other)
    with node.attached():
        send(node, FRAMES)
        assert other.waiting() == FRAMES
        node.program.remove(MAIN.here, PORT, other, place)
        other.close()
        send(node, FRAMES)
        assert node.in_driver().count == FRAMES
    assert node.xdp.dropped() == 0


def test_frames_of_a_closed_transport_are_those_of_the_others(
    node: Node, sock: DriverSocket, served: tuple[XdpSocket, int]
) -> None:
    with node.attached():
        send(node, FRAMES, OTHER_PORT)
        node.program.remove(ANY, OTHER_PORT, *served)
        sock.close()
        send(node, FRAMES)
        assert node.in_driver().count == FRAMES


def test_what_waits_outlives_the_pool(
    node: Node, sock: DriverSocket, served: tuple[XdpSocket, int]
) -> None:
    with node.attached():
        send(node, 5, OTHER_PORT)
    node.program.remove(ANY, OTHER_PORT, *served)
    sock.detach(served[0])
    node.pool.close()
    batch = Batch(FRAMES)
    sock.receive_batch(batch)
    assert [int.from_bytes(row[:4], "big") for row in batch.data[:5]] == list(range(5))
    assert (batch.count, sock.sources) == (5, 1)


def test_order_outlives_a_change_of_the_way(node: Node, sock: DriverSocket) -> None:
    """From the UDP socket to the driver's and back, while packets wait at both."""
    sent, read, batch = iter(range(30)), list[int](), Batch(4)

    def send_ten() -> None:
        for _, number in zip(range(10), sent, strict=False):
            node.stand.inject(MAIN, packet(wire.request(number, 5), ports=(49_862, OTHER_PORT)))

    def reads(number: int) -> None:
        def enough() -> bool:
            sock.receive_batch(batch)
            read.extend(batch.data[: batch.count, :4].copy().view(">u4")[:, 0].tolist())
            return len(read) >= number

        eventually(enough, f"{number} packets")

    send_ten()
    beside = node.open()
    with node.attached():
        place = node.program.add(ANY, OTHER_PORT, beside)
        sock.attach(beside)
        send_ten()
        reads(12)
        node.program.remove(ANY, OTHER_PORT, beside, place)
        sock.detach(beside)
        send_ten()
    reads(30)
    assert read == list(range(30))
    assert (sock.take_received(), sock.take_received(), sock.sources) == (30, 0, 1)


def test_a_queue_is_free_once_nobody_reads_it(
    node: Node, sock: DriverSocket, served: tuple[XdpSocket, int]
) -> None:
    node.program.remove(ANY, OTHER_PORT, *served)
    sock.detach(served[0])
    assert sock.sources == 1
    # All that it has of the queue, but for what the transport has.
    node.__exit__()

    def again() -> bool:
        try:
            with inside(node.stand.node):
                Pool(node.index, 0, FRAMES).close()
        except OSError:
            return False
        return True

    eventually(again, "the queue is free")
