"""The network of a laboratory, with real packets through real namespaces.

edge1 ──┬── core1 ──┬── edge2     5 ms forward,  5 ms backward
        └── core2 ──┘            20 ms forward,  8 ms backward, 2 % lost forward
"""

from __future__ import annotations

import statistics
import subprocess

import pytest

from tests.integration.lab.conftest import line_counters, name_of, probe
from tools.lab.lab import Lab

pytestmark = pytest.mark.integration

MS = 1_000_000
TOLERANCE_NS = MS
"""Of a mean over 100 probes, on a machine that may be busy with something else."""


@pytest.mark.parametrize("core", ["core1", "core2"])
def test_each_srv6_path_has_its_own_delays(network: Lab, core: str) -> None:
    path = next(p for p in network.plan.paths if p.hops == ("edge1", core, "edge2"))
    sid = network.nodes[core].sids[0]
    echoes = probe(network, "edge1", "edge2", sid, sid)
    assert len(echoes) > 50
    forward = [echo.t2 - echo.t1 for echo in echoes]
    backward = [echo.t4 - echo.t3 for echo in echoes]
    # Never early: a frame is held for the whole delay.
    assert min(forward) >= path.forward_delay_ns
    assert min(backward) >= path.backward_delay_ns
    assert abs(statistics.mean(forward) - path.forward_delay_ns) < TOLERANCE_NS
    assert abs(statistics.mean(backward) - path.backward_delay_ns) < TOLERANCE_NS


def test_there_and_back_may_differ(network: Lab) -> None:
    there, back = network.nodes["core2"].sids[0], network.nodes["core1"].sids[0]
    before = line_counters(network, "core1>edge1")["received"]
    echoes = probe(network, "edge1", "edge2", there, back)
    assert min(echo.t2 - echo.t1 for echo in echoes) >= 20 * MS
    assert 5 * MS <= min(echo.t4 - echo.t3 for echo in echoes) < 8 * MS
    assert line_counters(network, "core1>edge1")["received"] - before == len(echoes)


def test_without_segments_the_cheapest_path_is_taken(network: Lab) -> None:
    before = line_counters(network, "edge1>core1")["received"]
    assert len(probe(network, "edge1", "edge2", count=20)) == 20
    assert line_counters(network, "edge1>core1")["received"] - before == 20


def test_what_the_line_lost_is_what_the_receiver_misses(network: Lab) -> None:
    sid = network.nodes["core2"].sids[0]
    before = line_counters(network, "edge1>core2")
    echoes = probe(network, "edge1", "edge2", sid, sid, count=600, interval_us=1_000)
    after = line_counters(network, "edge1>core2")
    assert after["received"] - before["received"] == 600
    lost = after["lost"] - before["lost"]
    assert lost > 0
    assert len({echo.sequence for echo in echoes}) == 600 - lost
    assert after["forwarded"] - before["forwarded"] == len(echoes)


def test_the_order_is_kept(network: Lab) -> None:
    sid = network.nodes["core1"].sids[0]
    echoes = probe(network, "edge1", "edge2", sid, sid, count=200, interval_us=200)
    assert [echo.sequence for echo in echoes] == list(range(200))


def test_the_kernel_itself_says_nothing_on_the_links(network: Lab) -> None:
    before = network.line_status()["directions"]
    subprocess.run(["sleep", "1.5"], check=True)
    after = network.line_status()["directions"]
    for name, direction in after.items():
        assert direction["counters"]["received"] == before[name]["counters"]["received"]


def test_the_line_reports_its_own_error(network: Lab) -> None:
    probe(network, "edge1", "edge2", count=20)
    for link in network.status()["links"]:
        if link["a"] == "edge1" and link["b"] == "core1":
            lateness = link["forward"]["lateness"]
            assert lateness["count"] == link["forward"]["counters"]["forwarded"]
            assert 0 <= lateness["p50_ns"] <= lateness["p99_ns"] <= lateness["max_ns"]
            assert lateness["mean_ns"] <= lateness["max_ns"]


def test_duplicates_and_reordering_reach_the_receiver() -> None:
    topology = """
seed: 3
nodes:
  left: {role: edge, loopback: "fd00:0:1::1"}
  right: {role: edge, loopback: "fd00:0:2::1"}
links:
  - a: left
    b: right
    forward: {delay: 2ms, jitter: 500us, duplicate: 10%, reorder: 10%, reorder_hold: 5ms}
"""
    with Lab.start(topology, name=name_of("mess"), daemons=False) as lab:
        echoes = probe(lab, "left", "right", count=300, interval_us=1_000)
        counters = line_counters(lab, "left>right")
    assert counters["received"] == 300
    assert counters["duplicated"] > 0
    assert counters["reordered"] > 0
    assert len(echoes) == 300 + counters["duplicated"]
    assert {echo.sequence for echo in echoes} == set(range(300))
    highest, late = -1, 0
    for echo in sorted(echoes, key=lambda echo: echo.t2):
        late += echo.sequence < highest
        highest = max(highest, echo.sequence)
    assert late == counters["reordered"]


def test_large_datagrams_cross_with_correct_checksums(network: Lab) -> None:
    receive = (
        "import socket,sys; s=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM);"
        "s.bind(('fd00:0:2::1',9001)); sys.stdout.write('ready\\n'); sys.stdout.flush();"
        "s.settimeout(5); sys.stdout.write(str(len(s.recv(65535))))"
    )
    send = (
        "import socket; s=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM);"
        "s.sendto(bytes(5000),('fd00:0:2::1',9001))"
    )
    receiver = network.popen("edge2", ["python3", "-c", receive], stdout=subprocess.PIPE, text=True)
    try:
        assert receiver.stdout.readline() == "ready\n"
        network.exec("edge1", ["python3", "-c", send], check=True)
        assert receiver.communicate(timeout=10)[0] == "5000"
    finally:
        receiver.kill()
        receiver.wait()
