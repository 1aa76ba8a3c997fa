"""What can go wrong in the laboratory, each with the exit code that the command line gives."""

from __future__ import annotations


class LabError(Exception):
    """Something in the laboratory failed; the text says what and what to do."""

    exit_code = 1


class TopologyError(LabError):
    """A topology file is wrong; the text begins with the key at fault."""

    exit_code = 3

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key
        self.problem = problem


class LabExistsError(LabError):
    """A laboratory of this name is already there."""

    exit_code = 4


class NoSuchLabError(LabError):
    """No laboratory, or no node in it, has this name."""

    exit_code = 5


class LabBusyError(LabError):
    """Another `up` or `down` of the same laboratory is at work."""

    exit_code = 4


class PrivilegeError(LabError):
    """Network namespaces need root."""

    exit_code = 7
