"""What a path really does to packets: from the laboratory's plan, by walking SID lists. No effects.

Expected values come from the impairments that the delay line was told to
inject. Beside them stands what the line counted, where a direction of a link
is used by one measured path only, so that its counters can be told apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any

from tools.lab.errors import LabError
from tools.lab.plan import LabPlan, WireDirection, shortest_path
from tools.lab.topology import Topology

ACCIDENTS = ("dropped_queue", "dropped_socket", "dropped_send")
"""Counters of frames that the delay line lost without being told to."""


@dataclass(frozen=True, slots=True)
class OneWay:
    """What happens to packets in one direction of a path."""

    segments: tuple[str, ...]
    """SID list in order of travel, the far end last."""
    hops: tuple[str, ...]
    """Nodes, both ends included."""
    wires: tuple[str, ...]
    """Names of the delay line's directions that are crossed."""
    delay_ns: int
    """Mean delay injected."""
    loss: float
    """Probability, 0..1."""


@dataclass(frozen=True, slots=True)
class MeasuredPath:
    """One path between two edges and back, and what was injected into it."""

    name: str
    ssid: int
    forward: OneWay
    backward: OneWay

    @property
    def round_trip_delay_ns(self) -> int:
        """Sum of both directions."""
        return self.forward.delay_ns + self.backward.delay_ns


def measured_paths(topology: Topology, plan: LabPlan) -> tuple[MeasuredPath, ...]:
    """Return a path through each core SID between the first two edges, SSIDs from 1.

    Replies travel the forward hops the other way, by a SID list of their own. Raises LabError
    when the topology has no two edges or no path between them.
    """
    ways = {(p.source, p.destination, p.hops): p.segments for p in plan.paths}
    edges = edge_names(plan)
    paths: list[MeasuredPath] = []
    for path in plan.paths:
        if (path.source, path.destination) != edges:
            continue
        back = ways.get((path.destination, path.source, path.hops[::-1]))
        if back is None:
            continue
        paths.append(
            MeasuredPath(
                name="via-" + "-".join(path.hops[1:-1]),
                ssid=len(paths) + 1,
                forward=walk(topology, plan, path.source, path.segments),
                backward=walk(topology, plan, path.destination, back),
            )
        )
    if not paths:
        raise LabError(f"the topology has no SRv6 path between {edges[0]} and {edges[1]}")
    return tuple(paths)


def edge_names(plan: LabPlan) -> tuple[str, str]:
    """Return (Session-Sender's node, Session-Reflector's node): the first two edges."""
    edges = [node.name for node in plan.nodes if node.role.value == "edge"]
    if len(edges) < 2:
        raise LabError("the demonstration needs a topology with two edges")
    return edges[0], edges[1]


def walk(topology: Topology, plan: LabPlan, source: str, segments: Iterable[IPv6Address]) -> OneWay:
    """Follow a SID list from `source` by the routes that the laboratory installs.

    Raises LabError when no node owns a SID.
    """
    segments = tuple(segments)
    hops, wires = [source], []
    for sid in segments:
        for index in shortest_path(topology, hops[-1], _owner(topology, sid)):
            link = plan.links[index]
            onward = hops[-1] == link.link.a
            if link.directions:
                wires.append(link.directions[0 if onward else 1])
            hops.append(link.link.b if onward else link.link.a)
    survival = 1.0
    for wire in wires:
        survival *= 1.0 - wire.impairment.loss
    return OneWay(
        segments=tuple(map(str, segments)),
        hops=tuple(hops),
        wires=tuple(wire.name for wire in wires),
        delay_ns=sum(map(_mean_delay_ns, wires)),
        # Rounded to hide the noise of binary fractions: 2 % stays 0.02.
        loss=round(1.0 - survival, 12),
    )


def _owner(topology: Topology, sid: IPv6Address) -> str:
    for node in topology.nodes:
        if sid in node.sids or sid in node.loopbacks:
            return node.name
    raise LabError(f"no node owns the SID {sid}")


def _mean_delay_ns(wire: WireDirection) -> int:
    # Jitter is drawn symmetrically; what a reordered frame waits comes on top.
    impairment = wire.impairment
    return impairment.delay_ns + round(impairment.reorder * impairment.reorder_hold_ns)


class LineCount(dict[str, int]):
    """What the delay line says it did between two states, summed over directions."""

    @property
    def lost(self) -> int:
        """Frames lost, on purpose or not."""
        return self["lost"] + self.accidents

    @property
    def late_ns(self) -> int:
        """How much later than injected the frames left, on average."""
        return self["late_ns"]

    @property
    def accidents(self) -> int:
        """Frames lost that should not have been."""
        return sum(self[name] for name in ACCIDENTS)


def line_counts(
    paths: Iterable[MeasuredPath],
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> dict[tuple[int, str], LineCount | None]:
    """Return what the line counted for each (SSID, "forward" or "backward").

    `before` and `after` are the delay line's states (`Lab.line_status`). None where
    the counters are unknown, or shared between measured paths.
    """
    ways = {
        (path.ssid, name): way
        for path in paths
        for name, way in (("forward", path.forward), ("backward", path.backward))
    }
    users = Counter(wire for way in ways.values() for wire in way.wires)
    counts: dict[tuple[int, str], LineCount | None] = {}
    for key, way in ways.items():
        known = before is not None and after is not None
        if not known or any(users[wire] > 1 for wire in way.wires):
            counts[key] = None
            continue
        total = LineCount({"received": 0, "lost": 0, **dict.fromkeys(ACCIDENTS, 0)})
        late_ns = 0
        for wire in way.wires:
            for name in total:
                total[name] += _counter(after, wire, name) - _counter(before, wire, name)
            late_ns += _mean_late_ns(before, after, wire)
        total["late_ns"] = late_ns
        counts[key] = total
    return counts


def _mean_late_ns(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, wire: str
) -> int:
    frames_before, late_before_ns = _lateness(before, wire)
    frames, late_ns = _lateness(after, wire)
    frames -= frames_before
    return round((late_ns - late_before_ns) / frames) if frames else 0


def _lateness(status: Mapping[str, Any] | None, wire: str) -> tuple[int, float]:
    """Frames sent by the delay line, and how late they were together."""
    assert status is not None
    lateness = status["directions"][wire]["lateness"]
    count = int(lateness["count"])
    return count, count * lateness["mean_ns"] if count else 0.0


def _counter(status: Mapping[str, Any] | None, wire: str, name: str) -> int:
    assert status is not None
    return int(status["directions"][wire]["counters"][name])
