"""The measurement itself, through two NETCONF sessions: configure, watch, fetch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tools.demo.truth import MeasuredPath
from tools.stamp_client import (
    Node,
    Record,
    ReflectorSession,
    ReflectorState,
    SenderSession,
    SenderSessionState,
    SrPath,
)

LOSS_TIMEOUT_MS = 1_000
POLL_INTERVAL_S = 1.0
SLACK_S = 30.0
"""How much longer than planned a run may take before it is given up."""
FINAL_STATES = ("completed", "failed", "stopped", "disabled")

Watcher = Callable[[float, Mapping[int, SenderSessionState]], None]
"""Told of the seconds since the start, and of the sessions' present states by SSID."""


class MeasurementError(Exception):
    """The network elements did not do what they were asked to; the text says what."""


class Client(Protocol):
    """What is needed of `tools.stamp_client.StampClient`."""

    def edit(self, node: Node) -> None: ...

    def sender_sessions(self) -> dict[int, SenderSessionState]: ...

    def reflector(self) -> ReflectorState: ...

    def drain(self, ssid: int) -> Iterator[Record]: ...


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be measured."""

    paths: tuple[MeasuredPath, ...]
    sender_address: str
    reflector_address: str
    interval_us: int
    packets: int
    """For each path."""

    @property
    def duration_s(self) -> float:
        """From the first to the last test packet."""
        return self.packets * self.interval_us / 1e6


def reflector_node(run: Run) -> Node:
    """Return the configuration of the Session-Reflector: a return path for each session."""
    return Node(
        source_address=run.reflector_address,
        paths=tuple(SrPath(f"{path.name}-back", path.backward.segments) for path in run.paths),
        reflector_sessions=tuple(
            ReflectorSession(
                path.ssid,
                run.sender_address,
                return_path=f"{path.name}-back",
                reflector_mode="stateful",
            )
            for path in run.paths
        ),
    )


def sender_node(run: Run) -> Node:
    """Return the configuration of the Session-Sender: one session for each path."""
    return Node(
        source_address=run.sender_address,
        paths=tuple(SrPath(path.name, path.forward.segments) for path in run.paths),
        sender_sessions=tuple(
            SenderSession(
                path.ssid,
                run.reflector_address,
                path=path.name,
                interval_us=run.interval_us,
                packet_count=run.packets,
                reflector_mode="stateful",
                loss_timeout_ms=LOSS_TIMEOUT_MS,
                # Every record is kept until it is fetched.
                result_depth=run.packets,
                enabled=True,
            )
            for path in run.paths
        ),
    )


def configure(run: Run, sender: Client, reflector: Client) -> None:
    """Configure the reflector, wait until it answers packets, then start the sender.

    Raises MeasurementError when the reflector does not come up.
    """
    reflector.edit(reflector_node(run))
    deadline = time.monotonic() + SLACK_S
    while (state := reflector.reflector()).oper_state != "running":
        if state.oper_state == "failed" or time.monotonic() > deadline:
            reason = state.last_error or "no reason given"
            raise MeasurementError(f"the Session-Reflector is {state.oper_state}: {reason}")
        time.sleep(0.1)
    sender.edit(sender_node(run))


def watch(
    run: Run, sender: Client, watcher: Watcher, poll_interval_s: float = POLL_INTERVAL_S
) -> dict[int, SenderSessionState]:
    """Follow the sessions until all have ended; return their last states by SSID.

    Raises MeasurementError when one is missing, has failed, or does not end.
    """
    begun = time.monotonic()
    limit_s = run.duration_s + LOSS_TIMEOUT_MS / 1e3 + SLACK_S
    while True:
        states = sender.sender_sessions()
        elapsed_s = time.monotonic() - begun
        watcher(elapsed_s, states)
        missing = [path.ssid for path in run.paths if path.ssid not in states]
        if missing:
            raise MeasurementError(f"the Session-Sender does not show session {missing[0]}")
        ours = {path.ssid: states[path.ssid] for path in run.paths}
        for state in ours.values():
            if state.oper_state == "failed":
                raise MeasurementError(f"session {state.ssid} has failed: {state.last_error}")
        if all(state.oper_state in FINAL_STATES for state in ours.values()):
            return ours
        if elapsed_s > limit_s:
            raise MeasurementError(f"the sessions had not ended after {elapsed_s:.0f} s")
        time.sleep(poll_interval_s)


def fetch(run: Run, sender: Client) -> dict[int, tuple[Record, ...]]:
    """Take all records of all sessions, by SSID, in order of sequence."""
    return {path.ssid: in_order(tuple(sender.drain(path.ssid))) for path in run.paths}


def in_order(records: Sequence[Record]) -> tuple[Record, ...]:
    """Sort records by sequence; they arrive in order of reception."""
    return tuple(sorted(records, key=lambda record: record.sequence))
