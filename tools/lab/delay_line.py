"""The delay line: one process that carries frames between veth ends, late, or not at all.

Run inside the wire's namespace:

    python -m tools.lab.delay_line --config CONFIG.json --status STATUS.json

How a frame fares: an AF_PACKET socket takes it with the kernel's receive
timestamp; it is due at that timestamp plus the drawn delay, so the time this
process needs to notice the frame costs nothing. A timer wakes the process
`spin_us` before the departure, and it then reads the clock until the moment has
come. A direction is first in, first out unless reordering is configured.

The line's own error, lateness = actual − scheduled departure, is measured for
every frame just before the call that sends it, and so is the duration of that
call, which includes the receiver's part of the kernel. Both are in STATUS.json,
beside the counters. The file is rewritten (atomically) every second, in a
quiet moment if there is one, and upon SIGUSR1, which its "requests" counts.

Figures from a two-core virtual machine with SCHED_FIFO, 3 000 frames at 200/s on
each of the default topology's two paths: lateness mean 0.5 to 3.0 us, 99th percentile
16 to 37 us, maximum 74 and 118 us on one path and 3.6 ms, both ways, on the other (the
cause was not found; other runs stayed below 0.4 ms); call that sends 16 to 42 us.
Between two user-space programs, SRv6 and routers included, 5 ms took 29 to 58 us more
than that in the mean, and 20 ms 46 us more. At 10 000 and 20 000 frames/s the lateness
was 8 to 23 us in the mean, p99 53 to 99 us, maximum 0.4 to 1.0 ms, and nothing was
dropped. `stamp-lab status` shows the figures of the machine at hand. Lateness does not
include the error of the arrival time itself, for which see `arrival_ns`.

What is bounded: `queue_limit` frames wait in a direction (`dropped_queue` counts the
rest), and 8 MiB in the kernel's receive buffer (`dropped_socket`).

CONFIG.json: {"queue_limit": frames, "spin_us": …, "directions": [{"name",
"receive_on", "send_on", "seed", "impairment": {fields of Impairment}}]}.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.lab.impairment import DEFAULT_QUEUE_LIMIT, DepartureQueue, Direction
from tools.lab.topology import Impairment, JitterDistribution

DEFAULT_SPIN_US = 150
"""Bound of the busy wait before each departure, in microseconds."""

SPIN_WINDOW_NS = 100_000_000
SPIN_BUDGET_NS = 50_000_000
"""Busy waiting in each window; once it is spent, the timer alone wakes the line. Without
it a fast stream would keep the line busy all the time, and the kernel then stops a
real-time process for 50 ms in every second (sched_rt_runtime_us)."""

STATUS_INTERVAL_NS = 1_000_000_000
QUIET_NS = 1_500_000
"""A status file is written when no departure is due within this time …"""
STATUS_GRACE_NS = 1_000_000_000
"""… or when no such moment came for this long."""

RECEIVE_BATCH = 8
"""Frames taken from a socket before looking at the clock again."""

CLOCK_PAIR_NS = 2_000
CLOCK_PAIR_ATTEMPTS = 4
"""Two clocks are read as a pair, again when that took longer than CLOCK_PAIR_NS."""

RECEIVE_BUFFER_BYTES = 8 << 20
FRAME_MAX = 65_600
REALTIME_PRIORITY = 10

MLD_REPORT_MAC = bytes.fromhex("333300000016")
"""Destination of the kernel's multicast listener reports (RFC 3810 §5.2.14)."""

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_STATISTICS = 6
PACKET_IGNORE_OUTGOING = 23
PACKET_OUTGOING = 4
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
TIMESPEC = struct.Struct("qq")
ITIMERSPEC = struct.Struct("qqqq")
"""struct itimerspec: interval (s, ns), value (s, ns)."""
TFD_NONBLOCK = os.O_NONBLOCK
TFD_TIMER_ABSTIME = 1
NS_PER_S = 1_000_000_000


class AbsoluteTimer:
    """A Linux timerfd on CLOCK_MONOTONIC; OSError when the kernel refuses one."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, TFD_NONBLOCK)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._armed_ns: int | None = None

    def arm(self, at_ns: int) -> None:
        """Become readable at `at_ns` (monotonic); at once when that has passed."""
        if at_ns == self._armed_ns:
            return
        value = ITIMERSPEC.pack(0, 0, at_ns // NS_PER_S, at_ns % NS_PER_S)
        if self._libc.timerfd_settime(self.fd, TFD_TIMER_ABSTIME, value, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        self._armed_ns = at_ns

    def acknowledge(self) -> None:
        """Read the expiry away."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return
        self._armed_ns = None


