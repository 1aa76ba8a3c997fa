"""Which SIDs a program sets packets free for: those that the kernel would find for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv6Address

import pytest

from dataplane.engines.driver.doorbell import Doorbell
from dataplane.engines.driver.interfaces import Kernel
from dataplane.engines.driver.layouts import LocalFlag
from tests.integration.engines.network import Network, inside, ip

pytestmark = pytest.mark.integration

SID = IPv6Address("fc00:e::d6")
TABLE = "1234"


@pytest.fixture
def node(network: Network) -> Iterator[Callable[..., None]]:
    """`ip -6` in a network namespace that this thread is in."""

    def command(*arguments: str) -> None:
        ip("-6", *arguments)

    with inside(network.reflector):
        yield command


def add_sid(node: Callable[..., None], table: str, packets_table: str = "255") -> None:
    node(
        *("route", "add", f"{SID}/128", "encap", "seg6local", "action", "End.DT6"),
        *("table", packets_table, "dev", "vb", "table", table),
    )


def serves() -> bool:
    kernel = Kernel()
    try:
        return kernel.locals().get(SID) is LocalFlag.DECAPSULATES_IPV6
    finally:
        kernel.close()


def test_of_the_main_table(node: Callable[..., None]) -> None:
    add_sid(node, "main")
    assert serves()


def test_of_a_table_that_a_rule_leads_to(node: Callable[..., None]) -> None:
    add_sid(node, TABLE)
    assert not serves()
    node("rule", "add", "lookup", TABLE, "pref", "100")
    assert serves()


@pytest.mark.parametrize(
    "rule",
    [
        "fwmark 1",
        "not fwmark 1",
        "from fd00:a::/64",
        "to fc00:e::/64",
        "iif vb",
        "tos 0x10",
        "ipproto udp",
        "suppress_prefixlength 64",
    ],
)
def test_a_rule_for_some_packets_is_for_the_kernel(node: Callable[..., None], rule: str) -> None:
    add_sid(node, TABLE)
    node("rule", "add", *rule.split(), "lookup", TABLE, "pref", "100")
    assert not serves()


def test_nothing_goes_past_a_rule_that_ends_the_search(node: Callable[..., None]) -> None:
    add_sid(node, "main")
    node("rule", "add", "pref", "100", "blackhole", "fwmark", "1")
    assert serves()
    node("rule", "add", "pref", "101", "blackhole")
    assert not serves()


def test_the_first_table_decides(node: Callable[..., None]) -> None:
    node("rule", "add", "lookup", TABLE, "pref", "100")
    add_sid(node, TABLE, packets_table="254")
    add_sid(node, "main")
    assert not serves()
    node("rule", "del", "pref", "100")
    node("rule", "add", "lookup", TABLE, "pref", "40000")
    assert serves()


def test_rules_ring(node: Callable[..., None]) -> None:
    bell = Doorbell()
    try:
        node("rule", "add", "lookup", TABLE, "pref", "100")
        assert bell.rung()
        assert not bell.rung()
    finally:
        bell.close()
