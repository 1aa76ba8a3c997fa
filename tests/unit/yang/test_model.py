"""What the model itself refuses, with the message that the operator reads."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libyang
import pytest

from dataplane.engines import registry
from dataplane.engines.base import OperState
from tools.repository import PROJECT_YANG, STAMP_MODULE, find_module

Document = dict[str, Any]

SENDER = {
    "source-address": "fd00::1",
    "session": [{"ssid": 1, "reflector-address": "fd00::2"}],
}


def validate(context: libyang.Context, stamp: Document) -> None:
    text = json.dumps({"srv6-stamp:stamp": stamp})
    tree = context.parse_data_mem(text, "json", no_state=True, strict=True, validate_present=True)
    tree.free()


def sender_with(**session: Any) -> Document:
    sender = copy.deepcopy(SENDER)
    sender["session"][0].update({name.replace("_", "-"): v for name, v in session.items()})
    return {"session-sender": sender, "path": [{"name": "p"}]}


def test_the_example_is_valid_and_complete(context: libyang.Context) -> None:
    example = json.loads((PROJECT_YANG / "example.json").read_text())["srv6-stamp:stamp"]
    validate(context, example)
    # Section V-B of the paper: the ten parameters of a session.
    session = example["session-sender"]["session"][0]
    assert {
        "ssid",
        "path",
        "interval",
        "timestamp-format",
        "delay-mode",
        "reflector-address",
        "reflector-udp-port",
        "reflector-mode",
    } <= set(session)
    assert "source-address" in example["session-sender"]
    schema = {node.name() for node in context.find_path("/srv6-stamp:stamp/session-sender/session")}
    assert schema == {"session"}


def test_a_sid_may_repeat_in_a_path(context: libyang.Context) -> None:
    segments = [{"index": index, "sid": "fd00::5"} for index in (1, 2)]
    validate(context, {"path": [{"name": "loop", "segment": segments}]})


REFUSED: list[tuple[str, Callable[[], Document], str]] = [
    ("ssid 0", lambda: sender_with(ssid=0), "ssid"),
    ("ssid above 16 bits", lambda: sender_with(ssid=70000), "ssid"),
    (
        "sid with a zone",
        lambda: {"path": [{"name": "p", "segment": [{"index": 1, "sid": "fe80::1%eth0"}]}]},
        "sid",
    ),
    ("unknown path", lambda: sender_with(path="nowhere"), "nowhere"),
    (
        "no reflector address",
        lambda: {"session-sender": {"source-address": "fd00::1", "session": [{"ssid": 1}]}},
        "reflector-address",
    ),
    (
        "no source address",
        lambda: {"session-sender": {"session": [{"ssid": 1, "reflector-address": "fd00::2"}]}},
        "a session needs a source-address, its own or the Session-Sender's",
    ),
    ("interval too short", lambda: sender_with(interval="999"), "interval"),
    (
        "interval above the computation interval",
        lambda: sender_with(interval="20000000"),
        "computation-interval must not be shorter than interval",
    ),
    (
        "duration below the interval",
        lambda: sender_with(interval="5000000", duration=1),
        "duration must not be shorter than interval",
    ),
    ("both run lengths", lambda: sender_with(duration=10, packet_count=5), "packet-count"),
    (
        "segments to an IPv4 reflector",
        lambda: sender_with(path="p", reflector_address="192.0.2.1"),
        "a path of SRv6 segments needs an IPv6 reflector-address",
    ),
    (
        "mixed families",
        lambda: sender_with(source_address="192.0.2.1"),
        "source-address and reflector-address must be of the same address family",
    ),
    (
        "more records shown than kept",
        lambda: sender_with(record_depth=10, result_depth=5),
        "record-depth must not exceed result-depth",
    ),
    (
        "one port for both roles",
        lambda: {"session-sender": {**SENDER, "udp-port": 862}, "session-reflector": {}},
        "the Session-Sender and the Session-Reflector of a node need different UDP ports",
    ),
    (
        "a stateful session for any sender",
        lambda: {
            "session-reflector": {
                "session": [{"ssid": 1, "sender-address": "any", "reflector-mode": "stateful"}]
            }
        },
        "a stateful session counts one sender's packets: it needs a sender-address",
    ),
    (
        "one port for a session and the reflector",
        lambda: {**sender_with(sender_udp_port=862), "session-reflector": {}},
        "the Session-Sender and the Session-Reflector of a node need different UDP ports",
    ),
    (
        "an engine that is not there",
        lambda: {"session-sender": {**SENDER, "engine": "dpdk"}},
        "engine",
    ),
    (
        "authentication, which is not implemented",
        lambda: sender_with(authentication={"key-chain": "k"}),
        "authentication",
    ),
    ("TLVs, which are not implemented", lambda: sender_with(tlvs={"location": True}), "tlvs"),
    (
        "thresholds, which are not implemented",
        lambda: sender_with(threshold=[{"metric": "forward-delay", "raise": "2", "clear": "1"}]),
        "threshold",
    ),
]


@pytest.mark.parametrize(
    ("document", "text"),
    [pytest.param(document, text, id=name) for name, document, text in REFUSED],
)
def test_refused(context: libyang.Context, document: Callable[[], Document], text: str) -> None:
    with pytest.raises(libyang.LibyangError) as refusal:
        validate(context, document())
    assert text in str(refusal.value)


def test_actions_and_keys_are_denied_by_default(context: libyang.Context) -> None:
    module = Path(PROJECT_YANG / "srv6-stamp.tree").read_text()
    for action in ("start", "stop", "clear", "fetch-results"):
        assert f"+---x {action}" in module
        node = next(iter(context.find_path(f"/srv6-stamp:stamp/session-sender/session/{action}")))
        assert "default-deny-all" in {extension.name() for extension in node.extensions()}


def test_the_model_offers_the_engines_that_there_are(context: libyang.Context) -> None:
    (engine,) = context.find_path("/srv6-stamp:stamp/session-sender/engine")
    assert isinstance(engine, libyang.SLeaf)
    assert {each.name() for each in engine.type().all_enums()} == registry.ENGINES.keys()


def test_the_model_has_the_states_that_there_are(context: libyang.Context) -> None:
    for role in ("session-sender/session", "session-reflector"):
        (state,) = context.find_path(f"/srv6-stamp:stamp/{role}/oper-state")
        assert isinstance(state, libyang.SLeaf)
        names = [each.name() for each in state.type().all_enums()]
        assert names == [each.value for each in OperState]


def test_the_name_of_the_file_has_the_latest_revision(context: libyang.Context) -> None:
    latest = max(revision.date() for revision in context.get_module(STAMP_MODULE).revisions())
    assert find_module(STAMP_MODULE).name == f"{STAMP_MODULE}@{latest}.yang"
