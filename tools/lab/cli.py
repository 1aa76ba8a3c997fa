"""The command line `stamp-lab`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.lab.console import console_command
from tools.lab.errors import LabError, NoSuchLabError, PrivilegeError
from tools.lab.lab import Lab
from tools.lab.plan import DEFAULT_LAB_NAME
from tools.lab.status import render_status
from tools.lab.takedown import take_down
from tools.lab.topology import DEFAULT_TOPOLOGY

EXIT_UNHEALTHY = 6
EXIT_EXEC_FAILED = 125

_EPILOG = f"""\
examples:
  stamp-lab up                             two edges, two paths ({DEFAULT_TOPOLOGY.name})
  stamp-lab up my.yaml --name mine         another topology, beside the first
  stamp-lab up --no-daemons                the network only
  stamp-lab status                         nodes, links, what the delay line did and its error
  stamp-lab status --json | jq .nodes      the same for programs
  stamp-lab exec edge1 -- ip -6 route
  stamp-lab exec edge1 -- sysrepocfg -X -m srv6-stamp
  stamp-lab console edge1 -- --get /s:stamp     by NETCONF; s: is our module
  stamp-lab down

exit codes:
  0  done
  1  an effect failed; `up` has then removed what it had made
  2  the command line is wrong
  3  the topology file is wrong
  4  a lab of this name is up already, or another up or down of it is at work
  5  there is no such lab or node
  6  status: the lab is not healthy (a process is dead, or up did not end)
  7  not root
exec and console give the exit code of the command; exec gives 125 when
stamp-lab could not start it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        return command(options)
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except LabError as error:
        print(f"stamp-lab: {error}", file=sys.stderr)
        return EXIT_EXEC_FAILED if command is _exec else error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stamp-lab",
        description="A laboratory of network namespaces with impaired links.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument(
            "--name",
            default=os.environ.get("STAMP_LAB_NAME", DEFAULT_LAB_NAME),
            help="of the lab (default: STAMP_LAB_NAME, or else %(default)s)",
        )
        sub.set_defaults(run=run)
        return sub

    up = add("up", _up, "bring a lab up")
    up.add_argument(
        "topology",
        nargs="?",
        type=Path,
        default=DEFAULT_TOPOLOGY,
        help="YAML file (default: %(default)s)",
    )
    up.add_argument("--no-daemons", action="store_true", help="make the network only")
    up.add_argument("--quiet", action="store_true", help="no progress lines")
    add("down", _down, "take a lab down; no error when it is not up")
    add("status", _status, "show a lab").add_argument(
        "--json", action="store_true", help="for programs"
    )
    console = add("console", _console, "run netconf-console2 against a network element")
    console.add_argument("node", metavar="NODE")
    console.add_argument("arguments", nargs="+", metavar="ARG", help="its arguments, after --")
    execute = add("exec", _exec, "run a command inside a node's namespace")
    execute.add_argument("node", metavar="NODE")
    execute.add_argument("command", nargs="+", metavar="CMD", help="after --")
    return parser


def _require_root() -> None:
    if os.geteuid() != 0:
        raise PrivilegeError("network namespaces need root")


def _up(options: argparse.Namespace) -> int:
    # As an exception, so that what was made is removed.
    signal.signal(signal.SIGTERM, _raise_exit)

    def progress(line: str) -> None:
        if not options.quiet:
            print(f"stamp-lab: {line}", flush=True)

    lab = Lab.start(
        options.topology, name=options.name, daemons=not options.no_daemons, progress=progress
    )
    progress(f"lab {lab.name} is up")
    for node in lab.nodes.values():
        if node.managed:
            access = node.netconf
            progress(
                f"{node.name}: ssh -i {access.key_file} -o UserKnownHostsFile="
                f"{access.known_hosts_file} -p {access.port} -s {access.user}@{access.host} netconf"
            )
    return 0


def _raise_exit(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _down(options: argparse.Namespace) -> int:
    _require_root()
    if take_down(options.name):
        print(f"stamp-lab: lab {options.name} is down")
    else:
        print(f"stamp-lab: no lab {options.name!r} is up: nothing to do")
    return 0


def _status(options: argparse.Namespace) -> int:
    _require_root()
    status = Lab.attach(options.name).status()
    print(json.dumps(status, indent=2) if options.json else render_status(status))
    return 0 if status["healthy"] else EXIT_UNHEALTHY


def _console(options: argparse.Namespace) -> int:
    _require_root()
    node = Lab.attach(options.name).nodes.get(options.node)
    if node is None or not node.managed:
        raise NoSuchLabError(f"lab {options.name!r} has no network element {options.node!r}")
    return subprocess.run(console_command(node.netconf, options.arguments), check=False).returncode


def _exec(options: argparse.Namespace) -> int:
    _require_root()
    lab = Lab.attach(options.name)
    done = subprocess.run(
        lab.command(options.node, options.command), env=lab.environment(options.node), check=False
    )
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


if __name__ == "__main__":
    sys.exit(main())
