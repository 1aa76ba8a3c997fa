"""Each engine as Session-Sender against each as Session-Reflector, over SRv6."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from dataplane.config import (
    Node,
    Reflector,
    ReflectorMode,
    ReflectorSession,
    Sender,
    SenderSession,
)
from dataplane.engines import registry
from dataplane.engines.base import (
    EngineContext,
    OperState,
    ReflectorStatusReport,
    Report,
    Role,
)
from dataplane.host.results import Results
from dataplane.measurement import Record
from dataplane.stamp.timestamp import TimestampFormat
from tests.integration.engines.network import (
    BACK,
    FORTH,
    REFLECTOR,
    SENDER,
    Network,
    eventually,
    inside,
    ip,
    sysctl,
)

pytestmark = pytest.mark.integration

SESSION = SenderSession(
    5,
    REFLECTOR,
    SENDER,
    interval_us=20_000,
    segments=(FORTH,),
    reflector_mode=ReflectorMode.STATEFUL,
    packet_count=30,
)
SERVED = ReflectorSession(5, segments=(BACK,), mode=ReflectorMode.STATEFUL)

PAIRS = list(itertools.product(sorted(registry.ENGINES), repeat=2))


class Running:
    """An engine in one of the network's namespaces."""

    def __init__(self, namespace: str, name: str, folder: Path) -> None:
        self.results = Results(folder)
        self._reports: list[Report] = []
        with inside(namespace):
            self.engine = registry.create(name, EngineContext(folder, self._reports.append))

    def reflect(self, node: Node) -> None:
        """Configure a Session-Reflector, and wait until it serves."""
        self.engine.configure(node)
        eventually(self._reflects, "the Session-Reflector runs")

    def reflected(self, served: ReflectorSession) -> int:
        snapshot = self.results.reflector()
        assert snapshot is not None
        assert not any(snapshot.discards.values())
        return snapshot.sessions[served.key].reflected

    def _reflects(self) -> bool:
        return any(
            isinstance(report, ReflectorStatusReport)
            and report.status is not None
            and report.status.oper_state is OperState.RUNNING
            for report in self._reports
        )


@contextlib.contextmanager
def engine(namespace: str, name: str) -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder:
        running = Running(namespace, name, Path(folder))
        try:
            yield running
        finally:
            running.engine.close()
            running.results.remove_all()


def nodes(
    names: tuple[str, str], session: SenderSession, served: ReflectorSession
) -> tuple[Node, Node]:
    reflector = Reflector(engine=names[1], interfaces=("vb",), sessions={served.key: served})
    needed = registry.capabilities(names[0]).needs_interfaces
    sender = Sender(
        engine=names[0],
        interfaces=("va",) if needed else (),
        sessions={session.ssid: session},
    )
    return Node(sender=sender), Node(reflector=reflector)


def refused(names: tuple[str, str], sender: Node, reflector: Node) -> bool:
    """Whether one of the two lacks its role; it then says so."""
    lacking = False
    for name, node, role in zip(
        names, (sender, reflector), (Role.SENDER, Role.REFLECTOR), strict=True
    ):
        if role not in registry.capabilities(name).roles:
            lacking = True
            text = "Session-Sender" if role is Role.SENDER else "Session-Reflector"
            assert list(registry.refusals(node)) == [f"engine {name} has no {text}"]
        else:
            assert not list(registry.refusals(node))
    return lacking


def measured(
    network: Network, names: tuple[str, str], sender: Node, reflector: Node
) -> list[Record]:
    """Records of the 30 packets of session 5, all of which are answered."""
    with (
        engine(network.reflector, names[1]) as answering,
        engine(network.sender, names[0]) as measuring,
    ):
        answering.reflect(reflector)
        measuring.engine.configure(sender)
        results = measuring.results
        eventually(lambda: results.snapshot(5).received == 30, "30 replies")
        snapshot = results.snapshot(5)
        assert (snapshot.sent, snapshot.loss.round_trip, snapshot.duplicates) == (30, 0, 0)
        records = results.fetch(5, 100)
        assert [record.sequence for record in records] == list(range(30))
        assert [record.reflector_sequence for record in records] == list(range(30))
        for record in records:
            assert record.t1_ns <= record.t2_ns < record.t3_ns <= record.t4_ns
        assert reflector.reflector is not None
        [served] = reflector.reflector.sessions.values()
        eventually(lambda: answering.reflected(served) == 30, "30 are counted as reflected")
        return records


@pytest.mark.parametrize("fmt", TimestampFormat, ids=str)
@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_pairs_measure(network: Network, names: tuple[str, str], fmt: TimestampFormat) -> None:
    session = dataclasses.replace(SESSION, timestamp_format=fmt)
    sender, reflector = nodes(names, session, SERVED)
    if refused(names, sender, reflector):
        return
    for record in measured(network, names, sender, reflector):
        assert record.t4_ns - record.t1_ns < 1_000_000_000
        # A router on the way, and where the kernel adds the SRH, that too, cost a hop.
        assert record.sender_ttl in (253, 254)


