"""The subsystem proxy, with pipes for its standard input and output."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tools.netconf_server import proxy


def test_relay_copies_both_ways_and_passes_the_end_on() -> None:
    ours, theirs = socket.socketpair()
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    relay = threading.Thread(target=proxy.relay, args=(ours, in_read, out_write))
    relay.start()
    os.write(in_write, b"request")
    assert theirs.recv(100) == b"request"
    theirs.sendall(b"reply")
    assert os.read(out_read, 100) == b"reply"
    os.close(in_write)
    assert theirs.recv(100) == b""
    theirs.sendall(b"last words")
    theirs.close()
    relay.join(10)
    assert not relay.is_alive()
    assert os.read(out_read, 100) == b"last words"
    ours.close()
    for descriptor in (in_read, out_read, out_write):
        os.close(descriptor)


def test_a_peer_that_reads_late_does_not_block_its_own_output() -> None:
    ours, theirs = socket.socketpair()
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    relay = threading.Thread(target=proxy.relay, args=(ours, in_read, out_write))
    relay.start()
    request = b"r" * 4_000_000

    def write() -> None:
        view = memoryview(request)
        while view:
            view = view[os.write(in_write, view) :]
        os.close(in_write)

    writer = threading.Thread(target=write)
    writer.start()
    theirs.sendall(b"early reply")
    assert os.read(out_read, 100) == b"early reply"
    received = bytearray()
    while data := theirs.recv(65536):
        received += data
    assert bytes(received) == request
    theirs.close()
    writer.join(10)
    relay.join(10)
    assert not relay.is_alive()
    ours.close()
    for descriptor in (in_read, out_read, out_write):
        os.close(descriptor)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "usage: python -m tools.netconf_server.proxy SOCKET\n"),
        (["/nonexistent/socket"], 1, "/nonexistent/socket: No such file or directory\n"),
    ],
)
def test_exit_status(
    arguments: list[str], status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert proxy.main(arguments) == status
    assert capsys.readouterr().err == text


def test_imports_nothing_but_the_standard_library() -> None:
    script = (
        "import sys, tools.netconf_server.proxy as p\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(roots & {'lxml', 'sysrepo', 'libyang', 'cffi', 'asyncio', 'numpy'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "[]\n"
