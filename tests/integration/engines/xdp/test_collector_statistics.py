"""What the collector's program counts, against the sans-IO Collector: whatever happens to
packets, and whatever is done with a session."""

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.bpf.syscall import XDP_DROP
from dataplane.config import DelayMode, ReflectorMode
from tests.integration.engines.xdp.collecting import Node, TwinNetwork, Twins, frame, payload
from tests.property.test_collector import anything, in_order, overtaking
from tests.unit.stamp.network import (
    FINE,
    MS,
    UNIX_NS,
    Fate,
    S,
    session,
)

pytestmark = pytest.mark.integration


def run(node: Node, changes: dict[str, Any], options: dict[str, Any], script: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        twins = Twins(node, session(**changes), Path(folder))
        try:
            network = TwinNetwork(twins, **options)
            script(network)
            twins.compare(network.now_ns)
        finally:
            twins.close()


modes = st.sampled_from(ReflectorMode)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(in_order, max_size=150), st.integers(0, 2**32 - 1), st.integers(-S, S), modes,
    st.sampled_from(DelayMode),
)  # fmt: skip
def test_lost_and_duplicated_as_the_core(
    node: Node, fates: list[Fate], counter: int, offset_ns: int, mode: ReflectorMode,
    delays: DelayMode,
) -> None:  # fmt: skip
    def script(network: TwinNetwork) -> None:
        network.send([FINE, *fates, FINE])
        network.drain()

    options = {"counter": counter, "clock_offset_ns": offset_ns}
    run(node, {"reflector_mode": mode, "delay_mode": delays}, options, script)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(overtaking, max_size=80), modes)
def test_overtaking_as_the_core(node: Node, fates: list[Fate], mode: ReflectorMode) -> None:
    def script(network: TwinNetwork) -> None:
        network.send([FINE])
        network.run(100 * MS)
        network.send(fates)
        network.drain()
        network.now_ns += S
        network.send([FINE, FINE])
        network.drain()

    run(node, {"reflector_mode": mode}, {}, script)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(anything, min_size=1, max_size=80), modes, st.sampled_from([None, 0, 5, 2**31]))
def test_anything_as_the_core(
    node: Node, fates: list[Fate], mode: ReflectorMode, restart_at: int | None
) -> None:
    """Whatever is lost, duplicated, reordered, and though the reflector restarts."""

    def script(network: TwinNetwork) -> None:
        network.send(fates)
        network.run(len(fates) * 5 * MS)
        if restart_at is not None:
            network.counter = restart_at
        network.drain()
        network.run(network.now_ns + S)

    run(node, {"reflector_mode": mode}, {}, script)


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 12)),
    st.tuples(st.just("reply"), st.integers(0, 40), st.booleans(), st.integers(-3, 3)),
    st.tuples(st.just("wait"), st.integers(0, 300)),
    st.tuples(st.sampled_from(["expire", "clear", "stop", "start", "interrupt", "compare"])),
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, max_size=80), modes, st.booleans())
def test_a_life_as_the_core(
    node: Node, steps: list[tuple[Any, ...]], mode: ReflectorMode, late_start: bool
) -> None:
    """Runs, stops, clears, interruptions and replies to anything, old and unknown."""
    with tempfile.TemporaryDirectory() as folder:
        config = session(reflector_mode=mode, loss_timeout_ms=300, result_depth=20)
        twins = Twins(node, config, Path(folder))
        try:
            play(twins, steps, late_start)
        finally:
            twins.close()


def play(twins: Twins, steps: list[tuple[Any, ...]], late_start: bool) -> None:
    now_ns, counter = 0, 0
    if not late_start:
        twins.start(now_ns, UNIX_NS)
    for kind, *values in steps:
        now_ns += 1
        if kind == "send":
            for _ in range(values[0]):
                now_ns += 10 * MS
                twins.sent(twins.next_sequence, UNIX_NS + now_ns, now_ns)
        elif kind == "reply":
            age, tlv, step = values
            counter = (counter + step) % 2**32
            data = payload(*(twins.next_sequence - age, counter), t1_ns=UNIX_NS + now_ns - 5 * MS)
            twins.arrive(frame(twins, data + bytes(4 * tlv)), now_ns)
        elif kind == "wait":
            now_ns += values[0] * MS
            twins.expire(now_ns)
        elif kind == "compare":
            twins.compare(now_ns)
        elif kind == "start":
            twins.start(now_ns, UNIX_NS + now_ns)
        else:
            getattr(twins, kind)(now_ns)
    twins.compare(now_ns)
    twins.expire(now_ns + 400 * MS)
    twins.compare(now_ns + 400 * MS)


def test_origins_move_as_the_cores(node: Node, tmp_path: Path) -> None:
    """To where the delays are, though the program is ahead with the next interval."""
    chance, following = random.Random(7), 0
    twins = Twins(node, session(), tmp_path)
    try:
        twins.start(0, UNIX_NS)
        for second, base_ns in enumerate([20 * MS, 20 * MS, 25 * MS, 25 * MS, 8 * MS, 8 * MS]):
            for turn in range(25):
                now_ns = second * S + (turn * 40 + 15) * MS
                twins.sent(following, UNIX_NS + now_ns, now_ns)
                forward_ns = base_ns + round(chance.expovariate(1 / 20_000))
                data = payload(
                    following,
                    following,
                    t1_ns=UNIX_NS + now_ns,
                    forward_ns=forward_ns if following else 60 * MS,
                )
                twins.arrive(frame(twins, data), now_ns + 28 * MS)
                following += 1
                if turn == 10:
                    twins.compare(now_ns + 29 * MS)
        twins.compare(6 * S)
        assert [len(origins) for origins in twins.origins] == [4, 4, 1]
    finally:
        twins.close()


def test_a_clear_while_the_program_is_ahead(node: Node, tmp_path: Path) -> None:
    """What it has counted in the next interval stays about the origin that was forgotten."""
    twins = Twins(node, session(), tmp_path)
    driver = twins.driver
    delays = [40 * MS, 41 * MS, 7 * MS + 100_000, 7 * MS, 7 * MS + 200_000]
    try:
        driver.start(0, UNIX_NS)

        def arrive(sequence: int, now_ns: int) -> None:
            driver.sent(sequence, UNIX_NS + now_ns, now_ns)
            data = payload(sequence, sequence, t1_ns=UNIX_NS + now_ns, forward_ns=delays[sequence])
            assert node.run(frame(twins, data).encode(), now_ns) == XDP_DROP

        arrive(0, 500 * MS)
        driver.sent(1, UNIX_NS + 999 * MS, 999 * MS)
        data = payload(1, 1, t1_ns=UNIX_NS + 999 * MS, forward_ns=delays[1])
        assert node.run(frame(twins, data).encode(), 1_001 * MS) == XDP_DROP
        driver.clear(999 * MS)
        arrive(2, 999 * MS + 1)
        for sequence in (3, 4):
            arrive(sequence, (1_000 + sequence) * MS)
        driver.drain(2 * S)
        snapshot = twins.stores[1].snapshot()
        cleared, *found = [interval.forward for interval in snapshot.intervals]
        assert cleared is not None
        assert cleared.samples == 0
        taken = delays[1:]
        for summary in (*found, snapshot.forward):
            assert summary is not None
            assert (summary.samples, summary.max_ns) == (len(taken), max(taken))
            median = sorted(taken)[(len(taken) - 1) // 2]
            assert abs(summary.percentiles[50.0] - median) <= (delays[1] - delays[2]) / 16
            assert abs(summary.percentiles[99.0] - max(taken)) <= (delays[1] - delays[2]) / 16
    finally:
        twins.close()
