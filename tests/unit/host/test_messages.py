"""The channel between supervisor and host: every message survives, nothing else gets through."""

from __future__ import annotations

import json
import string
from dataclasses import fields
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.config import Node, Reflector, ReflectorSession, Sender, SenderSession
from dataplane.engines.base import (
    IntervalClosed,
    OperState,
    ReflectorStatus,
    ReflectorStatusReport,
    ReplyHandedUp,
    Resume,
    SenderDriver,
    SenderStatusReport,
    SessionStatus,
)
from dataplane.host.messages import (
    LENGTH,
    MESSAGE_MAX,
    Answer,
    Apply,
    ChannelError,
    Clear,
    Freshen,
    Message,
    NodeDelta,
    Ping,
    Reports,
    Shutdown,
    Splitter,
    Start,
    Stop,
    decode,
    difference,
    encode,
    patched,
)

names = st.text(string.ascii_lowercase, min_size=1, max_size=8)
roles = {"engine": names, "interfaces": st.lists(names, max_size=2).map(tuple)}
addresses = st.ip_addresses()
sids = st.lists(st.ip_addresses(v=6), max_size=3).map(tuple)
sender_sessions = st.builds(
    SenderSession, ssid=st.integers(1, 8), segments=sids, percentiles=st.just((50.0, 99.9))
)
reflector_sessions = st.builds(ReflectorSession, ssid=st.integers(1, 8), segments=sids)
senders = st.builds(
    Sender,
    **roles,
    sessions=st.lists(sender_sessions, max_size=4).map(lambda all_: {s.ssid: s for s in all_}),
)
reflectors = st.builds(
    Reflector,
    **roles,
    source_address=st.none() | addresses,
    sessions=st.lists(reflector_sessions, max_size=4).map(lambda all_: {s.key: s for s in all_}),
)
nodes = st.builds(Node, st.none() | senders, st.none() | reflectors)
statuses = st.builds(SessionStatus)
reports = (
    st.builds(SenderStatusReport, status=st.none() | statuses)
    | st.builds(ReflectorStatusReport, status=st.none() | st.builds(ReflectorStatus))
    | st.builds(IntervalClosed)
    | st.builds(
        SenderDriver,
        handed_up=st.dictionaries(st.sampled_from(ReplyHandedUp), st.integers(0, 9)),
    )
)
messages = st.one_of(
    st.builds(
        Apply,
        delta=st.builds(difference, nodes, nodes),
        resume=st.dictionaries(st.integers(1, 9), st.builds(Resume), max_size=3),
    ),
    st.builds(Start),
    st.builds(Stop),
    st.builds(Clear),
    st.builds(Ping),
    st.builds(Freshen),
    st.builds(Shutdown),
    st.builds(Answer),
    st.builds(Reports, st.lists(reports, max_size=4).map(tuple)),
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(messages)
def test_message_round_trip(message: Message) -> None:
    data = encode(message)
    assert LENGTH.unpack_from(data) == (len(data) - LENGTH.size,)
    assert decode(data[LENGTH.size :]) == message


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(nodes, nodes)
def test_difference_leads_from_old_to_new(old: Node, new: Node) -> None:
    assert patched(old, difference(old, new)) == new


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(nodes)
def test_no_difference_names_no_session(node: Node) -> None:
    delta = difference(node, node)
    if delta.sender is not None:
        assert delta.sender.settings.sessions == {}
        assert delta.sender.removed == ()
    if delta.reflector is not None:
        assert delta.reflector.settings.sessions == {}
        assert delta.reflector.removed == ()


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(messages, max_size=4), st.integers(1, 50))
def test_splitter_does_not_depend_on_how_bytes_arrive(sent: list[Message], size: int) -> None:
    stream = b"".join(map(encode, sent))
    splitter = Splitter()
    received: list[Message] = []
    for start in range(0, len(stream), size):
        received += splitter.feed(stream[start : start + size])
    assert received == sent


def test_sessions_that_are_configured_alike_share_their_settings() -> None:
    """There are thousands of them: what is said of each by itself takes memory as often."""
    sessions = {
        ssid: SenderSession(
            ssid,
            *(IPv6Address("fd00::2"), IPv6Address("fd00::1")),
            segments=(IPv6Address("fd00:5::1"), IPv6Address("fd00:5::2")),
        )
        for ssid in (1, 2)
    }
    data = encode(Apply(1, difference(Node(), Node(sender=Sender(sessions=sessions)))))
    message = decode(data[LENGTH.size :])
    assert isinstance(message, Apply)
    assert message.delta.sender is not None
    one, other = message.delta.sender.settings.sessions.values()
    different = [
        field.name
        for field in fields(one)
        if getattr(one, field.name) is not getattr(other, field.name)
    ]
    assert different == ["ssid"]


def test_unchanged_sessions_are_not_sent() -> None:
    sessions = {
        ssid: SenderSession(ssid, IPv6Address("fd00::2"), IPv6Address("fd00::1"))
        for ssid in (1, 2, 3)
    }
    old = Node(sender=Sender(sessions=sessions))
    changed = SenderSession(2, IPv6Address("fd00::2"), IPv6Address("fd00::1"), dscp=46)
    new = Node(sender=Sender(sessions={1: sessions[1], 2: changed}))
    delta = difference(old, new)
    assert delta.sender is not None
    assert delta.sender.settings.sessions == {2: changed}
    assert delta.sender.removed == (3,)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"\xff", "not a message: 'utf-8' codec can't decode byte 0xff"),
        (b"[]", "not a message: [] is not an object"),
        (b'{"type":"Reboot"}', "not a message: 'Reboot' is none of "),
        (b'{"type":["Stop"]}', "not a message: ['Stop'] is none of "),
        (b'{"type":"Ping"}', "not a message: {} does not have the members of Ping"),
        (b'{"type":"Ping","request":"1"}', "not a message: '1' is not of type int"),
        (b'{"type":"Ping","request":true}', "not a message: True is not of type int"),
        (
            b'{"type":"Reports","reports":{}}',
            "not a message: {} is not an array",
        ),
    ],
)
def test_what_is_no_message(body: bytes, text: str) -> None:
    with pytest.raises(ChannelError) as refusal:
        decode(body)
    assert str(refusal.value).startswith(text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_json_is_a_message_or_a_channel_error(value: object) -> None:
    body = {"type": "Apply", "request": 1, "delta": value, "resume": []}
    try:
        message = decode(json.dumps(body).encode())
    except ChannelError:
        return
    assert isinstance(message, Apply)


def test_impossible_length() -> None:
    with pytest.raises(ChannelError, match=f"longer than {MESSAGE_MAX}"):
        list(Splitter().feed(LENGTH.pack(MESSAGE_MAX + 1)))


def test_addresses_keep_their_family() -> None:
    sessions = {
        1: SenderSession(1, IPv4Address("192.0.2.2"), IPv4Address("192.0.2.1")),
        2: SenderSession(2, IPv6Address("fd00::2"), IPv6Address("fd00::1")),
    }
    message = Apply(7, difference(Node(), Node(sender=Sender(sessions=sessions))))
    assert decode(encode(message)[LENGTH.size :]) == message
    assert difference(Node(), Node()) == NodeDelta()


def test_oper_states_have_stable_names() -> None:
    assert [state.value for state in OperState] == [
        "disabled",
        "stopped",
        "running",
        "completed",
        "failed",
        "starting",
    ]
