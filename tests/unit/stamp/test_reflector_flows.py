"""Which flows a Session-Reflector remembers."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from dataplane.stamp import reflector_flows as module
from dataplane.stamp.packet import OPEN
from dataplane.stamp.reflector_flows import WAYS, ReflectorFlows, Replies, Requests, _keys
from dataplane.stamp.session_reflector import Reply
from dataplane.stamp.timestamp import TimestampFormat

REPLY = cast(Reply, SimpleNamespace(session=None, state=None, timestamp_format=TimestampFormat.NTP))


def requests(ports: list[int]) -> Requests:
    """From one sender, whose flows differ by its port."""
    count = len(ports)
    data = np.zeros((count, OPEN.length), np.uint8)
    data[:, 13] = 1
    return Requests(
        *(data, np.full(count, OPEN.length)),
        *(np.ones((count, 2), np.uint64), np.array(ports), np.ones((count, 2), np.uint64)),
        *(np.ones(count, np.int64), np.full(count, 255)),
        *(np.zeros(count, np.int64), np.ones(count, np.bool_)),
    )


def test_the_oldest_flow_of_a_set_goes() -> None:
    ports = list(range(1_024, 1 << 16))
    by_set: dict[int, list[int]] = defaultdict(list)
    for port, number in zip(ports, _keys(requests(ports))[1].tolist(), strict=True):
        by_set[number].append(port)
    mine = max(by_set.values(), key=len)
    assert len(mine) > WAYS + 1
    flows = ReflectorFlows()
    for count, port in enumerate(mine, 1):
        flows.learn(requests([port]), REPLY, lane=port)
        places = flows.find(requests(mine))
        known = [one for one, place in zip(mine, places.tolist(), strict=True) if place >= 0]
        assert known == mine[max(0, count - WAYS) : count]
        lanes = [flows._lane[place] for place in places.tolist() if place >= 0]
        assert lanes == known


def test_replies_in_another_order_are_the_same_replies() -> None:
    payloads = np.arange(3, dtype=np.uint8)[:, None].repeat(OPEN.length, axis=1)
    replies = Replies(payloads, [], np.array([4, 5, 6]), np.array([7, 8, 9]))
    taken = replies.take(np.array([2, 0, 1]))
    assert taken.payloads[:, 0].tolist() == [2, 0, 1]
    assert (taken.which.tolist(), taken.lane.tolist()) == ([6, 4, 5], [9, 7, 8])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", np.array([[1, 2]], np.uint64)),
        ("source", np.array([[2, 1]], np.uint64)),
        ("source_port", np.array([2])),
        ("destination", np.array([[1, 2]], np.uint64)),
        ("destination", np.array([[2, 1]], np.uint64)),
        ("interface", np.array([2])),
    ],
)
def test_what_tells_flows_apart(
    name: str, value: npt.NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # All are in one set.
    monkeypatch.setattr(module, "_MIX", (np.uint64(0),) * 3)
    flows, request = ReflectorFlows(), requests([1])
    flows.learn(request, REPLY, lane=0)
    assert flows.find(request).tolist() == [0]
    assert flows.find(dataclasses.replace(request, **{name: value})).tolist() == [-1]


@pytest.mark.parametrize(("place", "value"), [(12, 0x40), (14, 1), (15, 1)])
def test_formats_and_ssids_tell_flows_apart(
    place: int, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MIX", (np.uint64(0),) * 3)
    flows, request, other = ReflectorFlows(), requests([1]), requests([1])
    flows.learn(request, REPLY, lane=0)
    other.data[0, place] = value
    assert flows.find(other).tolist() == [-1]
