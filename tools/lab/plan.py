"""Topology → plan: every name, address and route of a laboratory. No effects.

Link i has the network fd00:ffff:0:i::/64, `a` at ::1 and `b` at ::2. MAC addresses are fixed,
so that neighbours can be permanent entries: no neighbour discovery crosses the
links, and what the delay line counts is what the nodes' programs send.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address

from tools.lab.errors import LabError
from tools.lab.topology import LINK_NETWORK, WIRE, Impairment, Link, Role, Topology

LAB_NAME = re.compile(r"[a-z][a-z0-9-]{0,15}")
DEFAULT_LAB_NAME = "lab"


@dataclass(frozen=True, slots=True)
class Interface:
    """One end of a link, inside a node's namespace."""

    name: str
    address: IPv6Address
    """Prefix length 64."""
    mac: str
    peer_address: IPv6Address
    peer_mac: str
    over_wire: bool
    """Whether frames cross the delay line, so that offloads must be off."""


@dataclass(frozen=True, slots=True)
class Route:
    """A static route to one address."""

    destination: IPv6Address
    gateway: IPv6Address
    interface: str


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One namespace and what is in it."""

    name: str
    role: Role
    namespace: str
    loopbacks: tuple[IPv6Address, ...]
    sids: tuple[IPv6Address, ...]
    interfaces: tuple[Interface, ...]
    routes: tuple[Route, ...]
    shm_prefix: str
    """Prefix of sysrepo's shared memory files; edges only use it."""


@dataclass(frozen=True, slots=True)
class VethPlan:
    """One veth pair: (namespace, interface, MAC or None) at both ends."""

    a: tuple[str, str, str | None]
    b: tuple[str, str, str | None]


@dataclass(frozen=True, slots=True)
class WireDirection:
    """One direction that the delay line serves."""

    name: str
    """"edge1>core1", and "edge1>core1.2" for a second link between the same two."""
    receive_on: str
    """The wire's interface at which frames arrive."""
    send_on: str
    impairment: Impairment
    seed: str


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """One link and its veth pairs: one pair, or two when it crosses the delay line."""

    link: Link
    veths: tuple[VethPlan, ...]
    directions: tuple[WireDirection, ...]
    """(forward, backward), or empty when the link is plain."""


@dataclass(frozen=True, slots=True)
class PathPlan:
    """An SRv6 path between two edges through one SID, and what was injected into it."""

    source: str
    destination: str
    segments: tuple[IPv6Address, ...]
    """SID list in order of travel; the last is the destination's loopback."""
    hops: tuple[str, ...]
    forward_delay_ns: int
    """Sum of the configured delays from source to destination."""
    backward_delay_ns: int
    """The same along the same hops, backwards."""
    forward_loss: float
    """Probability, 0..1."""
    backward_loss: float


@dataclass(frozen=True, slots=True)
class LabPlan:
    """A whole laboratory."""

    name: str
    nodes: tuple[NodePlan, ...]
    links: tuple[LinkPlan, ...]
    paths: tuple[PathPlan, ...]
    wire_namespace: str | None
    """None when no link is impaired."""
    shm_prefix: str
    """All sysrepo shared memory files of this laboratory, and no others, begin with it."""

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Every namespace's name."""
        wire = (self.wire_namespace,) if self.wire_namespace else ()
        return tuple(node.namespace for node in self.nodes) + wire

    @property
    def directions(self) -> tuple[WireDirection, ...]:
        """Every direction that the delay line serves."""
        return tuple(direction for link in self.links for direction in link.directions)


def check_lab_name(name: str) -> None:
    """Raise LabError unless `name` can be part of a namespace's name."""
    if not LAB_NAME.fullmatch(name):
        raise LabError(f"lab name {name!r} must match {LAB_NAME.pattern}")


def plan_lab(topology: Topology, name: str = DEFAULT_LAB_NAME) -> LabPlan:
    """Work out everything that `up` will do; the same input gives the same plan.

    Raises LabError when the name is unsuitable.
    """
    check_lab_name(name)
    wire = f"stamp-{name}-{WIRE}"
    interfaces: dict[str, list[tuple[int, Interface]]] = {n.name: [] for n in topology.nodes}
    links = tuple(_link_plans(topology, name, wire, interfaces))
    nodes = []
    for node in topology.nodes:
        nodes.append(
            NodePlan(
                name=node.name,
                role=node.role,
                namespace=_namespace(name, node.name),
                loopbacks=node.loopbacks,
                sids=node.sids,
                interfaces=tuple(interface for _, interface in interfaces[node.name]),
                routes=_routes(topology, node.name, dict(interfaces[node.name])),
                shm_prefix=f"stamp.{name}.{node.name}.",
            )
        )
    return LabPlan(
        name=name,
        nodes=tuple(nodes),
        links=links,
        paths=tuple(_paths(topology)),
        wire_namespace=wire if any(link.impaired for link in topology.links) else None,
        shm_prefix=f"stamp.{name}.",
    )


