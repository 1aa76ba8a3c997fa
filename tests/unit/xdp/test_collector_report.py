"""What the host process is told about the collector in the driver."""

from __future__ import annotations

from dataplane.engines.base import Attachment, AttachmentMode, ReplyHandedUp, SenderDriver
from dataplane.engines.xdp.collector_layouts import CollectorUp
from dataplane.engines.xdp.collector_report import DriverReports
from dataplane.engines.xdp.collector_tables import CollectorCounts

NATIVE = Attachment("va", AttachmentMode.NATIVE, None)


def test_reasons_have_the_names_of_the_program() -> None:
    assert {each.name for each in CollectorUp} == {each.name for each in ReplyHandedUp}


def test_only_what_is_new_is_told() -> None:
    reports = DriverReports()
    nothing = CollectorCounts(0, 0, 0, dict.fromkeys(CollectorUp, 0))
    assert reports.next((NATIVE,), nothing) == SenderDriver((NATIVE,))
    some = CollectorCounts(7, 2, 1, {**nothing.handed_up, CollectorUp.COPY: 3})
    assert reports.next((NATIVE,), some) == SenderDriver(
        (NATIVE,), 7, 2, 1, {ReplyHandedUp.COPY: 3}
    )
    assert reports.next((NATIVE,), some) is None
    more = CollectorCounts(9, 2, 1, {**some.handed_up, CollectorUp.BUSY: 1})
    assert reports.next((NATIVE,), more) == SenderDriver(
        (NATIVE,), 2, 0, 0, {ReplyHandedUp.BUSY: 1}
    )
    assert reports.next((), more) == SenderDriver(())
