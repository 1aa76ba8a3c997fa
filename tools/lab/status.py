"""What a laboratory says about itself, for programs and for people, from the same data.

`lab_status` gives:

    {"lab", "complete", "healthy",
     "nodes": [{"name", "role", "namespace", "loopback", "loopbacks", "sids",
                "netconf": {"host", "port", "user", "key_file", "known_hosts_file",
                            "host_key_file"} | null,
                "sysrepo": {"repository", "shm_prefix"} | null,
                "processes": {NAME: {"pid", "alive", "log_file"}}}],
     "links": [{"a", "b", "cost", "impaired",
                "forward", "backward": null | {"delay_ns", …, "counters", "waiting",
                                               "lateness", "send_call_mean_ns"}}],
     "delay_line": {"pid", "alive", "scheduling", "spin_us", "log_file"} | null,
     "paths": [{"source", "destination", "segments", "hops", "forward_delay_ns",
                "backward_delay_ns", "forward_loss", "backward_loss"}]}

`healthy` is true when `up` got to its end and every process is alive. The delay
line's keys are absent when it never wrote its state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tools.lab import processes
from tools.lab.delay_line import impairment_to_json
from tools.lab.errors import LabError
from tools.lab.plan import LinkPlan, PathPlan
from tools.lab.state import ProcessRecord
from tools.lab.units import format_ns

if TYPE_CHECKING:
    from tools.lab.lab import Lab, LabNode


def lab_status(lab: Lab) -> dict[str, Any]:
    """Gather the status (layout above)."""
    try:
        line = lab.line_status()
    except LabError:
        line = lab.line_status(fresh=False)
    records = lab.state.processes
    delay_line = None
    for record in records:
        if record.node is None:
            delay_line = _process(lab, record)
            if line is not None:
                delay_line |= {key: line[key] for key in ("scheduling", "spin_us")}
    nodes = [_node(lab, node) for node in lab.nodes.values()]
    alive = [_process(lab, record)["alive"] for record in records]
    directions = line["directions"] if line else {}
    return {
        "lab": lab.name,
        "complete": lab.state.complete,
        "healthy": lab.state.complete and all(alive),
        "nodes": nodes,
        "links": [_link(link, directions) for link in lab.plan.links],
        "delay_line": delay_line,
        "paths": [_path(path) for path in lab.plan.paths],
    }


def _process(lab: Lab, record: ProcessRecord) -> dict[str, Any]:
    identity = processes.read_identity(record.identity_file) if lab.state.this_boot else None
    return {
        "pid": identity.pid if identity else None,
        "alive": identity is not None and processes.is_alive(identity),
        "log_file": str(record.log_file),
    }


def _node(lab: Lab, node: LabNode) -> dict[str, Any]:
    access = sysrepo = None
    if node.managed:
        netconf = node.netconf
        access = {
            "host": netconf.host,
            "port": netconf.port,
            "user": netconf.user,
            "key_file": str(netconf.key_file),
            "known_hosts_file": str(netconf.known_hosts_file),
            "host_key_file": str(netconf.host_key_file),
        }
        sysrepo = {
            "repository": str(node.sysrepo.repository),
            "shm_prefix": node.sysrepo.shm_prefix,
        }
    return {
        "name": node.name,
        "role": node.role.value,
        "namespace": node.namespace,
        "loopback": str(node.loopback),
        "loopbacks": [str(address) for address in node.plan.loopbacks],
        "sids": [str(sid) for sid in node.sids],
        "netconf": access,
        "sysrepo": sysrepo,
        "processes": {
            record.name: _process(lab, record)
            for record in lab.state.processes
            if record.node == node.name
        },
    }


def _link(link: LinkPlan, line: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "a": link.link.a,
        "b": link.link.b,
        "cost": link.link.cost,
        "impaired": link.link.impaired,
        "forward": None,
        "backward": None,
    }
    for key, direction in zip(("forward", "backward"), link.directions, strict=False):
        measured = line.get(direction.name, {})
        entry[key] = {**impairment_to_json(direction.impairment), **measured}
    return entry


def _path(path: PathPlan) -> dict[str, Any]:
    return {
        "source": path.source,
        "destination": path.destination,
        "segments": [str(segment) for segment in path.segments],
        "hops": list(path.hops),
        "forward_delay_ns": path.forward_delay_ns,
        "backward_delay_ns": path.backward_delay_ns,
        "forward_loss": path.forward_loss,
        "backward_loss": path.backward_loss,
    }


def render_status(status: dict[str, Any]) -> str:
    """Turn a status into tables for people."""
    state = "healthy" if status["healthy"] else "NOT HEALTHY"
    parts = [f"lab {status['lab']}: {state}", _table(_node_rows(status))]
    parts.append(_table(_link_rows(status)))
    line = status["delay_line"]
    if line is not None:
        alive = "alive" if line["alive"] else "DEAD"
        parts.append(
            f"delay line: pid {line['pid'] or '-'} {alive}, scheduling "
            f"{line.get('scheduling', '-')}, spins at most {line.get('spin_us', '-')} us; "
            "error = actual - scheduled departure"
        )
    if status["paths"]:
        parts.append(_table(_path_rows(status)))
    return "\n\n".join(parts)


def _table(rows: Iterator[Sequence[str]]) -> str:
    lines = list(rows)
    widths = [max(len(row[column]) for row in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in lines
    )


def _node_rows(status: dict[str, Any]) -> Iterator[Sequence[str]]:
    yield ("NODE", "ROLE", "LOOPBACK", "SIDS", "NETCONF", "PROCESSES")
    for node in status["nodes"]:
        netconf = node["netconf"]
        yield (
            node["name"],
            node["role"],
            node["loopback"],
            " ".join(node["sids"]) or "-",
            f"{netconf['user']}@{netconf['host']}:{netconf['port']}" if netconf else "-",
            " ".join(
                f"{name}={process['pid'] if process['alive'] else 'DEAD'}"
                for name, process in node["processes"].items()
            )
            or "-",
        )


def _link_rows(status: dict[str, Any]) -> Iterator[Sequence[str]]:
    yield (
        *("FROM", "TO", "INJECTED", "RECEIVED", "FORWARDED", "LOST", "DUPLICATED", "REORDERED"),
        *("DROPPED", "ERROR MEAN", "P99", "MAX"),
    )
    for link in status["links"]:
        for start, end, key in (("a", "b", "forward"), ("b", "a", "backward")):
            direction = link[key]
            if direction is None:
                yield (link[start], link[end], "-", *("" for _ in range(9)))
                continue
            counters = direction.get("counters", {})
            lateness = direction.get("lateness", {})
            names = ("received", "forwarded", "lost", "duplicated", "reordered")
            dropped = sum(value for name, value in counters.items() if name.startswith("dropped"))
            yield (
                link[start],
                link[end],
                describe_impairment(direction),
                *(str(counters.get(name, "-")) for name in names),
                str(dropped) if counters else "-",
                *(_known_ns(lateness.get(name)) for name in ("mean_ns", "p99_ns", "max_ns")),
            )


def _known_ns(value: int | None) -> str:
    return "-" if value is None else format_ns(value)


def describe_impairment(impairment: dict[str, Any]) -> str:
    """Show an impairment in a few words: "20ms, 2% lost"."""
    words = [format_ns(impairment["delay_ns"])]
    if impairment["jitter_ns"]:
        words[0] += f" ±{format_ns(impairment['jitter_ns'])} {impairment['jitter_distribution']}"
    for key, verb in (("loss", "lost"), ("duplicate", "doubled"), ("reorder", "reordered")):
        if impairment[key]:
            words.append(f"{impairment[key] * 100:g}% {verb}")
    return ", ".join(words)


def _path_rows(status: dict[str, Any]) -> Iterator[Sequence[str]]:
    yield ("PATH", "SEGMENTS", "FORWARD", "BACKWARD")
    for path in status["paths"]:
        yield (
            "-".join(path["hops"]),
            " ".join(path["segments"]),
            *(
                f"{format_ns(path[f'{way}_delay_ns'])}"
                + (f", {path[f'{way}_loss'] * 100:g}% lost" if path[f"{way}_loss"] else "")
                for way in ("forward", "backward")
            ),
        )
