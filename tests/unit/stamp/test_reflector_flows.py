"""Which flows a Session-Reflector remembers."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import cast

import numpy as np

from dataplane.stamp.packet import OPEN
from dataplane.stamp.reflector_flows import WAYS, ReflectorFlows, Requests, _keys
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
