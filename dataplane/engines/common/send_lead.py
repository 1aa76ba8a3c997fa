"""How long before it is due a packet is handed to the kernel, so that it leaves in time.

From T1 to the kernel's transmit timestamp a packet takes some microseconds, and never
less than a certain time. It is handed over earlier by the least that others have taken
lately: so it leaves when it is due, or later, if it takes longer than they did.
"""

from __future__ import annotations

BLOCK = 32
"""Packets whose fastest decides for those that follow."""

LEAD_MAX_NS = 20_000
"""No packet is handed over earlier than this before it is due, whatever it may take."""


class SendLead:
    """Of the packets of one port, which take the same way."""

    def __init__(self) -> None:
        self.ns = 0
        """Nothing before the first `BLOCK` packets are known."""

        self._least_ns = LEAD_MAX_NS
        self._count = 0

    def learn(self, took_ns: int) -> None:
        """That long after its T1 a packet left."""
        self._least_ns = min(self._least_ns, took_ns)
        # One that is faster than all before it has left early: the next one does not.
        self.ns = min(self.ns, took_ns)
        self._count += 1
        if self._count == BLOCK:
            self.ns = self._least_ns
            self._least_ns, self._count = LEAD_MAX_NS, 0