OURS, THEIRS = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.65")
TO_OURS, TO_THEIRS = IPv6Address("fc00:a::d4"), IPv6Address("fc00:b::d4")
"""SIDs with the behaviour End.DX4."""


def routed(network: Network) -> None:
    """IPv4, as it is."""
    sysctl(network.router, "net.ipv4.ip_forward", 1)
    for node, near, far, address, gateway in (
        (network.sender, "va", "ra", OURS, "192.0.2.2"),
        (network.reflector, "vb", "rb", THEIRS, "192.0.2.66"),
    ):
        ip("-n", node, "address", "add", f"{address}/26", "dev", near)
        ip("-n", network.router, "address", "add", f"{gateway}/26", "dev", far)
        ip("-n", node, "route", "add", "default", "via", gateway)


def in_srv6(network: Network) -> None:
    """H.Encaps by a route of each end, End.DX4 at the other; the router knows no IPv4."""
    for node, near, far, address, there, sid, path, prefix, via in (
        (network.sender, "va", "ra", OURS, "192.0.2.64/26", TO_OURS, (FORTH, TO_THEIRS),
         "fc00:a::/32", SENDER),
        (network.reflector, "vb", "rb", THEIRS, "192.0.2.0/26", TO_THEIRS, (BACK, TO_OURS),
         "fc00:b::/32", REFLECTOR),
    ):  # fmt: skip
        ip("-n", node, "address", "add", f"{address}/26", "dev", near)
        segments = ",".join(map(str, path))
        encapsulation = ("encap", "seg6", "mode", "encap", "segs", segments)
        ip("-n", node, "route", "add", there, *encapsulation, "dev", near)
        behaviour = ("encap", "seg6local", "action", "End.DX4", "nh4", "0.0.0.0")
        ip("-n", node, "-6", "route", "add", str(sid), *behaviour, "dev", near)
        ip("-n", network.router, "-6", "route", "add", prefix, "via", str(via), "dev", far)


@pytest.mark.parametrize("way", [routed, in_srv6])
@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_pairs_over_ipv4(
    network: Network, names: tuple[str, str], way: Callable[[Network], None]
) -> None:
    """Measured where both can, refused by each that cannot."""
    session = SenderSession(
        *(5, THEIRS, OURS),
        interval_us=20_000,
        packet_count=30,
        dscp=46,
        reflector_mode=ReflectorMode.STATEFUL,
    )
    served = ReflectorSession(5, OURS, mode=ReflectorMode.STATEFUL)
    sender, reflector = nodes(names, session, served)
    lacking = False
    for name, node, who in zip(
        names, (sender, reflector), ("session", "reflector session"), strict=True
    ):
        if 4 not in registry.capabilities(name).address_families:
            lacking = True
            assert list(registry.refusals(node)) == [
                f"{who} 5: engine {name} does not support IPv4"
            ]
    if lacking:
        return
    way(network)
    for record in measured(network, names, sender, reflector):
        # To the encapsulated packet the path is one hop.
        assert record.sender_ttl == (254 if way is routed else 255)


@pytest.mark.parametrize("name", sorted(registry.ENGINES))
def test_both_roles_of_one_engine(network: Network, name: str) -> None:
    """A node that is Session-Sender and Session-Reflector measures another such node."""
    back = SenderSession(6, SENDER, REFLECTOR, interval_us=20_000, packet_count=20)
    forth = dataclasses.replace(back, ssid=7, reflector_address=REFLECTOR, source_address=SENDER)
    served = {(ssid, None): ReflectorSession(ssid) for ssid in (6, 7)}
    both = [
        Node(
            sender=Sender(
                engine=name,
                interfaces=(interface,) if registry.capabilities(name).needs_interfaces else (),
                sessions={session.ssid: session},
            ),
            reflector=Reflector(engine=name, interfaces=(interface,), sessions=dict(served)),
        )
        for session, interface in ((forth, "va"), (back, "vb"))
    ]
    if len(registry.capabilities(name).roles) < len(Role):
        assert all(list(registry.refusals(node)) for node in both)
        return
    with (
        engine(network.sender, name) as here,
        engine(network.reflector, name) as there,
    ):
        for running, node in ((here, both[0]), (there, both[1])):
            running.reflect(dataclasses.replace(node, sender=None))
        for running, node in ((here, both[0]), (there, both[1])):
            running.engine.configure(node)
        eventually(lambda: here.results.snapshot(7).received == 20, "20 replies")
        eventually(lambda: there.results.snapshot(6).received == 20, "20 replies")
