"""Hello, envelope and end of a session (RFC 6241 sections 3, 4, 7.8 and 8.1, RFC 6242)."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.conftest import START_TIMEOUT_S, Lab
from tests.conformance.raw_client import NC, RawClient, raw_client
from tools.netconf_server.messages import BASE_NS

pytestmark = pytest.mark.integration


def test_hello_announces_what_works(lab: Lab) -> None:
    with lab.connect() as session:
        announced = set(session.server_capabilities)
        library = session.get(
            filter=(
                "subtree",
                '<yang-library xmlns="urn:ietf:params:xml:ns:yang:ietf-yang-library">'
                "<content-id/></yang-library>",
            )
        )
    content_id = library.data_ele.findtext(".//{*}content-id")
    protocol = {item for item in announced if item.startswith("urn:ietf:params:netconf:")}
    capability = "urn:ietf:params:netconf:capability:"
    assert protocol == {
        "urn:ietf:params:netconf:base:1.0",
        "urn:ietf:params:netconf:base:1.1",
        f"{capability}writable-running:1.0",
        f"{capability}rollback-on-error:1.0",
        f"{capability}validate:1.1",
        f"{capability}xpath:1.0",
        f"{capability}notification:1.0",
        f"{capability}interleave:1.0",
        f"{capability}yang-library:1.1?revision=2019-01-04&content-id={content_id}",
        f"{capability}yang-library:1.0?revision=2019-01-04&module-set-id={content_id}",
    }
    monitoring = "urn:ietf:params:xml:ns:yang:ietf-netconf-monitoring"
    assert f"{monitoring}?module=ietf-netconf-monitoring&revision=2010-10-04" in announced
    # YANG 1.1 modules are found through the YANG library alone (RFC 7950 section 5.6.4).
    assert not any("netconf-test" in item for item in announced)


@pytest.mark.parametrize("base", ["1.0", "1.1"])
def test_reply_echoes_every_attribute(lab: Lab, base: str) -> None:
    with raw_client(lab.socket) as client:
        client.hello(base)
        reply = client.rpc(
            "<get><filter/></get>", 'message-id="a&lt;b" xmlns:e="urn:example" e:user="fred"'
        )
    assert dict(reply.attrib) == {"message-id": "a<b", "{urn:example}user": "fred"}
    assert reply.find("nc:data", NC) is not None


def test_replies_keep_the_order_of_the_requests(lab: Lab) -> None:
    with raw_client(lab.socket) as client:
        client.hello()
        for number in range(20):
            client.send(f'<rpc xmlns="{BASE_NS}" message-id="{number}"><get-x/></rpc>')
        replies = [client.receive() for _ in range(20)]
    assert [reply.get("message-id") for reply in replies if reply is not None] == [
        str(number) for number in range(20)
    ]
    tags = {reply.findtext("nc:rpc-error/nc:error-tag", None, NC) for reply in replies}  # type: ignore[union-attr]
    assert tags == {"operation-not-supported"}


def test_missing_message_id(lab: Lab) -> None:
    with raw_client(lab.socket) as client:
        client.hello()
        reply = client.rpc("<get/>", 'xmlns:e="urn:example" e:a="1"')
    error = reply.find("nc:rpc-error", NC)
    assert error is not None
    assert error.findtext("nc:error-type", None, NC) == "rpc"
    assert error.findtext("nc:error-tag", None, NC) == "missing-attribute"
    assert error.findtext("nc:error-info/nc:bad-attribute", None, NC) == "message-id"
    assert error.findtext("nc:error-info/nc:bad-element", None, NC) == "rpc"
    assert dict(reply.attrib) == {"{urn:example}a": "1"}


def test_malformed_message_with_base_1_1_is_answered(lab: Lab) -> None:
    with raw_client(lab.socket) as client:
        client.hello("1.1")
        client.send(f'<rpc xmlns="{BASE_NS}" message-id="1"><get></rpc>')
        reply = client.receive()
        assert reply is not None
        assert reply.findtext("nc:rpc-error/nc:error-tag", None, NC) == "malformed-message"
        assert client.rpc("<get><filter/></get>").find("nc:data", NC) is not None


def test_malformed_message_with_base_1_0_ends_the_session(lab: Lab) -> None:
    with raw_client(lab.socket) as client:
        client.hello("1.0")
        client.send(f'<rpc xmlns="{BASE_NS}" message-id="1"><get></rpc>')
        assert client.receive() is None


def test_broken_chunk_ends_the_session(lab: Lab) -> None:
    with raw_client(lab.socket) as client:
        client.hello("1.1")
        client.sock.sendall(b"\n#0\n")
        assert client.receive() is None


def test_a_client_that_leaves_is_cleaned_up(lab: Lab) -> None:
    leaving = RawClient(lab.socket)
    leaving.hello()
    leaving.rpc("<lock><target><running/></target></lock>")
    leaving.sock.sendall(b"\n#100\n<rpc")
    leaving.close()
    with raw_client(lab.socket) as client:
        client.hello()
        for _ in range(200):
            reply = client.rpc("<lock><target><running/></target></lock>")
            if reply.find("nc:ok", NC) is not None:
                return
    pytest.fail("the lock of a session that is gone was never released")


def test_close_session_replies_and_closes(lab: Lab) -> None:
    with raw_client(lab.socket) as client:
        client.hello()
        assert client.rpc("<close-session/>").find("nc:ok", NC) is not None
        assert client.receive() is None


def test_sigterm_closes_sessions_and_removes_the_socket(lab: Lab) -> None:
    assert stat.S_IMODE(os.stat(lab.socket).st_mode) == 0o660
    with raw_client(lab.socket) as client:
        client.hello()
        lab.daemon.send_signal(signal.SIGTERM)
        assert client.receive() is None
    assert lab.daemon.wait(START_TIMEOUT_S) == 0
    assert not Path(lab.socket).exists()


def test_sigterm_while_sessions_are_ending(lab: Lab) -> None:
    """Neither half-finished clean-up nor a session that just left may hold the server up."""
    clients = [RawClient(lab.socket) for _ in range(8)]
    for client in clients:
        client.hello()
        client.rpc("<get><filter/></get>")
    for client in clients:
        client.close()
    lab.daemon.send_signal(signal.SIGTERM)
    assert lab.daemon.wait(START_TIMEOUT_S) == 0


@pytest.mark.parametrize(
    "lab", [("--max-sessions", "2", "--max-message-bytes", "500")], indirect=True
)
def test_bounds_of_the_server(lab: Lab) -> None:
    with raw_client(lab.socket) as first, raw_client(lab.socket) as second:
        with pytest.raises(AssertionError, match="the server closed the connection"):
            RawClient(lab.socket)
        first.hello()
        first.send(f'<rpc xmlns="{BASE_NS}" message-id="1"><get>{" " * 500}</get></rpc>')
        assert first.receive() is None
        second.hello()
        assert second.rpc("<get><filter/></get>").find("nc:data", NC) is not None
    log = (lab.folder / "netconfd.log").read_text()
    assert "connection refused: 2 sessions are open" in log
    assert "closed: framing error: message longer than 500 bytes" in log


def test_a_second_server_on_the_socket_is_refused(lab: Lab) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tools.netconf_server.daemon", "--socket", str(lab.socket)],
        env=lab.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == f"stamp-netconfd: another server listens on {lab.socket}\n"
    with raw_client(lab.socket) as client:
        assert client.session_id > 0
