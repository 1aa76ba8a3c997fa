"""What the plan says is injected into each path."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Any

import pytest

from tests.unit.demo.samples import CORE1, CORE2, PATHS, PLAN, TOPOLOGY
from tools.demo.truth import LineCount, line_counts, measured_paths, walk
from tools.lab.errors import LabError
from tools.lab.plan import plan_lab
from tools.lab.topology import parse_topology

SHARED_LINK = """
nodes:
  edge1: {role: edge, loopback: "fd00:0:1::1"}
  edge2: {role: edge, loopback: "fd00:0:2::1"}
  entry: {role: core, loopback: "fd00:0:100::1"}
  north: {role: core, loopback: "fd00:0:101::1", sids: ["fd00:0:101::e"]}
  south: {role: core, loopback: "fd00:0:102::1", sids: ["fd00:0:102::e"]}
links:
  - {a: entry, b: edge1, forward: {delay: 1ms, loss: 10%}, backward: {delay: 3ms, loss: 20%}}
  - {a: entry, b: north, forward: {delay: 10ms, loss: 10%}}
  - {a: entry, b: south, backward: {delay: 7ms, reorder: 50%, reorder_hold: 2ms}}
  - {a: north, b: edge2}
  - {a: edge2, b: south, forward: {delay: 500us}}
"""


def status(**counters: dict[str, int]) -> dict[str, Any]:
    """The delay line's state, direction names with `_` for `>`."""
    blank = {"received": 0, "lost": 0, "dropped_queue": 0, "dropped_socket": 0, "dropped_send": 0}
    return {
        "directions": {
            name.replace("_", ">"): {
                "counters": {**blank, **changed},
                "lateness": {"count": 0, "mean_ns": None},
            }
            for name, changed in counters.items()
        }
    }


def test_two_paths() -> None:
    assert [(path.name, path.ssid) for path in PATHS] == [("via-core1", 1), ("via-core2", 2)]
    assert (CORE1.forward.delay_ns, CORE1.backward.delay_ns) == (5_000_000, 5_000_000)
    assert (CORE2.forward.delay_ns, CORE2.backward.delay_ns) == (20_000_000, 8_000_000)
    assert (CORE2.forward.loss, CORE2.backward.loss) == (0.02, 0.0)
    assert CORE2.round_trip_delay_ns == 28_000_000
    assert CORE2.forward.segments == ("fd00:0:102::e", "fd00:0:2::1")
    assert CORE2.backward.segments == ("fd00:0:102::e", "fd00:0:1::1")
    assert CORE2.backward.hops == ("edge2", "core2", "edge1")


def test_links_written_in_either_direction_and_shared() -> None:
    topology = parse_topology(SHARED_LINK)
    north, south = measured_paths(topology, plan_lab(topology, "demo"))
    # edge1 → entry is the backward direction of the link written entry, edge1.
    assert north.forward.delay_ns == 13_000_000
    assert north.forward.loss == pytest.approx(1 - 0.8 * 0.9)
    assert north.backward.delay_ns == 1_000_000
    # south → edge2 is backward (nothing injected); edge2 → south forward.
    assert south.forward.delay_ns == 3_000_000
    # Half of the frames from south to entry wait 2 ms longer.
    assert south.backward.delay_ns == 500_000 + 7_000_000 + 1_000_000 + 1_000_000


def test_walk_agrees_with_the_plan() -> None:
    # The plan's figures are of delay alone: reordering is left out here.
    plain = parse_topology(SHARED_LINK.replace(", reorder: 50%, reorder_hold: 2ms", ""))
    for topology in (TOPOLOGY, plain):
        plan = plan_lab(topology, "demo")
        for path in plan.paths:
            way = walk(topology, plan, path.source, path.segments)
            assert way.hops == path.hops
            assert way.delay_ns == path.forward_delay_ns
            assert way.loss == pytest.approx(path.forward_loss)


def test_a_sid_that_nobody_owns() -> None:
    with pytest.raises(LabError, match=r"^no node owns the SID fd00::dead$"):
        walk(TOPOLOGY, PLAN, "edge1", [IPv6Address("fd00::dead")])


def test_a_topology_without_paths() -> None:
    topology = parse_topology(
        """
nodes:
  edge1: {role: edge, loopback: "fd00:0:1::1"}
  edge2: {role: edge, loopback: "fd00:0:2::1"}
links:
  - {a: edge1, b: edge2}
"""
    )
    with pytest.raises(LabError, match=r"^the topology has no SRv6 path between edge1 and edge2$"):
        measured_paths(topology, plan_lab(topology, "demo"))


def test_line_counts_are_differences() -> None:
    before = status(
        edge1_core1={"lost": 1}, core1_edge1={}, edge1_core2={"lost": 4}, core2_edge1={}
    )
    after = status(
        edge1_core1={"lost": 1},
        core1_edge1={"dropped_queue": 3},
        edge1_core2={"received": 2000, "lost": 44},
        core2_edge1={},
    )
    counts = line_counts(PATHS, before, after)
    lost = {key: count.lost for key, count in counts.items() if count is not None}
    assert lost == {(1, "forward"): 0, (1, "backward"): 3, (2, "forward"): 40, (2, "backward"): 0}
    accident = counts[1, "backward"]
    assert isinstance(accident, LineCount)
    assert accident.accidents == 3


def test_lateness_is_that_of_the_frames_in_between() -> None:
    before = status(edge1_core1={}, core1_edge1={}, edge1_core2={}, core2_edge1={})
    after = status(edge1_core1={}, core1_edge1={}, edge1_core2={}, core2_edge1={})
    before["directions"]["edge1>core1"]["lateness"] = {"count": 100, "mean_ns": 50_000}
    after["directions"]["edge1>core1"]["lateness"] = {"count": 300, "mean_ns": 150_000}
    after["directions"]["core1>edge1"]["lateness"] = {"count": 10, "mean_ns": 7_000}
    counts = line_counts(PATHS, before, after)
    late_ns = {key: count.late_ns for key, count in counts.items() if count is not None}
    assert late_ns == {
        (1, "forward"): 200_000,
        (1, "backward"): 7_000,
        (2, "forward"): 0,
        (2, "backward"): 0,
    }


def test_counters_of_a_shared_direction_belong_to_nobody() -> None:
    topology = parse_topology(SHARED_LINK)
    paths = measured_paths(topology, plan_lab(topology, "demo"))
    state = status(**{name.replace(">", "_"): {} for p in paths for w in (p.forward, p.backward)
                      for name in w.wires})  # fmt: skip
    assert set(line_counts(paths, state, state).values()) == {None}


def test_without_a_delay_line_nothing_is_counted() -> None:
    assert set(line_counts(PATHS, None, None).values()) == {None}
