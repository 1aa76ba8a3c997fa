"""`down`: undoes what the state file says, whatever is left of it."""

from __future__ import annotations

from tools.lab import kernel, processes, state
from tools.lab.errors import LabError, NoSuchLabError
from tools.lab.plan import check_lab_name
from tools.lab.state import LabState

ROUNDS = 3
"""How often new processes may turn up while others are being ended."""


def take_down(name: str) -> bool:
    """Remove a laboratory; return whether there was one.

    Raises LabBusyError while `up` or another `down` of it is at work, LabError when a
    process survives being killed.
    """
    check_lab_name(name)
    try:
        with state.locked(name):
            lab_state = state.load(name)
            if lab_state is not None:
                _end_processes(lab_state)
                for namespace in lab_state.namespaces:
                    kernel.delete_namespace(namespace)
                for prefix in lab_state.repositories.values():
                    state.remove_shared_memory(prefix)
            state.forget(name)
    except NoSuchLabError:
        return False
    return True


def _end_processes(lab_state: LabState) -> None:
    stubborn: list[processes.ProcessId] = []
    for _ in range(ROUNDS):
        found = _find_processes(lab_state)
        if not found:
            return
        stubborn = processes.end(found)
    if stubborn:
        numbers = ", ".join(str(process.pid) for process in stubborn)
        raise LabError(f"processes survive SIGKILL: {numbers}; run down again")


def _find_processes(lab_state: LabState) -> set[processes.ProcessId]:
    roots = processes.marked(lab_state.token)
    if lab_state.this_boot:
        for record in lab_state.processes:
            identity = processes.read_identity(record.identity_file)
            if identity is not None:
                roots.add(identity)
    for namespace in lab_state.namespaces:
        for pid in kernel.processes_in(namespace):
            process = processes.identify(pid)
            if process is not None:
                roots.add(process)
    # `down` may itself run in one of the lab's shells.
    own = processes.own_line()
    return {process for process in processes.family(roots) if process.pid not in own}