def shortest_path(topology: Topology, source: str, destination: str) -> tuple[int, ...]:
    """Return the indexes of the links of the cheapest path, in order of travel.

    Equal costs: fewer links, then the links written first. LabError when there
    is no path (a validated topology always has one).
    """
    heap: list[tuple[int, int, tuple[int, ...], str]] = [(0, 0, (), source)]
    done: set[str] = set()
    while heap:
        cost, hops, path, here = heapq.heappop(heap)
        if here == destination:
            return path
        if here in done:
            continue
        done.add(here)
        for index, link in enumerate(topology.links):
            if here in (link.a, link.b):
                there = link.b if here == link.a else link.a
                heapq.heappush(heap, (cost + link.cost, hops + 1, (*path, index), there))
    raise LabError(f"no path from {source} to {destination}")


def _namespace(lab: str, node: str) -> str:
    return f"stamp-{lab}-{node}"


def _link_plans(
    topology: Topology, lab: str, wire: str, interfaces: dict[str, list[tuple[int, Interface]]]
) -> Iterator[LinkPlan]:
    parallel: dict[frozenset[str], int] = {}
    for index, link in enumerate(topology.links):
        ends = frozenset((link.a, link.b))
        parallel[ends] = parallel.get(ends, 0) + 1
        suffix = f".{parallel[ends]}" if parallel[ends] > 1 else ""
        network = int(LINK_NETWORK.network_address) + (index << 64)
        address_a, address_b = IPv6Address(network + 1), IPv6Address(network + 2)
        mac_a, mac_b = _mac(index, 1), _mac(index, 2)
        name_a, name_b = f"to-{link.b}{suffix}", f"to-{link.a}{suffix}"
        a = Interface(name_a, address_a, mac_a, address_b, mac_b, link.impaired)
        b = Interface(name_b, address_b, mac_b, address_a, mac_a, link.impaired)
        interfaces[link.a].append((index, a))
        interfaces[link.b].append((index, b))
        end_a = (_namespace(lab, link.a), name_a, mac_a)
        end_b = (_namespace(lab, link.b), name_b, mac_b)
        if not link.impaired:
            yield LinkPlan(link, (VethPlan(end_a, end_b),), ())
            continue
        wire_a, wire_b = f"w{index}a", f"w{index}b"
        forward, backward = f"{link.a}>{link.b}{suffix}", f"{link.b}>{link.a}{suffix}"
        seed = f"{topology.seed}/{index}"
        yield LinkPlan(
            link,
            (VethPlan(end_a, (wire, wire_a, None)), VethPlan(end_b, (wire, wire_b, None))),
            (
                WireDirection(
                    forward, wire_a, wire_b, link.forward or Impairment(), f"{seed}/forward"
                ),
                WireDirection(
                    backward, wire_b, wire_a, link.backward or Impairment(), f"{seed}/backward"
                ),
            ),
        )


def _mac(index: int, end: int) -> str:
    # 02: locally administered, unicast.
    return f"02:00:00:{index >> 8:02x}:{index & 0xFF:02x}:{end:02x}"


def _routes(topology: Topology, source: str, interfaces: dict[int, Interface]) -> tuple[Route, ...]:
    routes = []
    for node in topology.nodes:
        if node.name == source:
            continue
        first = interfaces[shortest_path(topology, source, node.name)[0]]
        for destination in (*node.loopbacks, *node.sids):
            routes.append(Route(destination, first.peer_address, first.name))
    return tuple(routes)


def _paths(topology: Topology) -> Iterator[PathPlan]:
    edges = [node for node in topology.nodes if node.role is Role.EDGE]
    for source, destination in itertools.permutations(edges, 2):
        for via in topology.nodes:
            if not via.sids:
                continue
            links = shortest_path(topology, source.name, via.name)
            links += shortest_path(topology, via.name, destination.name)
            hops = _hops(topology, source.name, links)
            if len(set(hops)) < len(hops):
                continue
            forward = [
                _impairment(topology.links[i], hop) for i, hop in zip(links, hops, strict=False)
            ]
            back = [
                _impairment(topology.links[i], hop) for i, hop in zip(links, hops[1:], strict=True)
            ]
            yield PathPlan(
                source=source.name,
                destination=destination.name,
                segments=(via.sids[0], destination.loopbacks[0]),
                hops=hops,
                forward_delay_ns=sum(impairment.delay_ns for impairment in forward),
                backward_delay_ns=sum(impairment.delay_ns for impairment in back),
                forward_loss=_combined_loss(forward),
                backward_loss=_combined_loss(back),
            )


def _hops(topology: Topology, source: str, links: tuple[int, ...]) -> tuple[str, ...]:
    hops = [source]
    for index in links:
        link = topology.links[index]
        hops.append(link.b if hops[-1] == link.a else link.a)
    return tuple(hops)


def _impairment(link: Link, start: str) -> Impairment:
    direction = link.forward if start == link.a else link.backward
    return direction or Impairment()


def _combined_loss(impairments: list[Impairment]) -> float:
    survival = 1.0
    for impairment in impairments:
        survival *= 1.0 - impairment.loss
    # Rounded to hide the noise of binary fractions: 2 % stays 0.02.
    return round(1.0 - survival, 12)
