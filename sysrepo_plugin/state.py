"""From what the data plane knows to the operational tree (RFC 7951 JSON).

64-bit integers and decimals are strings there (RFC 7951 §6.1). What is not
known is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from dataplane.clock import ClockStatus
from dataplane.config import IPAddress
from dataplane.engines.base import (
    Attachment,
    OperState,
    ReflectorStatus,
    SenderDriver,
    SessionStatus,
)
from dataplane.measurement import Record, TimestampMethod
from dataplane.reflector_store import HandedUp, ReflectorSessionSnapshot
from dataplane.session_state import IntervalSummary, SessionSnapshot
from dataplane.stamp.errors import DiscardReason
from dataplane.statistics import DelaySummary, LossSummary

Tree = dict[str, Any]

NS_PER_S = 1_000_000_000


def date_and_time(unix_ns: int) -> str:
    """yang:date-and-time (RFC 6991 §3) with nanoseconds."""
    seconds, nanoseconds = divmod(unix_ns, NS_PER_S)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def percent(part: int, whole: int) -> str:
    """`part` of `whole` in percent, with the four decimals that the model has."""
    return f"{100 * part / whole:.4f}"


def sender_state(
    sessions: Iterable[Tree],
    *,
    engine_restarts: int,
    clock: ClockStatus,
    discards: Mapping[DiscardReason, int],
    driver: SenderDriver,
) -> Tree:
    """The state of `session-sender` around that of its sessions."""
    tree: Tree = {
        "engine-restarts": engine_restarts,
        "clock-synchronized": clock.synchronized,
        "clock-error-estimate": str(clock.error_ns),
        "counters": {"discard": _discards(discards)},
        "session": list(sessions),
    }
    if driver != SenderDriver():
        tree["driver"] = {
            "interface": _interfaces(driver.attachments),
            "collected": str(driver.collected),
            "duplicates": str(driver.duplicates),
            "late": str(driver.late),
            "handed-up": [
                {"reason": reason.value, "packets": str(count)}
                for reason, count in driver.handed_up.items()
            ],
        }
    return tree


def session_state(
    ssid: int, status: SessionStatus, snapshot: SessionSnapshot | None, *, history: bool
) -> Tree:
    """The state of one session; closed intervals and records only with `history`."""
    tree: Tree = {
        "ssid": ssid,
        "oper-state": status.oper_state.value,
        "last-state-change": date_and_time(status.since_ns),
        "active-engine": status.engine,
    }
    if status.last_error is not None:
        tree["last-error"] = status.last_error
    if snapshot is not None:
        tree |= _measured(snapshot)
        if history:
            tree |= _history(snapshot)
    return tree


def refused_state(reason: str) -> Tree:
    """The state of a session or role that is configured and cannot be run."""
    return {"oper-state": OperState.FAILED.value, "last-error": reason}


def reflector_state(
    status: ReflectorStatus, counters: Tree | None, sessions: Iterable[Tree]
) -> Tree:
    """The state of `session-reflector` around that of its sessions."""
    tree: Tree = {
        "oper-state": status.oper_state.value,
        "active-engine": status.engine,
        "session": list(sessions),
    }
    if status.last_error is not None:
        tree["last-error"] = status.last_error
    if counters is not None:
        tree["counters"] = counters
    return tree


def reflector_counters(
    received: int, reflected: int, discards: Mapping[DiscardReason, int]
) -> Tree:
    return {
        "received": str(received),
        "reflected": str(reflected),
        "discard": _discards(discards),
    }


def reflector_session_state(
    key: tuple[int, IPAddress | None], session: ReflectorSessionSnapshot
) -> Tree:
    """The state of one session that is reflected."""
    ssid, sender_address = key
    tree: Tree = {
        "ssid": ssid,
        "sender-address": "any" if sender_address is None else str(sender_address),
        "counters": {"received": str(session.received), "reflected": str(session.reflected)},
    }
    if session.last_received_ns is not None:
        tree["last-received"] = date_and_time(session.last_received_ns)
    return tree | _methods({"t2-method": session.t2_method, "t3-method": session.t3_method})


def driver_state(
    attachments: Iterable[Attachment], answered: int, handed_up: Mapping[HandedUp, int]
) -> Tree:
    """What an engine does for a Session-Reflector in the driver."""
    return {
        "interface": _interfaces(attachments),
        "answered": str(answered),
        "handed-up": [
            {"reason": reason.label, "packets": str(count)}
            for reason, count in handed_up.items()
            if count
        ],
    }


def _interfaces(attachments: Iterable[Attachment]) -> list[Tree]:
    return [
        {"name": each.interface, "mode": each.mode.value}
        | ({"note": each.note} if each.note is not None else {})
        for each in attachments
    ]


def record_state(record: Record, *, one_way: bool) -> Tree:
    """One record, in the measurement list and in the results alike."""
    tree: Tree = {
        "sequence": str(record.sequence),
        "reflector-sequence": record.reflector_sequence,
        "t1": str(record.t1_ns),
        "t2": str(record.t2_ns),
        "t3": str(record.t3_ns),
        "t4": str(record.t4_ns),
        "forward-delay": str(record.forward_ns),
        "session-sender-ttl": record.sender_ttl,
    }
    if not one_way:
        tree["backward-delay"] = str(record.backward_ns)
        tree["round-trip-delay"] = str(record.round_trip_ns)
    return tree


def _measured(snapshot: SessionSnapshot) -> Tree:
    tree: Tree = {
        "counters": {
            "sent": str(snapshot.sent),
            "received": str(snapshot.received),
            "in-flight": str(snapshot.in_flight),
            "send-errors": str(snapshot.send_errors),
            "skipped": str(snapshot.skipped),
            "duplicates": str(snapshot.duplicates),
            "reordered": str(snapshot.reordered),
            "late": str(snapshot.late),
            "unresolved": str(snapshot.unresolved),
            "discard": _discards(snapshot.discards),
        },
        "delay": _delays(snapshot),
        "loss": _losses(snapshot.loss, snapshot.received),
        "results-available": str(snapshot.records_pending),
        "results-dropped": str(snapshot.records_dropped),
    }
    since_ns = snapshot.discontinuity_time_ns or snapshot.start_time_ns
    if since_ns is not None:
        tree["start-time"] = date_and_time(since_ns)
    tree |= _methods({"t1-method": snapshot.t1_method, "t4-method": snapshot.t4_method})
    if snapshot.reflector_synchronized is not None:
        tree["reflector-clock"] = {
            "synchronized": snapshot.reflector_synchronized,
            "error-estimate": str(snapshot.reflector_error_ns),
        }
    return tree


def _methods(methods: Mapping[str, TimestampMethod]) -> Tree:
    return {
        name: method.value
        for name, method in methods.items()
        if method is not TimestampMethod.UNKNOWN
    }


def _history(snapshot: SessionSnapshot) -> Tree:
    one_way = snapshot.round_trip is None
    return {
        "interval-statistics": [_interval(interval) for interval in snapshot.intervals],
        "measurement": [record_state(record, one_way=one_way) for record in snapshot.records],
    }


def _interval(interval: IntervalSummary) -> Tree:
    return {
        "number": str(interval.number),
        "start-time": date_and_time(interval.start_time_ns),
        "end-time": date_and_time(interval.end_time_ns),
        "suspect": interval.suspect,
        "sent": str(interval.sent),
        "received": str(interval.received),
        "delay": _delays(interval),
        "loss": _losses(interval.loss, interval.received),
    }


def _delays(source: SessionSnapshot | IntervalSummary) -> Tree:
    directions = {
        "forward": source.forward,
        "backward": source.backward,
        "round-trip": source.round_trip,
    }
    return {
        name: _delay(summary)
        for name, summary in directions.items()
        if summary is not None and summary.samples
    }


def _delay(summary: DelaySummary) -> Tree:
    known = {
        "last": summary.last_ns,
        "min": summary.min_ns,
        "max": summary.max_ns,
        "mean": summary.mean_ns,
        "stddev": summary.stddev_ns,
        "jitter": summary.jitter_ns,
    }
    return {
        "samples": str(summary.samples),
        **{name: str(value) for name, value in known.items() if value is not None},
        "percentile": [
            {"percent": f"{percentile:.3f}", "value": str(value)}
            for percentile, value in summary.percentiles.items()
        ],
    }


def _losses(loss: LossSummary, received: int) -> Tree:
    tree = {"round-trip": str(loss.round_trip), "undetermined": str(loss.undetermined)}
    if loss.forward is not None:
        tree["forward"] = str(loss.forward)
    if loss.backward is not None:
        tree["backward"] = str(loss.backward)
    if resolved := loss.round_trip + received:
        tree["round-trip-ratio"] = percent(loss.round_trip, resolved)
    return tree


def _discards(discards: Mapping[DiscardReason, int]) -> list[Tree]:
    return [
        {"reason": reason.value, "packets": str(count)}
        for reason, count in discards.items()
        if count
    ]
