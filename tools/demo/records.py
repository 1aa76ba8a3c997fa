"""Records as files, and which packets are missing among them.

CSV: a header, then a line for each record: `path` and the fields of
`tools.stamp_client.Record`, nanoseconds, empty where not known. JSON:
`{"schema": "srv6-stamp-demo-records", "version": 1, "paths": {NAME: [record]}}`
with the same fields, null where not known.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tools.stamp_client import Record

SCHEMA = "srv6-stamp-demo-records"
SCHEMA_VERSION = 1


class LostPacket(NamedTuple):
    """A packet without a record."""

    sequence: int
    direction: str | None
    """"forward" or "backward"; None where the neighbours do not tell."""


def lost_packets(records: Sequence[Record], sent: int) -> Iterator[LostPacket]:
    """Yield the missing packets of a session with a stateful reflector.

    `records` in order of sequence. Between two records, the reflector counted the
    packets that reached it: a gap of m packets and of b numbers means that b were
    lost backward; which ones is known only when b is 0 or m.
    """
    for before, after in itertools.pairwise(records):
        missing = after.sequence - before.sequence - 1
        numbers = (before.reflector_sequence, after.reflector_sequence)
        direction = None
        if numbers[0] is not None and numbers[1] is not None:
            back = (numbers[1] - numbers[0] - 1) % 2**32
            direction = {0: "forward", missing: "backward"}.get(back)
        for sequence in range(before.sequence + 1, after.sequence):
            yield LostPacket(sequence, direction)
    first = records[0].sequence if records else sent
    last = records[-1].sequence if records else sent
    for sequence in (*range(first), *range(last + 1, sent)):
        yield LostPacket(sequence, None)


def write_csv(file: Path, records: Mapping[str, Sequence[Record]]) -> None:
    """Write all records, by name of path."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", *Record._fields))
        for name, rows in records.items():
            writer.writerows((name, *row) for row in rows)


def write_json(file: Path, records: Mapping[str, Sequence[Record]]) -> None:
    """Write all records, by name of path."""
    paths = {name: [row._asdict() for row in rows] for name, rows in records.items()}
    content = {"schema": SCHEMA, "version": SCHEMA_VERSION, "paths": paths}
    file.write_text(json.dumps(content), encoding="utf-8")
