"""Many replies that are drained at once, against the sans-IO Collector."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from dataplane.bpf.syscall import XDP_DROP
from dataplane.config import ReflectorMode
from dataplane.engines.xdp.collector_layouts import ORDER_MAX
from tests.integration.engines.xdp.collecting import Node, Twins, frame, payload
from tests.unit.stamp.network import (
    MS,
    UNIX_NS,
    S,
    session,
)

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("mode", ReflectorMode)
@pytest.mark.parametrize("disturbance", ["none", "lost", "overtaken"])
def test_thousands_at_once_as_the_core(
    node: Node, tmp_path: Path, mode: ReflectorMode, disturbance: str
) -> None:
    """More records than wait in order of arrival, drained at once; twice."""
    rng = random.Random(disturbance)
    config = session(
        interval_us=1_000, loss_timeout_ms=20_000, computation_interval_s=30,
        reflector_mode=mode, result_depth=100,
    )  # fmt: skip
    twins = Twins(node, config, tmp_path)
    twins.start(0, UNIX_NS)
    now_ns, counter, waiting = 0, 0xFFFFF000, []
    try:
        for burst in range(2):
            first = twins.next_sequence
            twins.announce(3 * ORDER_MAX, UNIX_NS + now_ns, now_ns)
            for sequence in range(first, twins.next_sequence):
                now_ns += MS // 10
                if disturbance == "lost" and rng.random() < 0.02:
                    continue
                counter += 1
                if disturbance == "lost" and rng.random() < 0.02:
                    continue
                waiting.append(payload(sequence, counter, forward_ns=rng.randrange(10 * MS)))
                if disturbance == "overtaken" and rng.random() < 0.01:
                    continue
                while waiting:
                    twins.arrive(frame(twins, waiting.pop()), now_ns)
            twins.compare(now_ns)
            if burst:
                now_ns += 21 * S
                twins.expire(now_ns)
                twins.compare(now_ns)
    finally:
        twins.close()


@pytest.mark.parametrize("mode", ReflectorMode)
@pytest.mark.parametrize("first", [0, 70_000, 0xFFFFFFF0])
@pytest.mark.parametrize("lost", [(), (0,), (0, 1, 700), (5, 6, 7), (1_199,)])
def test_runs_with_losses_between_them_as_the_core(
    node: Node, tmp_path: Path, mode: ReflectorMode, first: int, lost: tuple[int, ...]
) -> None:
    """Whatever number the reflector begins with, and though the first packets are lost."""
    config = session(
        interval_us=1_000, loss_timeout_ms=2_000, computation_interval_s=10,
        reflector_mode=mode, result_depth=100,
    )  # fmt: skip
    twins = Twins(node, config, tmp_path)
    twins.start(0, UNIX_NS)
    now_ns, counter = 0, first
    try:
        for _ in range(4):
            begin = twins.next_sequence
            twins.announce(1_200, UNIX_NS + now_ns, now_ns)
            for number in range(1_200):
                now_ns += MS // 10
                # Of each three one is lost on its way back.
                reflected = number not in lost or number % 3 == 0
                counter = (counter + reflected) % 2**32
                if number not in lost:
                    data = payload(begin + number, counter, forward_ns=number)
                    assert twins.arrive(frame(twins, data), now_ns) == XDP_DROP
            twins.compare(now_ns)
            now_ns += 3 * S
            twins.compare(now_ns)
        assert twins.stores[1].snapshot().received == 4 * (1_200 - len(lost))
    finally:
        twins.close()


@pytest.mark.parametrize("mode", ReflectorMode)
@pytest.mark.parametrize("under_way", [(0,), (0, 1, 5, 800), (100, 2_000), range(0, 3_000, 7), ()])
def test_more_under_way_than_the_window_holds_as_the_core(
    node: Node, tmp_path: Path, mode: ReflectorMode, under_way: tuple[int, ...]
) -> None:
    """The oldest become unresolved, all that are in the way of a burst at once."""
    config = session(
        interval_us=1_000, loss_timeout_ms=1_900, computation_interval_s=3_600,
        reflector_mode=mode, result_depth=100,
    )  # fmt: skip
    twins = Twins(node, config, tmp_path)
    twins.start(0, UNIX_NS)
    now_ns, counter = 0, 0
    try:
        for burst in (3_000, 2_500, 4_096, 1):
            begin = twins.next_sequence
            twins.announce(burst, UNIX_NS + now_ns, now_ns)
            for number in range(burst):
                if number in under_way:
                    continue
                counter += 1
                now_ns += 1_000
                data = payload(begin + number, counter, forward_ns=number)
                assert twins.arrive(frame(twins, data), now_ns) == XDP_DROP
            late = payload(max(0, begin - 4_096), 0)
            twins.arrive(frame(twins, late), now_ns)
            twins.compare(now_ns)
        twins.interrupt(now_ns)
        twins.compare(now_ns)
        twins.announce(10, UNIX_NS + now_ns, now_ns)
        for sequence in range(twins.next_sequence - 9, twins.next_sequence):
            counter += 1
            twins.arrive(frame(twins, payload(sequence, counter)), now_ns + MS)
        now_ns += 3 * S
        twins.compare(now_ns)
    finally:
        twins.close()


@pytest.mark.parametrize("more", [100, 600, ORDER_MAX + 100])
@pytest.mark.parametrize("mode", ReflectorMode)
def test_replies_that_come_while_records_are_read_as_the_core(
    node: Node,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: ReflectorMode,
    more: int,
) -> None:
    """So many that the order of those that are being read is written over."""
    config = session(
        interval_us=1_000, loss_timeout_ms=5_000, computation_interval_s=3_600,
        reflector_mode=mode, result_depth=3_000,
    )  # fmt: skip
    twins = Twins(node, config, tmp_path)
    twins.start(0, UNIX_NS)
    twins.announce(3_000, UNIX_NS, 0)
    # A turn, so that they are not taken as a run.
    arriving = iter(enumerate((0, 1, 2, 4, 3, *range(5, 3_000))))
    now_ns = 5 * MS

    def arrive(number: int) -> None:
        for counter, sequence in itertools.islice(arriving, number):
            twins.arrive(frame(twins, payload(sequence, counter)), now_ns)

    by_order = twins.driver._found_by_order

    def meanwhile(received: int) -> Any:
        monkeypatch.undo()
        arrive(more)
        return by_order(received)

    try:
        arrive(500)
        monkeypatch.setattr(twins.driver, "_found_by_order", meanwhile)
        twins.driver.drain(now_ns)
        twins.compare(now_ns)
        twins.compare(now_ns + 6 * S)
        assert twins.stores[1].snapshot().received == 500 + more
    finally:
        twins.close()


@pytest.mark.parametrize("mode", ReflectorMode)
def test_replies_that_came_early_count_once(
    node: Node, tmp_path: Path, mode: ReflectorMode
) -> None:
    """They are drained when an interval is closed late, and nothing is drained until the next
    one is closed."""
    twins = Twins(node, session(reflector_mode=mode), tmp_path)
    twins.start(0, UNIX_NS)
    try:
        for sequence, now_ns in enumerate((100 * MS, 200 * MS, S - 10 * MS, S + 300 * MS)):
            twins.sent(sequence, UNIX_NS + now_ns, now_ns)
            data = payload(sequence, sequence, t1_ns=UNIX_NS + now_ns)
            twins.arrive(frame(twins, data), now_ns + 20 * MS)
            if sequence == 2:
                twins.compare(now_ns + 30 * MS)
        twins.compare(2 * S + 10 * MS)
        assert twins.driver._drained == 4
    finally:
        twins.close()


@pytest.mark.parametrize("mode", ReflectorMode)
def test_no_reply_counts_in_an_interval_after_one_that_came_behind_its_end(
    node: Node, tmp_path: Path, mode: ReflectorMode
) -> None:
    """The CPU that the later one came to had the session's lock first."""
    twins = Twins(node, session(reflector_mode=mode), tmp_path)
    twins.start(0, UNIX_NS)
    try:
        twins.announce(3, UNIX_NS + 990 * MS, 990 * MS)
        for sequence, now_ns in enumerate((S - MS, S + MS, S - 1)):
            data = payload(sequence, 70 + sequence, t1_ns=UNIX_NS + 990 * MS)
            twins.arrive(frame(twins, data), now_ns)
        twins.compare(S + 10 * MS)
        twins.compare(2 * S + 10 * MS)
        assert [each.received for each in twins.stores[1].snapshot().intervals] == [1, 2]
    finally:
        twins.close()
