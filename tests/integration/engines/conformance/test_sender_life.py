"""A sender session from configuration to configuration, and when things go missing."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv6Address

import pytest

from dataplane.config import Node
from dataplane.engines.base import (
    EngineError,
    IntervalClosed,
    OperState,
    Resume,
    SenderStatusReport,
)
from dataplane.stamp.errors import DiscardReason
from tests.integration.engines.conformance import wire
from tests.integration.engines.conformance.sending import (
    SENDER_PORT,
    SESSION,
    SSID,
    Request,
    Sending,
)
from tests.integration.engines.conformance.stand import MAIN, OTHER, Link, Running, grace
from tests.integration.engines.network import eventually, ip

pytestmark = pytest.mark.integration


@pytest.fixture
def sending(running: Running) -> Sending:
    return Sending(running)


def silent(sending: Sending) -> bool:
    """Whether nothing is sent any more."""
    sending.stand.frames(MAIN)
    grace()
    return not sending.stand.seen(MAIN)


def states(sending: Sending, ssid: int = SSID) -> list[OperState]:
    found: list[OperState] = []
    for status in sending.running.statuses(ssid):
        if found[-1:] != [status.oper_state]:
            found.append(status.oper_state)
    return found


def test_a_run_completes(sending: Sending) -> None:
    sending.configure(dataclasses.replace(SESSION, packet_count=10))
    sending.serve(sending.received(10), "10 replies")
    sending.running.await_session(SSID, OperState.COMPLETED)
    assert silent(sending)
    assert states(sending) == [OperState.RUNNING, OperState.COMPLETED]
    snapshot = sending.running.session(SSID)
    assert (snapshot.sent, snapshot.received, snapshot.in_flight) == (10, 10, 0)
    assert [record.sequence for record in sending.running.results.fetch(SSID, 100)] == list(
        range(10)
    )
    assert IntervalClosed(SSID, 1) in sending.running.reports


def test_start_stop_and_clear(sending: Sending) -> None:
    engine = sending.running.engine
    sending.running.configure(sending.node(dataclasses.replace(SESSION, autostart=False)))
    sending.running.await_session(SSID, OperState.STOPPED)
    assert silent(sending)
    with pytest.raises(EngineError, match=r"^session 5 is not running: it is stopped$"):
        engine.stop(SSID)
    with pytest.raises(EngineError, match=r"^session 6 does not exist$"):
        engine.start(6, None)
    engine.start(SSID, None)
    sending.running.await_session(SSID, OperState.RUNNING)
    with pytest.raises(EngineError, match=r"^session 5 is already running$"):
        engine.start(SSID, None)
    sending.serve(sending.received(3), "3 replies")
    engine.stop(SSID)
    sending.running.await_session(SSID, OperState.STOPPED)
    assert silent(sending)
    sent = sending.running.session(SSID).next_sequence
    engine.clear(SSID)
    assert sending.running.session(SSID).received == 0
    engine.start(SSID, 1)
    status = sending.running.await_session(SSID, OperState.RUNNING)
    assert (status.run_first_sequence, status.duration_s) == (sent, 1)
    (request, *_) = sending.requests(1)
    assert Request.read(request.payload).sequence == sent
    sending.serve(lambda: states(sending)[-1] is OperState.COMPLETED, "the second is over")
    assert sending.running.statuses(SSID)[-1].last_error is None


def test_a_disabled_role_sends_nothing(sending: Sending) -> None:
    sending.configure(SESSION)
    sending.serve(sending.received(3), "3 replies")
    sending.running.configure(sending.node(SESSION, enabled=False))
    sending.running.await_session(SSID, OperState.DISABLED)
    assert silent(sending)
    with pytest.raises(EngineError, match=r"^the Session-Sender is disabled$"):
        sending.running.engine.start(SSID, None)
    received = sending.running.session(SSID).received
    sending.configure(SESSION)
    sending.serve(sending.received(received + 3), "3 more replies")


def test_a_session_that_goes_leaves_nothing(sending: Sending) -> None:
    other = dataclasses.replace(SESSION, ssid=6)
    sending.configure(SESSION, other)
    sending.running.configure(sending.node(other))
    gone = [
        report
        for report in sending.running.reports
        if isinstance(report, SenderStatusReport) and report.status is None
    ]
    assert gone == [SenderStatusReport(SSID, None, "not configured")]
    with pytest.raises(EngineError, match=r"^session 5 has no results$"):
        sending.running.session(SSID)
    sending.stand.frames(MAIN)
    assert {Request.read(request.payload).ssid for request in sending.requests(5)} == {6}
    sending.running.configure(Node())
    assert silent(sending)
    with sending.stand.socket_on_node() as sock:
        sock.bind((str(MAIN.here), SENDER_PORT))


def test_replies_to_a_former_life_are_not_taken(sending: Sending) -> None:
    """A session that is changed begins anew, with the same sequence numbers."""
    sending.configure(SESSION)
    former = sending.requests(3)[:3]
    sending.configure(dataclasses.replace(SESSION, dscp=8))
    current: list[wire.Seen] = []
    while len(current) < 3:
        current += [seen for seen in sending.requests(1) if seen.traffic_class == 8 << 2]
    for request in former:
        sending.answer(request)
    sending.discarded(*[DiscardReason.UNEXPECTED_SEQUENCE] * 3)
    for request in current[:3]:
        sending.answer(request)
    eventually(sending.received(3), "3 replies")


def test_an_edit_leaves_equal_sessions_alone(sending: Sending) -> None:
    other = dataclasses.replace(SESSION, ssid=6)
    sending.configure(SESSION, other)
    both = lambda: all(sending.received(3, ssid)() for ssid in (SSID, 6))  # noqa: E731
    sending.serve(both, "3 replies each")
    kept = sending.running.session(SSID).received
    sending.configure(SESSION, dataclasses.replace(other, dscp=8))
    assert sending.running.session(SSID).received >= kept
    assert sending.running.session(6).received < 3
    sending.serve(both, "3 new replies")
    assert states(sending) == [OperState.RUNNING]


def test_an_address_that_is_missing_and_comes_back(sending: Sending) -> None:
    sending.configure(SESSION)
    sending.serve(sending.received(3), "3 replies")
    ip("-n", sending.stand.node, "-6", "address", "delete", f"{MAIN.here}/64", "dev", "n0")
    status = sending.running.await_session(SSID, OperState.FAILED)
    text = f"cannot bind [{MAIN.here}]:{SENDER_PORT}: Cannot assign requested address"
    assert status.last_error == text
    sending.stand.restore(MAIN)
    sending.running.await_session(SSID, OperState.RUNNING)
    received = sending.running.session(SSID).received
    sending.serve(sending.received(received + 3), "3 more replies")
    assert sending.running.session(SSID).skipped > 0


def test_an_interface_that_is_missing_and_comes(sending: Sending) -> None:
    sending.running.configure(sending.node(SESSION, interfaces=("n0", "n5")))
    status = sending.running.await_session(SSID, OperState.FAILED)
    assert status.last_error == "interface n5 does not exist"
    assert silent(sending)
    ip("-n", sending.stand.node, "link", "add", "n5", "type", "veth", "peer", "name", "n6")
    sending.running.await_session(SSID, OperState.RUNNING)
    sending.serve(sending.received(3), "3 replies")


def test_what_cannot_be_sent_is_loss_and_an_error(sending: Sending) -> None:
    away = ("-n", sending.stand.node, "-6", "route")
    session = dataclasses.replace(
        SESSION, reflector_address=IPv6Address("2001:db8::1"), loss_timeout_ms=100
    )
    ip(*away, "delete", "default")
    sending.configure(session)
    eventually(lambda: sending.running.session(SSID).loss.round_trip > 3, "losses")
    assert sending.running.session(SSID).send_errors > 3
    assert sending.running.statuses(SSID)[-1].last_error == (
        "cannot send to [2001:db8::1]:862: Network is unreachable"
    )
    sending.stand.restore(MAIN)
    sending.serve(
        sending.received(3),
        "3 replies",
        lambda request: sending.answer(request, source=IPv6Address("2001:db8::1")),
    )


@pytest.mark.parametrize("link", [MAIN, OTHER], ids=("main", "other"))
def test_each_session_has_its_source_address(sending: Sending, link: Link) -> None:
    session = dataclasses.replace(SESSION, source_address=link.here, reflector_address=link.there)
    sending.configure(session)
    assert {request.source for request in sending.requests(3, link)} == {link.here}


def test_a_killed_engine_is_taken_up(sending: Sending) -> None:
    """The run goes on in step, and no sequence number is used twice."""
    session = dataclasses.replace(SESSION, packet_count=1_000)
    stopped = dataclasses.replace(SESSION, ssid=6, autostart=False)
    node = sending.node(session, stopped)
    sending.running.configure(node)
    sending.running.await_session(SSID, OperState.RUNNING)
    sending.serve(sending.received(10), "10 replies")
    status = sending.running.statuses(SSID)[-1]
    received = sending.running.session(SSID).received
    sending.running.resume(
        node,
        {
            SSID: Resume(OperState.RUNNING, status.run_started_ns, status.run_first_sequence),
            6: Resume(OperState.STOPPED),
        },
    )
    sending.running.await_session(SSID, OperState.RUNNING)
    sending.running.await_session(6, OperState.STOPPED)
    snapshot = sending.running.session(SSID)
    assert snapshot.received >= received
    first = snapshot.next_sequence
    sending.serve(sending.received(received + 10), "10 more replies")
    again = sending.running.session(SSID)
    assert again.next_sequence > first
    assert again.duplicates == 0
    resumed = sending.running.statuses(SSID)[-1]
    assert resumed.run_started_ns == status.run_started_ns
    sequences = [record.sequence for record in sending.running.results.fetch(SSID, 1_000)]
    assert len(sequences) == len(set(sequences))
    assert sequences[:5] == list(range(5))


def test_many_sessions(sending: Sending) -> None:
    sessions = [
        dataclasses.replace(SESSION, ssid=ssid, interval_us=1_000_000) for ssid in range(1, 101)
    ]
    sending.configure(*sessions)
    sending.serve(
        lambda: all(sending.received(1, ssid)() for ssid in range(1, 101)), "a reply each"
    )
