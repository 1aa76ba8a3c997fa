"""Topology files: what is read, and what is said about mistakes."""

from ipaddress import IPv6Address

import pytest

from tools.lab.errors import TopologyError
from tools.lab.topology import (
    DEFAULT_TOPOLOGY,
    Impairment,
    JitterDistribution,
    Role,
    Topology,
    load_topology,
    parse_topology,
)


def line(link: str = "{a: left, b: right}", left: str = "{role: edge, loopback: 'fd00::1'}") -> str:
    """left — right, with one part replaced."""
    return f"""
seed: 7
nodes:
  left: {left}
  right: {{role: core, loopback: "fd00::2", sids: ["fd00::e2"]}}
links:
  - {link}
"""


def problem(text: str) -> str:
    with pytest.raises(TopologyError) as caught:
        parse_topology(text)
    return str(caught.value)


def impairment(text: str) -> Impairment:
    forward = parse_topology(line(f"{{a: left, b: right, forward: {text}}}")).links[0].forward
    assert forward is not None
    return forward


def test_the_default_topology() -> None:
    topology = load_topology(DEFAULT_TOPOLOGY)
    assert [(node.name, node.role) for node in topology.nodes] == [
        ("edge1", Role.EDGE),
        ("edge2", Role.EDGE),
        ("core1", Role.CORE),
        ("core2", Role.CORE),
    ]
    second = topology.links[2]
    assert (second.a, second.b) == ("edge1", "core2")
    assert second.forward == Impairment(delay_ns=20_000_000, loss=0.02)
    assert second.backward == Impairment(delay_ns=8_000_000)
    assert [link.impaired for link in topology.links] == [True, False, True, False]


def test_a_node_may_have_several_loopbacks() -> None:
    topology = parse_topology(line(left="{role: edge, loopback: ['fd00::1', '2001:db8::1']}"))
    assert topology.node("left").loopbacks == (IPv6Address("fd00::1"), IPv6Address("2001:db8::1"))
    assert topology.seed == 7


def test_every_impairment_key() -> None:
    assert impairment(
        "{delay: 5ms, jitter_us: 500, jitter_distribution: normal, loss: 1%, duplicate: 0.5%,"
        " reorder: 3%, reorder_hold: 2ms}"
    ) == Impairment(5_000_000, 500_000, JitterDistribution.NORMAL, 0.01, 0.005, 0.03, 2_000_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", "topology: must be a mapping"),
        ("nodes: {}", "links: missing"),
        ("{nodes: {}, links: []}", "nodes: empty"),
        (line() + "colour: red\n", "colour: unknown key (known: links, nodes, seed)"),
        (line() + "seed: 8\n", "seed: written twice in one mapping (line 8)"),
        (line().replace("seed: 7", "seed: -1"), "seed: -1 is not an integer of 0 or more"),
        (
            line(left="{role: spine, loopback: 'fd00::1'}"),
            "nodes.left.role: 'spine' is neither 'edge' nor 'core'",
        ),
        (line(left="{role: edge}"), "nodes.left.loopback: missing: a node needs an address"),
        (
            line(left="{role: edge, loopback: 10.0.0.1}"),
            "nodes.left.loopback: '10.0.0.1' is not an IPv6 address",
        ),
        (
            line(left="{role: edge, loopback: ['fd00::1', '2a00::1']}"),
            "nodes.left.loopback[1]: 2a00::1 is outside fd00::/8 and 2001:db8::/32",
        ),
        (
            line(left="{role: edge, loopback: 'fd00:ffff::1'}"),
            "nodes.left.loopback: fd00:ffff::1 is in fd00:ffff::/32, which is for links",
        ),
        (
            line(left="{role: edge, loopback: 'fd00::1', sids: ['fd00::e1']}"),
            "nodes.left.sids: an edge ends SID lists at its loopback; give SIDs to core nodes",
        ),
        (
            line(left="{role: core, loopback: 'fd00::e2'}"),
            "nodes.right.sids: fd00::e2 is already nodes.left.loopback",
        ),
        (
            line().replace("left", "left-one"),
            "nodes.left-one: the name must match [a-z][a-z0-9_]{0,9}",
        ),
        (line().replace("left", "wire"), "nodes.wire: the name is kept for the delay line"),
        (line("{a: left, b: middle}"), "links[0].b: 'middle' is not a node"),
        (line("{a: left, b: left}"), "links[0].b: a link needs two different nodes"),
        (line("{a: left, b: right, cost: 0}"), "links[0].cost: 0 is not an integer of 1 or more"),
        (
            line("{a: left, b: right, forward: {delay: 5}}"),
            "links[0].forward.delay: 5 is not a duration: write it as '5ms' (ns, us, ms, s)",
        ),
        (
            line("{a: left, b: right, backward: {loss: 2}}"),
            "links[0].backward.loss: 2 is not a percentage: write it as '2%'",
        ),
        (
            line("{a: left, b: right, forward: {delay: 5ms, delay_us: 5000}}"),
            "links[0].forward.delay_us: given beside links[0].forward.delay: keep one",
        ),
        (
            line("{a: left, b: right, forward: {delay: 1ms, jitter: 2ms}}"),
            "links[0].forward.jitter: jitter exceeds the delay",
        ),
        (
            line(
                "{a: left, b: right,"
                " forward: {delay: 2ms, jitter: 1ms, jitter_distribution: normal}}"
            ),
            "links[0].forward.jitter: 3 x jitter exceeds the delay",
        ),
        (
            line("{a: left, b: right, forward: {jitter_distribution: pareto}}"),
            "links[0].forward.jitter_distribution: 'pareto' is neither 'uniform' nor 'normal'",
        ),
        (
            line("{a: left, b: right, forward: {reorder: 1%}}"),
            "links[0].forward.reorder: needs reorder_hold, and reorder_hold needs it",
        ),
        (
            line().replace("  - {a: left, b: right}", "  []"),
            "nodes.right: no chain of links leads to left",
        ),
    ],
)
def test_mistakes_are_named_by_their_key(text: str, expected: str) -> None:
    assert problem(text) == expected


def test_unreadable_yaml() -> None:
    assert problem("nodes: [").startswith("topology: not YAML: ")


def test_nodes_are_found_by_name() -> None:
    topology: Topology = parse_topology(line())
    with pytest.raises(KeyError, match="middle"):
        topology.node("middle")
