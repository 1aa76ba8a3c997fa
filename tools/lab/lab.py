"""A laboratory as an object: start, use, take down.

with Lab.start(name="demo") as lab:
    lab.exec("edge1", ["ip", "-6", "route"])
    port = lab.nodes["edge1"].netconf.port
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Self

from tools.lab import daemons as edge_daemons
from tools.lab import kernel, processes, state
from tools.lab.bringup import BringUp
from tools.lab.errors import LabError, NoSuchLabError, PrivilegeError
from tools.lab.plan import DEFAULT_LAB_NAME, LabPlan, NodePlan, check_lab_name, plan_lab
from tools.lab.state import LabState
from tools.lab.status import lab_status
from tools.lab.takedown import take_down
from tools.lab.topology import DEFAULT_TOPOLOGY, Role, Topology, load_topology, parse_topology

LINE_ANSWER_S = 5.0

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class NetconfAccess:
    """How to reach an edge's NETCONF server over SSH."""

    host: str
    port: int
    user: str
    key_file: Path
    """Private key of the client."""
    known_hosts_file: Path
    host_key_file: Path
    """Public host key."""


@dataclass(frozen=True, slots=True)
class SysrepoAccess:
    """How to reach an edge's datastores from this machine."""

    repository: Path
    shm_prefix: str

    def environment(self) -> dict[str, str]:
        """The variables that make sysrepo's clients use this repository."""
        return {
            "SYSREPO_REPOSITORY_PATH": str(self.repository),
            "SYSREPO_SHM_PREFIX": self.shm_prefix,
        }


@dataclass(frozen=True, slots=True)
class LabNode:
    """One node of a running laboratory."""

    name: str
    role: Role
    namespace: str
    loopback: IPv6Address
    sids: tuple[IPv6Address, ...]
    plan: NodePlan
    folder: Path
    _netconf: NetconfAccess | None
    _sysrepo: SysrepoAccess | None

    @property
    def netconf(self) -> NetconfAccess:
        """LabError for a node without daemons."""
        if self._netconf is None:
            raise LabError(f"{self.name} runs no NETCONF server")
        return self._netconf

    @property
    def sysrepo(self) -> SysrepoAccess:
        """LabError for a node without daemons."""
        if self._sysrepo is None:
            raise LabError(f"{self.name} has no sysrepo repository")
        return self._sysrepo

    @property
    def managed(self) -> bool:
        """Whether the node runs the daemons."""
        return self._netconf is not None


