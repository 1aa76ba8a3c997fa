"""The result as a table for people and as a document for programs, from the same verdicts.

The document, `schema` "srv6-stamp-demo" in `version` 1 (a version only ever
gains keys; null is what is not known):

    {"schema", "version", "agrees", "interval_us", "packets",
     "clock": {"synchronized", "shared_by_both_edges"},
     "paths": [{"name", "ssid", "hops", "agrees", "problems": [text], "sent", "received",
                "undetermined", "records",
                "sid_list": {"forward": [SID], "backward": [SID]},
                "delay": {"forward" | "backward" | "round-trip":
                          {"injected_ns", "line_late_ns", "mean_ns", "stddev_ns", "delta_ns",
                           "samples", "verdict"}},
                "loss": {"forward" | "backward":
                         {"injected", "measured", "packets", "lost", "expected_low",
                          "expected_high", "line_lost", "verdict"}}}],
     "delay_line": {DIRECTION: {"count", "mean_ns", "p50_ns", "p99_ns", "max_ns"}}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tools.demo.verdict import DelayComparison, LossComparison, PathVerdict
from tools.lab.units import format_ns

SCHEMA = "srv6-stamp-demo"
SCHEMA_VERSION = 1

HEADER = ("PATH", "SID LIST", "METRIC", "INJECTED", "MEASURED", "DELTA", "VERDICT")


def render_table(verdicts: Sequence[PathVerdict]) -> str:
    """Return the table, one row for each path and metric, and what its columns mean."""
    rows: list[Sequence[str]] = [HEADER]
    for verdict in verdicts:
        rows += _path_rows(verdict)
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    # A blank line between paths: their rows belong together.
    for index in range(len(rows) - 1, 1, -1):
        if rows[index][0]:
            lines.insert(index, "")
    lines += [
        "",
        "delay: injected + how late the delay line itself was, on average; measured mean "
        "± standard deviation;",
        "       DELTA: measured minus that sum, which agrees within 1 ms or 3 %, "
        "whichever is larger",
        "loss: lost of exposed packets, [central 99.9 % of the binomial distribution]; "
        "DELTA: what the delay line itself counted",
    ]
    return "\n".join(lines)


def render_clock(synchronized: bool | None) -> str:
    """Say what the one-way delays rest on; `synchronized` as the kernel says, None if unknown."""
    said = {True: "synchronised", False: "unsynchronised", None: "of unknown state"}[synchronized]
    return (
        f"clock: {said} per kernel, but both edges share one kernel clock: one-way delays are true"
    )


def render_line_error(lateness: Mapping[str, Mapping[str, Any]]) -> str:
    """Say how late the delay line itself was, for each of its directions that sent frames."""
    known = {name: error for name, error in lateness.items() if error.get("count")}
    if not known:
        return "delay line's own error: not known"
    width = max(map(len, known))
    lines = ["delay line's own error (actual minus scheduled departure):"]
    for name, error in known.items():
        mean, p99, most = (format_ns(error[key]) for key in ("mean_ns", "p99_ns", "max_ns"))
        lines.append(
            f"  {name.ljust(width)}  mean {mean}, p99 {p99}, max {most}, {error['count']} frames"
        )
    return "\n".join(lines)


def document(
    verdicts: Sequence[PathVerdict],
    *,
    interval_us: int,
    packets: int,
    clock_synchronized: bool | None,
    lateness: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the result for programs (layout above)."""
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "agrees": all(verdict.agrees for verdict in verdicts),
        "interval_us": interval_us,
        "packets": packets,
        "clock": {"synchronized": clock_synchronized, "shared_by_both_edges": True},
        "paths": [_path_document(verdict) for verdict in verdicts],
        "delay_line": {name: dict(error) for name, error in lateness.items()},
    }


def _path_rows(verdict: PathVerdict) -> Iterator[Sequence[str]]:
    forward, backward, round_trip = verdict.delays
    path = verdict.path
    there = "> " + ", ".join(path.forward.segments)
    back = "< " + ", ".join(path.backward.segments)
    yield (path.name, there, "forward delay", *_delay_cells(forward))
    yield ("", back, "backward delay", *_delay_cells(backward))
    yield ("", "", "round-trip delay", *_delay_cells(round_trip))
    for loss in verdict.losses:
        yield ("", "", f"{loss.direction} loss", *_loss_cells(loss))
    counts = f"{verdict.sent} sent, {verdict.received} answered, {verdict.records} records"
    if verdict.undetermined:
        counts += f", {verdict.undetermined} lost in an unknown direction"
    yield ("", "", "packets", "", counts, "", _outcome(verdict.run_problem))


def _delay_cells(delay: DelayComparison) -> tuple[str, str, str, str]:
    delta_ns = delay.delta_ns
    return (
        f"{delay.injected_ns / 1e6:.3f} + {delay.late_ns / 1e6:.3f} ms",
        f"{_ms(delay.mean_ns)} ± {_ms(delay.stddev_ns)} ms",
        "-" if delta_ns is None else f"{delta_ns / 1e6:+.3f} ms",
        _outcome(delay.problem),
    )


def _loss_cells(loss: LossComparison) -> tuple[str, str, str, str]:
    measured = "-" if loss.measured is None else f"{loss.measured * 100:.2f} %"
    bounds = f"[{loss.expected_low}..{loss.expected_high}]"
    return (
        f"{loss.injected * 100:.2f} %",
        f"{measured} ({loss.lost} of {loss.packets}) {bounds}",
        "" if loss.line_lost is None else f"line: {loss.line_lost}",
        _outcome(loss.problem),
    )


def _outcome(problem: str | None) -> str:
    return "ok" if problem is None else f"NOT OK: {problem}"


def _ms(nanoseconds: int | None) -> str:
    return "-" if nanoseconds is None else f"{nanoseconds / 1e6:.3f}"


def _path_document(verdict: PathVerdict) -> dict[str, Any]:
    path = verdict.path
    return {
        "name": path.name,
        "ssid": path.ssid,
        "hops": list(path.forward.hops),
        "agrees": verdict.agrees,
        "problems": list(verdict.problems),
        "sent": verdict.sent,
        "received": verdict.received,
        "undetermined": verdict.undetermined,
        "records": verdict.records,
        "sid_list": {
            "forward": list(path.forward.segments),
            "backward": list(path.backward.segments),
        },
        "delay": {
            delay.direction: {
                "injected_ns": delay.injected_ns,
                "line_late_ns": delay.late_ns,
                "mean_ns": delay.mean_ns,
                "stddev_ns": delay.stddev_ns,
                "delta_ns": delay.delta_ns,
                "samples": delay.samples,
                "verdict": delay.problem or "ok",
            }
            for delay in verdict.delays
        },
        "loss": {
            loss.direction: {
                "injected": loss.injected,
                "measured": loss.measured,
                "packets": loss.packets,
                "lost": loss.lost,
                "expected_low": loss.expected_low,
                "expected_high": loss.expected_high,
                "line_lost": loss.line_lost,
                "verdict": loss.problem or "ok",
            }
            for loss in verdict.losses
        },
    }
