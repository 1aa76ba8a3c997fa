"""What the collector's program is told beside its sessions, and what it counts."""

from __future__ import annotations

import sys
from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import lookup_per_cpu
from dataplane.engines.driver.interfaces import Device, Place
from dataplane.engines.driver.tables import NodeTables, Ports
from dataplane.engines.xdp import collector_layouts as layouts
from dataplane.engines.xdp.collector_layouts import AdmittedFlag, CollectorFlag, CollectorUp
from dataplane.stamp.timestamp import NS_PER_S


@dataclass(frozen=True, slots=True)
class CollectorCounts:
    """What the program has done with packets to Session-Sender ports, on all CPUs."""

    collected: int
    duplicates: int
    late: int
    handed_up: dict[CollectorUp, int]


class CollectorTables(NodeTables):
    """The maps of one loaded collector, those of its sessions aside."""

    def __init__(self, module: BpfModule) -> None:
        super().__init__(module)
        self._config = module.array("collector_configs", layouts.COLLECTOR_CONFIG)
        self._admitted = module.array("collector_interfaces", np.uint64)
        self._counts_fd = module.map_fd("collector_counts")
        self.ports = Ports(module.array("collector_ports", np.uint64))
        """Those that sockets of a Session-Sender are open on."""

    def set_monotonic_offset(self, offset_ns: int) -> None:
        """CLOCK_MONOTONIC minus CLOCK_REALTIME: to be set anew before it can have changed
        by more than matters to loss timeouts."""
        tai_ns = int(self._clock["tai_offset_s"][0]) * NS_PER_S
        self._config["monotonic_offset_ns"] = (offset_ns - tai_ns) % (1 << 64)

    def set_flags(self, flags: CollectorFlag) -> None:
        self._config["flags"] = int(flags)

    def set_interfaces(self, devices: Mapping[Place, Device], generic: Container[int] = ()) -> None:
        """Network devices that replies may arrive on; see `NodeTables`.

        Those with an index beyond the map's are served by user space.
        """
        super().set_interfaces(devices, generic)
        admitted = np.zeros(layouts.COLLECTOR_INTERFACES, np.uint64)
        for place, device in devices.items():
            if not place.vlans and place.ifindex < len(admitted):
                flags = AdmittedFlag.ADMITTED
                if device.takes_srh:
                    flags |= AdmittedFlag.SRV6
                if device.requires_hmac:
                    flags |= AdmittedFlag.SIGNED
                admitted[place.ifindex] = int.from_bytes(device.mac, sys.byteorder) | int(flags)
        self._admitted[:] = admitted

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
