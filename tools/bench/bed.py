"""The bed: two namespaces joined by two veth pairs, every part on its core.

The generator, its sinks and everything that observes run on one core; what the
system under test does, in the kernel or in a process, runs on the other. The
kernel's part is what the interface's NAPI thread does: threaded NAPI is what makes
it possible to say where. See `topology` for the addresses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.bench import topology
from tools.bench.capacity import Capacity
from tools.bench.errors import BenchError
from tools.bench.frames import GENERATOR_MAC, SYSTEM_MAC
from tools.bench.generator import Generator
from tools.bench.namespace import inside, place_napi, scheduled
from tools.bench.sink import Sinks
from tools.lab.kernel import delete_namespace, in_namespace, ip_batch, run, set_sysctls

GENERATOR_CORE = 0
SYSTEM_CORE = 1

SINK_PRIORITY = 10
"""Real-time priority of the sinks' threads: packets that nobody counts would look lost."""

_SYSTEM_SYSCTLS = {
    "forwarding": 1,
    "seg6_enabled": 1,
    "accept_dad": 0,
    "dad_transmits": 0,
    "accept_ra": 0,
    "addr_gen_mode": 1,
}
_SNMP6 = "/proc/net/snmp6"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things run."""

    generator_core: int = GENERATOR_CORE
    system_core: int = SYSTEM_CORE
    tag: str = "bench"
    """Part of the namespaces' names, which are unique on the machine."""

    frame_max: int = 512
    """Bytes of the longest frame that is to be generated; the generator writes so
    many for each."""


class Bed:
    """Built by entering it, gone when it is left."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.capacity = Capacity()
        tag = f"stamp-{self.settings.tag}-{os.getpid()}"
        self.generator_namespace = f"{tag}-generator"
        self.system_namespace = f"{tag}-system"
        self._sinks: Sinks | None = None
        self._generator: Generator | None = None
        self._system_napi: list[int] = []

    @property
    def generator(self) -> Generator:
        assert self._generator is not None
        return self._generator

    @property
    def sinks(self) -> Sinks:
        assert self._sinks is not None
        return self._sinks

    def __enter__(self) -> Bed:
        if os.cpu_count() == 1:
            raise BenchError("the bed needs two cores: one generates, one is measured")
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._generator is not None:
            self._generator.close()
            self._generator = None
        if self._sinks is not None:
            self._sinks.close()
            self._sinks = None
        for namespace in (self.generator_namespace, self.system_namespace):
            delete_namespace(namespace)

    def _build(self) -> None:
        generator, system = self.generator_namespace, self.system_namespace
        for namespace in (generator, system):
            run(["ip", "netns", "add", namespace])
        set_sysctls(
            generator, [f"net/ipv6/conf/{scope}/disable_ipv6=1" for scope in ("all", "default")]
        )
        set_sysctls(
            system,
            [
                f"net/ipv6/conf/{scope}/{key}={value}"
                for scope in ("all", "default")
                for key, value in _SYSTEM_SYSCTLS.items()
            ],
        )
        for device in (topology.NEAR, topology.FAR):
            ip_batch(
                None,
                [
                    f"link add name {device} netns {generator} "
                    f"type veth peer name {device} netns {system}"
                ],
            )
        self._address_system()
        ip_batch(generator, [f"link set {device} up" for device in (topology.NEAR, topology.FAR)])
        # NAPI, without which a veth takes no redirected frames.
        run(in_namespace(system, ["ethtool", "-K", topology.NEAR, "gro", "on"]))
        self._sinks = Sinks()
        self._sinks.attach("sink_near", generator, topology.NEAR)
        self._sinks.attach("sink_far", generator, topology.FAR)
        for device in (topology.NEAR, topology.FAR):
            place_napi(generator, device, self.settings.generator_core, SINK_PRIORITY)
        self._system_napi = place_napi(system, topology.NEAR, self.settings.system_core)
        self._generator = Generator(
            generator, topology.NEAR, self.settings.generator_core, self.settings.frame_max
        )

    def _address_system(self) -> None:
        near, far = topology.NEAR, topology.FAR
        mac, peer_mac = SYSTEM_MAC.hex(":"), GENERATOR_MAC.hex(":")
        segments = ",".join(map(str, topology.TUNNEL))
        ip_batch(
            self.system_namespace,
            [
                "link set lo up",
                f"link set {near} address {mac} up",
                f"link set {far} up",
                f"address add {topology.SYSTEM}/64 dev {near} nodad",
                f"address add {topology.FAR_SYSTEM}/64 dev {far} nodad",
                *(
                    f"neighbour replace {peer} lladdr {peer_mac} dev {device} nud permanent"
                    for peer, device in (
                        (topology.GENERATOR, near),
                        (topology.FAR_GENERATOR, far),
                    )
                ),
                f"route add {topology.BACK}/64 via {topology.GENERATOR} dev {near}",
                f"route add {topology.TUNNELS} via {topology.FAR_GENERATOR} dev {far}",
                f"route add {topology.CUSTOMERS} encap seg6 mode encap segs {segments} dev {far}",
            ],
        )

    def kernel_waited_ns(self) -> int:
        """For how long the system's part in the kernel has had to wait for its core so far."""
        return sum(scheduled(pid)[1] for pid in self._system_napi)

    def drops(self) -> dict[str, int]:
        """Packets that did not get through so far, by where: counters that only grow."""
        return dict(self._drops())

    def _drops(self) -> Iterator[tuple[str, int]]:
        statistics = self._ethtool(self.generator_namespace, topology.NEAR)
        yield "system-ring-full", statistics.get("tx_queue_0_xdp_xmit_errors", 0)
        for device in (topology.NEAR, topology.FAR):
            link = self._link(self.system_namespace, device)
            yield f"system-{device}-rx-dropped", link["rx"]["dropped"]
            yield f"sink-{device}-ring-full", link["tx"]["dropped"]
            # XDP_TX and XDP_REDIRECT towards the sink.
            own = self._ethtool(self.system_namespace, device)
            yield f"sink-{device}-xdp-refused", own.get("tx_queue_0_xdp_xmit_errors", 0)
            yield f"system-{device}-tx-errors", own.get("rx_queue_0_xdp_tx_errors", 0)
        with inside(self.system_namespace):
            text = Path("/proc/thread-self" + _SNMP6.removeprefix("/proc")).read_text()
        for line in text.splitlines():
            name, value = line.split()
            if any(word in name for word in ("Discards", "Errors", "NoRoutes", "NoPorts")):
                yield f"kernel-{name}", int(value)

    def _ethtool(self, namespace: str, device: str) -> dict[str, int]:
        found = {}
        for line in run(in_namespace(namespace, ["ethtool", "-S", device])).splitlines():
            name, _, value = line.strip().partition(": ")
            if value.isdigit():
                found[name] = int(value)
        return found

    def _link(self, namespace: str, device: str) -> dict[str, dict[str, int]]:
        text = run(["ip", "-n", namespace, "-s", "-j", "link", "show", "dev", device])
        found: dict[str, dict[str, int]] = json.loads(text)[0]["stats64"]
        return found
