"""Rows as text: aligned for people, CSV for programs, and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

Row = Sequence[str]


def aligned(header: Row, rows: Sequence[Row], sides: str) -> str:
    """Return a table; `sides` has a letter for each column, l for flush left and r for right."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if side == "l" else cell.rjust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        ).rstrip()
        for row in table
    )


def to_csv(header: Row, rows: Sequence[Row]) -> str:
    """Return a header and rows in RFC 4180's form; an empty field is what is not known."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def markdown(header: Row, rows: Sequence[Row], sides: str) -> str:
    """Return a table in Markdown; `sides` as in `aligned`."""
    marks = ["---" if side == "l" else "---:" for side in sides]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        for row in (header, marks, *rows)
    )


def exact(value: float | None) -> str:
    """Return a number for programs: all its digits, or an empty field."""
    return "" if value is None else repr(value)
