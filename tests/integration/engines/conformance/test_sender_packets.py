"""What a Session-Sender transmits, and what it makes of the answers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any

import pytest

from dataplane.config import ReflectorMode, SenderSession, SsidZeroAction
from dataplane.engines.base import OperState
from dataplane.measurement import Record, TimestampMethod
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.timestamp import TimestampFormat, decode_timestamp
from tests.integration.engines.conformance import wire
from tests.integration.engines.conformance.sending import (
    INTERVAL_US,
    IPV4,
    IPV6,
    PORT,
    SENDER_PORT,
    SESSION,
    SSID,
    Family,
    Request,
    Sending,
    Wrap,
    behind_srh,
    reply_to,
    within,
)
from tests.integration.engines.conformance.stand import (
    DECAPSULATING,
    DECAPSULATING_IPV4,
    MAIN,
    OTHER,
    PRIORITY,
    Link,
    Running,
    grace,
)
from tests.integration.engines.network import eventually

pytestmark = pytest.mark.integration

TRANSIT, STRANGER = IPv6Address("fc00:e::1"), IPV6.stranger


@pytest.fixture
def sending(running: Running, request: pytest.FixtureRequest) -> Sending:
    """Over IPv6, where a test asks for nothing else."""
    return Sending(running, getattr(request, "param", IPV6))


over_both = pytest.mark.parametrize("sending", [IPV6, IPV4], ids=["IPv6", "IPv4"], indirect=True)


@pytest.mark.parametrize("fmt", TimestampFormat, ids=str)
@over_both
def test_requests_on_the_wire(sending: Sending, fmt: TimestampFormat) -> None:
    running = sending.running
    session = dataclasses.replace(sending.session, timestamp_format=fmt, dscp=46)
    if running.refused(
        sending.node(session),
        f"session {SSID}: engine {running.name} does not support timestamp format {fmt.name}",
    ):
        return
    before_ns = time.time_ns()
    sending.configure(session)
    requests = sending.requests(5)
    after_ns = time.time_ns()
    fields = [Request.read(request.payload) for request in requests]
    assert [f.sequence for f in fields] == list(range(len(requests)))
    times = [decode_timestamp(f.t1, fmt, before_ns) for f in fields]
    assert before_ns < times[0] < times[-1] < after_ns
    assert times == sorted(times)
    for request, field in zip(requests, fields, strict=True):
        assert (request.source, request.destination) == (sending.link.here, sending.link.there)
        assert request.ports == (SENDER_PORT, PORT)
        assert (request.hop_limit, request.traffic_class, request.srh) == (255, 46 << 2, b"")
        assert (field.ssid, field.mbz) == (SSID, bytes(28))
        assert field.error & 0xFF
        assert bool(field.error & 0x4000) == (fmt is TimestampFormat.PTPV2)


@over_both
def test_hop_limit_and_ports(sending: Sending) -> None:
    session = dataclasses.replace(
        sending.session, hop_limit=9, sender_udp_port=50_000, reflector_udp_port=50_001
    )
    sending.configure(session)
    (request, *_) = sending.requests(1)
    assert (request.hop_limit, request.ports) == (9, (50_000, 50_001))
    sending.serve(sending.received(3), "3 replies")


@pytest.mark.parametrize("count", [1, 2, 15])
def test_segments_on_the_wire(sending: Sending, count: int) -> None:
    running = sending.running
    segments = tuple(IPv6Address(f"fc00:f::{at + 1}") for at in range(count))
    session = dataclasses.replace(SESSION, segments=segments)
    if running.refused(
        sending.node(session),
        f"session {SSID}: engine {running.name} supports at most "
        f"{running.able.max_segments} segments, not {count}",
    ):
        return
    sending.configure(session)
    (request, *_) = sending.requests(1)
    path = (*segments, MAIN.there)
    assert request.destination == segments[0]
    assert request.srh == wire.srh(path, len(path) - 1, wire.NH_UDP)
    sending.serve(sending.received(3), "3 replies")


def test_too_many_segments_and_too_short_an_interval(sending: Sending) -> None:
    running, able = sending.running, sending.running.able
    count = able.max_segments + 1
    many = tuple(IPv6Address(f"fc00:f::{at + 1}") for at in range(count))
    session = dataclasses.replace(SESSION, segments=many, interval_us=able.min_interval_us - 1)
    assert running.refused(
        sending.node(session),
        f"session {SSID}: engine {running.name} supports at most "
        f"{able.max_segments} segments, not {count}",
        f"session {SSID}: engine {running.name} needs an interval of at least "
        f"{able.min_interval_us} us",
    )


FORMS: dict[str, Wrap | None] = {
    "no SRH, or popped": None,
    "SRH": behind_srh(TRANSIT),
    "SRH of one segment": behind_srh(),
    "End.DT6": within(TRANSIT, DECAPSULATING),
    "End.DT6, outer SRH popped": within(DECAPSULATING, srh=False),
    "SRH to the node's address": within(TRANSIT, MAIN.here),
}
FORMS_IPV4: dict[str, Wrap | None] = {
    "plain": None,
    "End.DX4": within(DECAPSULATING_IPV4, srh=False),
    "End.DX4, SRH": within(TRANSIT, DECAPSULATING_IPV4),
}


@pytest.mark.parametrize(
    ("sending", "wrap", "link"),
    [
        *(
            pytest.param(IPV6, wrap, link, id=f"IPv6, {name}, {form}")
            for name, link in (("untagged", MAIN), ("priority", PRIORITY))
            for form, wrap in FORMS.items()
        ),
        *(pytest.param(IPV4, wrap, MAIN, id=f"IPv4, {form}") for form, wrap in FORMS_IPV4.items()),
    ],
    indirect=["sending"],
)
def test_replies_in_every_header_form(sending: Sending, wrap: Wrap | None, link: Link) -> None:
    sending.configure(sending.session)
    sending.serve(
        sending.received(5),
        "5 replies",
        lambda request: sending.answer(request, wrap=wrap, link=link),
    )
    snapshot = sending.running.session(SSID)
    assert snapshot.duplicates == 0
    assert not any(snapshot.discards.values())
    assert_sound(sending.running.results.fetch(SSID, 100))
    assert not any(map(wire.is_unreachable, sending.stand.frames(MAIN)))


def assert_sound(records: list[Record]) -> None:
    """One clock stamped everything."""
    assert len(records) >= 5
    for record in records:
        assert record.t1_ns < record.t2_ns <= record.t3_ns < record.t4_ns
        assert record.sender_ttl == 255
        assert record.reflector_sequence == record.sequence
        assert record.t1_method != TimestampMethod.UNKNOWN.code
        assert record.t4_method == TimestampMethod.KERNEL_SOFTWARE.code


@pytest.mark.parametrize("theirs", TimestampFormat, ids=str)
@pytest.mark.parametrize("ours", TimestampFormat, ids=str)
def test_each_end_has_its_timestamp_format(
    sending: Sending, ours: TimestampFormat, theirs: TimestampFormat
) -> None:
    """T1 is read by the sender's Z bit, T2 and T3 by the reflector's (RFC 8186)."""
    running = sending.running
    session = dataclasses.replace(SESSION, timestamp_format=ours)
    if running.refused(
        sending.node(session),
        f"session {SSID}: engine {running.name} does not support timestamp format {ours.name}",
    ):
        return
    sending.configure(session)
    sending.serve(
        sending.received(5), "5 replies", lambda request: sending.answer(request, fmt=theirs)
    )
    assert_sound(running.results.fetch(SSID, 100))


@over_both
def test_replies_on_a_vlan(sending: Sending) -> None:
    sending.stand.add_vlan()
    link = sending.family.vlan
    session = dataclasses.replace(
        sending.session, source_address=link.here, reflector_address=link.there
    )
    sending.configure(session, interfaces=(link.device,))
    for request in sending.requests(3, link):
        sending.answer(request, link=link, source=link.there, destination=link.here)
    eventually(sending.received(3), "3 replies")


Wrong = Callable[[Family], dict[str, Any]]
"""What is wrong with an answer, in the arguments of `Sending.answer`."""

WRONG: dict[str, tuple[DiscardReason, Wrong]] = {
    "no payload": (DiscardReason.TRUNCATED, lambda _: {"cut": 0}),
    "43 bytes": (DiscardReason.TRUNCATED, lambda _: {"cut": 43}),
    "Multiplier 0": (DiscardReason.ZERO_MULTIPLIER, lambda _: {"error": 0x8000}),
    "from another port": (DiscardReason.WRONG_PORT, lambda _: {"ports": (863, SENDER_PORT)}),
    "from another address": (
        DiscardReason.WRONG_ADDRESS,
        lambda family: {"source": family.stranger},
    ),
    "to a packet never sent": (
        DiscardReason.UNEXPECTED_SEQUENCE,
        lambda _: {"sender_sequence": 1_000_000},
    ),
    "with another SSID": (DiscardReason.SSID_MISMATCH, lambda _: {"ssid": 77}),
    "on a wrong interface": (DiscardReason.WRONG_INTERFACE, lambda _: {"link": OTHER}),
}


@pytest.mark.parametrize("case", WRONG)
@over_both
def test_replies_that_are_discarded(sending: Sending, case: str) -> None:
    reason, wrong = WRONG[case]
    sending.configure(sending.session, interfaces=(MAIN.device,))
    (request, *_) = sending.requests(1)
    sending.answer(request, **wrong(sending.family))
    sending.discarded(reason)
    assert sending.running.session(SSID).received == 0
    sending.serve(sending.received(2), "2 good replies")


def test_what_belongs_to_no_session(sending: Sending) -> None:
    sending.configure(SESSION, dataclasses.replace(SESSION, ssid=6))
    (request, *_) = sending.requests(1)
    sending.answer(request, ssid=77)
    sending.answer(request, cut=10)
    wanted = {DiscardReason.UNKNOWN_SESSION: 1, DiscardReason.TRUNCATED: 1}
    eventually(lambda: sending.strays() == wanted, f"{wanted}")


NOT_OURS: dict[str, Wrong] = {
    "to another node": lambda family: {"destination": family.stranger},
    "to another address of ours": lambda family: {"destination": family.other.here},
    "to another port": lambda _: {"ports": (PORT, 50_123)},
    "encapsulated to another node": lambda _: {"wrap": within(TRANSIT, STRANGER)},
}
BY_THE_OTHER_FAMILY = {"source": MAIN.there, "destination": MAIN.here}


@pytest.mark.parametrize(
    ("sending", "wrong"),
    [
        *(
            pytest.param(family, wrong, id=f"IPv{family.version}, {name}")
            for family in (IPV6, IPV4)
            for name, wrong in NOT_OURS.items()
        ),
        pytest.param(
            IPV6,
            lambda _: {"wrap": behind_srh(MAIN.here, STRANGER, left=1)},
            id="IPv6, segments left",
        ),
        pytest.param(IPV4, lambda _: BY_THE_OTHER_FAMILY, id="IPv4, by the other family"),
    ],
    indirect=["sending"],
)
def test_replies_that_the_kernel_would_not_deliver(sending: Sending, wrong: Wrong) -> None:
    sending.configure(sending.session)
    (request, *_) = sending.requests(1)
    sending.answer(request, **wrong(sending.family))
    sending.serve(sending.received(2), "2 good replies")
    snapshot = sending.running.session(SSID)
    assert snapshot.received <= snapshot.next_sequence - 1
    assert snapshot.duplicates == 0
    assert not any(snapshot.discards.values())


def test_duplicates_reordered_and_late(sending: Sending) -> None:
    session = dataclasses.replace(SESSION, loss_timeout_ms=500, interval_us=100_000)
    sending.configure(session)
    requests = sending.requests(3)
    for request in reversed(requests[1:3]):
        sending.answer(request)
    sending.answer(requests[2])
    eventually(sending.received(2), "2 replies")
    eventually(lambda: sending.running.session(SSID).loss.round_trip >= 1, "a loss")
    sending.answer(requests[0])
    eventually(lambda: sending.running.session(SSID).late == 1, "a late reply")
    snapshot = sending.running.session(SSID)
    assert (snapshot.received, snapshot.duplicates, snapshot.reordered) == (2, 1, 1)


def test_loss_by_direction(sending: Sending) -> None:
    """The reflector's own numbers tell what was lost on the way back."""
    session = dataclasses.replace(
        SESSION, reflector_mode=ReflectorMode.STATEFUL, loss_timeout_ms=200, packet_count=10
    )
    sending.configure(session)
    counter = iter(range(10))

    def respond(request: wire.Seen) -> None:
        sequence = Request.read(request.payload).sequence
        if sequence in (3, 4):
            return
        number = next(counter)
        if sequence != 6:
            sending.answer(request, sequence=number)

    completed = lambda: running.statuses(SSID)[-1].oper_state is OperState.COMPLETED  # noqa: E731
    running = sending.running
    sending.serve(completed, "the run is complete", respond)
    snapshot = running.session(SSID)
    assert (snapshot.sent, snapshot.received, snapshot.loss.round_trip) == (10, 7, 3)
    assert (snapshot.loss.forward, snapshot.loss.backward) == (2, 1)


