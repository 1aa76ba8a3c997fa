"""What the collector's program is told beside its sessions, and what it counts."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import lookup_per_cpu
from dataplane.clock import ClockStatus
from dataplane.config import IPAddress
from dataplane.engines.xdp import collector_layouts as layouts
from dataplane.engines.xdp.collector_layouts import AdmittedFlag, CollectorFlag, CollectorUp
from dataplane.engines.xdp.interfaces import Device, Place
from dataplane.engines.xdp.layouts import CLOCK, LocalFlag
from dataplane.engines.xdp.tables import Mirror, interface_key, interface_value, packed
from dataplane.stamp.timestamp import NS_PER_S


@dataclass(frozen=True, slots=True)
class CollectorCounts:
    """What the program has done with packets to Session-Sender ports, on all CPUs."""

    collected: int
    duplicates: int
    late: int
    handed_up: dict[CollectorUp, int]


class CollectorTables:
    """The maps of one loaded collector, those of its sessions aside."""

    def __init__(self, module: BpfModule) -> None:
        self._config = module.array("collector_configs", layouts.COLLECTOR_CONFIG)
        self._ports = module.array("collector_ports", np.uint64)
        self._admitted = module.array("collector_interfaces", np.uint64)
        self._clock = module.array("clocks", CLOCK)
        self._counts_fd = module.map_fd("collector_counts")
        self._locals = Mirror(module.map_fd("locals"))
        self._interfaces = Mirror(module.map_fd("interfaces"))
        self._users: Counter[int] = Counter()

    def set_clock(self, status: ClockStatus) -> None:
        """What timestamps need to know beside CLOCK_TAI."""
        self._clock["tai_offset_s"] = status.tai_offset_s

    def set_monotonic_offset(self, offset_ns: int) -> None:
        """CLOCK_MONOTONIC minus CLOCK_REALTIME: to be set anew before it can have changed
        by more than matters to loss timeouts."""
        tai_ns = int(self._clock["tai_offset_s"][0]) * NS_PER_S
        self._config["monotonic_offset_ns"] = (offset_ns - tai_ns) % (1 << 64)

    def set_flags(self, flags: CollectorFlag) -> None:
        self._config["flags"] = int(flags)

    def set_locals(self, known: dict[IPAddress, LocalFlag]) -> None:
        """SIDs of this node that decapsulate, all of them."""
        self._locals.set({packed(sid): _uint32(int(flags)) for sid, flags in known.items()})

    def set_interfaces(self, devices: Mapping[Place, Device]) -> None:
        """Network devices that replies may arrive on, as in `ReflectorTables`.

        Those with an index beyond the map's are served by user space.
        """
        self._interfaces.set(
            {interface_key(place): interface_value(device) for place, device in devices.items()}
        )
        admitted = np.zeros(layouts.COLLECTOR_INTERFACES, np.uint64)
        for place, device in devices.items():
            if not place.vlans and place.ifindex < len(admitted):
                flags = AdmittedFlag.ADMITTED
                if device.takes_srh:
                    flags |= AdmittedFlag.SRV6
                admitted[place.ifindex] = int.from_bytes(device.mac, sys.byteorder) | int(flags)
        self._admitted[:] = admitted

    def add_port(self, port: int) -> None:
        """A socket of a Session-Sender is open on this UDP port."""
        self._users[port] += 1
        self._mark(port)

    def remove_port(self, port: int) -> None:
        """One is closed."""
        self._users[port] -= 1
        self._mark(port)

    def _mark(self, port: int) -> None:
        bit = np.uint64(1 << port % 64)
        if self._users[port]:
            self._ports[port // 64] |= bit
        else:
            self._ports[port // 64] &= ~bit

    def counts(self) -> CollectorCounts:
        """Everything that the program has counted since it was loaded."""
        kind = layouts.COLLECTOR_COUNTERS
        total = np.zeros((), kind)
        for cpu in lookup_per_cpu(self._counts_fd, bytes(4), kind.itemsize):
            here = np.frombuffer(cpu, kind)[0]
            for name in kind.names or ():
                total[name] += here[name]
        return CollectorCounts(
            int(total["collected"]),
            int(total["duplicates"]),
            int(total["late"]),
            {reason: int(total["handed_up"][reason]) for reason in CollectorUp},
        )

    def fix_clock(self, t4_ns: int) -> None:
        """For a program with FIXED_CLOCK: what it reads, in nanoseconds since 1970 UTC."""
        offset_ns = int(self._clock["tai_offset_s"][0]) * NS_PER_S
        self._clock["fixed_ns"] = t4_ns + offset_ns, 0


def _uint32(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)
