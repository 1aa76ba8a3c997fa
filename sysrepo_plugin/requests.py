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

    ssid: int | None = None
    """Of the Session-Sender's sessions only this one."""

    history: bool = True
    """Whether closed intervals and records are wanted."""


EVERYTHING = Request()


def parse_request(xpath: str | None) -> Request:
    """The narrowest Request that surely covers `xpath`."""
    if xpath is None:
        return EVERYTHING
    if session := SESSION.match(xpath):
        part = (session["rest"] or "").removeprefix("srv6-stamp:").split("/")[0]
        return Request(
            reflector=False,
            ssid=None if session["ssid"] is None else int(session["ssid"]),
            history=part in ("", "interval-statistics", "measurement"),
        )
    if role := ROLE.match(xpath):
        sender = role["role"] == "session-sender"
        return Request(sender=sender, reflector=not sender)
    return EVERYTHING
