"""The collector's program beside the sans-IO Collector, with one clock for both."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_DROP, XDP_PASS, run_program
from dataplane.clock import ClockStatus
from dataplane.config import IPAddress, SenderSession
from dataplane.engines.driver.layouts import LocalFlag
from dataplane.engines.xdp import collector_layouts as layouts
from dataplane.engines.xdp.collection import DriverCollector
from dataplane.engines.xdp.collector_tables import CollectorTables
from dataplane.frames import Datagram, Frame, Outer
from dataplane.histogram import SUB_BUCKETS, UNIT_NS
from dataplane.measurement import TimestampMethod
from dataplane.session_state import DIRECTIONS
from dataplane.stamp.collector import Collector
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, encode_timestamp
from dataplane.statistics import DelaySummary
from dataplane.store import SessionStore
from tests.integration.engines.driver.devices import DEVICES, ONE_VLAN, TWO_VLANS
from tests.unit.stamp.network import MS, SENDER, UNIX_NS, Network, reply

CLOCK = ClockStatus(synchronized=True, error_ns=12_345, tai_offset_s=37)
KERNEL = TimestampMethod.KERNEL_SOFTWARE
SID = IPv6Address("fc00:e::d6")
DELAYS = ("forward", "backward", "round_trip")
PATH = tuple(IPv6Address(f"fc00:e::{n}") for n in range(1, 17))
NTP = ErrorEstimate(False, TimestampFormat.NTP, 3, 7)
PTP = ErrorEstimate(True, TimestampFormat.PTPV2, 0, 1)


class Node:
    """The program, with a clock that stands where it is set."""

    def __init__(self, module: BpfModule) -> None:
        self.module = module
        self.tables = CollectorTables(module)
        self.program = module.load("collector")
        self.tables.set_clock(CLOCK)
        self.tables.set_monotonic_offset(-UNIX_NS)
        self.tables.set_interfaces(DEVICES)
        self.tables.set_locals({SID: LocalFlag.DECAPSULATES_IPV6})
        self.tables.set_flags(layouts.CollectorFlag(0))

    def run(self, frame: bytes, now_ns: int) -> int:
        """What becomes of a frame that arrives at `now_ns`, of the monotonic clock."""
        self.tables.fix_clock(UNIX_NS + now_ns)
        return run_program(self.program, frame).action


class Twins:
    """Two collectors of one session, which are told the same."""

    def __init__(self, node: Node, config: SenderSession, folder: Path, now_ns: int = 0) -> None:
        self.node, self.config = node, config
        self.stores = [SessionStore.create(folder / name, config) for name in ("core", "driver")]
        core, driver = self.stores
        tai_offset_s = CLOCK.tai_offset_s
        self.core = Collector(config, core, now_ns=now_ns, tai_offset_s=tai_offset_s)
        self.driver = DriverCollector(
            config, driver, node.module, now_ns=now_ns, tai_offset_s=tai_offset_s
        )
        node.tables.ports.add(config.sender_udp_port)
        self.frame = Frame(
            Datagram(
                *(config.reflector_address, config.source_address),
                *(config.reflector_udp_port, config.sender_udp_port, b""),
            )
        )
        self.actions: list[int] = []
        self.origins: list[set[int]] = [set() for _ in range(DIRECTIONS)]
        """What each delay of the core has been about since it was cleared."""

    def close(self) -> None:
        self.driver.close()
        self.node.tables.ports.remove(self.config.sender_udp_port)
        for store in self.stores:
            store.close()

    def __getattr__(self, name: str) -> Any:
        """Anything that needs no packet is done by both."""

        def both(*arguments: Any, **named: Any) -> Any:
            result = getattr(self.core, name)(*arguments, **named)
            getattr(self.driver, name)(*arguments, **named)
            return result

        return both

    @property
    def next_sequence(self) -> int:
        return self.core.next_sequence

    @property
    def in_flight(self) -> int:
        return self.core.in_flight

    def receive(
        self, data: bytes, *, source: IPAddress, source_port: int, t4_ns: int, now_ns: int
    ) -> None:
        assert t4_ns == UNIX_NS + now_ns
        datagram = replace(
            self.frame.datagram, source=source, source_port=source_port, payload=data
        )
        self.arrive(self.frame.with_datagram(datagram), now_ns)

    def arrive(self, frame: Frame, now_ns: int) -> int:
        """A frame that the kernel would give to the session's socket."""
        datagram = frame.datagram
        action = self.node.run(frame.encode(), now_ns)
        packet: dict[str, Any] = {
            "data": datagram.payload,
            "source": datagram.source,
            "source_port": datagram.source_port,
            "t4_ns": UNIX_NS + now_ns,
            "now_ns": now_ns,
            "t4_method": KERNEL,
        }
        self.core.receive(**packet)
        current = self.stores[0].state.interval[self.stores[0].state.head.closed % 2]
        for direction, delay in enumerate(current.delay):
            if delay.origin_ns:
                self.origins[direction].add(delay.origin_ns)
        if action == XDP_PASS:
            self.driver.receive(**packet)
        else:
            assert action == XDP_DROP
        self.actions.append(action)
        return action

    def clear(self, now_ns: int) -> None:
        for collector in (self.core, self.driver):
            collector.clear(now_ns)
        for origins in self.origins:
            origins.clear()

    def compare(self, now_ns: int) -> None:
        self.core.expire(now_ns)
        self.driver.drain(now_ns)
        self.driver.expire(now_ns)
        core, driver = (store.snapshot(1_000_000) for store in self.stores)
        origins = dict(zip(DELAYS, self.origins, strict=True))
        for name in core.__dataclass_fields__:
            expected, found = getattr(core, name), getattr(driver, name)
            if name in DELAYS:
                assert_close(found, expected, origins[name])
            elif name == "intervals":
                assert len(found) == len(expected)
                for one, other in zip(found, expected, strict=True):
                    assert replace(one, forward=None, backward=None, round_trip=None) == replace(
                        other, forward=None, backward=None, round_trip=None
                    )
                    for delay in DELAYS:
                        assert_close(getattr(one, delay), getattr(other, delay), origins[delay])
            elif name != "torn_writes":
                assert found == expected, name


