"""The devices of a node in tests: what tags its frames have, and what tags others' have."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from dataplane.engines.driver.interfaces import Device, Place, Vlan
from dataplane.frames import ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, HERE_MAC, VlanTag

INDEX = 1
DEVICE = Device(INDEX, HERE_MAC, takes_srh=True)

PRIORITY = (VlanTag(0xA000),)
ONE_VLAN = (VlanTag(0x6005),)
TWO_VLANS = (VlanTag(5, ETHERTYPE_SERVICE_VLAN), VlanTag(6))
SERVICE_VLAN = (VlanTag(8, ETHERTYPE_SERVICE_VLAN),)
TAGS: dict[str, tuple[VlanTag, ...]] = {
    "no tag": (),
    "priority": PRIORITY,
    "one VLAN": ONE_VLAN,
    "service VLAN": SERVICE_VLAN,
    "two VLANs": TWO_VLANS,
}


def place_of(tags: Sequence[VlanTag]) -> Place:
    """Where a frame with these tags arrives."""
    return Place(INDEX, tuple(Vlan(tag.identifier, tag.protocol) for tag in tags))


DEVICES = {place_of(tags): DEVICE for tags in TAGS.values()}


def in_other_protocols(tags: Sequence[VlanTag]) -> Iterator[tuple[VlanTag, ...]]:
    """The same identifiers in every other combination of protocols."""
    for protocols in itertools.product((ETHERTYPE_VLAN, ETHERTYPE_SERVICE_VLAN), repeat=len(tags)):
        other = tuple(
            tag._replace(protocol=protocol) for tag, protocol in zip(tags, protocols, strict=True)
        )
        if other != tuple(tags):
            yield other


OTHERS_TAGS: dict[str, tuple[VlanTag, ...]] = {
    **{
        f"{name}, protocols {'-'.join(f'{tag.protocol:x}' for tag in other)}": other
        for name, tags in TAGS.items()
        for other in in_other_protocols(tags)
    },
    "another VLAN": (VlanTag(7),),
    "outer VLAN alone": TWO_VLANS[:1],
    "inner VLAN alone": TWO_VLANS[1:],
    "the other way round": TWO_VLANS[::-1],
    "priority outside": (*PRIORITY, *ONE_VLAN),
    "priority inside": (*ONE_VLAN, *PRIORITY),
    "priority twice": PRIORITY * 2,
    "three tags": (*TWO_VLANS, VlanTag(0)),
}
"""Frames that no device of the node gets, or that are the kernel's to hand to one."""
