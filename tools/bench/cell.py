"""What one cell of the grid is: who is measured, at which share of STAMP packets, by which metric.

The paper's tables have a row for each role and implementation, and a column
for each share of STAMP packets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class Role(StrEnum):
    """What the system under test does with the STAMP packets of a trial."""

    REFLECTOR = "reflector"
    """Answers each Session-Sender Test packet (paper, Tables I-III)."""
    COLLECTOR = "collector"
    """Keeps the timestamps of each Session-Reflector Test packet (paper, Tables IV-VII)."""
    FORWARDER = "forwarder"
    """Gets none; it only forwards data packets."""


class Metric(StrEnum):
    """A rate in packets per second, see `tools.bench.search`."""

    PDR = "pdr"
    """Partial Drop Rate: the highest rate with at most a stated ratio of loss."""
    NDR = "ndr"
    """No-Drop Rate: the highest rate without loss, which is RFC 2544's throughput."""
    MRR = "mrr"
    """Maximum Receive Rate: what is delivered when as much as possible is offered."""


NO_SYSTEM = "none"
"""Name of the system that runs no STAMP implementation: the baseline."""

_SYSTEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def parse_share(text: str) -> Decimal:
    """Return a share of STAMP packets in percent, exactly as written.

    Raises ValueError unless it is a decimal number from 0 to 100.
    """
    if re.fullmatch(r"\d{1,3}(\.\d{1,9})?", text) is None or Decimal(text) > 100:
        raise ValueError(f"a share is a number from 0 to 100 percent, not {text!r}")
    return Decimal(text)


def format_share(share: Decimal) -> str:
    """Return the shortest decimal number without an exponent: "0.001", "100"."""
    text = f"{share:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, slots=True)
class CellKey:
    """Identity of a cell. Raises ValueError for a share or a name that cannot be."""

    role: Role
    system: str
    """An engine ("scapy", "userspace", "xdp"), "none", a reference such as "xdp-tx",
    or the label of any other listener."""
    share: Decimal
    """STAMP packets among all packets, in percent."""
    metric: Metric = Metric.PDR

    def __post_init__(self) -> None:
        parse_share(format_share(self.share))
        if _SYSTEM.fullmatch(self.system) is None:
            raise ValueError(
                f"a system's name is letters, digits, and . _ + - within, not {self.system!r}"
            )

    def __str__(self) -> str:
        return f"{self.role} {self.system} {format_share(self.share)} % {self.metric.upper()}"


BASELINE = CellKey(Role.FORWARDER, NO_SYSTEM, Decimal(0))
"""H.Encaps forwarding of data traffic, without any STAMP implementation (paper, section VIII-B)."""
