"""A client that speaks to the server's Unix socket directly, to send what no library would."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lxml import etree

from tools.netconf_server.framing import FrameReader, encode
from tools.netconf_server.messages import BASE_NS

NC = {"nc": BASE_NS}


class RawClient:
    """One session; the server's hello is read at once."""

    def __init__(self, path: Path, *, timeout_s: float = 30.0) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout_s)
        self.sock.connect(str(path))
        self.reader = FrameReader()
        hello = self.receive()
        assert hello is not None, "the server closed the connection"
        self.session_id = int(hello.findtext("nc:session-id", namespaces=NC) or 0)
        self.capabilities = [
            str(item.text) for item in hello.iterfind(".//nc:capability", namespaces=NC)
        ]

    def hello(self, *bases: str) -> None:
        """Open the session, with base:1.1 unless told otherwise."""
        bases = bases or ("1.1",)
        listing = "".join(
            f"<capability>urn:ietf:params:netconf:base:{base}</capability>" for base in bases
        )
        message = f'<hello xmlns="{BASE_NS}"><capabilities>{listing}</capabilities></hello>'
        self.sock.sendall(encode(message.encode(), chunked=False))
        if "1.1" in bases:
            self.reader.switch_to_chunked()

    def send(self, message: str) -> None:
        """Send a framed message as it is."""
        self.sock.sendall(encode(message.encode(), chunked=self.reader.chunked))

    def rpc(self, operation: str, attributes: str = 'message-id="1"') -> etree._Element:
        """Send an operation in an envelope; its reply."""
        self.send(f'<rpc xmlns="{BASE_NS}" {attributes}>{operation}</rpc>')
        reply = self.receive()
        assert reply is not None, "the server closed the session"
        return reply

    def receive(self) -> etree._Element | None:
        """The next message; None if the server closed the connection."""
        while True:
            message = self.reader.next_message()
            if message is not None:
                return etree.fromstring(message)
            data = self.sock.recv(65536)
            if not data:
                return None
            self.reader.feed(data)

    def close(self) -> None:
        """Close the transport."""
        self.sock.close()


@contextmanager
def raw_client(path: Path) -> Iterator[RawClient]:
    """A session that is closed at the end."""
    client = RawClient(path)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def as_user(uid: int, gid: int) -> Iterator[None]:
    """Act with the effective credentials of another user."""
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
