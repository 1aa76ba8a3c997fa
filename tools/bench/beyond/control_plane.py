"""How long the management takes: NETCONF over SSH, from the client's request to what comes of it.

Two edges with all their daemons, as the lab runs them, joined by one plain link.
Engines are those that the model has as default. Nothing is pinned to a core.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from dataplane.clock import monotonic_ns, wall_ns
from dataplane.config import STAMP_PORT
from tools.bench.beyond.capture import Capture
from tools.bench.beyond.packets import select
from tools.bench.errors import BenchError
from tools.bench.extras import ControlPlane
from tools.lab.client import connect
from tools.lab.errors import LabError
from tools.lab.lab import Lab, LabNode
from tools.stamp_client import (
    Node,
    ReflectorSession,
    SenderSession,
    StampClient,
    StampClientError,
)

SESSIONS = (1, 100, 1_000)
SENDER, REFLECTOR = "edge1", "edge2"

TOPOLOGY = f"""\
nodes:
  {SENDER}: {{role: edge, loopback: "fd00:0:1::1"}}
  {REFLECTOR}: {{role: edge, loopback: "fd00:0:2::1"}}
links:
  - {{a: {SENDER}, b: {REFLECTOR}}}
"""

INTERVAL_US = 1_000_000
"""Of each session, which is also how far apart first packets are sent on purpose."""

FIRST_PACKETS_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 30.0
POLL_S = 0.005

ANSWER = "edit-config to its answer"
FIRST_PACKET = "edit-config to the first packet of the last session"
GET_ALL = "get of all sessions"
GET_ONE = "get of one session"


@dataclass(frozen=True, slots=True)
class Settings:
    sessions: tuple[int, ...] = SESSIONS
    tries: int = 3


@dataclass(frozen=True, slots=True)
class Bench:
    """A lab, and NETCONF sessions with its edges."""

    sender_node: LabNode
    sender: StampClient
    reflector_node: LabNode
    reflector: StampClient


def measure(settings: Settings | None = None) -> Iterator[ControlPlane]:
    """Yield, for each number of sessions, the four times above.

    Raises BenchError where the lab cannot be made or does not do what it is asked to.
    """
    settings = settings or Settings()
    try:
        with (
            Lab.start(TOPOLOGY, name=f"bench-{os.getpid()}") as lab,
            connect(lab.nodes[SENDER]) as sender,
            connect(lab.nodes[REFLECTOR]) as reflector,
        ):
            bench = Bench(lab.nodes[SENDER], sender, lab.nodes[REFLECTOR], reflector)
            _configure_reflector(bench, max(settings.sessions))
            for count in settings.sessions:
                yield from _measure(bench, count, settings.tries)
    except (LabError, StampClientError) as error:
        raise BenchError(f"the control plane cannot be measured: {error}") from error


def _measure(bench: Bench, count: int, tries: int) -> Iterator[ControlPlane]:
    found: dict[str, list[int]] = {ANSWER: [], FIRST_PACKET: [], GET_ALL: [], GET_ONE: []}
    for _ in range(tries):
        answer_ns, first_packet_ns = _edit(bench, count)
        found[ANSWER].append(answer_ns)
        found[FIRST_PACKET].append(first_packet_ns)
        found[GET_ALL].append(_timed(bench.sender.sender_sessions, count))
        found[GET_ONE].append(_timed(lambda: bench.sender.sender_sessions(ssid=count), 1))
        bench.sender.remove_sender()
    for name, durations_ns in found.items():
        yield ControlPlane(name, count, tuple(durations_ns))


def _edit(bench: Bench, count: int) -> tuple[int, int]:
    """One edit-config of all sessions: nanoseconds to its answer, and until the last
    of the sessions has sent its first packet."""
    wanted = _sender(bench, count)
    room = int(count * (FIRST_PACKETS_TIMEOUT_S * 1e6 / INTERVAL_US + 1))
    device = bench.sender_node.plan.interfaces[0].name
    with Capture(bench.sender_node.namespace, device, STAMP_PORT, room, replies=False) as capture:
        start_ns = wall_ns()
        bench.sender.edit(wanted)
        answer_ns = wall_ns() - start_ns
        return answer_ns, _last_first_packet(capture, count) - start_ns


def _last_first_packet(capture: Capture, count: int) -> int:
    """When the last of `count` sessions sent its first packet, CLOCK_REALTIME."""
    deadline_ns = monotonic_ns() + int(FIRST_PACKETS_TIMEOUT_S * 1e9)
    while True:
        requests = select(capture.packets(), request=True, outgoing=True)
        _, firsts = np.unique(requests["ssid"], return_index=True)
        if len(firsts) == count:
            return int(requests["ns"][firsts].max())
        if monotonic_ns() > deadline_ns:
            raise BenchError(
                f"of {count} sessions {len(firsts)} sent packets within "
                f"{FIRST_PACKETS_TIMEOUT_S:.0f} s"
            )
        time.sleep(POLL_S)


def _timed(ask: Callable[[], Mapping[int, object]], count: int) -> int:
    """Nanoseconds until the client has the states of `count` sessions."""
    start_ns = monotonic_ns()
    states = ask()
    duration_ns = monotonic_ns() - start_ns
    if len(states) != count:
        raise BenchError(f"asked for {count} sessions, the answer has {len(states)}")
    return duration_ns


def _configure_reflector(bench: Bench, count: int) -> None:
    """Have every session answered."""
    address = str(bench.sender_node.loopback)
    bench.reflector.edit(
        Node(
            str(bench.reflector_node.loopback),
            reflector_sessions=tuple(
                ReflectorSession(ssid, address) for ssid in range(1, count + 1)
            ),
        )
    )
    deadline_ns = monotonic_ns() + int(READY_TIMEOUT_S * 1e9)
    while (state := bench.reflector.reflector()).oper_state != "running":
        if monotonic_ns() > deadline_ns:
            raise BenchError(
                f"the Session-Reflector is {state.oper_state}: {state.last_error or 'no reason'}"
            )
        time.sleep(POLL_S)


def _sender(bench: Bench, count: int) -> Node:
    reflector = str(bench.reflector_node.loopback)
    return Node(
        str(bench.sender_node.loopback),
        sender_sessions=tuple(
            SenderSession(ssid, reflector, interval_us=INTERVAL_US, enabled=True)
            for ssid in range(1, count + 1)
        ),
    )
