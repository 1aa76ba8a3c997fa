"""How much earlier than it is due a packet is handed to the kernel."""

from __future__ import annotations

from dataplane.engines.common.send_lead import BLOCK, LEAD_MAX_NS, SendLead


def learned(lead: SendLead, *took_ns: int) -> int:
    for each in took_ns:
        lead.learn(each)
    return lead.ns


def test_there_is_none_before_enough_packets_are_known() -> None:
    lead = SendLead()
    assert learned(lead, *[9_000] * (BLOCK - 1)) == 0
    assert learned(lead, 9_000) == 9_000


def test_the_fastest_packet_decides() -> None:
    lead = SendLead()
    assert learned(lead, 8_000, *[50_000] * (BLOCK - 1)) == 8_000


def test_after_one_that_left_early_the_next_one_does_not() -> None:
    lead = SendLead()
    learned(lead, *[9_000] * BLOCK)
    assert learned(lead, 12_000) == 9_000
    assert learned(lead, 6_000) == 6_000
    assert learned(lead, *[9_000] * (BLOCK - 3)) == 6_000


def test_what_was_faster_long_ago_is_forgotten() -> None:
    lead = SendLead()
    learned(lead, *[6_000] * BLOCK)
    assert learned(lead, *[9_000] * BLOCK) == 9_000


def test_however_long_packets_take_there_is_a_limit() -> None:
    assert learned(SendLead(), *[80_000] * BLOCK) == LEAD_MAX_NS
