"""stampd between a real sysrepo and real packets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from dataplane.stamp.packet import ReflectorPacket, SenderPacket
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, encode_timestamp
from tests.integration.plugin.element import (
    REFLECTOR_ADDRESS,
    SENDER,
    SENDER_ADDRESS,
    ClientError,
    Element,
    Tree,
    eventually,
    run,
)

pytestmark = pytest.mark.integration


def session(ssid: int, **values: object) -> Tree:
    values = {name.replace("_", "-"): value for name, value in values.items()}
    return {
        "ssid": ssid,
        "reflector-address": REFLECTOR_ADDRESS,
        "interval": "10000",
        "loss-timeout": 500,
        "reflector-mode": "stateful",
    } | values


def sessions(*listed: Tree) -> Tree:
    return {"session-sender": {"session": list(listed)}}


@contextlib.contextmanager
def other_subscriber(element: Element, role: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.plugin.subscriber", role],
        env=element.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.communicate(timeout=20)


def test_a_session_is_measured(sender: Element, reflector: Element) -> None:
    sender.edit(sessions(session(1)))
    sender.await_received(1, 20)
    state = sender.session(1)

    assert state["oper-state"] == "running"
    assert state["active-engine"] == "userspace"
    assert "last-error" not in state
    assert int(state["counters"]["sent"]) >= int(state["counters"]["received"]) >= 20
    for direction in ("forward", "backward", "round-trip"):
        delay = state["delay"][direction]
        low, mean, high = (int(delay[name]) for name in ("min", "mean", "max"))
        assert low <= mean <= high
        assert low > 0
        assert [entry["percent"] for entry in delay["percentile"]] == ["50.0", "95.0", "99.0"]
    records = state["measurement"]
    assert len(records) == 5
    for record in records:
        t1, t2, t3, t4 = (int(record[name]) for name in ("t1", "t2", "t3", "t4"))
        assert t1 < t2 < t3 < t4
        assert int(record["forward-delay"]) == t2 - t1
        assert int(record["backward-delay"]) == t4 - t3
        assert int(record["round-trip-delay"]) == (t4 - t1) - (t3 - t2)
        assert record["session-sender-ttl"] == 255
    served = reflector.state("/srv6-stamp:stamp/session-reflector")["session-reflector"]
    assert served["oper-state"] == "running"
    assert int(served["counters"]["reflected"]) >= 20
    first = next(e for e in served["session"] if e["sender-address"] == SENDER_ADDRESS)
    assert int(first["counters"]["received"]) >= 20
    assert "last-received" in first
    assert (first["t2-method"], first["t3-method"]) == ("kernel-software", "userspace")


def test_what_is_in_running_is_applied_at_start(sender: Element) -> None:
    sender.edit(sessions(session(1)))
    sender.await_received(1, 5)
    assert sender.stop() == 0
    sender.start()
    assert sender.await_state(1, "running")
    sender.await_received(1, 5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param(
            sessions(session(2, reflector_address="ff02::1")),
            "/srv6-stamp:stamp/session-sender/session[ssid='2']/reflector-address: "
            "the reflector address ff02::1 is not a unicast address",
            id="by the daemon",
        ),
        pytest.param(
            sessions(session(2, source_address="192.0.2.1")),
            "source-address and reflector-address must be of the same address family",
            id="by the model",
        ),
        pytest.param(
            {"session-sender": {"engine": "scapy", "session": [session(2, interval="9999")]}},
            "/srv6-stamp:stamp/session-sender/session[ssid='2']/interval: "
            "engine scapy needs an interval of at least 10000 us",
            id="by the engine",
        ),
    ],
)
def test_a_refused_edit_leaves_everything_as_it_was(
    sender: Element, change: Tree, text: str
) -> None:
    sender.edit(sessions(session(1)))
    sender.await_received(1, 5)
    before = sender.session(1)
    # The refused edit would also have stopped the running session.
    change["session-sender"]["session"].append({"ssid": 1, "enabled": False})
    with pytest.raises(ClientError) as refusal:
        sender.edit(change)
    assert text in str(refusal.value)
    sender.await_received(1, 5)
    after = sender.session(1)
    assert after["start-time"] == before["start-time"]
    assert after["oper-state"] == "running"
    assert after["loss"]["round-trip"] == "0"
    assert len(sender.state(f"{SENDER}/session")["session-sender"]["session"]) == 1


def test_a_change_that_another_subscriber_refuses_disturbs_nothing(sender: Element) -> None:
    sender.edit(sessions(session(1)))
    sender.await_received(1, 5)
    before = sender.session(1)
    with other_subscriber(sender, "refuse"):
        with pytest.raises(ClientError) as refusal:
            sender.edit(sessions(session(1, interval="20000"), session(2)))
        assert "the other subscriber refuses" in str(refusal.value)
        sender.await_received(1, 5)
        after = sender.session(1)
        assert after["start-time"] == before["start-time"]
        assert after["interval"] == "10000"
    # The daemon is in step with sysrepo afterwards.
    sender.edit(sessions(session(2)))
    sender.await_received(2, 5)


def test_sessions_that_are_not_touched_are_not_disturbed(sender: Element) -> None:
    sender.edit(sessions(session(1), session(2)))
    sender.await_received(1, 5)
    before = sender.session(1)
    sender.edit(sessions(session(2, interval="20000"), session(3)))
    sender.edit(sessions(session(1, description="a remark", record_depth=2)))
    sender.await_received(3, 5)
    sender.await_received(1, 5)
    sender.edit(sessions({"ssid": 2, "enabled": False}))
    sender.await_state(2, "stopped")
    after = sender.session(1)
    assert after["start-time"] == before["start-time"]
    assert after["loss"]["round-trip"] == "0"
    assert len(after["measurement"]) == 2
    sender.replace(
        {
            "session-sender": {
                "source-address": SENDER_ADDRESS,
                "session": [session(1, description="a remark", record_depth=2)],
            }
        }
    )
    remaining = sender.state(f"{SENDER}/session")["session-sender"]["session"]
    assert [entry["ssid"] for entry in remaining] == [1]
    sender.await_received(1, 5)
    assert sender.session(1)["start-time"] == before["start-time"]


def test_actions(sender: Element) -> None:
    sender.edit(sessions(session(1), session(2, enabled=False, packet_count=10)))
    sender.await_received(1, 10)

    with pytest.raises(ClientError, match="session 1 is already running"):
        sender.act(1, "start")
    with pytest.raises(ClientError, match="session 2 is not running"):
        sender.act(2, "stop")

    sender.act(1, "stop")
    stopped = sender.await_state(1, "stopped")
    available = int(stopped["results-available"])
    assert available >= 10

    # The paper's GetStampSessionResults: oldest first, once, bounded.
    first = sender.act(1, "fetch-results", {"max": 4})
    assert len(first["result"]) == 4
    assert int(first["remaining"]) == available - 4
    rest = sender.act(1, "fetch-results")
    assert int(rest["remaining"]) == 0
    fetched = [int(record["sequence"]) for record in first["result"] + rest["result"]]
    assert fetched == sorted(set(fetched))
    assert len(fetched) == available
    assert "result" not in sender.act(1, "fetch-results")

    sender.act(2, "start")
    completed = sender.await_state(2, "completed")
    assert int(completed["counters"]["sent"]) == 10
    sender.act(2, "start")
    eventually(lambda: sender.counter(2, "sent") == 20, "the second run")

    sender.act(1, "start", {"duration": 1})
    sender.await_state(1, "completed")
    sender.act(1, "clear")
    eventually(lambda: sender.counter(1, "sent") == 0, "clear")
    assert sender.session(1)["results-available"] == "0"
    assert "forward" not in sender.session(1).get("delay", {})


def test_notifications(sender: Element) -> None:
    with other_subscriber(sender, "listen") as listener:
        assert listener.stdout is not None
        sender.edit(sessions(session(1, enabled=False)))
        sender.act(1, "start")
        sender.act(1, "stop")
        received: list[Tree] = []
        while [entry.get("oper-state") for entry in received[-2:]] != ["running", "stopped"]:
            xpath, values = json.loads(listener.stdout.readline())
            assert xpath == "/srv6-stamp:session-state-change"
            assert values["ssid"] == 1
            received.append(values)
            assert len(received) < 10
        assert received[-1]["previous-state"] == "running"


def test_sigkill_of_the_engine_process_loses_nothing_collected(sender: Element) -> None:
    sender.edit(sessions(session(1), session(2)))
    sender.await_received(1, 20)
    sender.await_received(2, 1)
    sender.act(2, "stop")
    before = sender.session(1)
    victim = sender.host_pid()
    os.kill(victim, signal.SIGKILL)

    def restarted() -> bool:
        role = sender.state(f"{SENDER}/engine-restarts")["session-sender"]
        return int(role["engine-restarts"]) == 1

    eventually(restarted, "restart of the engine process")
    sender.await_received(1, 20)
    after = sender.session(1)
    assert sender.host_pid() != victim
    assert after["start-time"] == before["start-time"]
    assert int(after["counters"]["sent"]) > int(before["counters"]["sent"])
    assert after["oper-state"] == "running"
    assert sender.session(2)["oper-state"] == "stopped"
    records = sender.act(1, "fetch-results", {"max": 10000})["result"]
    sequences = [int(record["sequence"]) for record in records]
    assert sequences[0] == 0
    assert sequences == sorted(set(sequences))
    assert len(sequences) >= int(before["counters"]["received"]) + 20
    assert after["loss"]["round-trip"] == "0"


def test_what_happens_to_sessions_is_in_the_log(sender: Element) -> None:
    sender.edit(sessions(*(session(ssid) for ssid in range(1, 51))))
    with pytest.raises(ClientError):
        sender.edit(sessions(session(1, reflector_address="ff02::1")))
    sender.edit(sessions(session(1, source_address="fd00:a::99")))
    sender.await_state(1, "failed")
    assert sender.stop() == 0
    log = sender.log.read_text()
    for line in (
        "INFO: configuration applied: Session-Sender on engine userspace, 50 sessions,"
        " 50 of them new or changed, 0 removed; no Session-Reflector",
        " and 40 more are running",
        "INFO: edit refused: /srv6-stamp:stamp/session-sender/session[ssid='1']/reflector-address:"
        " the reflector address ff02::1 is not a unicast address",
        "WARNING: session 1 is failed: cannot bind [fd00:a::99]:49862: ",
    ):
        assert line in log, log
    assert len(log.splitlines()) < 20, log


def test_a_missing_address_is_an_error_that_heals(sender: Element) -> None:
    sender.edit(sessions(session(1, source_address="fd00:a::99")))
    failed = sender.await_state(1, "failed")
    assert failed["last-error"] == (
        "cannot bind [fd00:a::99]:49862: Cannot assign requested address"
    )
    ip = ("ip", "-n", sender.namespace)
    run(*ip, "address", "add", "fd00:a::99/64", "dev", "wan0", "nodad")
    sender.await_state(1, "running")
    sender.await_received(1, 5)


def test_a_missing_interface_is_an_error_that_heals(sender: Element) -> None:
    sender.edit({"session-sender": {"interface": ["late0"], "session": [session(1)]}})
    failed = sender.await_state(1, "failed")
    assert failed["last-error"] == "interface late0 does not exist"
    ip = ("ip", "-n", sender.namespace)
    run(*ip, "link", "set", "wan0", "down")
    run(*ip, "link", "set", "wan0", "name", "late0")
    run(*ip, "link", "set", "late0", "up")
    run(*ip, "address", "replace", f"{SENDER_ADDRESS}/64", "dev", "late0", "nodad")
    sender.await_state(1, "running")
    sender.await_received(1, 5)


def test_an_unreachable_reflector_shows_as_loss_and_recovers(
    sender: Element, reflector: Element
) -> None:
    sender.edit(sessions(session(1, loss_timeout=50)))
    sender.await_received(1, 10)
    run("ip", "-n", reflector.namespace, "address", "del", f"{REFLECTOR_ADDRESS}/64", "dev", "wan0")
    eventually(lambda: int(sender.session(1)["loss"]["round-trip"]) > 5, "loss")
    run(
        *("ip", "-n", reflector.namespace, "address", "add", f"{REFLECTOR_ADDRESS}/64"),
        *("dev", "wan0", "nodad"),
    )
    sender.await_received(1, 10)
    assert sender.session(1)["oper-state"] == "running"


def test_clean_exit(sender: Element, reflector: Element) -> None:
    sender.edit(sessions(session(1)))
    sender.await_received(1, 5)
    host = sender.host_pid()
    assert sender.stop() == 0
    assert not os.path.exists(f"/proc/{host}")
    assert not sender.state_dir.exists() or not list(sender.state_dir.iterdir())
    sockets = run("ip", "netns", "exec", sender.namespace, "ss", "-Hnua").stdout
    assert sockets == ""
    assert "Traceback" not in sender.log.read_text()
    assert reflector.stop() == 0
    assert "Traceback" not in reflector.log.read_text()


def test_a_thousand_sessions(sender: Element) -> None:
    many = [session(ssid, interval="1000000", result_depth=10) for ssid in range(1001, 2001)]
    sender.edit(sessions(*many))
    everything = sender.state("/srv6-stamp:stamp")["session-sender"]["session"]
    assert len(everything) == 1000
    assert {entry["oper-state"] for entry in everything} == {"running"}
    sender.replace({"session-sender": {"source-address": SENDER_ADDRESS}})
    assert "session" not in sender.state(SENDER).get("session-sender", {})


INJECT = """
import socket, sys
packets = [bytes.fromhex(text) for text in sys.argv[3:]]
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
    for packet in packets:
        sender.sendto(packet, (sys.argv[1], int(sys.argv[2])))
