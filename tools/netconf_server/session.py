"""The NETCONF session as a state machine (RFC 6241 sections 3, 4 and 8.1, RFC 6242), without I/O.

Bytes go in with :meth:`NetconfSession.receive_data`; :meth:`NetconfSession.next_event` tells what
happened; bytes for the peer come from :meth:`NetconfSession.data_to_send`. Requests that never
reach an operation (a bad envelope, malformed XML) are answered here.

Rules: the hello exchange uses end-of-message framing; chunked framing starts after it if both sides
have base:1.1; only ``<rpc>`` may follow. Broken framing, a wrong hello, and, with a base:1.0 peer,
malformed XML (its error-tag does not exist there) end the session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from lxml import etree

from tools.netconf_server import framing, messages
from tools.netconf_server.errors import ErrorTag, ErrorType, NetconfError, RpcError


class SessionState(Enum):
    """Where the session is in its life."""

    HELLO = "hello"
    OPEN = "open"
    ENDED = "ended"


@dataclass(frozen=True)
class HelloReceived:
    """The peers agreed on a base version; requests may follow."""

    capabilities: tuple[str, ...]


@dataclass(frozen=True)
class RpcReceived:
    """A request to carry out; answer it with ``reply`` or ``reply_error``, in order."""

    rpc: messages.Rpc


@dataclass(frozen=True)
class SessionEnded:
    """Nothing more will be read; flush the output and close the transport."""

    reason: str


Event = HelloReceived | RpcReceived | SessionEnded


@dataclass
class SessionStatistics:
    """Counters of RFC 6022 section 2.1.4."""

    in_rpcs: int = 0
    in_bad_rpcs: int = 0
    out_rpc_errors: int = 0
    out_notifications: int = 0


class NetconfSession:
    """Server side of one session. Its ``<hello>`` is queued at once."""

    def __init__(
        self,
        session_id: int,
        capabilities: Sequence[str],
        max_message_bytes: int = framing.DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        if not 1 <= session_id <= 0xFFFF_FFFF:
            raise ValueError(f"session-id {session_id} is not in 1..4294967295")
        self.session_id = session_id
        self.state = SessionState.HELLO
        self.statistics = SessionStatistics()
        self._server_has_1_1 = messages.BASE_1_1 in capabilities
        self._reader = framing.FrameReader(max_message_bytes)
        self._output = bytearray()
        self._pending_end: SessionEnded | None = None
        self._send(messages.build_hello(capabilities, session_id))

    @property
    def chunked(self) -> bool:
        """Whether base:1.1 framing is in use."""
        return self._reader.chunked

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the transport; empty means the peer closed it."""
        if data:
            self._reader.feed(data)
        elif self.state is not SessionState.ENDED:
            left = self._reader.pending_bytes
            self.end("peer closed the transport" + (f", {left} bytes unread" if left else ""))

    def data_to_send(self) -> bytes:
        """Framed bytes for the transport; empty if there are none."""
        data = bytes(self._output)
        self._output.clear()
        return data

    def end(self, reason: str) -> None:
        """End the session; the next event says why."""
        if self.state is not SessionState.ENDED:
            self.state = SessionState.ENDED
            self._pending_end = SessionEnded(reason)

    def next_event(self) -> Event | None:
        """What happened next, None if more bytes are needed."""
        while self.state is not SessionState.ENDED:
            try:
                message = self._reader.next_message()
            except framing.FramingError as error:
                self.end(f"framing error: {error}")
                break
            if message is None:
                return None
            event = (
                self._on_hello(message)
                if self.state is SessionState.HELLO
                else (self._on_message(message))
            )
            if event is not None:
                return event
        ended, self._pending_end = self._pending_end, None
        return ended

    def reply(self, rpc: messages.Rpc, content: Sequence[etree._Element]) -> None:
        """Queue a positive reply; no content means ``<ok/>``."""
        self._send(messages.build_reply(rpc.attributes, rpc.namespaces, content))

    def reply_error(self, rpc: messages.Rpc, failure: RpcError) -> None:
        """Queue a negative reply."""
        self.statistics.out_rpc_errors += 1
        self._send(messages.build_error_reply(rpc.attributes, rpc.namespaces, failure))

    def notify(self, event_time: str, content: bytes) -> None:
        """Queue a notification (RFC 5277), unless the session has ended."""
        if self.state is SessionState.OPEN:
            self.statistics.out_notifications += 1
            self._send(messages.build_notification(event_time, content))

    def _send(self, message: bytes) -> None:
        self._output += framing.encode(message, chunked=self._reader.chunked)

    def _on_hello(self, message: bytes) -> Event | None:
        try:
            capabilities = messages.parse_client_hello(message)
        except (messages.MalformedMessage, messages.HelloError) as error:
            self.end(f"bad hello: {error}")
            return None
        if self._server_has_1_1 and messages.BASE_1_1 in capabilities:
            self._reader.switch_to_chunked()
        elif messages.BASE_1_0 not in capabilities:
            self.end("bad hello: no common base capability")
            return None
        self.state = SessionState.OPEN
        return HelloReceived(capabilities)

    def _on_message(self, message: bytes) -> Event | None:
        try:
            rpc = messages.parse_rpc(message)
        except messages.MalformedMessage as error:
            self._on_malformed(str(error))
            return None
        except messages.RpcRejected as rejected:
            self.statistics.in_bad_rpcs += 1
            self.statistics.out_rpc_errors += 1
            self._send(
                messages.build_error_reply(
                    rejected.attributes, rejected.namespaces, RpcError(rejected.error)
                )
            )
            return None
        self.statistics.in_rpcs += 1
        return RpcReceived(rpc)

    def _on_malformed(self, reason: str) -> None:
        self.statistics.in_bad_rpcs += 1
        if not self.chunked:
            self.end(f"malformed message: {reason}")
            return
        self.statistics.out_rpc_errors += 1
        error = NetconfError(ErrorType.RPC, ErrorTag.MALFORMED_MESSAGE, reason)
        self._send(messages.build_error_reply({}, {}, RpcError(error)))
