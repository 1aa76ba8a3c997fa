"""What the bed was seen to be able to: a generator that was held up can do more, a full one not.

Sans-IO. Whatever a trial has offered the bed is able to offer, so each one can only raise
what is known: a machine that stalls makes trials too low, and none too high.
"""

from __future__ import annotations

from tools.bench.cell import Role
from tools.bench.search import Trial

FAR_BELOW = 0.5
"""Up to this part of the most that the bed was seen to offer, it is able to offer what it
is asked for, and was held up where it did not."""


class Capacity:
    """The best of all trials on one bed; nothing is known before the first."""

    def __init__(self) -> None:
        self.offered_pps = 0.0
        """The most that was offered, whatever became of it."""
        self.returned_pps = 0.0
        """The most that was offered while all of it came back to the sinks, which take their
        part of the generator's core."""

    def learn(self, role: Role, trial: Trial) -> None:
        """Take what a trial offered, and brought back, for what the bed is able to."""
        self.offered_pps = max(self.offered_pps, trial.offered_pps)
        if role is not Role.COLLECTOR:
            returned_pps = min(trial.offered_pps, trial.delivered_pps)
            self.returned_pps = max(self.returned_pps, returned_pps)

    def is_far_above(self, role: Role, rate_pps: int) -> bool:
        """Whether the bed can certainly offer this rate to a system in this role."""
        able_pps = self.offered_pps if role is Role.COLLECTOR else self.returned_pps
        return rate_pps <= FAR_BELOW * able_pps
