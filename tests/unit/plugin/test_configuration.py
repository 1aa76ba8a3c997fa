"""Datastore tree to dataplane configuration, and what is refused on the way."""

from __future__ import annotations

import json
from ipaddress import IPv6Address
from typing import Any

import libyang
import pytest

from dataplane.config import DelayMode, Node, ReflectorMode, SsidZeroAction
from dataplane.engines.base import Capabilities, EngineError
from dataplane.engines.registry import ENGINES
from dataplane.stamp.timestamp import TimestampFormat
from sysrepo_plugin.configuration import (
    ConfigurationError,
    check,
    node_from_tree,
    presentation_from_tree,
)
from tools.repository import PROJECT_YANG

Tree = dict[str, Any]


def tree_of(context: libyang.Context, stamp: Tree) -> Tree:
    """`stamp` validated and with defaults, as the datastore gives it."""
    document = json.dumps({"srv6-stamp:stamp": stamp})
    data = context.parse_data_mem(document, "json", no_state=True, strict=True)
    text = data.print_mem("json", with_siblings=True, include_implicit_defaults=True)
    data.free()
    tree: Tree = json.loads(text)["srv6-stamp:stamp"]
    return tree


def sender(**session: Any) -> Tree:
    session = {name.replace("_", "-"): value for name, value in session.items()}
    return {
        "session-sender": {
            "source-address": "fd00::1",
            "session": [{"ssid": 1, "reflector-address": "fd00::2"} | session],
        }
    }


def test_nothing_configured() -> None:
    assert node_from_tree(None) == Node()
    assert node_from_tree({}) == Node()


def test_sessions_that_are_configured_alike_share_their_lists(context: libyang.Context) -> None:
    """Each by itself would take memory for thousands."""
    stamp = sender()
    first = stamp["session-sender"]["session"][0] | {"path": "gold", "percentile": ["50.0", "99.9"]}
    stamp["session-sender"]["session"] = [first, first | {"ssid": 2}]
    stamp["path"] = [{"name": "gold", "segment": [{"index": 1, "sid": "fd00:c:1::e"}]}]
    node = node_from_tree(tree_of(context, stamp))
    assert node.sender is not None
    one, other = node.sender.sessions.values()
    assert one.percentiles == (50.0, 99.9)
    for name in ("segments", "percentiles", "reflector_address", "source_address"):
        assert getattr(one, name) is getattr(other, name)


def test_the_example(context: libyang.Context) -> None:
    example = json.loads((PROJECT_YANG / "example.json").read_text())["srv6-stamp:stamp"]
    node = node_from_tree(tree_of(context, example))

    assert node.sender is not None
    assert node.reflector is not None
    assert sorted(node.sender.sessions) == [1, 2, 3]
    gold = node.sender.sessions[1]
    assert gold.segments == (IPv6Address("fd00:c:1::e"), IPv6Address("fd00:c:3::e"))
    assert gold.source_address == IPv6Address("fd00:e:1::1")
    assert gold.interval_us == 100_000
    assert gold.dscp == 46
    assert gold.timestamp_format is TimestampFormat.PTPV2
    assert gold.reflector_mode is ReflectorMode.STATEFUL
    assert gold.percentiles == (50.0, 95.0, 99.0, 99.9)
    assert gold.result_depth == 36_000
    on_demand = node.sender.sessions[2]
    assert on_demand.autostart is False
    assert on_demand.source_address == IPv6Address("fd00:e:1::2")
    assert on_demand.sender_udp_port == 50862
    assert on_demand.packet_count == 100
    assert on_demand.on_ssid_zero is SsidZeroAction.STOP
    assert len(on_demand.segments) == 3
    assert on_demand.segments[0] == on_demand.segments[2]
    forward_only = node.sender.sessions[3]
    assert forward_only.delay_mode is DelayMode.ONE_WAY
    assert forward_only.duration_s == 3600
    assert forward_only.segments == ()
    assert forward_only.sender_udp_port == 49862

    served = node.reflector.sessions[1, IPv6Address("fd00:e:2::1")]
    assert served.segments == gold.segments
    assert served.sender_udp_port == 49862
    assert served.mode is ReflectorMode.STATEFUL
    assert node.reflector.sessions[7, None].enabled is False
    assert node.reflector.require_configured_session


def test_segments_are_visited_by_index_not_by_position(context: libyang.Context) -> None:
    segments = [{"index": 200, "sid": "fd00::b"}, {"index": 3, "sid": "fd00::a"}]
    stamp = sender(path="p") | {"path": [{"name": "p", "segment": segments}]}
    node = node_from_tree(tree_of(context, stamp))
    assert node.sender is not None
    assert node.sender.sessions[1].segments == (IPv6Address("fd00::a"), IPv6Address("fd00::b"))


