"""Packets by the hundred thousand: each is judged as the sans-IO core judges it, or passes."""

from __future__ import annotations

import random

import pytest

from dataplane.bpf.syscall import XDP_DROP, XDP_PASS, XDP_TX
from dataplane.reflector_store import HandedUp
from tests.integration.engines.xdp.reflecting import (
    FAMILIES,
    Bench,
    Family,
    each_family,
    judged_rightly,
    mutated,
    random_bytes,
    random_request,
)
from tests.integration.engines.xdp.test_reflector_ipv4 import IP_AT, UDP_AT, with_header
from tests.integration.engines.xdp.test_reflector_program import WITH_OPTIONS

pytestmark = pytest.mark.integration


@each_family
def test_random_requests(bench: Bench, family: Family) -> None:
    chance = random.Random(1)
    actions = [
        judged_rightly(bench, random_request(family, chance).encode()) for _ in range(20_000)
    ]
    assert min(actions.count(action) for action in (XDP_TX, XDP_DROP, XDP_PASS)) > 200


@each_family
def test_mutated_packets(bench: Bench, family: Family) -> None:
    chance = random.Random(2)
    originals = [random_request(family, chance).encode() for _ in range(500)]
    actions = [
        judged_rightly(bench, mutated(chance.choice(originals), chance)) for _ in range(100_000)
    ]
    assert actions.count(XDP_PASS) > 50_000
    assert actions.count(XDP_TX) > 100


def test_mutated_packets_with_options(bench: Bench) -> None:
    """However they are damaged, the driver never answers nor drops one."""
    chance = random.Random(4)
    originals = list(WITH_OPTIONS.values())
    before = bench.tables.counts().handed_up[HandedUp.IPV6_OPTIONS]
    actions = {
        judged_rightly(bench, mutated(chance.choice(originals), chance)) for _ in range(50_000)
    }
    assert actions == {XDP_PASS}
    # A good part of them is still recognised.
    assert bench.tables.counts().handed_up[HandedUp.IPV6_OPTIONS] > before + 10_000


def test_mutated_headers_whose_checksum_is_right(bench: Bench) -> None:
    """What no checksum gives away: lengths, fragments, options, protocols, addresses."""
    chance = random.Random(3)
    actions = []
    for _ in range(50_000):
        asked = FAMILIES["IPv4"].request(tail=chance.randbytes(chance.randrange(40)))
        header = bytearray(asked.encode()[IP_AT:UDP_AT])
        for _ in range(chance.randrange(1, 3)):
            at = chance.randrange(20)
            header[at] = chance.choice(
                [header[at] ^ 1 << chance.randrange(8), header[at] + 1 & 255]
            )
        actions.append(judged_rightly(bench, with_header(asked, bytes(header))))
    assert actions.count(XDP_PASS) > 20_000
    assert actions.count(XDP_TX) > 100


@each_family
def test_random_bytes(bench: Bench, family: Family) -> None:
    chance = random.Random(3)
    for _ in range(50_000):
        assert judged_rightly(bench, random_bytes(family, chance)) == XDP_PASS
