"""A topology file: YAML → validated, immutable values. No effects.

The file's keys (durations are strings with a unit, probabilities are strings
with a percent sign):

    seed: 1                    # of every random decision; default 1
    nodes:
      edge1: {role: edge, loopback: fd00:0:1::1}         # or a list of addresses
      core1: {role: core, loopback: fd00:0:101::1, sids: [fd00:0:101::e]}
    links:
      - a: edge1
        b: core1
        cost: 10               # of the shortest-path computation; default 10
        forward:               # impairment of frames from a to b; absent: none
          delay: 5ms
          jitter: 1ms
          jitter_distribution: uniform    # ± jitter; or normal: σ = jitter, cut at ±3σ
          loss: 2%             # Bernoulli: each frame by itself
          duplicate: 0.1%      # the copy follows its original at once
          reorder: 1%          # this share of frames …
          reorder_hold: 2ms    # … is held this much longer, and later ones overtake it
        backward: {delay: 5ms} # impairment of frames from b to a

Instead of `delay: 5ms` one may write `delay_us: 5000`, and likewise `jitter_us`
and `reorder_hold_us`, with an integer.

Jitter alone never reorders: a direction is a first-in, first-out queue, so a
frame that drew a short delay waits for the one before it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import yaml

from tools.lab.errors import TopologyError
from tools.lab.units import parse_duration_ns, parse_probability

TOPOLOGY_FOLDER = Path(__file__).parent / "topologies"
DEFAULT_TOPOLOGY = TOPOLOGY_FOLDER / "two-paths.yaml"

LINK_NETWORK = IPv6Network("fd00:ffff::/32")
"""Where the addresses of links come from; loopbacks and SIDs stay outside it."""

ALLOWED_NETWORKS = (IPv6Network("fd00::/8"), IPv6Network("2001:db8::/32"))
"""Unique local (RFC 4193 §3.1) and documentation (RFC 3849) addresses."""

DEFAULT_COST = 10
WIRE = "wire"
"""The name kept for the namespace in which the delay line runs."""

NODE_NAME = re.compile(r"[a-z][a-z0-9_]{0,9}")
"""No hyphen, so that "stamp-LAB-NODE" is never two labs' name; ≤ 10 so that "to-NODE.9" fits
in an interface name (IFNAMSIZ, 15 characters)."""


class Role(enum.Enum):
    """What a node is for."""

    EDGE = "edge"
    """A network element: runs the daemons, ends SID lists at its loopback."""

    CORE = "core"
    """A router: owns SIDs with behaviour End (RFC 8986 §4.1)."""


class JitterDistribution(enum.Enum):
    """How jitter is drawn."""

    UNIFORM = "uniform"
    """Evenly in ±jitter; needs jitter ≤ delay."""

    NORMAL = "normal"
    """Standard deviation = jitter, drawn again beyond ±3 deviations; needs 3·jitter ≤ delay."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """What one direction of a link does to frames."""

    delay_ns: int = 0
    jitter_ns: int = 0
    jitter_distribution: JitterDistribution = JitterDistribution.UNIFORM
    loss: float = 0.0
    """Probability, 0..1, as the next two."""
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_hold_ns: int = 0
    """Extra delay of a frame chosen for reordering."""


@dataclass(frozen=True, slots=True)
class Node:
    """One namespace."""

    name: str
    role: Role
    loopbacks: tuple[IPv6Address, ...]
    """At least one; the first is the node's source address."""
    sids: tuple[IPv6Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """One link; `forward` is what happens from `a` to `b`, None when nothing."""

    a: str
    b: str
    cost: int = DEFAULT_COST
    forward: Impairment | None = None
    backward: Impairment | None = None

    @property
    def impaired(self) -> bool:
        """Whether the link crosses the delay line."""
        return self.forward is not None or self.backward is not None


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole file."""

    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    seed: int = 1

    def node(self, name: str) -> Node:
        """Return the node called `name`; KeyError when there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key written twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                line = key_node.start_mark.line + 1
                raise TopologyError(str(key), f"written twice in one mapping (line {line})")
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load_topology(path: Path) -> Topology:
    """Read and validate a file; TopologyError says which key is wrong, or that it is no YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(str(path), f"cannot be read: {error}") from error
    return parse_topology(text)


def parse_topology(text: str) -> Topology:
    """Validate the text of a topology file.

    Raises TopologyError, whose text starts with the key at fault
    ("links[0].forward.delay: …").
    """
    try:
        document = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise TopologyError("topology", f"not YAML: {error}") from error
    top = _mapping("topology", document)
    _only_keys("", top, {"seed", "nodes", "links"})
    for key in ("nodes", "links"):
        if key not in top:
            raise TopologyError(key, "missing")
    nodes = tuple(_node(name, value) for name, value in _mapping("nodes", top["nodes"]).items())
    if not nodes:
        raise TopologyError("nodes", "empty")
    if not isinstance(top["links"], list):
        raise TopologyError("links", "must be a list")
    names = {node.name for node in nodes}
    links = tuple(_link(f"links[{i}]", value, names) for i, value in enumerate(top["links"]))
    topology = Topology(nodes, links, _integer("seed", top.get("seed", 1), minimum=0))
    _check_addresses(topology)
    _check_links(topology)
    return topology


def _mapping(key: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TopologyError(key, "must be a mapping")
    for name in value:
        if not isinstance(name, str):
            raise TopologyError(f"{key}.{name}", "the key must be a string")
    return value


def _only_keys(prefix: str, mapping: Mapping[str, object], allowed: set[str]) -> None:
    for key in mapping:
        if key not in allowed:
            full = f"{prefix}.{key}" if prefix else key
            raise TopologyError(full, f"unknown key (known: {', '.join(sorted(allowed))})")


def _integer(key: str, value: object, minimum: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise TopologyError(key, f"{value!r} is not an integer of {minimum} or more")
    return value


def _address(key: str, value: object) -> IPv6Address:
    try:
        address = IPv6Address(value) if isinstance(value, str) else None
    except AddressValueError:
        address = None
    if address is None or address.scope_id is not None:
        raise TopologyError(key, f"{value!r} is not an IPv6 address")
    if not any(address in network for network in ALLOWED_NETWORKS):
        raise TopologyError(key, f"{address} is outside fd00::/8 and 2001:db8::/32")
    if address in LINK_NETWORK:
        raise TopologyError(key, f"{address} is in {LINK_NETWORK}, which is for links")
    return address


def _addresses(key: str, value: object) -> tuple[IPv6Address, ...]:
    if isinstance(value, list):
        return tuple(_address(f"{key}[{i}]", item) for i, item in enumerate(value))
    return (_address(key, value),)


def _node(name: str, value: object) -> Node:
    key = f"nodes.{name}"
    if not NODE_NAME.fullmatch(name):
        raise TopologyError(key, f"the name must match {NODE_NAME.pattern}")
    if name == WIRE:
        raise TopologyError(key, "the name is kept for the delay line")
    mapping = _mapping(key, value)
    _only_keys(key, mapping, {"role", "loopback", "sids"})
    try:
        role = Role(mapping.get("role"))
    except ValueError:
        problem = f"{mapping.get('role')!r} is neither 'edge' nor 'core'"
        raise TopologyError(f"{key}.role", problem) from None
    loopbacks = _addresses(f"{key}.loopback", mapping.get("loopback", []))
    if not loopbacks:
        raise TopologyError(f"{key}.loopback", "missing: a node needs an address")
    sids = _addresses(f"{key}.sids", mapping.get("sids", []))
    if sids and role is Role.EDGE:
        # A seg6local End on the node that owns the final address loses the packet.
        problem = "an edge ends SID lists at its loopback; give SIDs to core nodes"
        raise TopologyError(f"{key}.sids", problem)
    return Node(name, role, loopbacks, sids)


def _link(key: str, value: object, names: set[str]) -> Link:
    mapping = _mapping(key, value)
    _only_keys(key, mapping, {"a", "b", "cost", "forward", "backward"})
    ends: list[str] = []
    for end in ("a", "b"):
        name = mapping.get(end)
        if not isinstance(name, str) or name not in names:
            raise TopologyError(f"{key}.{end}", f"{name!r} is not a node")
        ends.append(name)
    if ends[0] == ends[1]:
        raise TopologyError(f"{key}.b", "a link needs two different nodes")
    cost = _integer(f"{key}.cost", mapping.get("cost", DEFAULT_COST), minimum=1)
    forward, backward = (
        _impairment(f"{key}.{direction}", mapping[direction]) if direction in mapping else None
        for direction in ("forward", "backward")
    )
    return Link(ends[0], ends[1], cost, forward, backward)


def _duration_ns(key: str, mapping: Mapping[str, object], name: str) -> int:
    if name in mapping and f"{name}_us" in mapping:
        raise TopologyError(f"{key}.{name}_us", f"given beside {key}.{name}: keep one")
    if f"{name}_us" in mapping:
        return _integer(f"{key}.{name}_us", mapping[f"{name}_us"], minimum=0) * 1_000
    return parse_duration_ns(f"{key}.{name}", mapping[name]) if name in mapping else 0


def _impairment(key: str, value: object) -> Impairment:
    mapping = _mapping(key, value)
    durations = {"delay", "jitter", "reorder_hold"}
    probabilities = {"loss", "duplicate", "reorder"}
    known = durations | {f"{name}_us" for name in durations} | probabilities
    _only_keys(key, mapping, known | {"jitter_distribution"})
    delay_ns, jitter_ns, hold_ns = (
        _duration_ns(key, mapping, name) for name in ("delay", "jitter", "reorder_hold")
    )
    loss, duplicate, reorder = (
        parse_probability(f"{key}.{name}", mapping[name]) if name in mapping else 0.0
        for name in ("loss", "duplicate", "reorder")
    )
    try:
        distribution = JitterDistribution(mapping.get("jitter_distribution", "uniform"))
    except ValueError:
        problem = f"{mapping['jitter_distribution']!r} is neither 'uniform' nor 'normal'"
        raise TopologyError(f"{key}.jitter_distribution", problem) from None
    reach = 3 if distribution is JitterDistribution.NORMAL else 1
    if reach * jitter_ns > delay_ns:
        times = f"{reach} x " if reach > 1 else ""
        raise TopologyError(f"{key}.jitter", f"{times}jitter exceeds the delay")
    if (reorder > 0) != (hold_ns > 0):
        raise TopologyError(f"{key}.reorder", "needs reorder_hold, and reorder_hold needs it")
    return Impairment(delay_ns, jitter_ns, distribution, loss, duplicate, reorder, hold_ns)


def _check_addresses(topology: Topology) -> None:
    owners: dict[IPv6Address, str] = {}
    for node in topology.nodes:
        for kind, addresses in (("loopback", node.loopbacks), ("sids", node.sids)):
            key = f"nodes.{node.name}.{kind}"
            for address in addresses:
                if address in owners:
                    raise TopologyError(key, f"{address} is already {owners[address]}")
                owners[address] = key


def _check_links(topology: Topology) -> None:
    parallel: dict[frozenset[str], int] = {}
    for index, link in enumerate(topology.links):
        ends = frozenset((link.a, link.b))
        parallel[ends] = parallel.get(ends, 0) + 1
        if parallel[ends] > 9:
            raise TopologyError(f"links[{index}]", "more than 9 links between two nodes")
    reached = {topology.nodes[0].name}
    frontier = set(reached)
    while frontier:
        frontier = {
            end
            for link in topology.links
            for start, end in ((link.a, link.b), (link.b, link.a))
            if start in frontier
        } - reached
        reached |= frontier
    for node in topology.nodes:
        if node.name not in reached:
            first = topology.nodes[0].name
            raise TopologyError(f"nodes.{node.name}", f"no chain of links leads to {first}")
