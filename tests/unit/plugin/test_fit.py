"""What of a configuration runs where a part of it cannot."""

from __future__ import annotations

from typing import Any

import libyang
import pytest

from dataplane.engines.base import Capabilities, EngineError
from sysrepo_plugin.configuration import node_from_tree
from sysrepo_plugin.fit import NO_REFUSALS, Refusals, fit_part
from tests.unit.plugin.test_configuration import Tree, tree_of

STAMP = "/srv6-stamp:stamp"


def able(_: str) -> Capabilities:
    return Capabilities()


def node_with(*sessions: dict[str, Any], **role: Any) -> Tree:
    listed = [{"reflector-address": "fd00::2"} | session for session in sessions]
    return {"session-sender": {"source-address": "fd00::1", "session": listed} | role}


def test_a_fit_configuration_is_whole(context: libyang.Context) -> None:
    segment = [{"index": 1, "sid": "fd00::a"}]
    stamp = node_with({"ssid": 1, "path": "p"}, {"ssid": 2})
    stamp["path"] = [{"name": "p", "segment": segment}, {"name": "q", "segment": segment}]
    served = {"ssid": 7, "sender-address": "any", "return-path": "q"}
    stamp["session-reflector"] = {"session": [served]}
    tree = tree_of(context, stamp)
    assert fit_part(tree, able) == (node_from_tree(tree), NO_REFUSALS)
    assert fit_part({}, able) == (node_from_tree({}), NO_REFUSALS)


def test_a_bad_segment_fails_who_uses_it(context: libyang.Context) -> None:
    stamp = node_with({"ssid": 1, "path": "p"}, {"ssid": 2})
    stamp["path"] = [{"name": "p", "segment": [{"index": 4, "sid": "ff05::2"}]}]
    node, refusals = fit_part(tree_of(context, stamp), able)
    assert node.sender is not None
    assert list(node.sender.sessions) == [2]
    assert refusals == Refusals(
        {
            1: f"{STAMP}/path[name='p']/segment[index='4']/sid: "
            "the segment address ff05::2 is not a unicast address"
        }
    )


@pytest.mark.parametrize("role", ["session-sender", "session-reflector"])
def test_an_engine_that_cannot_be_used(context: libyang.Context, role: str) -> None:
    def unusable(name: str) -> Capabilities:
        if name == "scapy":
            raise EngineError("no driver")
        return Capabilities()

    stamp = node_with({"ssid": 1}, {"ssid": 2}) | {"session-reflector": {}}
    stamp[role]["engine"] = "scapy"
    node, refusals = fit_part(tree_of(context, stamp), unusable)
    text = f"{STAMP}/{role}/engine: no driver"
    if role == "session-sender":
        assert (node.sender, refusals) == (None, Refusals({1: text, 2: text}))
        assert node.reflector is not None
    else:
        assert (node.reflector, refusals) == (None, Refusals({}, (text,)))
        assert node.sender is not None


def test_too_many_reflector_sessions(context: libyang.Context) -> None:
    listed = [{"ssid": ssid, "sender-address": "any"} for ssid in (1, 2)]
    node, refusals = fit_part(
        tree_of(context, {"session-reflector": {"session": listed}}),
        lambda _: Capabilities(reflector_sessions_max=1),
    )
    assert node.reflector is None
    assert refusals.reflector == (
        f"{STAMP}/session-reflector/session: engine userspace reflects at most 1 sessions, not 2",
    )
