"""What the collector finds against what the simulated network did."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.config import ReflectorMode
from dataplane.statistics import LossSummary
from tests.unit.stamp.network import BACKWARD_LOST, FINE, FORWARD_LOST, MS, Fate, Network, S

DUPLICATED_BACKWARD = Fate(((2 * MS, (3 * MS, 4 * MS)),))
DUPLICATED_FORWARD = Fate(((2 * MS, (3 * MS,)), (3 * MS, (3 * MS,))))

in_order = st.sampled_from([FINE, FORWARD_LOST, BACKWARD_LOST, DUPLICATED_BACKWARD])
delays = st.integers(0, 45).map(lambda delay: delay * MS)
overtaking = st.one_of(
    st.just(FORWARD_LOST),
    st.tuples(delays, st.lists(delays, max_size=1).map(tuple)).map(lambda copy: Fate((copy,))),
)
anything = st.lists(st.tuples(delays, st.lists(delays, max_size=3).map(tuple)), max_size=3).map(
    lambda copies: Fate(tuple(copies))
)


def lost(fates: list[Fate]) -> tuple[int, int]:
    """How many were lost forward and backward."""
    forward = sum(not fate.copies for fate in fates)
    return forward, sum(not any(replies for _, replies in f.copies) for f in fates) - forward


@settings(max_examples=60)
@given(st.lists(in_order, max_size=150), st.integers(0, 2**32 - 1), st.integers(-S, S))
def test_losses_by_direction_are_exact(fates: list[Fate], counter: int, offset_ns: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        network = Network.make(Path(folder), counter=counter, offset_ns=offset_ns)
        network.send([FINE, *fates, FINE])
        network.drain()
        snapshot = network.store.snapshot()
        forward, backward = lost(fates)
        assert snapshot.loss == LossSummary(forward + backward, forward, backward, 0)
        assert snapshot.duplicates == fates.count(DUPLICATED_BACKWARD)
        assert snapshot.received == len(fates) + 2 - forward - backward
        assert snapshot.forward.mean_ns == 2 * MS + offset_ns
        assert snapshot.backward is not None
        assert snapshot.backward.mean_ns == 3 * MS - offset_ns
        assert snapshot.round_trip is not None
        assert snapshot.round_trip.max_ns == 5 * MS


@settings(max_examples=60)
@given(st.lists(overtaking, max_size=80))
def test_losses_are_exact_when_packets_overtake_each_other(fates: list[Fate]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        network = Network.make(Path(folder))
        network.send([FINE])
        network.run(100 * MS)
        network.send(fates)
        network.drain()
        network.now_ns += S
        network.send([FINE, FINE])
        network.drain()
        forward, backward = lost(fates)
        loss = network.store.snapshot().loss
        assert loss.round_trip == forward + backward
        assert loss.forward is not None
        assert loss.backward is not None
        assert loss.forward <= forward
        assert loss.backward <= backward


@settings(max_examples=60)
@given(
    st.lists(anything, min_size=1, max_size=80),
    st.sampled_from(ReflectorMode),
    st.sampled_from([None, 0, 5, 2**31]),
)
def test_everything_adds_up_at_every_moment(
    fates: list[Fate], mode: ReflectorMode, restart_at: int | None
) -> None:
    """Whatever is lost, duplicated, reordered, and though the reflector restarts."""
    with tempfile.TemporaryDirectory() as folder:
        network = Network.make(Path(folder), reflector_mode=mode)

        def check() -> None:
            snapshot = network.store.snapshot()
            loss = snapshot.loss
            parts = [part or 0 for part in (loss.forward, loss.backward)]
            assert min(*parts, loss.undetermined) >= 0
            assert sum(parts) + loss.undetermined == loss.round_trip
            assert snapshot.consistent
            settled = snapshot.received + snapshot.in_flight + snapshot.unresolved
            assert snapshot.sent == settled + loss.round_trip
            assert snapshot.forward.samples == snapshot.received

        network.published = check
        network.send(fates)
        network.run(len(fates) * 5 * MS)
        if restart_at is not None:
            network.counter = restart_at
        network.drain()
        network.run(network.now_ns + S)
        snapshot = network.store.snapshot()
        copies = [reply for fate in fates for _, replies in fate.copies for reply in replies]
        answered = sum(any(replies for _, replies in fate.copies) for fate in fates)
        assert snapshot.sent == len(fates)
        assert snapshot.received == answered
        assert snapshot.duplicates == len(copies) - answered
        for name in ("sent", "received", "duplicates", "reordered", "late"):
            total = sum(getattr(interval, name) for interval in snapshot.intervals)
            assert total == getattr(snapshot, name)
        assert sum(i.loss.round_trip for i in snapshot.intervals) == snapshot.loss.round_trip
