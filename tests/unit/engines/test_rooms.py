"""What the rooms of the engines take from each other: arrows point one way."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dataplane.engines

ENGINES = Path(dataplane.engines.__path__[0])
PACKAGE = dataplane.engines.__name__

MAY_TAKE_FROM: dict[str, set[str]] = {
    "common": set(),
    "driver": {"common"},
    "scapy": {"common"},
    "userspace": {"common", "driver"},
    # It has the userspace engine behind its programs.
    "xdp": {"common", "driver", "userspace"},
}

_INCLUDE = re.compile(r'^\s*#include "([^"]+)"', re.MULTILINE)


def imported(source: Path) -> Iterator[str]:
    """Full names of what a Python file imports, wherever in it; there are no relative ones."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{each.name}" for each in node.names)


def rooms_taken_from(room: Path) -> set[str]:
    names = {name for source in room.glob("*.py") for name in imported(source)}
    rooms = {name.split(".")[2] for name in names if name.startswith(f"{PACKAGE}.")}
    for source in (*room.glob("*.c"), *room.glob("*.h")):
        included = (source.parent / name for name in _INCLUDE.findall(source.read_text()))
        rooms |= {path.resolve().parent.name for path in included}
    return (rooms & MAY_TAKE_FROM.keys()) - {room.name}


def test_every_room_is_known() -> None:
    assert {each.parent.name for each in ENGINES.glob("*/__init__.py")} == MAY_TAKE_FROM.keys()


@pytest.mark.parametrize("room", MAY_TAKE_FROM)
def test_arrows(room: str) -> None:
    assert rooms_taken_from(ENGINES / room) <= MAY_TAKE_FROM[room]


def test_arrows_are_seen() -> None:
    assert rooms_taken_from(ENGINES / "xdp") == MAY_TAKE_FROM["xdp"]