@over_both
def test_replies_that_were_sent_as_one(sending: Sending) -> None:
    """By a program on this machine: the kernel cuts them apart where they leave it."""
    sending.configure(sending.session)
    link, requests = sending.link, sending.requests(4)
    ends: dict[str, Any] = {"source": link.there, "destination": link.here}
    replies = [reply_to(request, **ends)[-wire.BASE :] for request in requests]
    burst = wire.burst(link.there, link.here, (PORT, SENDER_PORT), *replies)
    sending.stand.inject_burst(link, burst, wire.BASE)
    eventually(sending.received(len(requests)), "every reply")
    grace()
    session = sending.running.session(SSID)
    assert (session.received, session.duplicates) == (len(requests), 0)
    assert not any(session.discards.values())


def test_sessions_share_a_port(sending: Sending) -> None:
    """They differ in path, reflector and DSCP, and go by their SSIDs."""
    sessions: dict[int, SenderSession] = {
        5: SESSION,
        6: dataclasses.replace(SESSION, ssid=6, segments=(TRANSIT,)),
        7: dataclasses.replace(SESSION, ssid=7, dscp=10),
        8: dataclasses.replace(SESSION, ssid=8, reflector_address=STRANGER),
    }
    sending.configure(*sessions.values())
    looks: dict[int, set[tuple[int, bool, int]]] = {}

    def respond(request: wire.Seen) -> None:
        ssid = Request.read(request.payload).ssid
        looks.setdefault(ssid, set()).add(
            (request.traffic_class, bool(request.srh), int(request.destination))
        )
        sending.answer(request, source=sessions[ssid].reflector_address)

    def enough() -> bool:
        return all(sending.received(5, ssid)() for ssid in sessions)

    sending.serve(enough, "5 replies each", respond)
    assert looks == {
        5: {(0, False, int(MAIN.there))},
        6: {(0, True, int(TRANSIT))},
        7: {(40, False, int(MAIN.there))},
        8: {(0, False, int(STRANGER))},
    }
    for ssid in sessions:
        snapshot = sending.running.session(ssid)
        assert not any(snapshot.discards.values())
        assert snapshot.duplicates == 0


