"""What the paper has not measured, each on a small scale, and that nothing stays behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.config import STAMP_PORT, Node, Sender, SenderSession
from tools.bench.beyond import (
    control_plane,
    data_traffic,
    footprint,
    packet_cost,
    schedule,
    timestamps,
)
from tools.bench.beyond.capture import Capture
from tools.bench.beyond.packets import select
from tools.bench.beyond.pair import DEVICE, REFERENCE_ENGINE, End, Pair
from tools.bench.beyond.schedule import Case
from tools.bench.errors import BenchError
from tools.bench.extras import TimestampError, quantile_ns
from tools.bench.namespace import inside
from tools.bench.systems import BARE_PROGRAMS
from tools.lab import processes
from tools.lab.kernel import existing_namespaces
from tools.lab.state import RUN_FOLDER

pytestmark = pytest.mark.integration

ENGINE = REFERENCE_ENGINE
SHORT = timestamps.Settings(duration_s=0.3)
SMALL = footprint.Settings(sessions=(1, 5), sample_s=0.2)


def remains() -> list[str]:
    """Whatever of ours is still on this machine."""
    own = processes.identify(os.getpid())
    assert own is not None
    found = [str(process.pid) for process in processes.family([own]) if process != own]
    for folder in (Path("/dev/shm"), RUN_FOLDER):
        if folder.is_dir():
            found += [e.name for e in folder.iterdir() if f"bench-{os.getpid()}" in e.name]
    return found + [name for name in existing_namespaces() if f"bench-{os.getpid()}-" in name]


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    affinity, home = os.sched_getaffinity(0), os.readlink("/proc/thread-self/ns/net")
    yield
    assert remains() == []
    assert os.sched_getaffinity(0) == affinity
    assert os.readlink("/proc/thread-self/ns/net") == home


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair() as built:
        yield built


def udp_socket(end: End, port: int) -> socket.socket:
    with inside(end.namespace):
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made.bind((str(end.address), port))
    return made


def stamp(sequence: int, ssid: int, sender_sequence: int = 0) -> bytes:
    """As much of a STAMP packet as a capture reads."""
    head = sequence.to_bytes(4, "big") + bytes(10) + ssid.to_bytes(2, "big") + bytes(8)
    return head + sender_sequence.to_bytes(4, "big") + bytes(16)


def test_a_capture_sees_requests_and_replies_at_both_ends(pair: Pair) -> None:
    captures = [
        pair.keep(Capture(end.namespace, DEVICE, STAMP_PORT, 100))
        for end in (pair.sender, pair.reflector)
    ]
    with udp_socket(pair.sender, 5_000) as near, udp_socket(pair.reflector, STAMP_PORT) as far:
        start_ns = time.time_ns()
        near.sendto(stamp(7, 300), (str(pair.reflector.address), STAMP_PORT))
        assert far.recv(100)
        far.sendto(stamp(9, 300, 7), (str(pair.sender.address), 5_000))
        assert near.recv(100)
        far.sendto(b"not STAMP at all", (str(pair.sender.address), 5_001))
        end_ns = time.time_ns()
    seen = [capture.packets() for capture in captures]
    assert seen[0][["ssid", "sequence", "request", "outgoing"]].tolist()[:2] == [
        (300, 7, True, True),
        (300, 7, False, False),
    ]
    assert seen[1][["ssid", "sequence", "request", "outgoing"]].tolist()[:2] == [
        (300, 7, True, False),
        (300, 7, False, True),
    ]
    left, arrived = seen[0]["ns"][0], seen[1]["ns"][0]
    assert start_ns < left < arrived < seen[1]["ns"][1] < seen[0]["ns"][1] < end_ns


def test_a_capture_without_replies_has_none(pair: Pair) -> None:
    capture = pair.keep(Capture(pair.sender.namespace, DEVICE, STAMP_PORT, 100, replies=False))
    with udp_socket(pair.sender, 5_000) as near, udp_socket(pair.reflector, STAMP_PORT) as far:
        far.sendto(stamp(0, 1), (str(pair.sender.address), 5_000))
        assert near.recv(100)
        near.sendto(stamp(0, 1), (str(pair.reflector.address), STAMP_PORT))
        assert far.recv(100)
    assert capture.packets()["request"].tolist() == [True]


def test_a_capture_that_has_no_room_left_says_so(pair: Pair) -> None:
    capture = pair.keep(Capture(pair.sender.namespace, DEVICE, STAMP_PORT, 1))
    with udp_socket(pair.sender, 5_000) as near:
        for number in range(4_096):
            near.sendto(stamp(number, 1), (str(pair.reflector.address), STAMP_PORT))
        whole = select(capture.packets(), request=True, outgoing=True)
        assert whole["sequence"].tolist() == list(range(4_096))
        for _ in range(3):
            near.sendto(stamp(0, 1), (str(pair.reflector.address), STAMP_PORT))
    for _ in range(2):
        with pytest.raises(BenchError, match=r"^the capture lost 3 packets after 4096$"):
            capture.packets()


def test_a_capture_needs_its_interface(pair: Pair) -> None:
    with pytest.raises(BenchError, match=r"^a capture of 9 packets on nosuch is refused: No such"):
        Capture(pair.sender.namespace, "nosuch", STAMP_PORT, 9)


def test_costs_of_the_bare_programs() -> None:
    found = list(packet_cost.measure(packet_cost.Settings(runs=2, repeat=1_000)))
    assert {cost.name: cost.program for cost in found}.items() >= BARE_PROGRAMS.items()
    assert all(len(cost.ns_per_packet) == 2 for cost in found)
    assert all(ns > 0 for cost in found for ns in cost.ns_per_packet)


def test_costs_of_the_xdp_engine() -> None:
    found = packet_cost.measure(packet_cost.Settings(runs=1, repeat=1_000))
    segments = {cost.segments for cost in found if cost.name == "reflector"}
    assert segments == {0, 2, 8}


def test_errors_of_all_four_timestamps() -> None:
    found = {error.label: error for error in timestamps.measure(ENGINE, SHORT)}
    assert sorted(found) == [f"{ENGINE} T{n}" for n in range(1, 5)]
    sent = int(SHORT.duration_s * 1e6 / SHORT.interval_us)
    assert all(0.9 * sent <= error.count <= sent for error in found.values())
    # The clock is read for T3 before the packet passes the capture.
    assert (quantile_ns(found[f"{ENGINE} T3"].quantiles, 1.0) or 0) < 0


def test_timestamps_taken_where_no_capture_sees_are_bounded_by_the_wire() -> None:
    found = {error.label: error for error in timestamps.measure("xdp", SHORT)}
    assert sorted(found) == [f"xdp T{n}" for n in range(1, 5)]
    t2, t3 = found["xdp T2"], found["xdp T3"]
    assert t2.method.startswith("other end of the wire, outgoing")
    assert t3.method.startswith("other end of the wire, incoming")
    # The request left before, the reply arrives after.
    assert (quantile_ns(t2.quantiles, 0.0) or 0) > 0
    assert (quantile_ns(t3.quantiles, 1.0) or 0) < 0


def test_an_engine_is_measured_in_both_roles_against_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[tuple[str, str]] = []
    real = timestamps._run

    def run(sender: str, reflector: str, settings: timestamps.Settings) -> timestamps.Seen:
        runs.append((sender, reflector))
        return real(ENGINE, ENGINE, settings)

    monkeypatch.setattr(timestamps, "_run", run)
    found: list[TimestampError] = list(timestamps.measure("other", SHORT))
    assert runs == [("other", ENGINE), (ENGINE, "other")]
    assert [error.label for error in found] == [f"other T{n}" for n in (1, 4, 2, 3)]


def test_errors_of_the_schedule() -> None:
    cases = (Case(1, 100), Case(3, 50))
    found = list(schedule.measure(ENGINE, schedule.Settings(cases, duration_s=1)))
    assert [(error.sessions, error.rate_pps) for error in found] == [(1, 100), (3, 150)]
    for error in found:
        # However busy the machine is, each slot is used or skipped.
        assert error.count + error.skipped == error.rate_pps
        assert error.count > 0
        assert (quantile_ns(error.quantiles, 0.0) or 0) > 0
        assert error.drift_ppb is not None or error.skipped


def test_footprint_of_sessions_that_are_answered() -> None:
    one, five = footprint.measure(ENGINE, SMALL)
    assert [(f.engine, f.sessions, f.rate_pps) for f in (one, five)] == [
        (ENGINE, 1, 1.0),
        (ENGINE, 5, 5.0),
    ]
    for found in (one, five):
        assert (found.rss_bytes or 0) > 1 << 20
        assert found.cpu_percent is not None
        assert 0 <= found.cpu_percent <= 100
    # How much a store takes depends on the delays that it has seen.
    assert 0 < 3 * (one.store_bytes or 0) < (five.store_bytes or 0)


def test_counters_of_sessions_that_the_driver_collects_are_as_they_stand(pair: Pair) -> None:
    pair.reflect_any()
    sending = pair.run(pair.sender, "xdp")
    session = SenderSession(1, pair.reflector.address, pair.sender.address, interval_us=1_000)
    sending.apply(Node(sender=Sender(engine="xdp", interfaces=(DEVICE,), sessions={1: session})))
    sending.await_sessions(1)

    def received() -> int:
        return sending.counters([1])[1].received

    sending.wait(lambda: received() > 0, "no reply comes", 10.0)
    seen = []
    for _ in range(10):
        seen.append(received())
        time.sleep(0.1)
    assert seen == sorted(set(seen))


def test_control_plane() -> None:
    settings = control_plane.Settings(sessions=(1, 3), tries=2)
    found = list(control_plane.measure(settings))
    assert [(times.sessions, times.name) for times in found] == [
        (count, name)
        for count in (1, 3)
        for name in (
            control_plane.ANSWER,
            control_plane.FIRST_PACKET,
            control_plane.GET_ALL,
            control_plane.GET_ONE,
        )
    ]
    assert all(len(times.durations_ns) == 2 for times in found)
    assert all(ns > 0 for times in found for ns in times.durations_ns)


@pytest.mark.parametrize("kind", [timestamps, schedule, footprint])
def test_an_engine_that_does_not_exist(kind: object) -> None:
    with pytest.raises(BenchError, match=r"^there is no engine nosuch; there are: "):
        list(kind.measure("nosuch"))  # type: ignore[attr-defined]


def test_an_engine_whose_process_dies(pair: Pair) -> None:
    sending = pair.run(pair.sender, ENGINE)
    session = SenderSession(1, pair.reflector.address, pair.sender.address)
    sending.apply(Node(sender=Sender(engine=ENGINE, sessions={1: session})))
    sending.await_sessions(1)
    os.kill(sending.pid, signal.SIGKILL)
    with pytest.raises(BenchError, match=r"(has died|has failed: .*killed by SIGKILL)"):
        sending.await_completion(10.0)


def test_a_failing_session_says_why(pair: Pair) -> None:
    sending = pair.run(pair.sender, ENGINE)
    session = SenderSession(1, pair.reflector.address, pair.reflector.address)
    sending.apply(Node(sender=Sender(engine=ENGINE, sessions={1: session})))
    with pytest.raises(
        BenchError, match=rf"^engine {ENGINE} has failed: cannot bind \[fd00:a::2\]"
    ):
        sending.await_sessions(1)


def test_a_wait_that_is_too_long_says_for_what(pair: Pair) -> None:
    sending = pair.run(pair.sender, ENGINE)
    with pytest.raises(BenchError, match=r"^engine userspace: nothing comes \(waited 0 s\)$"):
        sending.wait(lambda: False, "nothing comes", 0.1)


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["_cpu_percent", "_check_all_answered"])
def test_an_interrupt_in_the_middle_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(footprint, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(footprint.measure(ENGINE, SMALL))


def test_an_interrupt_of_the_lab_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_plane, "_timed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(control_plane.measure(control_plane.Settings(sessions=(1,), tries=1)))


def test_whoever_has_seen_enough_may_stop() -> None:
    found = footprint.measure(ENGINE, dataclasses.replace(SMALL, sessions=(1, 1, 1)))
    assert next(found).sessions == 1
    assert remains() == []
    found.close()  # type: ignore[attr-defined]


def test_data_traffic_is_compared_beside_an_idle_engine() -> None:
    settings = data_traffic.Settings(pairs=2, duration_ns=20_000_000)
    found = [*data_traffic.measure(None, settings), *data_traffic.measure(ENGINE, settings)]
    assert [(each.system, each.role) for each in found] == [
        ("none", "forwarder"),
        ("xdp-pass", "forwarder"),
        (ENGINE, "reflector"),
        (ENGINE, "collector"),
    ]
    assert all(len(each.ratios) == settings.pairs for each in found)


def test_data_traffic_of_an_engine_that_there_is_not() -> None:
    settings = data_traffic.Settings(pairs=2, duration_ns=20_000_000)
    with pytest.raises(BenchError, match="teleport"):
        list(data_traffic.measure("teleport", settings))
