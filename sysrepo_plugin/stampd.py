"""stampd: STAMP sessions as the running configuration of sysrepo says.

Exit status: 0 stopped by SIGTERM or SIGINT; 1 sysrepo or the data plane cannot
be used; 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

import sysrepo

from dataplane.allocator import give_back
from dataplane.engines import registry
from dataplane.engines.base import EngineError, Event
from dataplane.host.client import EngineHost
from sysrepo_plugin.actions import Actions
from sysrepo_plugin.changes import Changes
from sysrepo_plugin.datastore import Datastore, ModelOutdated, explained
from sysrepo_plugin.event_log import EventLog
from sysrepo_plugin.notifications import Notifier
from sysrepo_plugin.operational import Operational

LOG = logging.getLogger("stampd")

GIVE_BACK_S = 10.0
"""How long memory may stay with the process that it needed for a moment: sysrepo and libyang
take 8 KB of each session that is configured, and 6 KB of each whose state is asked for."""

EXIT_UNUSABLE = 1

DEFAULT_STATE_DIR = Path("/run/srv6-stamp")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="stampd",
        description="Run STAMP sessions (RFC 8762) as sysrepo's running configuration says.",
        epilog="SYSREPO_REPOSITORY_PATH and SYSREPO_SHM_PREFIX select the sysrepo instance.",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=DEFAULT_STATE_DIR,
        help="folder, best on a tmpfs, for what sessions collect (default: %(default)s)",
    )
    parser.add_argument(
        "--ready-file", type=Path, help="file that exists while the daemon serves sysrepo"
    )
    parser.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="least severe messages to log to standard error (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def serve(state_dir: Path, ready_file: Path | None, stop: threading.Event) -> None:
    """Run until `stop` is set.

    Raises EngineError, SysrepoError or ModelOutdated when the data plane or sysrepo cannot
    be used.
    """
    # The notifier exists before the host can emit, and sends only once sysrepo
    # is connected: the host process is forked before that.
    notifier = Notifier()
    events = EventLog()

    def on_event(event: Event) -> None:
        events.put(event)
        notifier.put(event)

    host = EngineHost(state_dir, on_event)
    changes = Changes(registry.capabilities, host.apply)
    try:
        with Datastore() as datastore:
            datastore.require_model()
            notifier.start(datastore.notifier())
            try:
                # First, because of these there is one: a second daemon ends before it sends.
                for xpath, handler in Actions(host, changes).handlers().items():
                    datastore.subscribe_action(xpath, handler)
                datastore.subscribe_changes(changes.handle)
                datastore.subscribe_operational(Operational(host, changes).tree)
                if ready_file is not None:
                    ready_file.touch()
                LOG.info("serving")
                while not stop.wait(GIVE_BACK_S):
                    give_back()
            finally:
                changes.close()
                notifier.close()
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
        host.close()
        events.close()


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(name)s %(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(options.state_dir, options.ready_file, stop)
    except sysrepo.SysrepoError as error:
        LOG.error("%s", explained(error))
        return EXIT_UNUSABLE
    except (EngineError, ModelOutdated, OSError) as error:
        LOG.error("%s", error)
        return EXIT_UNUSABLE
    LOG.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