@pytest.mark.parametrize("action", SsidZeroAction, ids=str)
def test_a_reflector_without_ssid(sending: Sending, action: SsidZeroAction) -> None:
    """Another session to it that is stopped makes no difference."""
    stopped = dataclasses.replace(SESSION, ssid=6, autostart=False)
    session = dataclasses.replace(SESSION, on_ssid_zero=action)
    sending.running.configure(sending.node(session, stopped))
    sending.running.await_session(SSID, OperState.RUNNING)
    if action is SsidZeroAction.CONTINUE:
        sending.serve(
            sending.received(3), "3 replies", lambda request: sending.answer(request, ssid=0)
        )
        return
    (request, *_) = sending.requests(1)
    sending.answer(request, ssid=0)
    status = sending.running.await_session(SSID, OperState.STOPPED)
    eventually(lambda: sending.running.statuses(SSID)[-1].last_error, "an error")
    status = sending.running.statuses(SSID)[-1]
    assert status.last_error == "the Session-Reflector answers with SSID 0"
    assert sending.running.session(SSID).received == 0


def test_the_fiftieth_packet_is_not_early(sending: Sending) -> None:
    """That no due time drifts is for the unit tests, which have a clock of their own."""
    sending.configure(dataclasses.replace(SESSION, packet_count=50))
    requests = sending.requests(50)
    times = [
        decode_timestamp(Request.read(request.payload).t1, TimestampFormat.NTP, time.time_ns())
        for request in requests
    ]
    interval_ns = INTERVAL_US * 1_000
    (started_ns,) = {status.run_started_ns for status in sending.running.statuses(SSID)} - {None}
    first_slot = (times[0] - time.time_ns() + time.monotonic_ns() - started_ns) // interval_ns
    skipped = sending.running.session(SSID).skipped - first_slot
    # Never early: only by as much as the first may be late within its slot.
    assert times[-1] - times[0] > (49 + skipped - 1) * interval_ns
