"""`up`: carries a plan out, noting each effect in the state file before it happens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tools.lab import daemons, kernel, processes
from tools.lab.delay_line import DEFAULT_SPIN_US, impairment_to_json
from tools.lab.errors import LabError
from tools.lab.impairment import DEFAULT_QUEUE_LIMIT
from tools.lab.plan import LabPlan, NodePlan
from tools.lab.state import LabState, ProcessRecord
from tools.lab.topology import Role

READY_TIMEOUT_S = 30.0
PORT_ATTEMPTS = 5


class BringUp:
    """One run of `up`. `state` is saved already; LabError when an effect fails."""

    def __init__(self, state: LabState, plan: LabPlan, progress: Callable[[str], None]) -> None:
        self._state = state
        self._plan = plan
        self._progress = progress

    def run(self) -> None:
        """Make namespaces and links, start the delay line, then the edges' daemons."""
        self._namespaces()
        self._progress(f"links: {len(self._plan.links)}")
        kernel.create_veths(self._plan.links)
        kernel.bring_up_wire(self._plan)
        for node in self._plan.nodes:
            kernel.configure_node(node)
        self._delay_line()
        if self._state.daemons:
            edges = [node for node in self._plan.nodes if node.role is Role.EDGE]
            daemons.make_key(self._state.client_key_file, "stamp-lab client")
            for edge in edges:
                self._repository(edge)
            for edge in edges:
                self._stampd(edge)
                self._netconfd(edge)
                self._sshd(edge)
        self._state.complete = True
        self._state.save()

    def _namespaces(self) -> None:
        self._progress(f"namespaces: {', '.join(self._plan.namespaces)}")
        for namespace in self._plan.namespaces:
            self._state.namespaces.append(namespace)
            self._state.save()
            if namespace == self._plan.wire_namespace:
                kernel.create_wire_namespace(namespace)
            else:
                kernel.create_node_namespace(namespace)

    def _delay_line(self) -> None:
        if self._plan.wire_namespace is None:
            return
        self._progress(f"delay line: {len(self._plan.directions)} directions")
        config = {
            "queue_limit": DEFAULT_QUEUE_LIMIT,
            "spin_us": DEFAULT_SPIN_US,
            "directions": [
                {
                    "name": direction.name,
                    "receive_on": direction.receive_on,
                    "send_on": direction.send_on,
                    "seed": direction.seed,
                    "impairment": impairment_to_json(direction.impairment),
                }
                for direction in self._plan.directions
            ],
        }
        config_file, status_file = self._state.line_config_file, self._state.line_status_file
        config_file.write_text(json.dumps(config, indent=1), encoding="ascii")
        record = ProcessRecord("delay-line", None, str(self._state.folder))
        command = daemons.delay_line_command(self._plan.wire_namespace, config_file, status_file)
        self._start(record, command, {}, status_file.exists)

    def _repository(self, edge: NodePlan) -> None:
        from tools.repository import Repository, RepositoryError

        self._progress(f"{edge.name}: sysrepo repository")
        self._state.node_folder(edge.name).mkdir()
        self._state.repositories[edge.name] = edge.shm_prefix
        self._state.save()
        try:
            Repository(self._state.repository_folder(edge.name), edge.shm_prefix).create()
        except RepositoryError as error:
            raise LabError(f"{edge.name}: {error}") from error

    def _stampd(self, edge: NodePlan) -> None:
        folder = self._state.node_folder(edge.name)
        ready_file = folder / "stampd.ready"
        command = daemons.stampd_command(edge.namespace, folder / "stampd", ready_file)
        (folder / "stampd").mkdir()
        self._start_on(edge, "stampd", command, ready_file.exists)

    def _netconfd(self, edge: NodePlan) -> None:
        netconf = self._netconf_socket(edge)
        command = daemons.netconfd_command(netconf)
        self._start_on(edge, "netconfd", command, lambda: daemons.accepts_connections(netconf))

    def _sshd(self, edge: NodePlan) -> None:
        # Somebody may take the port between choosing it and sshd's bind.
        for attempt in range(1, PORT_ATTEMPTS + 1):
            port = daemons.free_port()
            try:
                self._sshd_at(edge, port)
                return
            except LabError:
                log = self._state.node_folder(edge.name) / "sshd.log"
                if "in use" not in processes.log_tail(log) or attempt == PORT_ATTEMPTS:
                    raise

    def _sshd_at(self, edge: NodePlan, port: int) -> None:
        folder = self._state.node_folder(edge.name)
        self._state.ports[edge.name] = port
        daemons.write_sshd_files(
            folder,
            port,
            self._state.client_key_file.with_suffix(".pub"),
            self._netconf_socket(edge),
            self._state.token,
        )
        command = [daemons.sshd_binary(), "-D", "-e", "-f", str(folder / "sshd_config")]
        self._start_on(edge, "sshd", command, lambda: daemons.greets_as_ssh(port))

    def _netconf_socket(self, edge: NodePlan) -> Path:
        return self._state.node_folder(edge.name) / "netconf.sock"

    def _start_on(
        self, edge: NodePlan, name: str, command: Sequence[str], ready: Callable[[], bool]
    ) -> None:
        self._progress(f"{edge.name}: {name}")
        record = ProcessRecord(name, edge.name, str(self._state.node_folder(edge.name)))
        environment = {
            "SYSREPO_REPOSITORY_PATH": str(self._state.repository_folder(edge.name)),
            "SYSREPO_SHM_PREFIX": edge.shm_prefix,
        }
        self._start(record, command, environment, ready)

    def _start(
        self,
        record: ProcessRecord,
        command: Sequence[str],
        environment: Mapping[str, str],
        ready: Callable[[], bool],
    ) -> None:
        if record not in self._state.processes:
            self._state.processes.append(record)
        self._state.save()
        record.identity_file.unlink(missing_ok=True)
        processes.spawn(
            command,
            record.identity_file,
            record.log_file,
            daemons.python_environment(
                {processes.TOKEN_VARIABLE: self._state.token, **environment}
            ),
        )
        name = f"{record.node}: {record.name}" if record.node else record.name
        processes.wait_ready(name, ready, record.identity_file, record.log_file, READY_TIMEOUT_S)
