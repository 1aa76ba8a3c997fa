"""The Session-Reflector: requests in, replies or discard reasons out.

Rules that hold here:

- No content of a packet raises: what cannot be answered is counted by reason.
- A packet belongs to the most specific session that matches; a session for any
  sender is asked after one for this sender.
- T2 comes with the packet; T3 is asked for when the reply is encoded, at the
  last moment before transmission.
- A stateful session numbers a reply when its request is received, so a reply
  that the engine then fails to send shows as backward loss, which it is.
- No exchange of packets goes on by itself. What already is a reflected packet is
  never answered, whatever its session; and a reflector's own port is answered
  for a session alone that names it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Protocol

from dataplane.config import STAMP_PORT, IPAddress, Reflector, ReflectorMode, ReflectorSession
from dataplane.measurement import TimestampMethod
from dataplane.srv6 import complete_path
from dataplane.stamp.errors import DiscardReason, PacketError
from dataplane.stamp.packet import ReflectorPacket, SenderPacket
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, encode_timestamp

UNKNOWN_HOP_LIMIT = 255
"""Session-Sender TTL where the received one cannot be read (RFC 8762 §4.3.1)."""

REFLECTION_S = 10
"""A request whose Timestamp and Receive Timestamp fields, as a Session-Reflector
would fill them, are at most this many seconds apart is a reflected packet.

Both are of the clock that wrote them, so no two clocks need to agree; their
upper 32 bits are seconds in either format. A Session-Sender has zeros there,
and random padding meets this once in some 200 million packets."""

T3_METHOD = TimestampMethod.USERSPACE
"""Of every reply that is made here: whoever encodes it reads the clock for it."""

_SEQUENCE = 0xFFFFFFFF
_WORD = 1 << 32
_TIMES = struct.Struct("!4xI8xQ")
"""Seconds of the Timestamp; the Receive Timestamp (RFC 8762 §4.3.1)."""

SessionKey = tuple[int, IPAddress | None]


class SessionState(Protocol):
    """What a session keeps between packets; an engine may put it into shared memory."""

    received: int
    """Requests accepted."""

    reflected: int
    """Replies sent."""

    next_sequence: int
    """Of a stateful session: number of its next reply, 32 bits."""

    last_received_ns: int
    """T2 of the latest request, nanoseconds since 1970; 0 before the first."""

    t2_method: int
    """How that was taken: `TimestampMethod.code`."""

    t3_method: int
    """How T3 of the latest reply was taken: `TimestampMethod.code`."""

    def take(self, count: int) -> int:
        """The first of the next `count` sequence numbers, which are used now."""


@dataclass(slots=True)
class ReflectorState:
    """Session state in ordinary memory."""

    received: int = 0
    reflected: int = 0
    next_sequence: int = 0
    last_received_ns: int = 0
    t2_method: int = TimestampMethod.UNKNOWN.code
    t3_method: int = TimestampMethod.UNKNOWN.code

    def take(self, count: int) -> int:
        first = self.next_sequence
        self.next_sequence = first + count & _SEQUENCE
        return first


StateFactory = Callable[[ReflectorSession | None], SessionState]
"""Makes the state of a session; of None, that of packets without a configured session."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that lacks T3 alone."""

    session: ReflectorSession | None
    """None where the request belongs to no configured session."""

    destination: IPAddress
    destination_port: int

    segments: tuple[IPv6Address, ...]
    """Return path in travel order, ending with ``destination``; empty for no SRH."""

    request: SenderPacket
    sequence: int
    sender_ttl: int
    t2_ns: int
    timestamp_format: TimestampFormat
    tai_offset_s: int
    state: SessionState

    def encode(self, t3_ns: int, error: ErrorEstimate) -> bytes:
        """The UDP payload.

        ``t3_ns`` is wall time since 1970, read as late as possible; ``error``
        is written in the format of the reply, whatever its own.
        """
        fmt = self.timestamp_format
        return ReflectorPacket(
            sequence=self.sequence,
            timestamp=encode_timestamp(t3_ns, fmt, self.tai_offset_s),
            error_estimate=error.in_format(fmt),
            ssid=self.request.ssid,
            receive_timestamp=encode_timestamp(self.t2_ns, fmt, self.tai_offset_s),
            sender_sequence=self.request.sequence,
            sender_timestamp=self.request.timestamp,
            sender_error_estimate=self.request.error_estimate,
            sender_ttl=self.sender_ttl,
            tlvs=self.request.tlvs,
        ).encode()

    def sent(self) -> None:
        """Count it as reflected; to be called once it has been sent."""
        self.state.reflected += 1
        self.state.t3_method = T3_METHOD.code


def _ordinary_state(_session: ReflectorSession | None) -> SessionState:
    return ReflectorState()


