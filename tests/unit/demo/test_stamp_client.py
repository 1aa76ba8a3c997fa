"""The NETCONF client: XML out is valid by the model, XML in becomes typed values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import libyang
import pytest
from lxml import etree
from ncclient import manager
from ncclient.operations import RPCError
from ncclient.transport.errors import SessionCloseError, SSHUnknownHostError

from tests.unit.demo.samples import PATHS
from tools.demo.measure import Run, reflector_node, sender_node
from tools.repository import STAMP_FEATURES, STAMP_MODULE, search_directories
from tools.stamp_client import (
    STAMP_NS,
    Loss,
    Node,
    SenderSession,
    StampClient,
    StampClientError,
    build_action,
    build_config,
    parse_results,
    parse_sender_sessions,
    sender_filter,
)

RUN = Run(PATHS, "fd00:0:1::1", "fd00:0:2::1", interval_us=10_000, packets=2000)
NS = {"s": STAMP_NS}

STATE = f"""
<data xmlns="urn:ietf:params:xml:ns:netconf:base:1.0">
 <stamp xmlns="{STAMP_NS}"><session-sender><session>
  <ssid>7</ssid><path>north</path><reflector-address>fd00::2</reflector-address>
  <oper-state>running</oper-state>
  <counters><sent>20</sent><received>18</received>
   <discard><reason>truncated</reason><packets>3</packets></discard></counters>
  <delay>
   <forward><samples>18</samples><min>-9</min><mean>-5</mean><stddev>2</stddev>
    <percentile><percent>99.9</percent><value>-4</value></percentile></forward>
   <round-trip><samples>18</samples><mean>11</mean></round-trip>
  </delay>
  <loss><forward>1</forward><round-trip>1</round-trip>
   <round-trip-ratio>5.2632</round-trip-ratio></loss>
  <results-available>18</results-available>
  <interval-statistics><number>3</number><suspect>false</suspect><sent>9</sent>
   <delay><round-trip><samples>8</samples><mean>12</mean></round-trip></delay>
   <loss><round-trip>0</round-trip><round-trip-ratio>0.0000</round-trip-ratio></loss>
  </interval-statistics>
  <interval-statistics><number>2</number><suspect>true</suspect><sent>1</sent>
  </interval-statistics>
 </session></session-sender></stamp>
</data>
"""


def reply(sequences: range, remaining: int) -> str:
    results = "".join(
        f'<result xmlns="{STAMP_NS}"><sequence>{n}</sequence><t1>{n * 10}</t1>'
        f"<forward-delay>-3</forward-delay></result>"
        for n in sequences
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<rpc-reply xmlns="urn:ietf:params:xml:ns:netconf:base:1.0" message-id="1">'
        f'<remaining xmlns="{STAMP_NS}">{remaining}</remaining>'
        f'<dropped xmlns="{STAMP_NS}">2</dropped>{results}</rpc-reply>'
    )


class FakeReply:
    def __init__(self, xml: str) -> None:
        self.xml = xml
        self.data_ele = etree.fromstring(xml.encode())


class FakeSession:
    """In place of ncclient's Manager: answers in order, or raises."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []

    def _answer(self, *arguments: Any, **options: Any) -> FakeReply:
        self.asked.append(arguments or options)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return FakeReply(answer)

    dispatch = get = edit_config = _answer


@pytest.fixture(scope="module")
def context() -> libyang.Context:
    made = libyang.Context(":".join(map(str, search_directories())))
    made.load_module(STAMP_MODULE, enabled_features=list(STAMP_FEATURES))
    return made


@pytest.mark.parametrize("node", [sender_node(RUN), reflector_node(RUN)])
def test_config_is_valid_by_the_model(context: libyang.Context, node: Node) -> None:
    config = build_config(node)
    # The operations are NETCONF's, not the model's.
    etree.strip_attributes(config, "{urn:ietf:params:xml:ns:netconf:base:1.0}operation")
    text = etree.tostring(config[0]).decode()
    tree = context.parse_data_mem(text, "xml", strict=True, no_state=True)
    try:
        assert tree is not None
    finally:
        tree.free()


def test_config_holds_what_was_asked_for() -> None:
    config = build_config(sender_node(RUN))
    sids = config.xpath("s:stamp/s:path[s:name='via-core2']/s:segment/s:sid/text()", namespaces=NS)
    assert sids == ["fd00:0:102::e", "fd00:0:2::1"]
    sessions = config.xpath("s:stamp/s:session-sender/s:session", namespaces=NS)
    assert [session.findtext("s:packet-count", namespaces=NS) for session in sessions] == [
        "2000"
    ] * 2
    assert [session.findtext("s:enabled", namespaces=NS) for session in sessions] == ["true"] * 2


def test_what_is_not_given_is_left_to_the_model() -> None:
    config = build_config(Node("fd00::1", sender_sessions=(SenderSession(9, "fd00::2"),)))
    session = config.find("s:stamp/s:session-sender/s:session", NS)
    assert session is not None
    assert [etree.QName(leaf).localname for leaf in session] == ["ssid", "reflector-address"]
    assert config.find("s:stamp/s:session-reflector", NS) is None


def test_action() -> None:
    action = build_action(3, "fetch-results", max=10)
    assert action.tag == "{urn:ietf:params:xml:ns:yang:1}action"
    path = "s:stamp/s:session-sender/s:session[s:ssid='3']/s:fetch-results/s:max"
    assert action.findtext(path, namespaces=NS) == "10"
    assert len(build_action(3, "stop").find(".//s:stop", NS)) == 0  # type: ignore[arg-type]


