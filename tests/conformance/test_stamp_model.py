"""The model `srv6-stamp` behind the NETCONF server: the client's edits, and an account's rights."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from tests.conformance.conftest import ROOT, await_server, running
from tests.conformance.raw_client import NC, RawClient, as_user, raw_client
from tests.conformance.test_control import NOBODY, failure_of
from tools.repository import Repository
from tools.stamp_client import STAMP_NS, Node, SrPath, build_action, build_config

pytestmark = pytest.mark.integration

S = {"s": STAMP_NS}
DENIED = {"tag": "access-denied", "type": "protocol", "session-id": None}


@pytest.fixture
def server(folder: Path) -> Iterator[Path]:
    """The socket of a server for a repository with our model; no stampd runs."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    repository = Repository(folder / "repository", f"ncs{uuid.uuid4().hex[:8]}")
    socket = folder / "netconf.sock"
    command = [sys.executable, "-m", "tools.netconf_server.daemon"]
    command += ["--socket", str(socket), "--group", "nogroup"]
    log = folder / "netconfd.log"
    try:
        repository.create()
        environment = os.environ | repository.environment() | {"PYTHONPATH": str(ROOT)}
        with running(command, env=environment, log=log) as daemon:
            await_server(daemon, log)
            yield socket
    finally:
        repository.destroy()


def edit(client: RawClient, config: etree._Element | str) -> etree._Element:
    text = config if isinstance(config, str) else etree.tostring(config).decode()
    return client.rpc(f"<edit-config><target><running/></target>{text}</edit-config>")


def sids(client: RawClient) -> list[str]:
    reply = client.rpc("<get-config><source><running/></source></get-config>")
    return [str(sid.text) for sid in reply.iterfind(".//s:path/s:segment/s:sid", S)]


def path_of(*segments: str) -> etree._Element:
    return build_config(Node("fd00::1", paths=(SrPath("north", segments),)))


def test_a_sid_list_becomes_shorter(server: Path) -> None:
    with raw_client(server) as client:
        client.hello()
        assert edit(client, path_of("::2", "::3", "::4")).find("nc:ok", NC) is not None
        assert sids(client) == ["::2", "::3", "::4"]
        assert edit(client, path_of("::2", "::4")).find("nc:ok", NC) is not None
        assert sids(client) == ["::2", "::4"]


def test_the_rules_of_the_tour_let_an_account_edit_and_act(server: Path) -> None:
    rules = (ROOT / "docs/tour/nacm.xml").read_text()
    assert rules.count("<user-name>oss</user-name>") == 1
    rules = rules.replace("<user-name>oss<", "<user-name>nobody<")
    start = etree.tostring(build_action(1, "start")).decode()
    with as_user(NOBODY, NOBODY):
        account = RawClient(server)
    try:
        account.hello()
        assert failure_of(edit(account, path_of("::2"))) == DENIED
        assert failure_of(account.rpc(start))["tag"] == "access-denied"
        with raw_client(server) as root:
            root.hello()
            assert edit(root, f"<config>{rules}</config>").find("nc:ok", NC) is not None
        assert edit(account, path_of("::2")).find("nc:ok", NC) is not None
        assert sids(account) == ["::2"]
        # Permitted; there is no such session.
        assert failure_of(account.rpc(start))["tag"] == "data-missing"
        # Of other models the account may still write nothing.
        more = rules.replace(">nobody<", ">mallory<")
        assert failure_of(edit(account, f"<config>{more}</config>")) == DENIED
    finally:
        account.close()
