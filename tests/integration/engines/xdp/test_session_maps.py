"""Maps of many sessions at once: as those of each by itself, or none at all."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.arena import Arena
from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_DROP, XDP_PASS, lookup_element
from dataplane.config import SenderSession
from dataplane.engines.xdp.collection import DriverCollector
from dataplane.engines.xdp.collector_layouts import CollectorUp
from dataplane.engines.xdp.session_maps import make_rooms, take_away
from dataplane.frames import Datagram, Frame
from dataplane.stamp.window import window_of
from dataplane.store import SessionStore
from tests.integration.engines.xdp.collecting import CLOCK, Node, payload
from tests.unit.stamp.network import MS, UNIX_NS, session

pytestmark = pytest.mark.integration

OUTER = ("collections", "collection_slots")
NO_SUCH_SSID = 1 << 16
WINDOW = 64


def given(module: BpfModule, ssid: int) -> list[bool]:
    """Whether programs have each of the session's maps."""
    key = ssid.to_bytes(4, sys.byteorder)
    return [lookup_element(module.map_fd(name), key, 4) is not None for name in OUTER]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def reply(node: Node, config: SenderSession, now_ns: int) -> int:
    ends = config.reflector_address, config.source_address
    ports = config.reflector_udp_port, config.sender_udp_port
    data = payload(0, 0, ssid=config.ssid, t1_ns=UNIX_NS)
    return node.run(Frame(Datagram(*ends, *ports, data)).encode(), now_ns)


@pytest.fixture
def arena() -> Arena:
    return Arena(1 << 28, 1 << 24)


@pytest.fixture
def ports(node: Node) -> Iterator[None]:
    port = session().sender_udp_port
    node.tables.ports.add(port)
    yield
    node.tables.ports.remove(port)


@pytest.mark.usefixtures("ports")
def test_sessions_collect_in_rooms_made_together_as_in_their_own(
    node: Node, tmp_path: Path
) -> None:
    configs = [session(ssid=ssid) for ssid in (1, 2, 3, 4)]
    window = window_of(configs[0])
    rooms = make_rooms(node.module, {1: window, 2: window})
    collectors = []
    for config in configs:
        collector = DriverCollector(
            *(config, SessionStore.create(tmp_path / str(config.ssid), config), node.module),
            now_ns=0,
            tai_offset_s=CLOCK.tai_offset_s,
            room=rooms.get(config.ssid),
        )
        collectors.append(collector)
        collector.start(0, UNIX_NS)
        collector.sent(0, UNIX_NS, 0)
        assert reply(node, config, 5 * MS) == XDP_DROP
        collector.drain(6 * MS)
    states = {collector._maps.state.tobytes() for collector in collectors}
    assert len(states) == 1
    for collector in collectors:
        assert collector._maps.slots.tobytes() == collectors[0]._maps.slots.tobytes()
        assert collector._counters.received == 1
        collector.close()
    assert not any(any(given(node.module, config.ssid)) for config in configs)


@pytest.mark.usefixtures("ports")
def test_replies_to_an_empty_room_are_handed_up(node: Node) -> None:
    (room,) = make_rooms(node.module, {7: WINDOW}).values()
    before = node.tables.counts().handed_up[CollectorUp.PEER]
    assert reply(node, session(), 0) == XDP_PASS
    assert node.tables.counts().handed_up[CollectorUp.PEER] == before + 1
    room.close()


@pytest.mark.parametrize(
    ("windows", "error"),
    [
        ({1: WINDOW, 2: WINDOW, NO_SUCH_SSID: WINDOW}, errno.E2BIG),
        ({1: WINDOW, 2: WINDOW, 3: 1 << 31}, errno.ENOMEM),
    ],
    ids=["index", "memory"],
)
def test_rooms_that_cannot_be_made_leave_nothing_behind(
    collector_module: BpfModule, arena: Arena, windows: dict[int, int], error: int
) -> None:
    before = descriptors()
    with pytest.raises(OSError, match=os.strerror(error)):
        make_rooms(collector_module, windows, arena)
    assert descriptors() == before
    assert not any(any(given(collector_module, ssid)) for ssid in (1, 2, 3))
    # Their places in the arena are free again.
    used = arena._files_used
    for room in make_rooms(collector_module, {1: WINDOW, 2: WINDOW}, arena).values():
        room.close()
    assert arena._files_used == used


@pytest.mark.usefixtures("ports")
def test_rooms_are_taken_away_together_and_given_anew(
    node: Node, arena: Arena, tmp_path: Path
) -> None:
    configs = [session(ssid=ssid) for ssid in (1, 2, 3)]
    windows = {config.ssid: window_of(config) for config in configs}
    rooms = make_rooms(node.module, windows, arena)
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        for config in configs:
            store = SessionStore.create(tmp_path / folder / str(config.ssid), config)
            collector = DriverCollector(
                *(config, store, node.module), now_ns=0, room=rooms[config.ssid]
            )
            collector.start(0, UNIX_NS)
            collector.sent(0, UNIX_NS, 0)
            assert reply(node, config, 5 * MS) == XDP_DROP
            assert not collector.fresh
        take_away(node.module, list(rooms.values()))
        before = node.tables.counts().handed_up[CollectorUp.PEER]
        for config in configs:
            assert reply(node, config, 6 * MS) == XDP_PASS
            assert rooms[config.ssid].collection.values["running"]["received"] == 1
        assert node.tables.counts().handed_up[CollectorUp.PEER] == before + len(configs)
        for room in rooms.values():
            room.close()
        # Programs have maps there, but none that is anybody's: new ones take their place.
        rooms = make_rooms(node.module, windows, arena)
    for room in rooms.values():
        room.close()
    assert not any(any(given(node.module, ssid)) for ssid in windows)
