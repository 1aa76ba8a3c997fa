"""The demonstration's arguments; `python -m tools.demo.arguments --help` lists them.

Only the standard library is imported, so that they can be listed before anything is set up.
"""

from __future__ import annotations

import argparse
from pathlib import Path

INTERVAL_US = 10_000
DEFAULT_DURATION_S = 20
DEFAULT_LAB_NAME = "demo"

EXIT_AGREES = 0
EXIT_DISAGREES = 1
EXIT_LAB = 3
EXIT_MEASUREMENT = 4
EXIT_INTERRUPTED = 130

EPILOG = f"""\
exit status:
  {EXIT_AGREES}    every mean delay and every loss agrees with what was injected
  {EXIT_DISAGREES}    something does not agree; the table says what
  2    the arguments are wrong
  {EXIT_LAB}    the lab could not be made (topology, privileges, a lab of that name exists)
  {EXIT_MEASUREMENT}    the network elements did not do what they were asked to
  {EXIT_INTERRUPTED}  interrupted

examples:
  tools/demo.sh
  tools/demo.sh --duration 60 --json table.json --output /tmp/results
  tools/demo.sh --keep          # then look around with netconf-console2
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    parser = argparse.ArgumentParser(
        prog="tools/demo.sh",
        description="Join two edges by SRv6 paths of known delay and loss, configure STAMP "
        "sessions over NETCONF, and compare what they measure with the truth.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table for programs")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        default=Path("demo-results"),
        help="where records.json, records.csv and delay.png go (default: ./demo-results)",
    )
    parser.add_argument(
        "--duration",
        type=_duration,
        metavar="SECONDS",
        default=DEFAULT_DURATION_S,
        help=f"length of the measurement (default: {DEFAULT_DURATION_S}); "
        f"a packet every {INTERVAL_US // 1000} ms on each path",
    )
    parser.add_argument(
        "--topology",
        type=Path,
        metavar="FILE",
        help="topology of the lab (default: that of the laboratory, two-paths.yaml)",
    )
    parser.add_argument(
        "--name", default=DEFAULT_LAB_NAME, help=f"name of the lab (default: {DEFAULT_LAB_NAME})"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the lab running, and print how to connect to it"
    )
    return parser


def _duration(text: str) -> int:
    seconds = int(text) if text.isdecimal() else 0
    if not 1 <= seconds <= 10_000:
        # result-depth of the model ends at a million records.
        raise argparse.ArgumentTypeError("must be 1 to 10000 seconds")
    return seconds


if __name__ == "__main__":
    build_parser().parse_args()