@pytest.mark.parametrize(
    ("stamp", "text"),
    [
        pytest.param(
            sender(reflector_address="ff02::1"),
            "/srv6-stamp:stamp/session-sender/session[ssid='1']/reflector-address: "
            "the reflector address ff02::1 is not a unicast address",
            id="multicast reflector",
        ),
        pytest.param(
            sender(source_address="::"),
            "/srv6-stamp:stamp/session-sender/session[ssid='1']/source-address: "
            "the source address :: is not a unicast address",
            id="unspecified source",
        ),
        pytest.param(
            {"path": [{"name": "p", "segment": [{"index": 4, "sid": "ff05::2"}]}]},
            "/srv6-stamp:stamp/path[name='p']/segment[index='4']/sid: "
            "the segment address ff05::2 is not a unicast address",
            id="multicast segment",
        ),
        pytest.param(
            sender(reflector_address="192.0.2.1"),
            "/srv6-stamp:stamp/session-sender/session[ssid='1']/reflector-address: "
            "source address fd00::1 and reflector address 192.0.2.1 differ in family",
            id="families differ",
        ),
        pytest.param(
            {"session-reflector": {"source-address": "ff02::1"}},
            "/srv6-stamp:stamp/session-reflector/source-address: "
            "the source address ff02::1 is not a unicast address",
            id="multicast reflector source",
        ),
        pytest.param(
            {"session-reflector": {"session": [{"ssid": 7, "sender-address": "ff02::1"}]}},
            "/srv6-stamp:stamp/session-reflector/session[ssid='7'][sender-address='ff02::1']"
            "/sender-address: the sender address ff02::1 is not a unicast address",
            id="multicast sender",
        ),
    ],
)
def test_refused_with_path_and_reason(context: libyang.Context, stamp: Tree, text: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        node_from_tree(tree_of(context, stamp))
    assert str(refusal.value) == text


def test_what_the_engine_cannot_do_is_refused(context: libyang.Context) -> None:
    segments = [{"index": index, "sid": "fd00::a"} for index in range(3)]
    stamp = sender(path="p") | {"path": [{"name": "p", "segment": segments}]}
    node = node_from_tree(tree_of(context, stamp))
    check(node, lambda _: Capabilities(max_segments=3))
    with pytest.raises(ConfigurationError) as refusal:
        check(node, lambda _: Capabilities(max_segments=2))
    assert str(refusal.value) == (
        "/srv6-stamp:stamp/session-sender/session[ssid='1']/path: "
        "engine userspace supports at most 2 segments, not 3"
    )


REFLECTED = {"session-reflector": {"session": [{"ssid": 7, "sender-address": "fd00::1"}]}}


@pytest.mark.parametrize(
    ("stamp", "capabilities", "leaf"),
    [
        (sender(), Capabilities(roles=frozenset()), "session-sender/engine"),
        (
            sender(),
            Capabilities(address_families=frozenset({4})),
            "session-sender/session[ssid='1']/reflector-address",
        ),
        (
            sender(),
            Capabilities(min_interval_us=2_000_000),
            "session-sender/session[ssid='1']/interval",
        ),
        (
            sender(),
            Capabilities(timestamp_formats=frozenset({TimestampFormat.PTPV2})),
            "session-sender/session[ssid='1']/timestamp-format",
        ),
        (REFLECTED, Capabilities(roles=frozenset()), "session-reflector/engine"),
        (REFLECTED, Capabilities(reflector_sessions_max=0), "session-reflector/session"),
        (
            REFLECTED,
            Capabilities(address_families=frozenset({4})),
            "session-reflector/session[ssid='7'][sender-address='fd00::1']/sender-address",
        ),
    ],
)
def test_a_refusal_names_the_leaf(
    context: libyang.Context, stamp: Tree, capabilities: Capabilities, leaf: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        check(node_from_tree(tree_of(context, stamp)), lambda _: capabilities)
    assert refusal.value.path == f"/srv6-stamp:stamp/{leaf}"


@pytest.mark.parametrize(
    ("role", "packets"), [("session-reflector", "requests"), ("session-sender", "replies")]
)
def test_interfaces_that_an_engine_wants_named(
    context: libyang.Context, role: str, packets: str
) -> None:
    node = node_from_tree(tree_of(context, {role: {"engine": "xdp"}}))
    with pytest.raises(ConfigurationError) as refusal:
        check(node, lambda _: Capabilities(needs_interfaces=True))
    assert str(refusal.value) == (
        f"/srv6-stamp:stamp/{role}/interface: "
        f"engine xdp needs the names of the interfaces that {packets} arrive on"
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("leaves", "limit"),
    [({}, 100_000), ({"rate-limit": 5}, 5), ({"rate-limit": "unlimited"}, None)],
)
def test_rate_limit(context: libyang.Context, engine: str, leaves: Tree, limit: int | None) -> None:
    tree = tree_of(context, {"session-reflector": {"engine": engine, **leaves}})
    node = node_from_tree(tree)
    assert node.reflector is not None
    assert node.reflector.rate_limit == limit


def test_an_engine_that_cannot_be_used_is_refused(context: libyang.Context) -> None:
    def unusable(name: str) -> Capabilities:
        raise EngineError(f"engine {name} cannot be used here: no driver")

    with pytest.raises(ConfigurationError) as refusal:
        check(node_from_tree(tree_of(context, sender())), unusable)
    assert str(refusal.value) == (
        "/srv6-stamp:stamp/session-sender/engine: engine userspace cannot be used here: no driver"
    )


def test_equal_trees_make_equal_sessions(context: libyang.Context) -> None:
    first = node_from_tree(tree_of(context, sender(description="one", record_depth=1)))
    second = node_from_tree(tree_of(context, sender(description="two", record_depth=2)))
    assert first == second


def test_presentation(context: libyang.Context) -> None:
    tree = tree_of(context, sender(record_depth=7))
    assert presentation_from_tree(tree).record_depth == {1: 7}
    assert presentation_from_tree(None).record_depth == {}
