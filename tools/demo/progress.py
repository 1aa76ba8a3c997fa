"""What is shown while the sessions run: a live line on a terminal, sparse lines elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TextIO

from tools.demo.truth import MeasuredPath
from tools.stamp_client import SenderSessionState

SPARSE_INTERVAL_S = 5.0
"""Between two lines where output is not a terminal."""


def progress_line(
    elapsed_s: float, paths: tuple[MeasuredPath, ...], states: Mapping[int, SenderSessionState]
) -> str:
    """Return "12 s | via-core1 1203 sent, 5.03 + 5.04 ms, 0 lost | …": means forward + backward."""
    parts = [f"{elapsed_s:3.0f} s"]
    for path in paths:
        state = states.get(path.ssid)
        if state is None:
            parts.append(f"{path.name}: not there yet")
            continue
        means = (state.delay[direction].mean_ns for direction in ("forward", "backward"))
        delays = " + ".join("-" if ns is None else f"{ns / 1e6:.2f}" for ns in means)
        lost = state.loss.round_trip
        parts.append(
            f"{path.name}: {state.sent} sent, {delays} ms, {'-' if lost is None else lost} lost"
        )
    return " | ".join(parts)


class Progress:
    """A watcher (`tools.demo.measure.Watcher`) that writes to a stream."""

    def __init__(self, paths: tuple[MeasuredPath, ...], stream: TextIO) -> None:
        self._paths = paths
        self._stream = stream
        self._live = stream.isatty()
        self._next_s = 0.0

    def __call__(self, elapsed_s: float, states: Mapping[int, SenderSessionState]) -> None:
        """Show the present state, unless it is too soon for another line."""
        line = progress_line(elapsed_s, self._paths, states)
        if self._live:
            # One column stays free: some terminals wrap when the last one is used.
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r{line[:width]}\x1b[K")
        elif elapsed_s >= self._next_s:
            self._next_s = elapsed_s + SPARSE_INTERVAL_S
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def done(self) -> None:
        """Leave the live line."""
        if self._live:
            self._stream.write("\n")
            self._stream.flush()
