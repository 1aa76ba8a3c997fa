"""What a client asks of the operational state, so that no more is collected.

sysrepo filters what it is given: answering too much is slow, never wrong. So
only XPaths of the plain forms that clients and actions produce are narrowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SESSION = re.compile(
    r"^/srv6-stamp:stamp/(?:srv6-stamp:)?session-sender/(?:srv6-stamp:)?session"
    r"(?:\[(?:srv6-stamp:)?ssid=['\"](?P<ssid>\d+)['\"]\])?(?:/(?P<rest>[\w:/-]*))?$"
)
ROLE = re.compile(
    r"^/srv6-stamp:stamp/(?:srv6-stamp:)?(?P<role>session-sender|session-reflector)"
    r"(?:/[\w:/-]*)?$"
)


@dataclass(frozen=True, slots=True)
class Request:
    """Which parts of the operational state are wanted."""

    sender: bool = True
    reflector: bool = True

    ssids: frozenset[int] | None = None
    """Of the Session-Sender's sessions only these."""

    history: bool = True
    """Whether closed intervals and records are wanted."""


EVERYTHING = Request()


def parse_request(xpath: str | None) -> Request:
    """The narrowest Request that surely covers `xpath`."""
    if xpath is None:
        return EVERYTHING
    # A "|" within a literal leaves parts that are not plain.
    parts = [_part(part.strip()) for part in xpath.split("|")]
    of_sender = [part for part in parts if part.sender]
    ssids = [part.ssids for part in of_sender]
    known = [each for each in ssids if each is not None]
    return Request(
        sender=bool(of_sender),
        reflector=any(part.reflector for part in parts),
        ssids=frozenset().union(*known) if ssids and len(known) == len(ssids) else None,
        history=not of_sender or any(part.history for part in of_sender),
    )


def _part(xpath: str) -> Request:
    if session := SESSION.match(xpath):
        part = (session["rest"] or "").removeprefix("srv6-stamp:").split("/")[0]
        return Request(
            reflector=False,
            ssids=None if session["ssid"] is None else frozenset({int(session["ssid"])}),
            history=part in ("", "interval-statistics", "measurement"),
        )
    if role := ROLE.match(xpath):
        sender = role["role"] == "session-sender"
        return Request(sender=sender, reflector=not sender)
    return EVERYTHING
