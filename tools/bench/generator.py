"""The traffic generator: paced XDP live frames from one core.

`generator.c` makes the packets. What it does follows from a schedule and two
templates that lie in memory shared with it; what it has done is read from there.
"""

from __future__ import annotations

import concurrent.futures
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import run_live
from dataplane.clock import monotonic_ns, wall_ns
from tools.bench.frames import Frame, Kind
from tools.bench.namespace import inside, set_nice

SHARE_WHOLE = 100_000
"""Shares are counted in this many parts: 0.001 % is one."""

CATCH_UP_NS = 100_000
"""A generator that was held up makes up for this much; beyond, the schedule slips,
and what was offered is less than what was asked for."""

BURST_NS = 20_000
"""Packets due within this time leave together, as far as `BATCH_MAX` allows."""

BATCH_MAX = 64
"""Frames sent at once; a veth's ring has room for 256."""

_RUNS_MAX = 0xFFFFFFFF
_SOURCE = Path(__file__).parent / "bpf" / "generator.c"
_STOP_SIGNAL = signal.SIGUSR1
_STOP_EVERY_S = 0.001

SCHEDULE = np.dtype(
    [
        (name, np.uint64)
        for name in (
            "duration_ns",
            "next_due_ns",
            "gap_q8",
            "remainder_q8",
            "stop_ns",
            "read_ns",
            "catch_up_ns",
            "wall_offset_ns",
            "share",
            "share_sum",
            "sessions",
            "session",
            "sequence",
            "data",
            "stamp",
            "idle",
            "slipped_ns",
        )
    ]
)
"""`struct schedule` of generator.c."""


def template_dtype(words: int) -> np.dtype[Any]:
    """`struct template` of generator.c."""
    return np.dtype(
        [
            ("length", np.uint64),
            ("udp_at", np.uint64),
            ("checksum", np.uint64),
            ("reply", np.uint64),
            ("words", np.uint64, words),
        ]
    )


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be offered."""

    rate_pps: int
    """Data and STAMP packets together."""

    duration_ns: int
    share: int = 0
    """STAMP packets, in parts of `SHARE_WHOLE`."""

    sessions: int = 1
    """SSIDs 1..sessions take turns."""

    first_sequence: int = 0


@dataclass(frozen=True, slots=True)
class Offered:
    """What was offered."""

    data: int
    stamp: int
    duration_ns: int
    idle: int
    """Times that the generator found no packet due: none means that it had no time to spare."""

    slipped_ns: int
    """By which it fell behind its schedule and did not catch up."""

    next_sequence: int
    """The first that no session has been sent yet."""

    @property
    def packets(self) -> int:
        return self.data + self.stamp


class Generator:
    """Sends from `device` in `namespace`, from a thread that is pinned to `core`."""

    def __init__(self, namespace: str, device: str, core: int, frame_max: int) -> None:
        """`frame_max` is the length of the longest frame that will be sent.

        Raises BpfError, LoadError or OSError where the generator cannot run.
        """
        self._namespace = namespace
        self._core = core
        self._words = math.ceil(frame_max / 8)
        with inside(namespace):
            egress = socket.if_nametoindex(device)
        self._module = BpfModule(
            _SOURCE,
            {"EGRESS": egress, "SHARE_WHOLE": SHARE_WHOLE, "TEMPLATE_WORDS": self._words},
        )
        self._program = self._module.load("generate")
        self._schedule = self._module.array("schedules", SCHEDULE)
        self._templates = self._module.array("templates", template_dtype(self._words))
        self._module.free_compiler()
        self._pool = concurrent.futures.ThreadPoolExecutor(1, initializer=self._settle_down)
        self._old_handler = signal.signal(_STOP_SIGNAL, lambda *_: None)

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pool.shutdown()
        signal.signal(_STOP_SIGNAL, self._old_handler)
        del self._schedule, self._templates
        self._module.close()

    def use(self, data: Frame, stamp: Frame | None) -> None:
        """Send these from now on. ValueError for a frame that is too long."""
        for template, frame in zip(self._templates, (data, stamp or data), strict=True):
            room = 8 * self._words
            if len(frame.data) > room:
                raise ValueError(f"a frame of {len(frame.data)} bytes is longer than {room}")
            template["length"] = len(frame.data)
            template["udp_at"] = frame.udp_at
            template["checksum"] = frame.checksum_sum
            template["reply"] = frame.kind is Kind.REPLY
            template["words"] = np.frombuffer(frame.data.ljust(room, b"\0"), np.uint64)

    def offer(self, load: Load) -> Offered:
        """Send, and return what was sent once the time is over. From the main thread only.

        RuntimeError before `use`.
        """
        if not self._templates[0]["length"]:
            raise RuntimeError("the generator has been given no frames")
        schedule = self._schedule[0]
        self._write(load)
        ident: concurrent.futures.Future[int] = concurrent.futures.Future()
        batch = max(1, min(BATCH_MAX, load.rate_pps * BURST_NS // 1_000_000_000))
        running = self._pool.submit(self._run, ident, batch)
        thread = ident.result()
        # The kernel sets up its pages before the first run, which begins the schedule.
        while not (stop_ns := int(schedule["stop_ns"])) and not running.done():
            time.sleep(_STOP_EVERY_S)
        time.sleep(max(0.0, (stop_ns - monotonic_ns()) / 1e9))
        while not running.done():
            # One signal may come before the thread has entered the kernel.
            signal.pthread_kill(thread, _STOP_SIGNAL)
            time.sleep(_STOP_EVERY_S)
        running.result()
        return Offered(
            data=int(schedule["data"]),
            stamp=int(schedule["stamp"]),
            duration_ns=load.duration_ns,
            idle=int(schedule["idle"]),
            slipped_ns=int(schedule["slipped_ns"]),
            next_sequence=int(schedule["sequence"]) + 1,
        )

    def _write(self, load: Load) -> None:
        schedule = self._schedule[0]
        self._schedule[:] = np.zeros(1, SCHEDULE)
        values: Mapping[str, int] = {
            "duration_ns": load.duration_ns,
            "gap_q8": (1_000_000_000 << 8) // load.rate_pps,
            "catch_up_ns": CATCH_UP_NS,
            "wall_offset_ns": wall_ns() - monotonic_ns(),
            "share": load.share,
            "sessions": load.sessions,
            "sequence": load.first_sequence,
        }
        for name, value in values.items():
            schedule[name] = value

    def _settle_down(self) -> None:
        os.sched_setaffinity(0, {self._core})
        set_nice(threading.get_native_id())

    def _run(self, ident: concurrent.futures.Future[int], batch: int) -> None:
        ident.set_result(threading.get_ident())
        with inside(self._namespace):
            blank = bytes(8 * self._words)
            run_live(self._program, blank, repeat=_RUNS_MAX, batch=batch)