class SessionReflector:
    """All sessions of one Session-Reflector role."""

    def __init__(
        self,
        config: Reflector,
        *,
        state_factory: StateFactory = _ordinary_state,
        tai_offset_s: int = 0,
    ) -> None:
        self.config = config
        self.discarded: dict[DiscardReason, int] = dict.fromkeys(DiscardReason, 0)
        """Packets of the role that were not answered, by reason."""
        self.states: dict[SessionKey, SessionState] = {}
        """State of each configured session."""
        self.unconfigured = state_factory(None)
        """State of requests that are answered without a configured session."""
        self.tai_offset_s = tai_offset_s
        """TAI minus UTC, which PTPv2 timestamps need; settable at any time."""
        self._state_factory = state_factory
        self._sessions: dict[SessionKey, ReflectorSession] = {}
        self.update(config)

    def update(self, config: Reflector) -> None:
        """Serve another configuration; a session that is equal in it keeps its state."""
        states: dict[SessionKey, SessionState] = {}
        sessions = {session.key: session for session in config.sessions.values()}
        for key, session in sessions.items():
            if self._sessions.get(key) == session:
                states[key] = self.states[key]
            else:
                states[key] = self._state_factory(session)
        self.config = config
        self.states = states
        self._sessions = sessions

    def receive(
        self,
        data: bytes | memoryview,
        *,
        source: IPAddress,
        source_port: int,
        hop_limit: int | None,
        t2_ns: int,
        t2_method: TimestampMethod = TimestampMethod.USERSPACE,
    ) -> Reply | DiscardReason:
        """Judge one UDP payload.

        ``source`` has no zone; ``hop_limit`` is the received TTL or Hop Limit,
        None where it cannot be read; ``t2_ns`` is wall time since 1970,
        taken by ``t2_method``.
        """
        try:
            request = SenderPacket.decode(data)
        except PacketError as error:
            return self._discard(error.reason)
        if _is_reflected(data):
            return self._discard(DiscardReason.UNANSWERABLE)
        session = self._match(request.ssid, source, source_port)
        if isinstance(session, DiscardReason):
            return self._discard(session)
        state = self.unconfigured if session is None else self.states[session.key]
        state.received += 1
        state.last_received_ns = t2_ns
        state.t2_method = t2_method.code
        sequence = request.sequence
        if session is not None and session.mode is ReflectorMode.STATEFUL:
            sequence = state.take(1)
        fmt = session.timestamp_format if session is not None else None
        return Reply(
            session=session,
            destination=source,
            destination_port=source_port,
            segments=_return_path(session, source),
            request=request,
            sequence=sequence,
            sender_ttl=UNKNOWN_HOP_LIMIT if hop_limit is None else hop_limit,
            t2_ns=t2_ns,
            timestamp_format=fmt or request.error_estimate.fmt,
            tai_offset_s=self.tai_offset_s,
            state=state,
        )

    def _match(
        self, ssid: int, source: IPAddress, source_port: int
    ) -> ReflectorSession | DiscardReason | None:
        """The session of a request, None for one to answer without, or why not."""
        if not self.config.enabled:
            return DiscardReason.SESSION_DISABLED
        answerable = source_port not in (STAMP_PORT, self.config.udp_port)
        wrong_port = False
        for key in ((ssid, source), (ssid, None)):
            session = self._sessions.get(key)
            if session is None:
                continue
            if session.sender_udp_port not in (None, source_port):
                wrong_port = True
                continue
            if not answerable and session.sender_udp_port is None:
                return DiscardReason.UNANSWERABLE
            return session if session.enabled else DiscardReason.SESSION_DISABLED
        if wrong_port:
            return DiscardReason.WRONG_PORT if answerable else DiscardReason.UNANSWERABLE
        if not answerable and not self.config.require_configured_session:
            return DiscardReason.UNANSWERABLE
        return DiscardReason.UNKNOWN_SESSION if self.config.require_configured_session else None

    def _discard(self, reason: DiscardReason) -> DiscardReason:
        self.discarded[reason] += 1
        return reason


def _is_reflected(data: bytes | memoryview) -> bool:
    """Whether this is what a Session-Reflector sends, not a Session-Sender."""
    if len(data) < _TIMES.size:
        return False
    seconds, receive_timestamp = _TIMES.unpack_from(data)
    apart_s = ((receive_timestamp >> 32) - seconds + REFLECTION_S) % _WORD
    return bool(receive_timestamp != 0 and apart_s <= 2 * REFLECTION_S)


def _return_path(session: ReflectorSession | None, source: IPAddress) -> tuple[IPv6Address, ...]:
    if session is None or not isinstance(source, IPv6Address):
        return ()
    return complete_path(session.segments, source)
