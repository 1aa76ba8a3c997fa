"""Whose a frame is, by its VLAN tags: the protocol of a tag counts as its identifier does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dataplane.bpf.syscall import XDP_DROP, XDP_PASS
from dataplane.engines.xdp.collector_layouts import CollectorUp
from dataplane.frames import HERE_MAC, Frame
from tests.integration.engines.driver.devices import DEVICES, OTHERS_TAGS, TAGS
from tests.integration.engines.xdp.collecting import Twins, frame, payload, shaped
from tests.integration.engines.xdp.reflecting import FAMILIES, Bench, answers, leaves
from tests.unit.stamp.network import MS, UNIX_NS

pytestmark = pytest.mark.integration

REQUESTS = {name: family.request() for name, family in FAMILIES.items()}


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("asked", REQUESTS.values(), ids=REQUESTS)
def test_requests_to_a_device_are_answered(bench: Bench, asked: Frame, tags: str) -> None:
    answers(bench, replace(asked, tags=TAGS[tags]))


@pytest.mark.parametrize("tags", OTHERS_TAGS)
@pytest.mark.parametrize("asked", REQUESTS.values(), ids=REQUESTS)
def test_requests_to_others_pass_uncounted(bench: Bench, asked: Frame, tags: str) -> None:
    for known in TAGS.values():
        # The next hop to this sender is known by now.
        answers(bench, replace(asked, tags=known))
    leaves(bench, replace(asked, tags=OTHERS_TAGS[tags]).encode())


@pytest.mark.parametrize("tags", TAGS)
def test_replies_to_a_device_are_collected(twins: Twins, tags: str) -> None:
    twins.sent(0, UNIX_NS, 0)
    packet = replace(frame(twins, payload()), tags=TAGS[tags])
    assert twins.node.run(packet.encode(), 5 * MS) == XDP_DROP


def handed_up(twins: Twins, packet: Frame) -> int:
    """How often the program says so of a reply that it does not collect."""
    before = twins.node.tables.counts()
    assert twins.node.run(packet.encode(), 5 * MS) == XDP_PASS
    after = twins.node.tables.counts()
    assert (after.collected, after.duplicates) == (before.collected, before.duplicates)
    return after.handed_up[CollectorUp.INTERFACE] - before.handed_up[CollectorUp.INTERFACE]


@pytest.mark.parametrize("tags", OTHERS_TAGS)
def test_replies_to_others_are_not(twins: Twins, tags: str) -> None:
    twins.sent(0, UNIX_NS, 0)
    packet = replace(frame(twins, payload()), tags=OTHERS_TAGS[tags])
    # Of three tags the program reads two, and finds no packet.
    assert handed_up(twins, packet) == (len(packet.tags) <= 2)


@pytest.mark.parametrize("form", ["encapsulated, SRH", "VLAN, encapsulated, SRH"])
def test_replies_that_a_sid_takes_for_their_hmac_alone(twins: Twins, form: str) -> None:
    twins.sent(0, UNIX_NS, 0)
    packet = shaped(twins, payload(), form).encode()
    signed = {place: replace(device, requires_hmac=True) for place, device in DEVICES.items()}
    twins.node.tables.set_interfaces(signed)
    try:
        assert twins.node.run(packet, 5 * MS) == XDP_PASS
    finally:
        twins.node.tables.set_interfaces(DEVICES)
    assert twins.node.run(packet, 5 * MS) == XDP_DROP


@pytest.mark.parametrize("tags", TAGS)
def test_nor_are_those_to_another_link_layer_address(twins: Twins, tags: str) -> None:
    twins.sent(0, UNIX_NS, 0)
    packet = replace(frame(twins, payload()), tags=TAGS[tags])
    for at in range(len(HERE_MAC)):
        mac = bytearray(HERE_MAC)
        mac[at] ^= 1
        assert handed_up(twins, replace(packet, destination_mac=bytes(mac))) == 1
