"""Sessions as a network element would report them, made of a known truth."""

from __future__ import annotations

import random

from tools.demo.truth import MeasuredPath, measured_paths
from tools.lab.plan import plan_lab
from tools.lab.topology import DEFAULT_TOPOLOGY, load_topology
from tools.stamp_client import DelayStatistics, Loss, Record, SenderSessionState

TOPOLOGY = load_topology(DEFAULT_TOPOLOGY)
PLAN = plan_lab(TOPOLOGY, "demo")
PATHS = measured_paths(TOPOLOGY, PLAN)
CORE1, CORE2 = PATHS
INTERVAL_NS = 10_000_000
EPOCH_NS = 1_700_000_000_000_000_000


def make_records(
    path: MeasuredPath,
    sent: int,
    lost_forward: frozenset[int] = frozenset(),
    lost_backward: frozenset[int] = frozenset(),
    error_ns: int = 0,
) -> tuple[Record, ...]:
    """Records of a session with a stateful reflector; `error_ns` is added to both delays."""
    noise = random.Random(path.ssid)
    records, reflected = [], 0
    for sequence in range(sent):
        if sequence in lost_forward:
            continue
        number = reflected
        reflected += 1
        if sequence in lost_backward:
            continue
        forward_ns = path.forward.delay_ns + error_ns + noise.randint(0, 20_000)
        backward_ns = path.backward.delay_ns + error_ns + noise.randint(0, 20_000)
        t1 = EPOCH_NS + sequence * INTERVAL_NS
        t2 = t1 + forward_ns
        t3 = t2 + 30_000
        records.append(
            Record(
                sequence=sequence,
                reflector_sequence=number,
                t1=t1,
                t2=t2,
                t3=t3,
                t4=t3 + backward_ns,
                forward_delay=forward_ns,
                backward_delay=backward_ns,
                round_trip_delay=forward_ns + backward_ns,
                session_sender_ttl=253,
            )
        )
    return tuple(records)


def make_state(
    path: MeasuredPath,
    records: tuple[Record, ...],
    sent: int,
    loss: Loss,
    oper_state: str = "completed",
) -> SenderSessionState:
    """The state whose statistics are those of the records."""
    means = {
        name: round(sum(values) / len(values))
        for name, values in {
            "forward": [r.forward_delay or 0 for r in records],
            "backward": [r.backward_delay or 0 for r in records],
            "round-trip": [r.round_trip_delay or 0 for r in records],
        }.items()
    }
    return SenderSessionState(
        ssid=path.ssid,
        path=path.name,
        reflector_address=None,
        oper_state=oper_state,
        last_error=None,
        counters={"sent": sent, "received": len(records)},
        delay={
            name: DelayStatistics(samples=len(records), mean_ns=mean_ns, stddev_ns=5_000)
            for name, mean_ns in means.items()
        },
        loss=loss,
        results_available=len(records),
    )