class Lab:
    """A laboratory that is up. Use `start` or `attach`, and `down` or a `with` block."""

    def __init__(self, lab_state: LabState) -> None:
        self.state = lab_state
        self.name = lab_state.name
        self.topology: Topology = parse_topology(lab_state.topology)
        self.plan: LabPlan = plan_lab(self.topology, lab_state.name)
        self.nodes: Mapping[str, LabNode] = {n.name: self._node(n) for n in self.plan.nodes}

    @classmethod
    def start(
        cls,
        topology: Path | str = DEFAULT_TOPOLOGY,
        *,
        name: str = DEFAULT_LAB_NAME,
        daemons: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Bring a laboratory up; whatever goes wrong, nothing of it stays.

        `topology` is a file, or as a string the YAML text itself. With `daemons`
        false only the network is made. Raises TopologyError, LabExistsError,
        PrivilegeError, and LabError when an effect fails.
        """
        if isinstance(topology, Path):
            load_topology(topology)
            text = topology.read_text(encoding="utf-8")
        else:
            text = topology
        plan = plan_lab(parse_topology(text), name)
        if os.geteuid() != 0:
            raise PrivilegeError("network namespaces need root")
        taken = kernel.existing_namespaces() & set(plan.namespaces)
        state.claim(name)
        try:
            with state.locked(name):
                if taken:
                    space = sorted(taken)[0]
                    raise LabError(
                        f"namespace {space} exists but belongs to no lab: `ip netns delete {space}`"
                    )
                lab_state = LabState(
                    name, secrets.token_hex(16), state.current_boot_id(), text, daemons
                )
                lab_state.save()
                BringUp(lab_state, plan, progress or (lambda _: None)).run()
            return cls(lab_state)
        except BaseException:
            take_down(name)
            raise

    @classmethod
    def attach(cls, name: str = DEFAULT_LAB_NAME) -> Self:
        """Return a laboratory that is already up.

        Raises NoSuchLabError, also when only the remains of a failed `up` are there.
        """
        check_lab_name(name)
        lab_state = state.load(name)
        if lab_state is None:
            raise NoSuchLabError(f"lab {name!r} is not up: its `up` did not get far")
        return cls(lab_state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def down(self) -> None:
        """Take everything down; nothing happens when it is down already."""
        take_down(self.name)

    def node(self, name: str) -> LabNode:
        """Return a node; NoSuchLabError when there is none of this name."""
        if name not in self.nodes:
            known = ", ".join(self.nodes)
            raise NoSuchLabError(f"lab {self.name!r} has no node {name!r} (nodes: {known})")
        return self.nodes[name]

    def command(self, node: str, argv: Sequence[str]) -> list[str]:
        """What to execute, with `environment`, to run `argv` inside a node's namespace."""
        return kernel.in_namespace(self.node(node).namespace, argv)

    def environment(self, node: str) -> dict[str, str]:
        """The environment for a program of a node: its sysrepo, and the lab's mark.

        The mark makes `down` end what is still running of it.
        """
        managed = self.node(node).managed
        repository = self.node(node).sysrepo.environment() if managed else {}
        return {**os.environ, **repository, processes.TOKEN_VARIABLE: self.state.token}

    def exec(
        self,
        node: str,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        timeout_s: float | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside a node's namespace and wait; its output is in the result.

        Raises what `subprocess.run` raises: TimeoutExpired, and with `check` CalledProcessError.
        """
        return subprocess.run(
            self.command(node, argv),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=check,
            env=self.environment(node),
        )

    def popen(self, node: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program inside a node's namespace; `options` go to subprocess.Popen."""
        options.setdefault("env", self.environment(node))
        return subprocess.Popen(self.command(node, argv), **options)

    def process(self, name: str, node: str | None = None) -> processes.ProcessId | None:
        """Return the id of a process ("stampd", "netconfd", "sshd"; "delay-line" without node).

        None when it is not part of this laboratory. It need not be alive.
        """
        for record in self.state.processes:
            if (record.name, record.node) == (name, node):
                return processes.read_identity(record.identity_file)
        return None

    def line_status(self, fresh: bool = True) -> dict[str, Any] | None:
        """Return the delay line's counters and error; None when nothing was written.

        With `fresh` the line is asked for its present state, and LabError says that it
        died or does not answer. Without, the last written state is returned.
        Keys: "requests", "pid", "scheduling", "spin_us", "directions" → name →
        {"counters", "waiting", "lateness", "send_call_mean_ns"}.
        """
        before = self._read_line_status()
        process = self.process("delay-line")
        if not fresh or process is None:
            return before
        if not processes.is_alive(process):
            raise LabError("the delay line is dead")
        answered = before["requests"] if before else 0
        os.kill(process.pid, signal.SIGUSR1)
        deadline = time.monotonic() + LINE_ANSWER_S
        while True:
            now = self._read_line_status()
            if now is not None and now["requests"] > answered:
                return now
            if time.monotonic() > deadline or not processes.is_alive(process):
                raise LabError("the delay line does not answer")
            time.sleep(0.005)

    def status(self) -> dict[str, Any]:
        """Return what `stamp-lab status --json` prints; see `tools.lab.status`."""
        return lab_status(self)

    def _read_line_status(self) -> dict[str, Any] | None:
        try:
            text = self.state.line_status_file.read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        status: dict[str, Any] = json.loads(text)
        return status

    def _node(self, node: NodePlan) -> LabNode:
        folder = self.state.node_folder(node.name)
        netconf = sysrepo = None
        if node.name in self.state.ports:
            netconf = NetconfAccess(
                host=edge_daemons.SSH_HOST,
                port=self.state.ports[node.name],
                user=edge_daemons.management_user(),
                key_file=self.state.client_key_file,
                known_hosts_file=folder / "known_hosts",
                host_key_file=folder / "host_key.pub",
            )
        if node.name in self.state.repositories:
            repository = self.state.repository_folder(node.name)
            sysrepo = SysrepoAccess(repository, self.state.repositories[node.name])
        return LabNode(
            node.name,
            node.role,
            node.namespace,
            node.loopbacks[0],
            node.sids,
            node,
            folder,
            netconf,
            sysrepo,
        )
