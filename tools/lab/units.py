"""Quantities as people write them: "5ms", "2%". A number without a unit is refused."""

from __future__ import annotations

import re
from decimal import Decimal

from tools.lab.errors import TopologyError

NS_PER_UNIT = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z%]+)")


def parse_duration_ns(key: str, value: object) -> int:
    """Read "250us", "5ms", "1.5s"; return integer nanoseconds.

    Raises TopologyError naming `key` when there is no number, no known unit, or
    a fraction of a nanosecond.
    """
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2] not in NS_PER_UNIT:
        raise TopologyError(key, f"{value!r} is not a duration: write it as '5ms' (ns, us, ms, s)")
    nanoseconds = Decimal(match[1]) * NS_PER_UNIT[match[2]]
    if nanoseconds != int(nanoseconds):
        raise TopologyError(key, f"{value!r} is not a whole number of nanoseconds")
    return int(nanoseconds)


def parse_probability(key: str, value: object) -> float:
    """Read "2%" or "0.5%"; return a probability, 0..1.

    Raises TopologyError naming `key` when there is no percent sign or the value
    is above 100 %.
    """
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2] != "%":
        raise TopologyError(key, f"{value!r} is not a percentage: write it as '2%'")
    percent = Decimal(match[1])
    if percent > 100:
        raise TopologyError(key, f"{value!r} is above 100%")
    return float(percent / 100)


def format_ns(nanoseconds: int | float) -> str:
    """Show a duration in the unit that suits its size: "5ms", "12.3us", "0"."""
    for unit in ("s", "ms", "us"):
        if abs(nanoseconds) >= NS_PER_UNIT[unit]:
            return f"{nanoseconds / NS_PER_UNIT[unit]:.4g}{unit}"
    return f"{nanoseconds:.3g}ns" if nanoseconds else "0"
