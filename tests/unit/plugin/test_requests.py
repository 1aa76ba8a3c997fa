"""What of the operational state a request needs: never less than it selects."""

from __future__ import annotations

import pytest

from sysrepo_plugin.requests import EVERYTHING, Request, parse_request

SENDER = "/srv6-stamp:stamp/session-sender"


@pytest.mark.parametrize(
    ("xpath", "request_"),
    [
        (None, EVERYTHING),
        ("/srv6-stamp:stamp", EVERYTHING),
        ("/srv6-stamp:*", EVERYTHING),
        (f"{SENDER}/session", Request(reflector=False)),
        (f"{SENDER}/session/measurement", Request(reflector=False)),
        (f"{SENDER}/session/oper-state", Request(reflector=False, history=False)),
        ("/srv6-stamp:stamp/session-reflector/counters", Request(sender=False)),
        (f"{SENDER}/session[ssid='5']", Request(reflector=False, ssids=frozenset({5}))),
        (f'{SENDER}/session[ssid="5"]', Request(reflector=False, ssids=frozenset({5}))),
        (f"{SENDER}/session[ssid='5']/measurement", Request(reflector=False, ssids=frozenset({5}))),
        (
            f"{SENDER}/session[ssid='5']/oper-state",
            Request(reflector=False, ssids=frozenset({5}), history=False),
        ),
        (
            f"{SENDER}/session[ssid='5']/delay/forward/mean",
            Request(reflector=False, ssids=frozenset({5}), history=False),
        ),
        (
            f"{SENDER}/session[ssid='5']/delay | {SENDER}/session[ssid='6']/loss",
            Request(reflector=False, ssids=frozenset({5, 6}), history=False),
        ),
        (
            f"{SENDER}/session[ssid='5']/delay | {SENDER}/session/measurement",
            Request(reflector=False),
        ),
        (
            f"{SENDER}/session[ssid='5']/delay | /srv6-stamp:stamp/session-reflector",
            Request(ssids=frozenset({5}), history=False),
        ),
        # Whatever is not plain is answered in full.
        (f"{SENDER}/session[oper-state='running']", EVERYTHING),
        (f"{SENDER}/session[ssid='5'] | //oper-state", EVERYTHING),
        (f"{SENDER}/session[ssid='5|6']", EVERYTHING),
        (f"{SENDER}/session[ssid='5' or ssid='6']", EVERYTHING),
        (f"{SENDER}/session[ssid='5']/measurement[sequence='3']", EVERYTHING),
        (f"{SENDER}/session[ssid='5']/../../session-reflector", EVERYTHING),
        ("//oper-state", EVERYTHING),
    ],
)
def test_parse_request(xpath: str | None, request_: Request) -> None:
    assert parse_request(xpath) == request_
