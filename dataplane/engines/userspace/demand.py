"""Whether packets come so fast that receiving them in the driver is worth it.

A program in the driver is in the way of all traffic of its interface, and there are network
cards that interrupt it when one is attached. UDP sockets keep up with what most nodes will
ever see. So the program comes with a flood, and goes when the flood has been over for long.
"""

from __future__ import annotations

import logging
import os

from dataplane.stamp.timestamp import NS_PER_S

DEMAND_SETTING = "STAMP_DRIVER_PPS"
"""Environment variable: packets a second of a role, all of its sessions together, from which
on they are received in the driver; 0 for always; `DEMAND_PPS` where it is not set."""

DEMAND_PPS = 50_000
"""A fifth to a quarter of what UDP sockets carry."""

CALM_NS = 60 * NS_PER_S
"""Fewer than half as many for so long, and the program goes."""

SPAN_NS = NS_PER_S // 2
"""Packets are counted for at least so long: a moment's burst is no flood."""

log = logging.getLogger(__name__)


class Demand:
    """Of one role."""

    def __init__(self, from_pps: int, now_ns: int) -> None:
        """`from_pps` as in `DEMAND_SETTING`; `now_ns` of CLOCK_MONOTONIC, as everywhere here."""
        self._from_pps = from_pps
        self._since_ns = now_ns
        self._packets = 0
        self._until_ns: int | None = None
        self.is_foreseen = not from_pps
        """Whether as many come by configuration."""

    def foresee(self, pps: float) -> None:
        """So many packets a second are configured."""
        self.is_foreseen = pps >= self._from_pps

    def count(self, packets: int) -> None:
        """So many more have been received."""
        self._packets += packets

    def is_there(self, now_ns: int) -> bool:
        """Whether packets are to be received in the driver."""
        if self.is_foreseen:
            return True
        span_ns = now_ns - self._since_ns
        if span_ns >= SPAN_NS:
            pps = self._packets * NS_PER_S / span_ns
            if pps >= self._from_pps / (1 if self._until_ns is None else 2):
                self._until_ns = now_ns + CALM_NS
            self._since_ns, self._packets = now_ns, 0
        if self._until_ns is not None and now_ns >= self._until_ns:
            self._until_ns = None
        return self._until_ns is not None


def demand_pps() -> int:
    """As configured; what is no number is told in the log, and not used."""
    text = os.environ.get(DEMAND_SETTING, str(DEMAND_PPS))
    if text.isdecimal():
        return int(text)
    log.warning("%s is %r, which is no number: %d is used", DEMAND_SETTING, text, DEMAND_PPS)
    return DEMAND_PPS
