"""Locks, kill-session, schemas, monitoring, RPCs, actions and access control."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from lxml import etree
from ncclient.operations import RPCError

from tests.conformance.conftest import YANG, Lab, wait_until
from tests.conformance.raw_client import NC, RawClient, as_user, raw_client
from tests.conformance.test_data import NC_NS, TEST_NS, T, config, edit, top

pytestmark = pytest.mark.integration

MONITORING = {"m": "urn:ietf:params:xml:ns:yang:ietf-netconf-monitoring"}
NOBODY = 65534


def failure_of(reply: etree._Element) -> dict[str, str | None]:
    error = reply.find("nc:rpc-error", NC)
    assert error is not None, etree.tostring(reply)
    return {
        "tag": error.findtext("nc:error-tag", None, NC),
        "type": error.findtext("nc:error-type", None, NC),
        "session-id": error.findtext("nc:error-info/nc:session-id", None, NC),
    }


def test_lock_between_sessions(lab: Lab) -> None:
    with lab.connect() as first, lab.connect() as second:
        assert first.lock(target="running").ok
        with pytest.raises(RPCError) as failure:
            second.lock(target="running")
        assert failure.value.tag == "lock-denied"
        assert failure.value.xml.findtext(".//{*}session-id") == first.session_id
        with pytest.raises(RPCError) as failure:
            edit(second, "<mtu>1400</mtu>")
        assert failure.value.tag == "in-use"
        assert failure.value.message == f"running is locked by session {first.session_id}"
        with pytest.raises(RPCError):
            second.unlock(target="running")
        edit(first, "<mtu>1300</mtu>")
        state = second.get(filter=("xpath", (MONITORING, "//m:global-lock"))).data_ele
        assert state.findtext(".//m:locked-by-session", None, MONITORING) == first.session_id
        assert first.unlock(target="running").ok
        with pytest.raises(RPCError) as failure:
            first.unlock(target="running")
        assert failure.value.tag == "operation-failed"
        edit(second, "<mtu>1400</mtu>")
        assert top(first) == {"mtu": "1400"}


def test_lock_by_a_program_without_netconf(lab: Lab) -> None:
    with lab.locked("running"), raw_client(lab.socket) as client:
        client.hello()
        reply = client.rpc("<lock><target><running/></target></lock>")
        change = client.rpc(
            f"<edit-config><target><running/></target>{config('<mtu>1400</mtu>')}</edit-config>"
        )
    assert failure_of(reply) == {"tag": "lock-denied", "type": "protocol", "session-id": "0"}
    assert failure_of(change) == {"tag": "in-use", "type": "protocol", "session-id": None}
    text = change.findtext("nc:rpc-error/nc:error-message", None, NC)
    assert text == "running is locked by session 0"


def test_kill_session_releases_the_lock(lab: Lab) -> None:
    with raw_client(lab.socket) as victim, raw_client(lab.socket) as killer:
        victim.hello()
        killer.hello()
        assert victim.rpc("<lock><target><running/></target></lock>").find("nc:ok", NC) is not None
        kill = "<kill-session><session-id>{}</session-id></kill-session>"
        assert killer.rpc(kill.format(victim.session_id)).find("nc:ok", NC) is not None
        assert killer.rpc("<lock><target><running/></target></lock>").find("nc:ok", NC) is not None
        assert victim.receive() is None
        for wrong in (victim.session_id, killer.session_id, "x", 0):
            assert failure_of(killer.rpc(kill.format(wrong)))["tag"] == "invalid-value"


def test_get_schema(lab: Lab) -> None:
    with lab.connect() as session:
        # sysrepo prints a module when it installs it: the line breaks are its own.
        schema = session.get_schema("netconf-test").data
        assert schema.split() == (YANG / "netconf-test.yang").read_text().split()
        assert "module ietf-yang-types" in session.get_schema("ietf-yang-types", "2013-07-15").data
        for identifier, version in (("nope", None), ("netconf-test", "1999-01-01")):
            with pytest.raises(RPCError) as failure:
                session.get_schema(identifier, version)
            assert failure.value.tag == "invalid-value"


def test_monitoring(lab: Lab) -> None:
    with lab.connect() as session:
        data = session.get(filter=("xpath", (MONITORING, "/m:netconf-state"))).data_ele
        capabilities = {item.text for item in data.iterfind(".//m:capability", MONITORING)}
        assert capabilities == set(session.server_capabilities)
        schemas = {
            (item.findtext("m:identifier", None, MONITORING), item.findtext("{*}version"))
            for item in data.iterfind(".//m:schema", MONITORING)
        }
        assert ("netconf-test", "2026-01-01") in schemas
        sessions = data.findall(".//m:session", MONITORING)
        assert [item.findtext("{*}session-id") for item in sessions] == [session.session_id]
        assert sessions[0].findtext("{*}username") == "root"
        assert sessions[0].findtext("{*}in-rpcs") == "1"


def test_only_open_sessions_that_break_off_are_dropped(lab: Lab) -> None:
    """RFC 6022 section 2.1.5; a silent connection and a killed session are no drops."""
    with lab.connect() as session:

        def read(xpath: str) -> list[str | None]:
            data = session.get(filter=("xpath", (MONITORING, xpath))).data_ele
            return [
                item.text for item in data.iterfind(f".//{xpath.rpartition('/')[2]}", MONITORING)
            ]

        def alone() -> bool:
            return read("/m:netconf-state/m:sessions/m:session/m:session-id") == [
                session.session_id
            ]

        dropped = "/m:netconf-state/m:statistics/m:dropped-sessions"
        RawClient(lab.socket).close()
        with raw_client(lab.socket) as victim, raw_client(lab.socket) as polite:
            victim.hello()
            polite.hello()
            assert victim.rpc("<get><filter/></get>").find("nc:data", NC) is not None
            assert session.kill_session(str(victim.session_id)).ok
            assert polite.rpc("<close-session/>").find("nc:ok", NC) is not None
        wait_until(alone, "the other sessions are gone")
        assert read(dropped) == ["0"]
        with raw_client(lab.socket) as leaving:
            leaving.hello()
            assert leaving.rpc("<get><filter/></get>").find("nc:data", NC) is not None
        wait_until(alone, "the session that left is gone")
        assert read(dropped) == ["1"]


def test_rpc_and_action(lab: Lab) -> None:
    with lab.connect() as session:
        edit(session, "<item><name>a/b</name><value>6</value></item>")
        reply = session.dispatch(
            etree.fromstring(f'<echo xmlns="{TEST_NS}"><text>a &lt; b</text></echo>')
        )
        root = etree.fromstring(reply.xml.encode())
        assert root.findtext("t:text", None, T) == "a < b"
        reply = session.dispatch(
            etree.fromstring(
                f'<action xmlns="urn:ietf:params:xml:ns:yang:1"><top xmlns="{TEST_NS}"><item>'
                "<name>a/b</name><scale><factor>7</factor></scale></item></top></action>"
            )
        )
        root = etree.fromstring(reply.xml.encode())
        assert [(etree.QName(node).text, node.text) for node in root] == [
            (f"{{{TEST_NS}}}product", "42")
        ]
        assert session.dispatch(etree.fromstring(f'<restart xmlns="{TEST_NS}"/>')).ok


CALLS = [
    (f'<echo xmlns="{TEST_NS}"><text>fail</text></echo>', "operation-failed"),
    (f'<echo xmlns="{TEST_NS}"/>', "missing-element"),
    (f'<echo xmlns="{TEST_NS}"><text/></echo>', "invalid-value"),
    (f'<echo xmlns="{TEST_NS}"><txt/></echo>', "unknown-element"),
    (f'<nothing xmlns="{TEST_NS}"/>', "unknown-element"),
    (f'<unserved xmlns="{TEST_NS}"/>', "operation-not-supported"),
    ('<x xmlns="urn:example:unknown"/>', "unknown-namespace"),
    (f'<frob xmlns="{NC_NS}"/>', "operation-not-supported"),
    (
        f'<action xmlns="urn:ietf:params:xml:ns:yang:1"><top xmlns="{TEST_NS}"><item>'
        "<name>zz</name><scale><factor>7</factor></scale></item></top></action>",
        "data-missing",
    ),
    ('<action xmlns="urn:ietf:params:xml:ns:yang:1"/>', "bad-element"),
]


def test_calls_that_fail(lab: Lab) -> None:
    with lab.connect() as session:
        for call, tag in CALLS:
            with pytest.raises(RPCError) as failure:
                session.dispatch(etree.fromstring(call))
            assert failure.value.tag == tag, call
            if tag == "data-missing":
                assert failure.value.path == (
                    "/netconf-test:top/netconf-test:item[netconf-test:name='zz']"
                )
        with pytest.raises(RPCError, match="echo was told to fail"):
            session.dispatch(etree.fromstring(CALLS[0][0]))


def test_access_control_follows_the_user(lab: Lab) -> None:
    with as_user(NOBODY, NOBODY):
        client = RawClient(lab.socket)
    try:
        client.hello()
        assert client.rpc("<get><filter/></get>").find("nc:data", NC) is not None
        change = (
            f"<edit-config><target><running/></target>{config('<mtu>1400</mtu>')}</edit-config>"
        )
        denied = {"tag": "access-denied", "type": "protocol", "session-id": None}
        assert failure_of(client.rpc(change)) == denied
        kill = "<kill-session><session-id>99</session-id></kill-session>"
        assert failure_of(client.rpc(kill)) == denied
        assert failure_of(client.rpc(f'<restart xmlns="{TEST_NS}"/>')) == denied
        assert client.rpc(f'<echo xmlns="{TEST_NS}"><text>hi</text></echo>').findtext(
            "t:text", None, T
        ) == ("hi")
        acm = (
            f'<config xmlns="{NC_NS}"><nacm xmlns="urn:ietf:params:xml:ns:yang:ietf-netconf-acm">'
            "<read-default>{}</read-default><write-default>{}</write-default></nacm></config>"
        )
        with lab.connect() as session:
            assert top(session) == {}
            session.edit_config(target="running", config=acm.format("deny", "permit"))
        assert client.rpc(change).find("nc:ok", NC) is not None
        assert client.rpc("<get/>").find("nc:data/t:top", {**NC, **T}) is None
        with lab.connect() as session:
            assert top(session) == {"mtu": "1400"}
    finally:
        client.close()


def test_sessions_work_side_by_side(lab: Lab) -> None:
    def work(number: int) -> int:
        with raw_client(lab.socket) as client:
            client.hello()
            for value in range(10):
                content = f"<item><name>s{number}</name><value>{value}</value></item>"
                reply = client.rpc(
                    f"<edit-config><target><running/></target>{config(content)}</edit-config>"
                )
                assert reply.find("nc:ok", NC) is not None, etree.tostring(reply)
        return number

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(work, range(4))) == [0, 1, 2, 3]
    with lab.connect() as session:
        assert top(session) == {f"s{number}": "9" for number in range(4)}


def test_netconf_console(lab: Lab) -> None:
    hello = lab.console("--hello")
    assert "urn:ietf:params:netconf:base:1.1" in hello.stdout, hello
    result = lab.console(
        *("-N", f"t={TEST_NS}", "--set", "/t:top/t:mtu=1400"),
        *("--get-config", "/t:top/t:mtu", "--get", "/t:top/t:mtu"),
    )
    assert result.returncode == 0, result
    assert result.stdout.count("<mtu>1400</mtu>") == 2
    refused = lab.console("-N", f"t={TEST_NS}", "--set", "/t:top/t:mtu=666")
    assert "666 is not served here" in refused.stdout + refused.stderr
    schema = lab.console("--get-schema", "netconf-test")
    assert "module netconf-test" in schema.stdout
