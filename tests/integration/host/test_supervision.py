"""Sessions live through what happens to them: actions, missing things, a host that dies."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from dataplane.config import Node, ReflectorMode, ReflectorSession, Sender, SenderSession
from dataplane.engines.base import (
    EngineError,
    HostRestarted,
    OperState,
    Role,
    SessionStateChanged,
)
from dataplane.engines.registry import ENGINES
from dataplane.host.client import EngineHost
from tests.integration.engines.network import (
    FORTH,
    Network,
    eventually,
    ip,
)
from tests.integration.host.conftest import Host, StartHost
from tests.integration.host.test_measurement import FAST, received, reflecting, sending
from tests.integration.slow_compiler import slow_compiler

pytestmark = pytest.mark.integration


def state(host: Host, ssid: int) -> OperState | None:
    status = host.engine.status().get(ssid)
    return None if status is None else status.oper_state


def until(host: Host, ssid: int, wanted: OperState) -> None:
    eventually(lambda: state(host, ssid) is wanted, f"session {ssid} {wanted.value}")


def until_restarted(host: Host, count: int) -> None:
    eventually(lambda: host.engine.restarts == count, "the host is replaced")


def until_received(host: Host, ssid: int, count: int) -> None:
    eventually(lambda: received(host, ssid) >= count, f"{count} replies")


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def until_reflecting(host: Host) -> None:
    def running() -> bool:
        status = host.engine.reflector_status()
        return status is not None and status.oper_state is OperState.RUNNING

    eventually(running, "the Session-Reflector runs")


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_killed_host_is_replaced_and_nothing_collected_is_lost(
    network: Network, start_host: StartHost, engine: str
) -> None:
    sender, reflector = start_host(network.sender), start_host(network.reflector)
    reflector.engine.apply(
        reflecting(
            ReflectorSession(5, mode=ReflectorMode.STATEFUL),
            ReflectorSession(6),
            engine=engine,
            interfaces=("vb",),
        )
    )
    until_reflecting(reflector)
    session = dataclasses.replace(
        FAST, segments=(FORTH,), reflector_mode=ReflectorMode.STATEFUL, result_depth=5_000
    )
    stopped = dataclasses.replace(FAST, ssid=6)
    sender.engine.apply(sending(session, stopped, engine=engine, interfaces=("va",)))
    sender.engine.stop(6)
    until(sender, 5, OperState.RUNNING)
    eventually(lambda: received(sender, 5) > 50, "50 replies")
    for restart in (1, 2):
        pid = sender.engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        died_at = received(sender, 5)
        assert died_at > 50
        until_restarted(sender, restart)
        until(sender, 5, OperState.RUNNING)
        until_received(sender, 5, died_at + 50)
        assert sender.engine.pid not in (None, pid)
        assert gone(pid)
    assert state(sender, 6) is OperState.STOPPED
    assert HostRestarted(1, "killed by SIGKILL") in sender.events
    snapshot = sender.engine.results.snapshot(5)
    records = sender.engine.results.fetch(5, 5_000)
    sequences = [record.sequence for record in records]
    assert sequences == sorted(set(sequences))
    assert len(records) >= snapshot.received
    # At most what was under way when the process died is missing.
    assert snapshot.unresolved <= 4
    assert snapshot.sent == snapshot.next_sequence
    assert snapshot.skipped > 0
    assert len(set(range(sequences[-1])) - set(sequences)) <= 4
    changes = [event for event in sender.events if isinstance(event, SessionStateChanged)]
    text = "the data-plane host ended: killed by SIGKILL"
    assert SessionStateChanged(5, Role.SENDER, OperState.RUNNING, OperState.FAILED, text) in changes


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_killed_reflector_keeps_its_counters(
    network: Network, start_host: StartHost, engine: str
) -> None:
    sender, reflector = start_host(network.sender), start_host(network.reflector)
    served = ReflectorSession(5, mode=ReflectorMode.STATEFUL)
    reflector.engine.apply(reflecting(served, engine=engine, interfaces=("vb",)))
    stateful = dataclasses.replace(FAST, reflector_mode=ReflectorMode.STATEFUL)
    sender.engine.apply(sending(stateful, engine=engine, interfaces=("va",)))
    until(sender, 5, OperState.RUNNING)
    eventually(lambda: received(sender, 5) > 50, "50 replies")
    os.kill(reflector.engine.pid or 0, signal.SIGKILL)
    eventually(lambda: reflector.engine.restarts == 1, "the reflector's host is replaced")
    before = received(sender, 5)
    eventually(lambda: received(sender, 5) > before + 20, "requests are answered again")
    records = sender.engine.results.fetch(5, 10_000)
    numbers = [record.reflector_sequence for record in records]
    assert numbers == sorted(set(numbers))
    status = reflector.engine.reflector_status()
    assert status is not None
    assert status.oper_state is OperState.RUNNING


def test_host_that_hangs_is_replaced(
    network: Network, start_host: StartHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplane.host.client.ACTION_TIMEOUT_S", 0.2)
    monkeypatch.setattr("dataplane.host.client.PING_INTERVAL_S", 0.1)
    monkeypatch.setattr("dataplane.host.client.PING_TIMEOUT_S", 1.0)
    sender = start_host(network.sender)
    sender.engine.apply(sending(dataclasses.replace(FAST, autostart=False)))
    pid = sender.engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineError) as refusal:
        sender.engine.start(5)
    assert str(refusal.value) == "the data-plane host did not answer in 0.2 s"
    eventually(lambda: sender.engine.restarts == 1, "the host is replaced")
    assert gone(pid)
    sender.engine.start(5)
    until(sender, 5, OperState.RUNNING)


def test_a_slow_answer_costs_nobody_a_session(
    network: Network, start_host: StartHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplane.host.client.ACTION_TIMEOUT_S", 0.2)
    sender = start_host(network.sender)
    sender.engine.apply(sending(dataclasses.replace(FAST, autostart=False)))
    pid = sender.engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(EngineError):
            sender.engine.start(5)
    finally:
        os.kill(pid, signal.SIGCONT)
    until(sender, 5, OperState.RUNNING)
    assert (sender.engine.pid, sender.engine.restarts) == (pid, 0)


def test_host_that_hangs_is_found_without_being_asked(
    network: Network, start_host: StartHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplane.host.client.PING_INTERVAL_S", 0.1)
    monkeypatch.setattr("dataplane.host.client.PING_TIMEOUT_S", 0.5)
    sender = start_host(network.sender)
    sender.engine.apply(sending(FAST))
    os.kill(sender.engine.pid or 0, signal.SIGSTOP)
    eventually(lambda: sender.engine.restarts == 1, "the host is replaced")
    assert HostRestarted(1, "the data-plane host hung for 0.5 s") in sender.events


def test_missing_address_and_interface(network: Network, start_host: StartHost) -> None:
    sender, reflector = start_host(network.sender), start_host(network.reflector)
    reflector.engine.apply(reflecting(ReflectorSession(5), source_address=IPv6Address("fd00:b::2")))
    status = reflector.engine.reflector_status()
    assert status is not None
    assert status.oper_state is OperState.FAILED
    assert status.last_error == "cannot bind [fd00:b::2]:862: Cannot assign requested address"
    session = dataclasses.replace(
        FAST, source_address=IPv6Address("fd00:a::2"), reflector_address=IPv6Address("fd00:b::2")
    )
    sender.engine.apply(sending(session, interfaces=("eth9",)))
    assert sender.engine.status()[5].last_error == "interface eth9 does not exist"
    sender.engine.apply(sending(session))
    until(sender, 5, OperState.FAILED)
    missing = "cannot bind [fd00:a::2]:49862: Cannot assign requested address"
    eventually(lambda: sender.engine.status()[5].last_error == missing, "the address is missing")
    ip("-n", network.sender, "-6", "address", "add", "fd00:a::2/64", "dev", "va", "nodad")
    ip("-n", network.reflector, "-6", "address", "add", "fd00:b::2/64", "dev", "vb", "nodad")
    until(sender, 5, OperState.RUNNING)
    eventually(lambda: received(sender, 5) > 10, "the session measures")
    sequences = [record.sequence for record in sender.engine.results.fetch(5, 10)]
    # An interface that goes away later: the results stay, and the run goes on
    # once it is back.
    ip("-n", network.sender, "link", "add", "extra", "type", "veth", "peer", "name", "other")
    sender.engine.apply(sending(session, interfaces=("va", "extra")))
    until(sender, 5, OperState.RUNNING)
    ip("-n", network.sender, "link", "delete", "extra")
    until(sender, 5, OperState.FAILED)
    assert sender.engine.status()[5].last_error == "interface extra does not exist"
    ip("-n", network.sender, "link", "add", "extra", "type", "veth", "peer", "name", "other")
    until(sender, 5, OperState.RUNNING)
    before = received(sender, 5)
    eventually(lambda: received(sender, 5) > before + 10, "the session goes on")
    sequences += [record.sequence for record in sender.engine.results.fetch(5, 10_000)]
    assert sequences == sorted(set(sequences))


def test_a_host_that_dies_while_sessions_are_starting(
    network: Network, start_host: StartHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(slow_compiler(tmp_path / "slow", 2))
    sender, reflector = start_host(network.sender), start_host(network.reflector)
    reflector.engine.apply(reflecting(ReflectorSession(5)))
    sender.engine.apply(sending(FAST, engine="xdp", interfaces=("va",)))
    assert state(sender, 5) is OperState.STARTING
    assert sender.engine.pid is not None
    os.kill(sender.engine.pid, signal.SIGKILL)
    until_restarted(sender, 1)
    until(sender, 5, OperState.RUNNING)
    until_received(sender, 5, 10)
    assert [event.new for event in sender.events if isinstance(event, SessionStateChanged)] == [
        OperState.STARTING,
        OperState.FAILED,
        OperState.RUNNING,
    ]


def test_actions(network: Network, start_host: StartHost) -> None:
    sender, reflector = start_host(network.sender), start_host(network.reflector)
    reflector.engine.apply(reflecting(ReflectorSession(5)))
    session = dataclasses.replace(FAST, autostart=False)
    sender.engine.apply(sending(session))
    assert state(sender, 5) is OperState.STOPPED

    def refused(action: str, *arguments: int) -> str:
        with pytest.raises(EngineError) as refusal:
            getattr(sender.engine, action)(*arguments)
        return str(refusal.value)

    assert refused("stop", 5) == "session 5 is not running: it is stopped"
    assert refused("start", 7) == "session 7 does not exist"
    assert refused("clear", 7) == "session 7 does not exist"
    sender.engine.start(5)
    assert state(sender, 5) is OperState.RUNNING
    assert refused("start", 5) == "session 5 is already running"
    eventually(lambda: received(sender, 5) > 5, "the session runs")
    sender.engine.stop(5)
    assert state(sender, 5) is OperState.STOPPED
    sent = sender.engine.results.snapshot(5).sent
    sender.engine.start(5, 1)
    assert sender.engine.status()[5].duration_s == 1
    assert sender.engine.status()[5].run_first_sequence == sent
    until(sender, 5, OperState.COMPLETED)
    # Slots in which the machine was busy are skipped, and counted.
    snapshot = sender.engine.results.snapshot(5)
    assert snapshot.sent + snapshot.skipped >= sent + 100
    assert snapshot.sent <= sent + 100
    sender.engine.clear(5)
    cleared = sender.engine.results.snapshot(5)
    assert (cleared.sent, cleared.received, cleared.records_pending) == (0, 0, 0)
    assert cleared.next_sequence == snapshot.next_sequence
    sender.engine.apply(sending(dataclasses.replace(session, autostart=True)))
    assert state(sender, 5) is OperState.RUNNING
    assert sender.engine.status()[5].run_first_sequence == snapshot.next_sequence
    sender.engine.apply(sending(session))
    assert state(sender, 5) is OperState.STOPPED
    sender.engine.apply(sending(session, enabled=False))
    assert state(sender, 5) is OperState.DISABLED
    assert refused("start", 5) == "the Session-Sender is disabled"
    sender.engine.apply(Node())
    assert sender.engine.status() == {}
    assert refused("start", 5) == "there is no Session-Sender"
    with pytest.raises(EngineError, match=r"^session 5 has no results$"):
        sender.engine.results.snapshot(5)
    eventually(
        lambda: (
            [event.new for event in sender.events if isinstance(event, SessionStateChanged)]
            == [
                OperState.STOPPED,
                OperState.RUNNING,
                OperState.STOPPED,
                OperState.RUNNING,
                OperState.COMPLETED,
                OperState.RUNNING,
                OperState.STOPPED,
                OperState.DISABLED,
            ]
        ),
        "every change of state is an event",
    )


def test_running_duration_keeps_its_remaining_time(network: Network, start_host: StartHost) -> None:
    sender, reflector = start_host(network.sender), start_host(network.reflector)
    reflector.engine.apply(reflecting(ReflectorSession(5), ReflectorSession(6)))
    timed = dataclasses.replace(FAST, autostart=False)
    counted = dataclasses.replace(FAST, ssid=6, packet_count=200)
    sender.engine.apply(sending(timed, counted))
    began_s = time.monotonic()
    sender.engine.start(5, 3)
    eventually(lambda: received(sender, 5) > 30, "30 replies")
    os.kill(sender.engine.pid or 0, signal.SIGKILL)
    until(sender, 5, OperState.COMPLETED)
    until(sender, 6, OperState.COMPLETED)
    assert time.monotonic() - began_s > 2.9
    snapshot = sender.engine.results.snapshot(5)
    assert 280 <= snapshot.sent + snapshot.skipped <= 302
    assert snapshot.skipped > 0
    assert sender.engine.results.snapshot(6).sent == 200


def test_refused_configuration_changes_nothing(network: Network, start_host: StartHost) -> None:
    sender = start_host(network.sender)
    sender.engine.apply(sending(FAST))
    before = sender.engine.status()
    mixed = SenderSession(6, IPv4Address("192.0.2.1"), IPv6Address("fd00:a::1"))
    node = sending(FAST, mixed)
    text = "session 6: source fd00:a::1 and reflector 192.0.2.1 are of different address families"
    with pytest.raises(EngineError) as refusal:
        sender.engine.apply(node)
    assert str(refusal.value) == text
    with pytest.raises(EngineError, match=r"^there is no engine warp; there are: "):
        sender.engine.apply(Node(sender=Sender(engine="warp")))
    assert sender.engine.status() == before
    assert sender.engine.restarts == 0


def test_close_leaves_nothing_behind(network: Network, start_host: StartHost) -> None:
    sender = start_host(network.sender)
    sender.engine.apply(sending(FAST))
    sender.engine.apply(
        dataclasses.replace(sending(FAST), reflector=reflecting(ReflectorSession(5)).reflector)
    )
    pid = sender.engine.pid
    assert pid is not None
    with pytest.raises(EngineError, match=r"^state folder .* is in use by another process$"):
        EngineHost(sender.state_dir, sender.events.append)
    assert sorted(path.name for path in sender.state_dir.iterdir()) == [
        "lock",
        "reflector.store",
        "session-5.store",
    ]
    sender.engine.close()
    sender.engine.close()
    assert gone(pid)
    assert not sender.state_dir.exists()
    with pytest.raises(EngineError, match=r"^the data-plane host is not running$"):
        sender.engine.start(5)


def test_host_ends_with_its_supervisor(network: Network, tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\n"
        "from dataplane.host.client import EngineHost\n"
        "from dataplane.config import Node\n"
        "host = EngineHost(pathlib.Path(sys.argv[1]), lambda event: None)\n"
        "host.apply(Node())\n"
        "print(host.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "state")], stdout=subprocess.PIPE, text=True
    )
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    assert not gone(pid)
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    eventually(lambda: gone(pid), "the host process ends")


def test_a_thousand_sessions(network: Network, start_host: StartHost) -> None:
    sender, reflector = start_host(network.sender), start_host(network.reflector)
    ssids = range(1, 1001)
    reflector.engine.apply(reflecting(*(ReflectorSession(ssid) for ssid in ssids)))
    sessions = [
        dataclasses.replace(
            FAST,
            ssid=ssid,
            interval_us=1_000_000,
            segments=(FORTH,) if ssid % 2 else (),
            packet_count=4,
            result_depth=100,
        )
        for ssid in ssids
    ]
    sender.engine.apply(sending(*sessions))
    eventually(
        lambda: all(
            status.oper_state is OperState.COMPLETED for status in sender.engine.status().values()
        ),
        "all runs complete",
    )
    snapshots = [sender.engine.results.snapshot(ssid) for ssid in ssids]
    assert [snapshot.sent for snapshot in snapshots] == [4] * 1000
    assert [snapshot.received for snapshot in snapshots] == [4] * 1000
