"""The model `srv6-stamp` behind the NETCONF server: the client's edits, and an account's rights."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from tests.conformance.conftest import ROOT, await_server, running, wait_until
from tests.conformance.raw_client import NC, RawClient, as_user, raw_client
from tests.conformance.test_control import NOBODY, failure_of
from tools.repository import Repository
from tools.stamp_client import STAMP_NS, Node, SrPath, build_action, build_config

pytestmark = pytest.mark.integration

S = {"s": STAMP_NS}
DENIED = {"tag": "access-denied", "type": "protocol", "session-id": None}


@pytest.fixture
def environment(folder: Path) -> Iterator[dict[str, str]]:
    """Of what uses a repository with our model."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    repository = Repository(folder / "repository", f"ncs{uuid.uuid4().hex[:8]}")
    try:
        repository.create()
        yield os.environ | repository.environment() | {"PYTHONPATH": str(ROOT)}
    finally:
        repository.destroy()


@pytest.fixture
def server(folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """The socket of a server; no stampd runs."""
    socket = folder / "netconf.sock"
    command = [sys.executable, "-m", "tools.netconf_server.daemon"]
    command += ["--socket", str(socket), "--group", "nogroup"]
    log = folder / "netconfd.log"
    with running(command, env=environment, log=log) as daemon:
        await_server(daemon, log)
        yield socket


@pytest.fixture
def stampd(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    ready, log = folder / "ready", folder / "stampd.log"
    command = [sys.executable, "-m", "sysrepo_plugin.stampd", "--ready-file", str(ready)]
    command += ["--state-dir", str(folder / "state")]
    with running(command, env=environment, log=log) as daemon:
        wait_until(lambda: ready.exists() or daemon.poll() is not None, "start of stampd")
        assert daemon.poll() is None, log.read_text()
        yield


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


SESSION = (
    f'<config><stamp xmlns="{STAMP_NS}"><session-sender><source-address>fd00::1</source-address>'
    "<session><ssid>7</ssid>{}</session></session-sender></stamp></config>"
)
SENDER = "/srv6-stamp:stamp/srv6-stamp:session-sender"


def where_and_why(reply: etree._Element) -> tuple[str | None, ...]:
    """Tag, path and message of the first error."""
    names = ("error-tag", "error-path", "error-message")
    return tuple(reply.findtext(f"nc:rpc-error/nc:{name}", None, NC) for name in names)


def test_what_stampd_refuses_is_an_invalid_value(stampd: None, server: Path) -> None:
    with raw_client(server) as client:
        client.hello()
        reply = edit(client, SESSION.format("<reflector-address>ff02::1</reflector-address>"))
        assert where_and_why(reply) == (
            "invalid-value",
            f"{SENDER}/srv6-stamp:session[srv6-stamp:ssid='7']/srv6-stamp:reflector-address",
            "/srv6-stamp:stamp/session-sender/session[ssid='7']/reflector-address: "
            "the reflector address ff02::1 is not a unicast address",
        )
        assert failure_of(reply)["type"] == "application"
        assert len(reply.findall("nc:rpc-error", NC)) == 1


def test_two_cases_of_a_choice_name_the_list_entry(server: Path) -> None:
    both = "<packet-count>5</packet-count><duration>9</duration>"
    with raw_client(server) as client:
        client.hello()
        first = "<ssid>6</ssid><reflector-address>fd00::2</reflector-address>"
        config = SESSION.format(f"<reflector-address>fd00::2</reflector-address>{both}")
        one_case = f"<session>{first}<duration>9</duration></session><session>"
        reply = edit(client, config.replace("<session>", one_case))
        assert where_and_why(reply) == (
            "bad-element",
            f"{SENDER}/srv6-stamp:session[srv6-stamp:ssid='7']",
            'Data for both cases "packet-count" and "duration" exist.',
        )


def fails_with(environment: dict[str, str], *command: str) -> str:
    """What a command that does not start says."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_a_repository_has_one_stampd_and_one_netconf_server(
    folder: Path, environment: dict[str, str], stampd: None, server: Path
) -> None:
    said = fails_with(environment, "sysrepo_plugin.stampd", "--state-dir", str(folder / "other"))
    assert said.endswith("ERROR: another stampd serves this sysrepo repository\n")
    assert "configuration applied" not in said
    other = str(folder / "other.sock")
    said = fails_with(environment, "tools.netconf_server.daemon", "--socket", other)
    assert said.endswith("another NETCONF server serves this sysrepo repository\n")
