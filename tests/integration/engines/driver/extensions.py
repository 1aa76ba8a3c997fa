"""Frames with IPv6 extension headers of options in them."""

from __future__ import annotations

from pathlib import Path

import dataplane.engines.driver
from tests.integration.engines.driver.compiled import macros

HOP_BY_HOP, DESTINATION = 0, 60

_PARSER = Path(dataplane.engines.driver.__file__).with_name("parse.h").read_text()
EXTENSIONS_MAX = macros("", _PARSER)["EXTENSIONS_MAX"]

_LENGTH, _NEXT_AT, _PAYLOAD_AT = slice(18, 20), 20, 54
_PAD_N = 1


def with_options(frame: bytes, *headers: tuple[int, int]) -> bytes:
    """An untagged IPv6 frame, with these headers before all others: each is a type, and
    how many times 8 bytes of padding it has beyond the first."""
    next_header, payload = frame[_NEXT_AT], frame[_PAYLOAD_AT:]
    for kind, more in reversed(headers):
        padding = 4 + 8 * more
        payload = bytes([next_header, more, _PAD_N, padding]) + bytes(padding) + payload
        next_header = kind
    grown = len(payload) - len(frame) + _PAYLOAD_AT
    data = bytearray(frame[:_PAYLOAD_AT])
    data[_LENGTH] = (int.from_bytes(data[_LENGTH], "big") + grown).to_bytes(2, "big")
    data[_NEXT_AT] = next_header
    return bytes(data) + payload
