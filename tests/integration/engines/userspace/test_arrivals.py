"""Packets through the driver: the same columns as through the kernel, or the kernel's way."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address

import numpy as np
import pytest

from dataplane.bpf.btf import map_types
from dataplane.engines.common.batch import ROW, Batch
from dataplane.engines.driver.interfaces import Place, Vlan
from dataplane.engines.driver.layouts import LocalFlag
from dataplane.engines.userspace import driver_layouts
from dataplane.frames import VlanTag
from tests.integration.engines.conformance import wire
from tests.integration.engines.conformance.reflecting import packet
from tests.integration.engines.conformance.sending import behind_srh, within
from tests.integration.engines.conformance.stand import (
    DECAPSULATING,
    MAIN,
    OTHER,
    Link,
    Stand,
    grace,
)
from tests.integration.engines.driver.compiled import as_compiled
from tests.integration.engines.driver.devices import OTHERS_TAGS, TAGS
from tests.integration.engines.userspace.conftest import ANY, FRAMES, PORT, Node

pytestmark = pytest.mark.integration

SID = IPv6Address("fc00:9::1")
REQUEST = wire.request(7, 5)

SHAPES: dict[str, bytes] = {
    "plain": packet(REQUEST),
    "srh": behind_srh(SID)(packet(REQUEST)),
    "srh-longer": behind_srh(SID, IPv6Address("fc00:9::2"))(packet(REQUEST)),
    "encapsulated": within(SID, DECAPSULATING)(packet(REQUEST)),
    "encapsulated-no-srh": within(DECAPSULATING, srh=False)(packet(REQUEST)),
    "hop-limit": packet(REQUEST, hop_limit=3),
    "traffic-class": packet(REQUEST, traffic_class=0xB9),
    "port": packet(REQUEST, ports=(1_025, PORT)),
    "empty": packet(b""),
    "short": packet(REQUEST[:14]),
    "odd": packet(wire.request(7, 5, length=45)),
    "row": packet(wire.request(7, 5, length=ROW)),
    "long": packet(wire.request(7, 5, length=ROW + 1)),
    "longest": packet(wire.request(7, 5, length=1_452)),
}


IPV4 = MAIN.over_ipv4()


def columns(batch: Batch) -> dict[str, object]:
    """Everything but the time."""
    (count,) = {batch.count}
    datagrams = [batch.datagram(row)._replace(received_ns=0) for row in range(count)]
    return {"datagrams": datagrams, "long": batch.long, "length": batch.length[:count].tolist()}


@pytest.mark.parametrize("shape", SHAPES)
def test_columns_are_those_of_the_kernels_way(node: Node, shape: str) -> None:
    node.stand.inject(MAIN, SHAPES[shape])
    through_kernel = columns(node.in_kernel(1))
    with node.attached():
        before_ns = time.time_ns()
        node.stand.inject(MAIN, SHAPES[shape])
        arrived = node.in_driver()
        after_ns = time.time_ns()
    assert columns(arrived) == through_kernel
    assert before_ns <= int(arrived.received_ns[0]) <= after_ns
    assert node.nothing_in_kernel()


def test_many_in_their_order(node: Node) -> None:
    """Frames are used again and again."""
    with node.attached():
        for start in range(0, 5 * FRAMES, FRAMES // 2):
            for number in range(start, start + FRAMES // 2):
                node.stand.inject(MAIN, packet(wire.request(number, 5)))
            batch = node.in_driver()
            numbers = batch.data[: batch.count, :4].copy().view(">u4")[:, 0]
            assert numbers.tolist() == list(range(start, start + FRAMES // 2))
            assert (np.diff(batch.received_ns[: batch.count]) >= 0).all()
    assert node.xdp.dropped() == 0


def wrong_checksum(stand: Stand) -> None:
    stand.inject(MAIN, packet(REQUEST, checksum=0x1234))


def no_checksum(stand: Stand) -> None:
    stand.inject(MAIN, packet(REQUEST, checksum=0))


def longer_than_it_is(stand: Stand) -> None:
    stand.inject(MAIN, packet(REQUEST, length=60))


def another_port(stand: Stand) -> None:
    stand.inject(MAIN, packet(REQUEST, ports=(49_862, PORT + 1)))


def another_node(stand: Stand) -> None:
    stand.inject(MAIN, packet(REQUEST, destination=IPv6Address("fd00:1::3")))


def link_local(stand: Stand) -> None:
    stand.inject(MAIN, packet(REQUEST, source=IPv6Address("fe80::1")))


def from_loopback(stand: Stand) -> None:
    stand.inject(MAIN, packet(REQUEST, source=IPv6Address("::1")))


def multicast(stand: Stand) -> None:
    stand.inject(MAIN, packet(REQUEST, destination=IPv6Address("ff02::1")))


def mapped_source(stand: Stand) -> None:
    stand.inject(MAIN, packet(REQUEST, source=IPv6Address("::ffff:192.0.2.1")))


def mapped_destination(stand: Stand) -> None:
    stand.inject(MAIN, packet(REQUEST, destination=IPv6Address(f"::ffff:{IPV4.here}")))


def broadcast(stand: Stand) -> None:
    stand.inject(MAIN, packet(REQUEST, IPV4, destination=IPv4Address("255.255.255.255")))


def other_mac(stand: Stand) -> None:
    stand.inject(MAIN, packet(REQUEST), to=bytes.fromhex("02000000dead"))


def segments_left(stand: Stand) -> None:
    stand.inject(MAIN, behind_srh(SID, left=1)(packet(REQUEST)))


def not_our_sid(stand: Stand) -> None:
    stand.inject(MAIN, within(SID, MAIN.here)(packet(REQUEST)))


@pytest.mark.parametrize(
    "send",
    [
        *(wrong_checksum, no_checksum, longer_than_it_is, another_port, another_node),
        *(
            mapped_source,
            mapped_destination,
            broadcast,
            link_local,
            from_loopback,
            multicast,
            other_mac,
            segments_left,
            not_our_sid,
        ),
    ],
)
def test_what_is_not_for_the_socket_passes(node: Node, send: Callable[[Stand], None]) -> None:
    with node.attached():
        send(node.stand)
        grace()
        assert node.in_driver().count == 0
        # The way is open all the same.
        node.stand.inject(MAIN, packet(REQUEST))
        assert node.in_driver().count == 1


def test_tags_say_whose_a_frame_is(node: Node) -> None:
    """The protocol of a tag as well as its identifier."""
    own = node.devices[Place(node.index)]

    def link_of(tags: Iterable[VlanTag]) -> Link:
        return dataclasses.replace(
            MAIN, tags=tuple(wire.Tag(tag.identifier, tag.protocol) for tag in tags)
        )

    places = {
        Place(node.index, tuple(Vlan(tag.identifier, tag.protocol) for tag in tags)): own
        for tags in TAGS.values()
    }
    node.program.tables.set_interfaces(places)
    with node.attached():
        for tags in TAGS.values():
            node.stand.inject(link_of(tags), packet(REQUEST))
            assert node.in_driver().count == 1
        for tags in OTHERS_TAGS.values():
            node.stand.inject(link_of(tags), packet(REQUEST))
        grace()
        assert node.in_driver().count == 0


def test_what_passes_reaches_the_udp_socket(node: Node) -> None:
    with node.attached():
        node.stand.inject(MAIN, packet(REQUEST, source=IPv6Address("fe80::1")))
        assert node.in_kernel(1).scope_id[0] == node.index
        assert node.in_driver().count == 0


@pytest.mark.parametrize("kind", [wire.NH_HOP_BY_HOP, wire.NH_DESTINATION])
def test_options_are_the_kernels_to_judge(node: Node, kind: int) -> None:
    with node.attached():
        whole = packet(REQUEST)
        options = bytes([whole[6], 0, 1, 4, 0, 0, 0, 0])
        node.stand.inject(MAIN, wire.ipv6(MAIN.there, MAIN.here, kind, options + whole[40:]))
        assert node.in_kernel(1).source_port[0] == 49_862
        assert node.in_driver().count == 0


def test_ipv4_is_left_to_the_kernel(node: Node) -> None:
    with node.attached():
        node.stand.inject(MAIN, packet(REQUEST, IPV4))
        assert node.in_kernel(1, node.udp_ipv4).source_port[0] == 49_862
        assert node.in_driver().count == 0


def test_an_address_that_is_gone(node: Node) -> None:
    with node.attached():
        node.program.tables.set_locals({})
        node.stand.inject(MAIN, packet(REQUEST))
        node.in_kernel(1)
        assert node.in_driver().count == 0
        node.program.tables.set_locals({MAIN.here: LocalFlag.ADDRESS})
        node.stand.inject(MAIN, packet(REQUEST))
        assert node.in_driver().count == 1


def test_a_socket_of_its_own_address_comes_first(node: Node) -> None:
    own = node.open()
    place = node.program.add(MAIN.here, PORT, own)
    with node.attached():
        node.stand.inject(MAIN, packet(REQUEST))
        assert (node.in_driver(own).count, node.in_driver().count) == (1, 0)
        node.program.remove(MAIN.here, PORT, own, place)
        own.close()
        node.stand.inject(MAIN, packet(REQUEST))
        assert node.in_driver().count == 1


def test_without_a_receiver_packets_pass(node: Node) -> None:
    with node.attached():
        node.program.remove(ANY, PORT, node.xdp, node.place)
        node.stand.inject(MAIN, packet(REQUEST))
        node.in_kernel(1)
        assert node.in_driver().count == 0


def test_a_checksum_that_was_left_open(node: Node) -> None:
    """As a sender on this machine leaves it: the sum of the pseudo header."""
    datagram = packet(REQUEST)
    # The sum of an empty datagram, without its ports and its length, which is in there twice.
    addresses = -int.from_bytes(packet(b"")[46:48], "big") - 49_862 - PORT - 2 * 8
    pseudo = (addresses + 8 + len(REQUEST)) % 0xFFFF
    open_one = datagram[:46] + pseudo.to_bytes(2, "big") + datagram[48:]
    with node.attached():
        for partial in (True, False):
            node.program.set_partial(partial)
            node.stand.inject(MAIN, open_one)
            grace()
            assert node.in_driver().count == partial


def test_what_does_not_fit_is_counted(node: Node) -> None:
    with node.attached():
        for number in range(FRAMES + 10):
            node.stand.inject(MAIN, packet(wire.request(number, 5)))
        assert node.in_driver().count == FRAMES
        assert node.xdp.dropped() == 10
    assert node.nothing_in_kernel()


def test_sockets_share_the_frames(node: Node) -> None:
    """What one has not read is missing to the other, and counted there."""
    own = node.open()
    node.program.add(MAIN.here, PORT + 1, own)
    with node.attached():
        for _ in range(FRAMES - 5):
            node.stand.inject(MAIN, packet(REQUEST))
        for _ in range(10):
            node.stand.inject(MAIN, packet(REQUEST, ports=(49_862, PORT + 1)))
        assert (own.dropped(), node.xdp.dropped()) == (5, 0)
        assert node.in_driver(own).count == 5
        assert node.in_driver().count == FRAMES - 5
    own.close()


def test_other_interfaces_are_not_touched(node: Node) -> None:
    with node.attached():
        node.stand.inject(OTHER, packet(REQUEST, OTHER))
        node.in_kernel(1)
        assert node.in_driver().count == 0


def test_places_are_used_again(node: Node) -> None:
    for _ in range(2 * driver_layouts.RECEIVERS_MAX):
        place = node.program.add(MAIN.here, PORT, node.xdp)
        node.program.remove(MAIN.here, PORT, node.xdp, place)


@pytest.mark.parametrize("name", driver_layouts.MAPS)
def test_layouts_are_the_compilers(node: Node, name: str) -> None:
    found = map_types(node.program.map_fd(name))
    for ours, compiled in zip(driver_layouts.MAPS[name], found, strict=True):
        if ours is not None:
            assert as_compiled(ours, compiled.name) == compiled
