"""Plans: names, addresses, routes, paths."""

import pytest

from tools.lab.errors import LabError
from tools.lab.plan import LabPlan, plan_lab, shortest_path
from tools.lab.topology import DEFAULT_TOPOLOGY, load_topology, parse_topology


@pytest.fixture
def plan() -> LabPlan:
    return plan_lab(load_topology(DEFAULT_TOPOLOGY), "a")


def routes(plan: LabPlan, node: str) -> dict[str, str]:
    found = next(n for n in plan.nodes if n.name == node)
    return {str(route.destination): route.interface for route in found.routes}


def test_namespaces(plan: LabPlan) -> None:
    assert plan.namespaces == (
        "stamp-a-edge1",
        "stamp-a-edge2",
        "stamp-a-core1",
        "stamp-a-core2",
        "stamp-a-wire",
    )


def test_every_loopback_and_sid_has_a_route_along_the_cheapest_path(plan: LabPlan) -> None:
    assert routes(plan, "edge1") == {
        "fd00:0:2::1": "to-core1",
        "fd00:0:101::1": "to-core1",
        "fd00:0:101::e": "to-core1",
        "fd00:0:102::1": "to-core2",
        "fd00:0:102::e": "to-core2",
    }
    assert routes(plan, "core2")["fd00:0:1::1"] == "to-edge1"
    assert routes(plan, "core2")["fd00:0:2::1"] == "to-edge2"


def test_gateways_are_the_other_end_of_the_link(plan: LabPlan) -> None:
    addresses = {i.address: i for node in plan.nodes for i in node.interfaces}
    for node in plan.nodes:
        for interface in node.interfaces:
            peer = addresses[interface.peer_address]
            assert (peer.peer_address, peer.mac) == (interface.address, interface.peer_mac)
        gateways = {route.gateway for route in node.routes}
        assert gateways <= {interface.peer_address for interface in node.interfaces}


def test_addresses_and_macs_are_unique(plan: LabPlan) -> None:
    interfaces = [interface for node in plan.nodes for interface in node.interfaces]
    assert len({i.address for i in interfaces}) == len({i.mac for i in interfaces}) == 8


def test_interface_names_fit_and_are_unique_within_a_namespace() -> None:
    links = "\n".join("  - {a: aaaaaaaaaa, b: bbbbbbbbbb, forward: {delay: 1ms}}" for _ in range(9))
    plan = plan_lab(
        parse_topology(
            "nodes:\n  aaaaaaaaaa: {role: edge, loopback: 'fd00::1'}\n"
            f"  bbbbbbbbbb: {{role: edge, loopback: 'fd00::2'}}\nlinks:\n{links}\n"
        )
    )
    for node in plan.nodes:
        names = [interface.name for interface in node.interfaces]
        assert len(set(names)) == 9
        assert max(len(name) for name in names) <= 15
    assert len({direction.name for direction in plan.directions}) == 18
    assert len({direction.receive_on for direction in plan.directions}) == 18


def test_only_impaired_links_cross_the_wire(plan: LabPlan) -> None:
    assert [len(link.veths) for link in plan.links] == [2, 1, 2, 1]
    assert [direction.name for direction in plan.directions] == [
        "edge1>core1",
        "core1>edge1",
        "edge1>core2",
        "core2>edge1",
    ]
    over_wire = {i.name for node in plan.nodes for i in node.interfaces if i.over_wire}
    assert over_wire == {"to-core1", "to-core2", "to-edge1"}


def test_directions_draw_from_different_seeds(plan: LabPlan) -> None:
    assert len({direction.seed for direction in plan.directions}) == len(plan.directions)


def test_a_topology_without_impairment_needs_no_wire() -> None:
    plan = plan_lab(
        parse_topology(
            "{nodes: {a: {role: edge, loopback: 'fd00::1'}, b: {role: edge, loopback: 'fd00::2'}},"
            " links: [{a: a, b: b}]}"
        )
    )
    assert plan.wire_namespace is None
    assert plan.namespaces == ("stamp-lab-a", "stamp-lab-b")


def test_paths_say_what_was_injected(plan: LabPlan) -> None:
    found = {path.hops: path for path in plan.paths}
    there = found["edge1", "core2", "edge2"]
    assert [str(segment) for segment in there.segments] == ["fd00:0:102::e", "fd00:0:2::1"]
    assert (there.forward_delay_ns, there.backward_delay_ns) == (20_000_000, 8_000_000)
    assert (there.forward_loss, there.backward_loss) == (0.02, 0.0)
    back = found["edge2", "core2", "edge1"]
    assert (back.forward_delay_ns, back.backward_delay_ns) == (8_000_000, 20_000_000)
    assert (back.forward_loss, back.backward_loss) == (0.0, 0.02)


def test_two_labs_share_no_name() -> None:
    topology = load_topology(DEFAULT_TOPOLOGY)
    first, second = plan_lab(topology, "a"), plan_lab(topology, "a-edge1")
    assert not set(first.namespaces) & set(second.namespaces)
    assert not second.shm_prefix.startswith(first.shm_prefix)
    assert not any(node.shm_prefix.startswith(first.shm_prefix) for node in second.nodes)


def test_no_node_shares_another_ones_shared_memory(plan: LabPlan) -> None:
    prefixes = [node.shm_prefix for node in plan.nodes]
    for prefix in prefixes:
        assert [other for other in prefixes if other.startswith(prefix)] == [prefix]


def test_equal_costs_take_fewer_links_then_those_written_first() -> None:
    topology = parse_topology(
        """
nodes:
  a: {role: edge, loopback: "fd00::1"}
  b: {role: core, loopback: "fd00::2"}
  c: {role: edge, loopback: "fd00::3"}
links:
  - {a: a, b: b, cost: 5}
  - {a: b, b: c, cost: 5}
  - {a: c, b: a, cost: 10}
  - {a: a, b: c, cost: 10}
"""
    )
    assert shortest_path(topology, "a", "c") == (2,)
    assert shortest_path(topology, "a", "b") == (0,)


@pytest.mark.parametrize("name", ["", "Lab", "-a", "a_b", "a" * 17, "a/b"])
def test_unsuitable_lab_names(name: str) -> None:
    with pytest.raises(LabError) as caught:
        plan_lab(load_topology(DEFAULT_TOPOLOGY), name)
    assert str(caught.value) == f"lab name {name!r} must match [a-z][a-z0-9-]{{0,15}}"
