"""`stamp-results`: what the sessions of a node have measured, over NETCONF.

One row for each session and direction, as a table for people, or as CSV or JSON, in which
delays are signed nanoseconds and what is not known is empty or null. Or the records of
one session, which are taken from the node then.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tools.stamp_client import (
    DIRECTIONS,
    INTERVAL_LEAVES,
    SUMMARY_LEAVES,
    ClosedInterval,
    Record,
    SenderSessionState,
    StampClient,
    StampClientError,
)

SCHEMA = "srv6-stamp-results"
SCHEMA_VERSION = 1

NUMBERS = ("samples", "mean_ns", "min_ns", "max_ns", "jitter_ns")
NS_PER_MS = 1_000_000

REMARKS = ("last_error", "clock_synchronized")
"""Columns that the table has no room for: it says them on lines of their own."""

EXIT_FAILED = 1

_EPILOG = """\
examples:
  stamp-results 192.0.2.1 --user oss --key id_ed25519
  stamp-results 192.0.2.1 --user oss --key id_ed25519 --interval
  stamp-results 192.0.2.1 --user oss --key id_ed25519 --csv
  stamp-results 192.0.2.1 --user oss --key id_ed25519 --records 1 --csv >records.csv
  stamp-lab status --json | stamp-results --lab edge1

exit codes:
  0  done
  1  the node cannot be reached, or refuses, or no stampd serves it
  2  the command line is wrong
"""

Row = dict[str, Any]
Batches = Iterable[Sequence[Row]]
"""Rows as they arrive; all have the same columns."""


def summary_rows(
    sessions: Mapping[int, SenderSessionState], clock_synchronized: bool | None, *, interval: bool
) -> tuple[list[str], list[Row]]:
    """Columns, and one row for each session and direction: since the beginning, or with
    `interval` of the latest closed computation interval.

    `pN_ns` is the N-th percentile in nanoseconds, for each that a session has.
    """
    measured = {
        ssid: session.latest_interval if interval else session for ssid, session in sessions.items()
    }
    delays = [delay for each in measured.values() if each for delay in each.delay.values()]
    percentiles = {
        f"p{rank:g}_ns": rank for rank in sorted({r for d in delays for r in d.percentiles})
    }
    columns = [
        *("ssid", "path", "reflector_address", "oper_state"),
        *(("interval", "suspect") if interval else ()),
        *("direction", *NUMBERS, *percentiles, "sent", "lost", "loss_percent", *REMARKS),
    ]
    rows = []
    for ssid, session in sorted(sessions.items()):
        for direction in DIRECTIONS:
            row: Row = dict.fromkeys(columns)
            row |= {
                "ssid": ssid,
                "path": session.path,
                "reflector_address": session.reflector_address,
                "oper_state": session.oper_state,
                "direction": direction,
                "last_error": session.last_error,
                "clock_synchronized": clock_synchronized,
            }
            if (source := measured[ssid]) is not None:
                delay = source.delay[direction]
                row |= {name: getattr(delay, name) for name in NUMBERS}
                row |= {name: delay.percentiles.get(rank) for name, rank in percentiles.items()}
                row["sent"] = source.sent
                row["lost"] = getattr(source.loss, direction.replace("-", "_"))
                if direction == "round-trip":
                    row["loss_percent"] = source.loss.round_trip_ratio
            if isinstance(source, ClosedInterval):
                row |= {"interval": source.number, "suspect": source.suspect}
            rows.append(row)
    return columns, rows


def write_csv(stream: TextIO, columns: Sequence[str], batches: Batches) -> None:
    """A header and a line for each row."""
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for rows in batches:
        writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
        stream.flush()


def write_json(stream: TextIO, columns: Sequence[str], batches: Batches) -> None:
    """`{"schema": "srv6-stamp-results", "version": 1, "rows": [row]}`."""
    stream.write(f'{{"schema": "{SCHEMA}", "version": {SCHEMA_VERSION}, "rows": [')
    separator = "\n"
    try:
        for rows in batches:
            for row in rows:
                stream.write(f"{separator}  {json.dumps(row)}")
                separator = ",\n"
            stream.flush()
    finally:
        # What came before a failure is gone from the node: it has to be readable.
        stream.write("\n]}\n")


def write_table(stream: TextIO, columns: Sequence[str], batches: Batches) -> None:
    """Aligned columns; delays in milliseconds, "-" where not known."""
    shown = [name for name in columns if name not in REMARKS]
    titles = [_title(name) for name in shown]
    widths: list[int] | None = None
    for rows in batches:
        lines = [[_cell(name, row[name]) for name in shown] for row in rows]
        if widths is None:
            widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]
            _write_line(stream, titles, widths)
        for row, line in zip(rows, lines, strict=True):
            _write_line(stream, line, widths)
            # One for a session, below the last of its rows.
            if row.get("last_error") and row["direction"] == DIRECTIONS[-1]:
                stream.write(f"  session {row['ssid']}, last error: {row['last_error']}\n")
        if any(row.get("clock_synchronized") is False for row in rows):
            stream.write(
                "\nclock: unsynchronised per kernel: forward and backward delays are as wrong"
                " as the clocks, round-trip delays are right\n"
            )
        stream.flush()


def _write_line(stream: TextIO, cells: Sequence[str], widths: Sequence[int]) -> None:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    stream.write("  ".join(padded).rstrip() + "\n")


def _title(name: str) -> str:
    words, _, unit = name.rpartition("_")
    unit = {"ns": "ms", "percent": "%"}.get(unit, "")
    return f"{words.replace('_', ' ').upper()} {unit}" if unit else name.replace("_", " ").upper()


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    return f"{value / NS_PER_MS:.3f}" if name.endswith("_ns") else str(_plain(value))


def _plain(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


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
    part = parser.add_mutually_exclusive_group()
    part.add_argument(
        "--records",
        type=int,
        metavar="SSID",
        help="take all records of this session instead: they are gone from the node then,"
        " a thousand at a time while the output is read",
    )
    part.add_argument(
        "--interval",
        action="store_true",
        help="of the latest closed computation interval, instead of since the beginning",
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
    try:
        with _connect(options) as client:
            _write_results(client, options)
    except StampClientError as error:
        print(f"stamp-results: {error}", file=sys.stderr)
        return EXIT_FAILED
    except BrokenPipeError:
        # Who read has seen enough. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _write_results(client: StampClient, options: argparse.Namespace) -> None:
    if options.records is not None:
        taken = client.batches(options.records)
        # Where not even the first can be had there is nothing to write.
        batches = itertools.chain([next(taken)], taken)
        rows = ([record._asdict() for record in batch] for batch in batches)
        options.write(sys.stdout, Record._fields, rows)
        return
    leaves = INTERVAL_LEAVES if options.interval else SUMMARY_LEAVES
    sessions, clock = client.sender_sessions(leaves), client.clock_synchronized()
    if sessions and clock is None:
        raise StampClientError("no stampd serves this node: it has sessions, and no state of them")
    columns, summary = summary_rows(sessions, clock, interval=options.interval)
    options.write(sys.stdout, columns, [summary])
    if not sessions:
        print("stamp-results: no sessions", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
