"""What the userspace engine reports while it works for another engine."""

from __future__ import annotations

import dataclasses

from dataplane.engines.base import EngineContext, Report, SenderStatusReport


def renamed(context: EngineContext, name: str) -> EngineContext:
    """`context` for an engine whose sender sessions are reported as those of `name`."""

    def emit(report: Report) -> None:
        if isinstance(report, SenderStatusReport) and report.status is not None:
            status = dataclasses.replace(report.status, engine=name)
            report = dataclasses.replace(report, status=status)
        context.emit(report)

    return dataclasses.replace(context, emit=emit)