def assert_close(
    found: DelaySummary | None, expected: DelaySummary | None, origins: set[int]
) -> None:
    """Equal, but that a mean and a deviation may be rounded otherwise; and where the origin
    was moved, the program may have begun to count the next interval about the former one."""
    if expected is None or found is None:
        assert found == expected
        return
    rounded: dict[str, Any] = {}
    if len(origins) > 1:
        assert found.percentiles.keys() == expected.percentiles.keys()
        for percent, theirs in expected.percentiles.items():
            apart = max(abs(theirs - origin_ns) for origin_ns in origins)
            assert abs(found.percentiles[percent] - theirs) <= UNIT_NS + apart / SUB_BUCKETS
        rounded["percentiles"] = expected.percentiles
    for name in ("mean_ns", "stddev_ns", "jitter_ns"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert abs(ours - theirs) <= 1 + abs(theirs) * 1e-12, (name, ours, theirs)
        rounded[name] = theirs
    assert replace(found, **rounded) == expected


class TwinNetwork(Network):
    """The simulated network with two collectors at its end."""

    def __init__(self, twins: Twins, **options: Any) -> None:
        super().__init__(twins.stores[0], twins.config, **options)
        twins.core = self.collector
        twins.core.tai_offset_s = CLOCK.tai_offset_s
        self.collector = twins  # type: ignore[assignment]
        twins.driver.start(0, UNIX_NS)


def payload(
    sequence: int = 0,
    counter: int = 0,
    *,
    t1_ns: int = UNIX_NS,
    forward_ns: int = 2 * MS,
    error: ErrorEstimate = PTP,
    sender_error: ErrorEstimate = PTP,
    **changes: Any,
) -> bytes:
    def written(time_ns: int, estimate: ErrorEstimate) -> int:
        return encode_timestamp(time_ns, estimate.fmt, 37)

    values = {
        "error_estimate": error,
        "sender_error_estimate": sender_error,
        "sender_timestamp": written(t1_ns, sender_error),
        "receive_timestamp": written(t1_ns + forward_ns, error),
        "timestamp": written(t1_ns + forward_ns + 10_000, error),
    }
    return reply(sequence, counter, 0, 0, 0, **(values | changes))


def frame(twins: Twins, data: bytes, **fields: Any) -> Frame:
    return twins.frame.with_datagram(replace(twins.frame.datagram, payload=data, **fields))


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one VLAN": {"tags": ONE_VLAN},
    "two VLANs": {"tags": TWO_VLANS},
    "SRH": {"segments": (*PATH[:2], SENDER)},
    "long SRH": {"segments": (*PATH[:15], SENDER)},
    "encapsulated": {"outer": Outer(PATH[3], SID)},
    "encapsulated, SRH": {"outer": Outer(PATH[3], SID, (PATH[0], SID))},
    "VLAN, encapsulated, SRH": {
        "tags": ONE_VLAN,
        "outer": Outer(PATH[3], SID, (SID,)),
        "segments": (PATH[1], SENDER),
    },
}


def shaped(twins: Twins, data: bytes, form: str) -> Frame:
    fields = dict(FORMS[form])
    segments = fields.pop("segments", ())
    return replace(frame(twins, data, segments=segments), **fields)
