"""Why a received packet is not used."""

from __future__ import annotations

import enum


class DiscardReason(enum.Enum):
    """The counter that a discarded packet is counted under; values are stable names."""

    TRUNCATED = "truncated"
    """Shorter than the base packet allows."""

    ZERO_MULTIPLIER = "zero-multiplier"
    """An Error Estimate with Multiplier 0 (RFC 4656 §4.1.2)."""

    UNKNOWN_SESSION = "unknown-session"
    """No configured session has its SSID and source address."""

    WRONG_PORT = "wrong-port"
    """The session is for another UDP port."""

    WRONG_ADDRESS = "wrong-address"
    """The session is for another address."""

    UNEXPECTED_SEQUENCE = "unexpected-sequence"
    """A reply to a packet that was never sent."""

    SSID_MISMATCH = "ssid-mismatch"
    """A reply with the SSID of another session."""

    SESSION_DISABLED = "session-disabled"
    """The session is configured, and switched off."""

    WRONG_INTERFACE = "wrong-interface"
    """Received on an interface that is not configured."""

    UNANSWERABLE = "unanswerable"
    """An answer could reach a third party or loop."""

    SEND_FAILED = "send-failed"
    """The answer could not be sent."""

    BUFFER_FULL = "buffer-full"
    """The kernel had no room to keep it until it was read."""

    RATE_LIMITED = "rate-limited"
    """Its source sends more than it may."""


class PacketError(ValueError):
    """The remote peer sent what is not a usable STAMP packet."""

    def __init__(self, message: str, reason: DiscardReason) -> None:
        super().__init__(message)
        self.reason = reason
        """The counter to count the packet under."""
