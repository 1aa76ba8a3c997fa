"""`stamp-results`: what the sessions of a node have measured, over NETCONF.

One row for each session and direction, as a table for people, or as CSV or JSON, in which
delays are signed nanoseconds and what is not known is empty or null. Or the records of
one session, which are taken from the node then.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tools.stamp_client import DIRECTIONS, SenderSessionState, StampClient, StampClientError

SCHEMA = "srv6-stamp-results"
SCHEMA_VERSION = 1

NUMBERS = ("samples", "mean_ns", "min_ns", "max_ns", "jitter_ns")
NS_PER_MS = 1_000_000

EXIT_FAILED = 1

_EPILOG = """\
examples:
  stamp-results 192.0.2.1 --user oss --key id_ed25519
  stamp-results 192.0.2.1 --user oss --key id_ed25519 --csv
  stamp-results 192.0.2.1 --user oss --key id_ed25519 --records 1 --csv >records.csv
  stamp-lab status --json | stamp-results --lab edge1

exit codes:
  0  done
  1  the node cannot be reached, or refuses
  2  the command line is wrong
"""

Row = dict[str, Any]


def summary_rows(sessions: Mapping[int, SenderSessionState]) -> list[Row]:
    """One row for each session and direction; all rows have the same columns.

    `pN` is the N-th percentile in nanoseconds, for each that a session has.
    """
    delays = [delay for session in sessions.values() for delay in session.delay.values()]
    ranks = sorted({rank for delay in delays for rank in delay.percentiles})
    rows = []
    for ssid, session in sorted(sessions.items()):
        for direction in DIRECTIONS:
            delay = session.delay[direction]
            row: Row = {"ssid": ssid, "oper_state": session.oper_state, "direction": direction}
            row |= {name: getattr(delay, name) for name in NUMBERS}
            row |= {f"p{rank:g}_ns": delay.percentiles.get(rank) for rank in ranks}
            row |= {
                "sent": session.sent,
                "lost": getattr(session.loss, direction.replace("-", "_")),
            }
            rows.append(row)
    return rows


def write_csv(stream: TextIO, rows: Sequence[Row]) -> None:
    """A header and a line for each row; nothing without rows."""
    if rows:
        writer = csv.DictWriter(stream, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(stream: TextIO, rows: Sequence[Row]) -> None:
    """`{"schema": "srv6-stamp-results", "version": 1, "rows": [row]}`."""
    json.dump({"schema": SCHEMA, "version": SCHEMA_VERSION, "rows": rows}, stream, indent=2)
    stream.write("\n")


def write_table(stream: TextIO, rows: Sequence[Row]) -> None:
    """Aligned columns; delays in milliseconds, "-" where not known."""
    if not rows:
        return
    lines = [[_title(name) for name in rows[0]]]
    lines += [[_cell(name, value) for name, value in row.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        stream.write("  ".join(cells).rstrip() + "\n")


def _title(name: str) -> str:
    return name.removesuffix("_ns").replace("_", " ").upper() + " ms" * name.endswith("_ns")


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    return f"{value / NS_PER_MS:.3f}" if name.endswith("_ns") else str(value)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stamp-results",
        description="What the Session-Sender's sessions of a node have measured, over NETCONF.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("host", nargs="?", help="address of the node")
    parser.add_argument("--port", type=int, default=830, help="(default: %(default)s)")
    parser.add_argument("--user", default="root", help="(default: %(default)s)")
    parser.add_argument("--key", type=Path, metavar="FILE", help="private key of the user")
    parser.add_argument(
        "--lab",
        metavar="NODE",
        help="a node of the laboratory, whose `stamp-lab status --json` is at standard input",
    )
    parser.add_argument(
        "--records",
        type=int,
        metavar="SSID",
        help="take all records of this session instead: they are gone from the node then",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_const", const=write_json, dest="write")
    form.add_argument("--csv", action="store_const", const=write_csv, dest="write")
    parser.set_defaults(write=write_table)
    return parser


def _connect(options: argparse.Namespace) -> StampClient:
    if options.lab is None:
        return StampClient.connect(options.host, options.port, options.user, key_file=options.key)
    try:
        nodes = json.load(sys.stdin)["nodes"]
    except (ValueError, KeyError, TypeError) as error:
        raise StampClientError("standard input is not of `stamp-lab status --json`") from error
    access = next((node.get("netconf") for node in nodes if node["name"] == options.lab), None)
    if access is None:
        raise StampClientError(f"the laboratory has no network element {options.lab}")
    return StampClient.connect(
        access["host"],
        access["port"],
        access["user"],
        key_file=access["key_file"],
        host_key=Path(access["host_key_file"]).read_text(encoding="ascii").split()[1],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    if (options.host is None) == (options.lab is None):
        parser.error("give a host or --lab")
    if options.host is not None and options.key is None:
        parser.error("a host needs --key")
    rows: list[Row] = []
    problem = None
    try:
        with _connect(options) as client:
            if options.records is None:
                rows = summary_rows(client.sender_sessions())
            else:
                for record in client.drain(options.records):
                    rows.append(record._asdict())
    except StampClientError as error:
        problem = error
    # Records that came before the problem are gone from the node.
    if rows or problem is None:
        options.write(sys.stdout, rows)
    if problem is not None:
        print(f"stamp-results: {problem}", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