def open_packet_socket(interface: str) -> socket.socket:
    """Open a raw socket on an interface that is up: incoming frames, with timestamps."""
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packet.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    packet.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    packet.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    packet.setblocking(False)
    packet.bind((interface, ETH_P_ALL))
    return packet


def take_realtime() -> str:
    """Ask for SCHED_FIFO; return the scheduling policy that was had."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REALTIME_PRIORITY))
    except PermissionError:
        return "other"
    return "fifo"


class DelayLine:
    """Sockets, timer and loop around a DepartureQueue."""

    def __init__(self, config: dict[str, Any], status_file: Path) -> None:
        self._names = [str(entry["name"]) for entry in config["directions"]]
        limit = int(config.get("queue_limit", DEFAULT_QUEUE_LIMIT))
        self._directions = [
            Direction(impairment_from_json(entry["impairment"]), entry["seed"], limit)
            for entry in config["directions"]
        ]
        self._queue = DepartureQueue(self._directions)
        self._spin_ns = int(config.get("spin_us", DEFAULT_SPIN_US)) * 1_000
        interfaces = {entry["receive_on"] for entry in config["directions"]}
        interfaces |= {entry["send_on"] for entry in config["directions"]}
        self._sockets = {name: open_packet_socket(name) for name in sorted(interfaces)}
        self._inputs = [self._sockets[entry["receive_on"]] for entry in config["directions"]]
        self._outputs = [self._sockets[entry["send_on"]] for entry in config["directions"]]
        self._window_ns = self._spent_ns = 0
        self._send_call_ns = [0] * len(self._directions)
        self._timer = AbsoluteTimer()
        self._epoll = select.epoll()
        self._epoll.register(self._timer.fd, select.EPOLLIN)
        self._by_fd = {packet.fileno(): index for index, packet in enumerate(self._inputs)}
        for descriptor in self._by_fd:
            self._epoll.register(descriptor, select.EPOLLIN)
        self._status_file = status_file
        self._status_due_ns = time.monotonic_ns()
        self._requests = 0
        self._stopping = False
        self.scheduling = "other"

    def request_status(self, *_: object) -> None:
        """Have the status file written before the next wait (signal handler)."""
        self._requests += 1
        self._status_due_ns = time.monotonic_ns() - STATUS_GRACE_NS

    def stop(self, *_: object) -> None:
        """Leave the loop soon (signal handler)."""
        self._stopping = True

    def run(self) -> None:
        """Carry frames until `stop`; what is still waiting then is not sent."""
        # A collection would make departures late, and the loop makes no cycles.
        gc.collect()
        gc.disable()
        while not self._stopping:
            self._send_due()
            now_ns = time.monotonic_ns()
            self._maybe_write_status(now_ns)
            next_ns = self._queue.next_departure_ns
            if next_ns is not None:
                self._timer.arm(next_ns - self._allowed_spin_ns())
            for descriptor, _ in self._epoll.poll(self._poll_timeout_s(now_ns)):
                if descriptor == self._timer.fd:
                    self._timer.acknowledge()
                else:
                    self._take(self._by_fd[descriptor])
        self.write_status()

    def _poll_timeout_s(self, now_ns: int) -> float:
        # A signal handler runs before poll resumes, so a request made during the
        # wait is served by the next wake-up: keep that near.
        return min(0.05, max(0.001, (self._status_due_ns - now_ns) / NS_PER_S))

    def _take(self, index: int) -> None:
        packet = self._inputs[index]
        for _ in range(RECEIVE_BATCH):
            try:
                frame, ancillary, _flags, address = packet.recvmsg(FRAME_MAX, 64)
            except BlockingIOError:
                return
            except OSError:
                # The interface went down or away; there will be no more frames.
                return
            if address[2] == PACKET_OUTGOING:
                continue
            if frame.startswith(MLD_REPORT_MAC):
                # Nobody needs them on a link of two, and carried they would blur
                # the counters, and shift the sequence of random decisions.
                self._directions[index].counters.ignored += 1
                continue
            self._queue.receive(index, frame, arrival_ns(ancillary))

    def _send_due(self) -> None:
        queue, clock = self._queue, time.monotonic_ns
        while True:
            due_ns = queue.next_departure_ns
            if due_ns is None or due_ns - clock() > self._allowed_spin_ns():
                return
            item = queue.pop()
            started_ns = now_ns = clock()
            while now_ns < due_ns:
                now_ns = clock()
            self._spent_ns += now_ns - started_ns
            direction = self._directions[item.direction]
            try:
                self._outputs[item.direction].send(item.frame)
            except OSError:
                direction.refused()
                continue
            self._send_call_ns[item.direction] += clock() - now_ns
            direction.departed(item.sequence, now_ns - due_ns)

    def _allowed_spin_ns(self) -> int:
        now_ns = time.monotonic_ns()
        if now_ns - self._window_ns >= SPIN_WINDOW_NS:
            self._window_ns, self._spent_ns = now_ns, 0
        return self._spin_ns if self._spent_ns < SPIN_BUDGET_NS else 0

    def _maybe_write_status(self, now_ns: int) -> None:
        if now_ns < self._status_due_ns:
            return
        next_ns = self._queue.next_departure_ns
        quiet = next_ns is None or next_ns - now_ns > QUIET_NS
        if quiet or now_ns - self._status_due_ns >= STATUS_GRACE_NS:
            self.write_status()

    def write_status(self) -> None:
        """Replace the status file by the present counters."""
        self._status_due_ns = time.monotonic_ns() + STATUS_INTERVAL_NS
        temporary = self._status_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._status()), encoding="ascii")
        temporary.replace(self._status_file)

    def _status(self) -> dict[str, Any]:
        directions = {}
        for index, direction in enumerate(self._directions):
            statistics = self._inputs[index].getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
            # The kernel's struct tpacket_stats counts since it was last read.
            direction.counters.dropped_socket += struct.unpack("II", statistics)[1]
            sent = direction.lateness.count
            directions[self._names[index]] = {
                "counters": direction.counters.as_dict(),
                "waiting": direction.queued,
                "lateness": direction.lateness.summary(),
                "send_call_mean_ns": self._send_call_ns[index] // sent if sent else None,
            }
        return {
            "requests": self._requests,
            "pid": os.getpid(),
            "scheduling": self.scheduling,
            "spin_us": self._spin_ns // 1_000,
            "directions": directions,
        }


def arrival_ns(
    ancillary: list[tuple[int, int, bytes]],
    monotonic: Callable[[], int] = time.monotonic_ns,
    realtime: Callable[[], int] = time.time_ns,
) -> int:
    """Turn the kernel's receive timestamp (CLOCK_REALTIME) into monotonic nanoseconds.

    The queue lives on the monotonic clock so that a step of the system clock
    moves no frame. The result is never before the true arrival, and after it by less than
    CLOCK_PAIR_NS, or by the best of CLOCK_PAIR_ATTEMPTS. Without a timestamp the
    frame counts as arriving now.
    """
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = TIMESPEC.unpack(data[: TIMESPEC.size])
            stamp_ns: int = seconds * NS_PER_S + nanoseconds
            break
    else:
        return monotonic()
    candidates_ns = []
    for _ in range(CLOCK_PAIR_ATTEMPTS):
        # The process may be interrupted between two clocks. Reading the monotonic
        # one last makes such a frame late, never early, and the next try mends it.
        before_ns = monotonic()
        age_ns = realtime() - stamp_ns
        after_ns = monotonic()
        candidates_ns.append(after_ns - age_ns)
        if after_ns - before_ns < CLOCK_PAIR_NS:
            break
    return min(candidates_ns)


def impairment_to_json(impairment: Impairment) -> dict[str, Any]:
    """Every field by name, the distribution as its string."""
    fields = asdict(impairment)
    fields["jitter_distribution"] = impairment.jitter_distribution.value
    return fields


def impairment_from_json(fields: dict[str, Any]) -> Impairment:
    """Undo `impairment_to_json`."""
    distribution = JitterDistribution(fields["jitter_distribution"])
    return Impairment(**{**fields, "jitter_distribution": distribution})


def main(arguments: list[str] | None = None) -> int:
    """Run the delay line until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.lab.delay_line",
        description="Carry frames between interfaces with delay and impairments.",
    )
    parser.add_argument("--config", type=Path, required=True, help="JSON file, see the source")
    parser.add_argument("--status", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    config = json.loads(options.config.read_text(encoding="ascii"))
    line = DelayLine(config, options.status)
    signal.signal(signal.SIGTERM, line.stop)
    signal.signal(signal.SIGINT, line.stop)
    signal.signal(signal.SIGUSR1, line.request_status)
    line.scheduling = take_realtime()
    line.write_status()
    line.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