"""


def inject(origin: Element, address: str, port: int, *packets: bytes) -> None:
    """Send datagrams from `origin` to a STAMP port."""
    run(
        *("ip", "netns", "exec", origin.namespace, sys.executable, "-c", INJECT),
        *(address, str(port), *(packet.hex() for packet in packets)),
    )


def discards(tree: Tree) -> dict[str, int]:
    return {entry["reason"]: int(entry["packets"]) for entry in tree.get("discard", ())}


def test_bad_packets_are_counted_by_reason(sender: Element, reflector: Element) -> None:
    sender.edit(sessions(session(1)))
    sender.await_received(1, 5)
    request = SenderPacket(0, 0, ErrorEstimate(False, TimestampFormat.NTP, 0, 1), 1).encode()
    unknown = SenderPacket(0, 0, ErrorEstimate(False, TimestampFormat.NTP, 0, 1), 99).encode()
    no_multiplier = request[:12] + b"\x00\x00" + request[14:]
    inject(sender, REFLECTOR_ADDRESS, 862, request[:13], unknown, no_multiplier)

    def at_reflector() -> bool:
        role = reflector.state("/srv6-stamp:stamp/session-reflector")["session-reflector"]
        return discards(role["counters"]) == {
            "truncated": 1,
            "unknown-session": 1,
            "zero-multiplier": 1,
        }

    eventually(at_reflector, "discards at the Session-Reflector")
    # Replies that nobody asked for: a stranger's, and one for no session at all.
    inject(reflector, SENDER_ADDRESS, 49862, request, unknown)

    def at_sender() -> bool:
        role = sender.state("/srv6-stamp:stamp/session-sender")["session-sender"]
        return discards(role.get("counters", {})) == {"unknown-session": 1} and discards(
            role["session"][0]["counters"]
        ) == {"wrong-port": 1}

    eventually(at_sender, "discards at the Session-Sender")
    assert sender.session(1)["oper-state"] == "running"
    assert sender.session(1)["counters"]["duplicates"] == "0"


def test_a_source_beyond_its_rate_is_limited(sender: Element, reflector: Element) -> None:
    reflector.edit({"session-reflector": {"rate-limit": 10}})
    sender.edit(sessions(session(1, packet_count=50)))

    def limited() -> bool:
        role = reflector.state("/srv6-stamp:stamp/session-reflector")["session-reflector"]
        beyond = discards(role["counters"]).get("rate-limited", 0)
        return beyond > 0 and int(role["counters"]["reflected"]) + beyond == 50

    eventually(limited, "a reply or a discard for each request")


def test_what_is_unfit_at_start_does_not_keep_the_rest_down(
    pair: tuple[Element, Element],
) -> None:
    sender, reflector = pair
    reason = (
        "/srv6-stamp:stamp/session-sender/session[ssid='1']/reflector-address: "
        "the reflector address ff02::1 is not a unicast address"
    )
    # Nobody is there to refuse it.
    sender.edit(
        {
            "session-sender": {
                "source-address": SENDER_ADDRESS,
                "session": [session(1, reflector_address="ff02::1"), session(2)],
            }
        }
    )
    served = [{"ssid": 2, "sender-address": address} for address in (SENDER_ADDRESS, "ff02::2")]
    reflector.edit({"session-reflector": {"session": served}})
    for element in (reflector, sender):
        element.start()
    sender.await_received(2, 5)
    failed = sender.session(1)
    assert (failed["oper-state"], failed["last-error"]) == ("failed", reason)
    role = reflector.state("/srv6-stamp:stamp/session-reflector")["session-reflector"]
    assert role["oper-state"] == "running"
    assert "the sender address ff02::2 is not a unicast address" in role["last-error"]
    assert f"ERROR: in running, and not run: {reason}" in sender.log.read_text()

    with pytest.raises(ClientError, match=r"session 1 cannot be run: .* is not a unicast address"):
        sender.act(1, "start")
    with pytest.raises(ClientError, match="ff02::1"):
        sender.edit(sessions(session(2, interval="20000")))
    sender.edit(sessions(session(1)))
    assert "last-error" not in sender.await_state(1, "running")


def test_a_role_that_cannot_run_at_start_is_failed(pair: tuple[Element, Element]) -> None:
    sender, _ = pair
    sender.edit({"session-reflector": {"source-address": "ff02::1"}})
    sender.start()
    role = sender.state("/srv6-stamp:stamp/session-reflector")["session-reflector"]
    assert role["oper-state"] == "failed"
    assert role["last-error"] == (
        "/srv6-stamp:stamp/session-reflector/source-address: "
        "the source address ff02::1 is not a unicast address"
    )


def test_start_time_is_when_counting_began(sender: Element) -> None:
    sender.edit(sessions(session(1)))
    sender.await_received(1, 5)
    first = sender.session(1)["start-time"]
    sender.act(1, "stop")
    sender.act(1, "start")
    sender.await_received(1, 5)
    assert sender.session(1)["start-time"] == first
    sender.act(1, "clear")
    assert sender.session(1)["start-time"] > first


def test_what_goes_missing_at_run_time_is_an_error_not_loss(sender: Element) -> None:
    sender.edit(sessions(session(1)))
    sender.await_received(1, 5)
    ip = ("ip", "-n", sender.namespace)
    run(*ip, "address", "del", f"{SENDER_ADDRESS}/64", "dev", "wan0")
    failed = sender.await_state(1, "failed")
    assert failed["last-error"] == (
        f"cannot bind [{SENDER_ADDRESS}]:49862: Cannot assign requested address"
    )
    run(*ip, "address", "add", f"{SENDER_ADDRESS}/64", "dev", "wan0", "nodad")
    sender.await_state(1, "running")

    sender.edit({"session-sender": {"interface": ["late0"]}})
    assert sender.await_state(1, "failed")["last-error"] == "interface late0 does not exist"
    back = {"source-address": SENDER_ADDRESS, "session": [session(1)]}
    sender.replace({"session-sender": back})
    sender.await_state(1, "running")
    sender.await_received(1, 5)


def test_results_of_a_disabled_sender_survive_its_engine(sender: Element) -> None:
    sender.edit(sessions(session(1)))
    sender.await_received(1, 20)
    sender.edit({"session-sender": {"enabled": False}})
    before = sender.await_state(1, "disabled")
    os.kill(sender.host_pid(), signal.SIGKILL)

    def restarted() -> bool:
        role = sender.state(f"{SENDER}/engine-restarts")["session-sender"]
        return int(role["engine-restarts"]) == 1

    eventually(restarted, "restart of the engine process")
    after = sender.session(1)
    assert after["oper-state"] == "disabled"
    assert after["results-available"] == before["results-available"]
    assert after["counters"]["received"] == before["counters"]["received"]


def test_a_duration_overrides_the_packet_count(sender: Element) -> None:
    sender.edit(sessions(session(1, enabled=False, packet_count=5)))
    sender.act(1, "start", {"duration": 1})
    assert int(sender.await_state(1, "completed")["counters"]["sent"]) > 5


def test_replies_are_never_reflected(sender: Element, reflector: Element) -> None:
    now = encode_timestamp(time.time_ns(), TimestampFormat.NTP)
    estimate = ErrorEstimate(False, TimestampFormat.NTP, 0, 1)
    reply = ReflectorPacket(7, now, estimate, 1, now, 7, now, estimate, 255).encode()
    inject(sender, REFLECTOR_ADDRESS, 862, reply)

    def refused() -> bool:
        role = reflector.state("/srv6-stamp:stamp/session-reflector")["session-reflector"]
        return discards(role["counters"]) == {"unanswerable": 1}

    eventually(refused, "discard of the reply")
    role = reflector.state("/srv6-stamp:stamp/session-reflector")["session-reflector"]
    assert role["counters"]["reflected"] == "0"