def test_filter_leaves_history_and_records_out() -> None:
    names = [etree.QName(node).localname for node in sender_filter(("delay", "loss")).iter()]
    assert names == ["stamp", "session-sender", "session", "ssid", "delay", "loss"]


def test_filter_for_one_session_matches_its_key() -> None:
    session = sender_filter(("delay",), 7).find("s:session-sender/s:session", NS)
    assert session is not None
    assert [(etree.QName(node).localname, node.text) for node in session] == [
        ("ssid", "7"),
        ("delay", None),
    ]


def test_one_session_is_asked_for_by_itself() -> None:
    session = FakeSession(STATE)
    assert StampClient(session).sender_session(7).sent == 20
    (asked,) = session.asked
    assert asked["filter"][1].findtext("s:session-sender/s:session/s:ssid", namespaces=NS) == "7"


def test_removal_takes_the_whole_role() -> None:
    session = FakeSession("<ok/>")
    StampClient(session).remove_sender()
    (asked,) = session.asked
    role = asked["config"].find("s:stamp/s:session-sender", NS)
    assert role.attrib == {"{urn:ietf:params:xml:ns:netconf:base:1.0}operation": "remove"}
    assert len(role) == 0


def test_state() -> None:
    state = parse_sender_sessions(etree.fromstring(STATE))[7]
    assert (state.ssid, state.oper_state, state.last_error) == (7, "running", None)
    assert (state.path, state.reflector_address) == ("north", "fd00::2")
    assert (state.sent, state.received) == (20, 18)
    assert state.delay["forward"].mean_ns == -5
    assert state.delay["forward"].max_ns is None
    assert state.delay["forward"].percentiles == {99.9: -4}
    assert state.delay["backward"].mean_ns is None
    assert (state.loss.forward, state.loss.backward, state.loss.round_trip) == (1, None, 1)
    assert state.loss.round_trip_ratio == 5.2632
    assert state.results_available == 18


def test_the_latest_interval() -> None:
    latest = parse_sender_sessions(etree.fromstring(STATE))[7].latest_interval
    assert latest is not None
    assert (latest.number, latest.suspect, latest.sent) == (3, False, 9)
    assert latest.delay["round-trip"].mean_ns == 12
    assert latest.loss == Loss(round_trip=0, round_trip_ratio=0.0)


def test_no_state() -> None:
    assert parse_sender_sessions(etree.fromstring("<data/>")) == {}


def test_results() -> None:
    fetched = parse_results(etree.fromstring(reply(range(2), 5).encode()))
    assert [record.sequence for record in fetched.records] == [0, 1]
    assert (fetched.records[1].t1, fetched.records[1].t4) == (10, None)
    assert fetched.records[0].forward_delay == -3
    assert (fetched.remaining, fetched.dropped) == (5, 2)


def test_drain_asks_until_nothing_remains() -> None:
    session = FakeSession(reply(range(3), 4), reply(range(3, 6), 1), reply(range(6, 7), 0))
    records = list(StampClient(session).drain(1))
    assert [record.sequence for record in records] == list(range(7))
    assert len(session.asked) == 3


def test_drain_ends_when_the_node_gives_nothing() -> None:
    assert list(StampClient(FakeSession(reply(range(0), 4))).drain(1)) == []


def test_an_unknown_session() -> None:
    with pytest.raises(StampClientError, match=r"^the node has no session with SSID 8$"):
        StampClient(FakeSession(STATE)).sender_session(8)


def test_records_of_an_unknown_session() -> None:
    raw = etree.fromstring(
        '<rpc-error xmlns="urn:ietf:params:xml:ns:netconf:base:1.0">'
        "<error-tag>data-missing</error-tag><error-message>no parent</error-message></rpc-error>"
    )
    with pytest.raises(StampClientError, match=r"^the node has no session with SSID 8$"):
        StampClient(FakeSession(RPCError(raw))).fetch_results(8)


def test_a_refused_edit_says_where_and_why() -> None:
    raw = etree.fromstring(
        '<rpc-error xmlns="urn:ietf:params:xml:ns:netconf:base:1.0">'
        "<error-message>no such path</error-message><error-path>/s:stamp</error-path></rpc-error>"
    )
    client = StampClient(FakeSession(RPCError(raw)))
    with pytest.raises(
        StampClientError, match=r"^edit-config was refused: no such path \(at /s:stamp\)$"
    ):
        client.edit(Node("fd00::1"))


def test_a_lost_connection() -> None:
    client = StampClient(FakeSession(SessionCloseError("gone")))
    with pytest.raises(StampClientError, match=r"^get failed: Unexpected session close"):
        client.sender_sessions()


def test_nobody_listens(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("", encoding="ascii")
    with pytest.raises(StampClientError, match=r"^cannot connect to root@127\.0\.0\.1:1: "):
        StampClient.connect("127.0.0.1", 1, "root", key_file=key, timeout_s=2)


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        StampClientError, match=rf"^cannot read the key {tmp_path}/key: No such file or directory$"
    ):
        StampClient.connect("127.0.0.1", 1, "root", key_file=tmp_path / "key")


def test_a_node_whose_key_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(**_: Any) -> None:
        raise SSHUnknownHostError("[fd00::1]", "e4:27")

    monkeypatch.setattr(manager, "connect_ssh", connect)
    key = tmp_path / "key"
    key.write_text("", encoding="ascii")
    with pytest.raises(StampClientError, match=r"by `ssh -p 830 -s oss@fd00::1 netconf`$"):
        StampClient.connect("fd00::1", 830, "oss", key_file=key)
