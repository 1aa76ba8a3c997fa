"""The outbox of a session, and times."""

from __future__ import annotations

import pytest

from tools.netconf_server.errors import RpcError
from tools.netconf_server.notifications import (
    EVENTS_NS,
    Notification,
    Outbox,
    format_time,
    parse_time,
)


def notification(number: int) -> Notification:
    return Notification(number, b"<e/>")


def drain(outbox: Outbox) -> list[int]:
    found = []
    while (taken := outbox.take()) is not None:
        found.append(taken.time_ns)
    return found


def test_the_newest_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    woken: list[None] = []
    outbox = Outbox(7, 2, lambda: woken.append(None))
    for number in range(5):
        outbox.put(notification(number))
    assert outbox.dropped == 3
    assert caplog.messages == ["session 7: 2 notifications wait for the client, more are dropped"]
    assert drain(outbox) == [0, 1]
    outbox.put(notification(5))
    assert drain(outbox) == [5]
    assert len(woken) == 2
    assert caplog.messages[1:] == [
        "session 7: the client has caught up, 3 notifications dropped so far"
    ]


def test_each_time_that_it_is_full_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(7, 1, lambda: None)
    for _ in range(2):
        outbox.put(notification(0))
        outbox.put(notification(1))
        assert drain(outbox) == [0]
    assert len(caplog.messages) == 4
    assert outbox.dropped == 2


def test_the_end_is_never_dropped() -> None:
    outbox = Outbox(7, 1, lambda: None)
    outbox.put(notification(0))
    outbox.put_event("notificationComplete", 9, last=True)
    assert outbox.take() == notification(0)
    assert outbox.take() == Notification(
        9, f'<notificationComplete xmlns="{EVENTS_NS}"/>'.encode(), last=True
    )


TIMES = [
    ("1970-01-01T00:00:00.000000000Z", 0),
    ("2026-11-28T15:06:26.000000007Z", 1_795_878_386_000_000_007),
]


@pytest.mark.parametrize(("text", "time_ns"), TIMES)
def test_times(text: str, time_ns: int) -> None:
    assert format_time(time_ns) == text
    assert parse_time("startTime", text) == time_ns


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01T01:30:00+01:30", 0),
        ("1969-12-31T23:59:58.5Z", -1_500_000_000),
        ("1970-01-01T00:00:00.1234567899-00:00", 123_456_789),
    ],
)
def test_times_of_others(text: str, time_ns: int) -> None:
    assert parse_time("startTime", text) == time_ns


@pytest.mark.parametrize(
    "text",
    ["", "1970-01-01", "1970-01-01T00:00:00", "1970-01-01 00:00:00Z", "1970-13-01T00:00:00Z", "x"],
)
def test_wrong_times(text: str) -> None:
    with pytest.raises(RpcError, match="is not a date and time of RFC 3339"):
        parse_time("startTime", text)
