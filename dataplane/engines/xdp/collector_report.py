"""What the collector's program has counted, as the host process is told about it."""

from __future__ import annotations

from collections import Counter

from dataplane.engines.base import Attachment, ReplyHandedUp, SenderDriver
from dataplane.engines.xdp.collector_tables import CollectorCounts


class DriverReports:
    """From totals to what has come since the last report."""

    def __init__(self) -> None:
        self._counts = CollectorCounts(0, 0, 0, {})
        self._attachments: tuple[Attachment, ...] = ()

    def next(
        self, attachments: tuple[Attachment, ...], counts: CollectorCounts
    ) -> SenderDriver | None:
        """None where there is nothing new."""
        before, self._counts = self._counts, counts
        moved, self._attachments = attachments != self._attachments, attachments
        handed_up = Counter(counts.handed_up) - Counter(before.handed_up)
        if counts == before and not moved:
            return None
        return SenderDriver(
            attachments,
            counts.collected - before.collected,
            counts.duplicates - before.duplicates,
            counts.late - before.late,
            {ReplyHandedUp[reason.name]: count for reason, count in handed_up.items()},
        )
