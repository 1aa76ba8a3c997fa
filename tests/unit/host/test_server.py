"""What the host process writes: reports together, and no answer later than it is there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.engines.base import IntervalClosed
from dataplane.host import server
from dataplane.host.messages import (
    Answer,
    Freshen,
    Message,
    Ping,
    Reports,
    Shutdown,
    Splitter,
    encode,
)
from dataplane.host.server import Server

LONG_S = 20.0


class Host:
    """A server in a thread, and the other end of its channel."""

    def __init__(self, folder: Path) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(LONG_S / 2)
        self.server = Server(theirs, folder)
        self._splitter = Splitter()
        self._came: list[Message] = []
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()

    def receive(self) -> Message:
        while not self._came:
            self._came += self._splitter.feed(self.channel.recv(1 << 16))
        return self._came.pop(0)

    def close(self) -> None:
        self.channel.shutdown(socket.SHUT_WR)
        self._thread.join()
        self.channel.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


def test_reports_gather_until_there_is_an_answer(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "GATHER_S", LONG_S)
    reports = [IntervalClosed(1, number) for number in range(3)]
    for report in reports:
        host.server._outgoing.put(report)
    host.channel.sendall(encode(Ping(7)))
    assert host.receive() == Reports(tuple(reports))
    assert host.receive() == Answer(7)


def test_reports_that_nobody_asked_for_come_all_the_same(host: Host) -> None:
    host.server._outgoing.put(IntervalClosed(1, 2))
    assert host.receive() == Reports((IntervalClosed(1, 2),))
    host.channel.sendall(encode(Shutdown(8)))
    assert host.receive() == Answer(8)


def test_pings_do_not_wait_for_stores_to_be_brought_up_to_date(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(host.server._engines, "freshen", go_on.wait)
    host.channel.sendall(encode(Freshen(1)) + encode(Ping(2)))
    assert host.receive() == Answer(2)
    go_on.set()
    assert host.receive() == Answer(1)


def test_a_host_ends_whatever_is_being_brought_up_to_date(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, closed = threading.Event(), threading.Event()

    def freshen() -> None:
        begun.set()
        closed.wait()

    monkeypatch.setattr(host.server._engines, "freshen", freshen)
    monkeypatch.setattr(host.server._engines, "close", closed.set)
    host.channel.sendall(encode(Freshen(1)) + encode(Freshen(2)))
    begun.wait()
    host.channel.sendall(encode(Shutdown(3)))
    assert {host.receive(), host.receive()} == {Answer(3), Answer(1)}
