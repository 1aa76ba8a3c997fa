"""Plan → kernel: namespaces, veth pairs, addresses, routes. Every effect is a command."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tools.lab.errors import LabError
from tools.lab.plan import LabPlan, LinkPlan, NodePlan

NETNS_FOLDER = Path("/run/netns")

_NODE_SYSCTLS = {
    "forwarding": 1,
    "seg6_enabled": 1,
    # Addresses are usable at once, without duplicate address detection.
    "accept_dad": 0,
    "dad_transmits": 0,
    "accept_ra": 0,
    "accept_redirects": 0,
    # No link-local addresses: links have their own, and these would be announced.
    "addr_gen_mode": 1,
}
_OFFLOADS = ("tx", "rx", "sg", "tso", "gso", "gro")


def run(argv: Sequence[str], stdin: str | None = None) -> str:
    """Run a command; return its output. LabError with its own words when it fails."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().replace("\n", "; ")
        raise LabError(f"{' '.join(argv)}: exit status {done.returncode}: {said}")
    return done.stdout


def ip_batch(namespace: str | None, lines: Sequence[str]) -> None:
    """Run `ip` commands in one process; LabError names the first that fails."""
    where = ["-n", namespace] if namespace else []
    try:
        run(["ip", "-6", *where, "-batch", "-"], stdin="\n".join(lines) + "\n")
    except LabError as error:
        text = str(error)
        number = text.rsplit("Command failed -:", 1)[-1]
        if number.isdigit() and 0 < int(number) <= len(lines):
            text += f" ({lines[int(number) - 1]})"
        raise LabError(text) from error


def in_namespace(namespace: str, argv: Sequence[str]) -> list[str]:
    """Prefix a command so that it runs inside a namespace, under the same process id."""
    return ["ip", "netns", "exec", namespace, *argv]


def existing_namespaces() -> set[str]:
    """Names of all network namespaces on this machine."""
    return {entry.name for entry in NETNS_FOLDER.iterdir()} if NETNS_FOLDER.is_dir() else set()


def processes_in(namespace: str) -> list[int]:
    """Process ids inside a namespace; empty when there is no such namespace."""
    if namespace not in existing_namespaces():
        return []
    return [int(pid) for pid in run(["ip", "netns", "pids", namespace]).split()]


def create_node_namespace(namespace: str) -> None:
    """Make a router of a new namespace: IPv6 forwarding, SRv6, lo up."""
    run(["ip", "netns", "add", namespace])
    settings = [
        f"net/ipv6/conf/{scope}/{key}={value}"
        for scope in ("all", "default", "lo")
        for key, value in _NODE_SYSCTLS.items()
    ]
    set_sysctls(namespace, settings)
    ip_batch(namespace, ["link set lo up"])


def create_wire_namespace(namespace: str) -> None:
    """Make a namespace whose interfaces carry frames and say nothing themselves."""
    run(["ip", "netns", "add", namespace])
    set_sysctls(
        namespace, [f"net/ipv6/conf/{scope}/disable_ipv6=1" for scope in ("all", "default")]
    )


def delete_namespace(namespace: str) -> None:
    """Delete a namespace and all interfaces in it; nothing when it is not there."""
    if namespace in existing_namespaces():
        run(["ip", "netns", "delete", namespace])


def create_veths(links: Sequence[LinkPlan]) -> None:
    """Make all veth pairs, each end straight in its namespace."""
    lines = []
    for link in links:
        for veth in link.veths:
            (space_a, name_a, mac_a), (space_b, name_b, mac_b) = veth.a, veth.b
            address_a = f"address {mac_a} " if mac_a else ""
            address_b = f"address {mac_b} " if mac_b else ""
            lines.append(
                f"link add name {name_a} {address_a}netns {space_a} "
                f"type veth peer name {name_b} {address_b}netns {space_b}"
            )
    if lines:
        ip_batch(None, lines)


def bring_up_wire(plan: LabPlan) -> None:
    """Set the wire's ends up."""
    if plan.wire_namespace is None:
        return
    names = [direction.receive_on for direction in plan.directions]
    ip_batch(plan.wire_namespace, [f"link set {name} up" for name in names])
    for name in names:
        _turn_offloads_off(plan.wire_namespace, name)


def configure_node(node: NodePlan) -> None:
    """Give a node its addresses, neighbours, routes and SIDs."""
    for interface in node.interfaces:
        if interface.over_wire:
            # A packet socket hands over frames as they are: checksums must be in
            # them, and none may be longer than the MTU.
            _turn_offloads_off(node.namespace, interface.name)
    set_sysctls(
        node.namespace,
        [f"net/ipv6/conf/{interface.name}/seg6_enabled=1" for interface in node.interfaces],
    )
    lines = [f"address add {address}/128 dev lo nodad" for address in node.loopbacks]
    for interface in node.interfaces:
        lines += [
            f"address add {interface.address}/64 dev {interface.name} nodad",
            f"link set {interface.name} up",
            f"neighbour replace {interface.peer_address} lladdr {interface.peer_mac} "
            f"dev {interface.name} nud permanent",
        ]
    lines += [
        f"route add {sid}/128 encap seg6local action End dev {node.interfaces[0].name}"
        for sid in node.sids
    ]
    lines += [
        f"route add {route.destination}/128 via {route.gateway} dev {route.interface} "
        f"src {node.loopbacks[0]}"
        for route in node.routes
    ]
    ip_batch(node.namespace, lines)


def set_sysctls(namespace: str, settings: Sequence[str]) -> None:
    """Write kernel parameters, `net/…=value` each, of a namespace."""
    if settings:
        run(in_namespace(namespace, ["sysctl", "-qw", *settings]))


def _turn_offloads_off(namespace: str, interface: str) -> None:
    switches = [word for offload in _OFFLOADS for word in (offload, "off")]
    run(in_namespace(namespace, ["ethtool", "-K", interface, *switches]))
