"""What the collector's program counts, against the sans-IO Collector: whatever happens to
packets, and whatever is done with a session."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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
