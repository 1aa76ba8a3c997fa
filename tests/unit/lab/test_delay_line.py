"""The delay line's own arithmetic; what it does with sockets is in tests/integration/lab."""

import socket
import struct

import pytest

from tools.lab.delay_line import (
    CLOCK_PAIR_ATTEMPTS,
    CLOCK_PAIR_NS,
    SO_TIMESTAMPNS,
    arrival_ns,
    impairment_from_json,
    impairment_to_json,
)
from tools.lab.topology import Impairment, JitterDistribution

EPOCH_NS = 1_800_000_000_000_000_000
"""Realtime minus monotonic in these tests."""


class Clocks:
    """Two clocks with a constant offset; `pauses` says how long each reading is held up."""

    def __init__(self, now_ns: int, pauses: list[int]) -> None:
        self.now_ns = now_ns
        self._pauses = pauses
        self.readings = 0

    def monotonic(self) -> int:
        self.readings += 1
        self.now_ns += self._pauses.pop(0) if self._pauses else 50
        return self.now_ns

    def realtime(self) -> int:
        return EPOCH_NS + self.monotonic()


def stamped(monotonic_ns: int) -> list[tuple[int, int, bytes]]:
    seconds, nanoseconds = divmod(EPOCH_NS + monotonic_ns, 1_000_000_000)
    return [(socket.SOL_SOCKET, SO_TIMESTAMPNS, struct.pack("qq", seconds, nanoseconds))]


def test_the_kernels_timestamp_counts_not_the_moment_of_reading() -> None:
    clocks = Clocks(5_000_000, [])
    arrived = arrival_ns(stamped(1_000_000), clocks.monotonic, clocks.realtime)
    assert 1_000_000 <= arrived < 1_000_000 + CLOCK_PAIR_NS


@pytest.mark.parametrize("interrupted", [0, 1, 2])
def test_an_interruption_between_the_clocks_moves_no_frame(interrupted: int) -> None:
    pauses = [50, 50, 50]
    pauses[interrupted] = 200_000
    clocks = Clocks(5_000_000, pauses)
    arrived = arrival_ns(stamped(1_000_000), clocks.monotonic, clocks.realtime)
    assert 1_000_000 <= arrived < 1_000_000 + CLOCK_PAIR_NS


def test_a_machine_that_always_interrupts_makes_frames_late_but_never_early() -> None:
    clocks = Clocks(5_000_000, [30_000, 10_000, 20_000] * CLOCK_PAIR_ATTEMPTS)
    arrived = arrival_ns(stamped(1_000_000), clocks.monotonic, clocks.realtime)
    assert 1_000_000 <= arrived <= 1_000_000 + 20_000
    assert clocks.readings == 3 * CLOCK_PAIR_ATTEMPTS


@pytest.mark.parametrize("ancillary", [[], [(socket.SOL_SOCKET, 99, b"")]])
def test_without_a_timestamp_a_frame_arrives_now(
    ancillary: list[tuple[int, int, bytes]],
) -> None:
    def now() -> int:
        return 77

    assert arrival_ns(ancillary, now, now) == 77


def test_impairments_survive_json() -> None:
    impairment = Impairment(1, 2, JitterDistribution.NORMAL, 0.1, 0.2, 0.3, 4)
    assert impairment_from_json(impairment_to_json(impairment)) == impairment
