"""``stamp-netconfd``: a NETCONF server for the modules of a sysrepo repository.

It listens on a Unix socket; OpenSSH brings the sessions (``Subsystem netconf`` with
``tools.netconf_server.proxy``). The repository is chosen by the environment variables
SYSREPO_REPOSITORY_PATH and SYSREPO_SHM_PREFIX. SIGTERM and SIGINT close every session.

Exit status: 0 after a signal, 1 if it cannot start, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import grp
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import sysrepo

from tools.netconf_server.framing import DEFAULT_MAX_MESSAGE_BYTES
from tools.netconf_server.native_errors import NativeError, SrCode
from tools.netconf_server.notifications import DEFAULT_MAX_QUEUED
from tools.netconf_server.server import NetconfServer, ServerSettings

LOG = logging.getLogger(__name__)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def _group(text: str) -> int:
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise argparse.ArgumentTypeError(f"there is no group {text}") from None


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="stamp-netconfd",
        description="NETCONF server over sysrepo, behind the OpenSSH subsystem proxy.",
        epilog="example: stamp-netconfd --socket /run/stamp/netconf.sock --group netconf",
    )
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on")
    parser.add_argument(
        "--group",
        type=_group,
        help="group that may connect (mode 0660); without it only the owner may (0600)",
    )
    parser.add_argument(
        "--max-sessions", type=_positive, default=32, help="open sessions at a time (%(default)s)"
    )
    parser.add_argument(
        "--max-message-bytes",
        type=_positive,
        default=DEFAULT_MAX_MESSAGE_BYTES,
        help="longest request (%(default)s)",
    )
    parser.add_argument(
        "--max-queued-notifications",
        type=_positive,
        default=DEFAULT_MAX_QUEUED,
        help="of one session, while its client reads slowly; further ones are dropped, and logged "
        "(%(default)s)",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="of the log on standard error (%(default)s)",
    )
    return parser


async def serve(
    path: Path, settings: ServerSettings, *, mode: int = 0o600, group: int | None = None
) -> None:
    """Serve until SIGTERM or SIGINT; the socket is removed at the end.

    :raises OSError: the socket cannot be used.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = NetconfServer(settings)
    await server.start(path, mode, group)
    LOG.info("listening on %s", path)
    try:
        await stopped.wait()
    finally:
        path.unlink(missing_ok=True)
        await server.stop()
        LOG.info("stopped")


def explained(error: Exception) -> str:
    """What an error at the start means to an operator, where its own words do not say it."""
    text = str(error)
    if "subscription" in text and "already exists" in text:
        return "another NETCONF server serves this sysrepo repository"
    code = error.code if isinstance(error, NativeError) else getattr(error, "rc", None)
    if code in (SrCode.SYS, SrCode.UNAUTHORIZED):
        return f"no access to sysrepo's repository: be its owner, as a rule root ({text})"
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    settings = ServerSettings(
        max_sessions=options.max_sessions,
        max_message_bytes=options.max_message_bytes,
        max_queued_notifications=options.max_queued_notifications,
    )
    mode = 0o600 if options.group is None else 0o660
    try:
        asyncio.run(serve(options.socket, settings, mode=mode, group=options.group))
    except (OSError, sysrepo.SysrepoError, NativeError) as error:
        print(f"stamp-netconfd: {explained(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
