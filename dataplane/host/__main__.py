"""`python -m dataplane.host --fd N --state-dir DIR`, started by the supervisor."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from dataplane.host.server import serve


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dataplane.host",
        description="Runs the engines. Started by the supervisor, not by hand.",
    )
    parser.add_argument("--fd", type=int, required=True, help="inherited Unix stream socket")
    parser.add_argument("--state-dir", type=Path, required=True, help="folder of the stores")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(name)s: %(levelname)s: %(message)s")
    serve(arguments.fd, arguments.state_dir)


if __name__ == "__main__":
    main()
