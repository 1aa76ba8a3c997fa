"""The Session-Reflector role: on one transport, or on one of each address family.

Rules that hold here, before a packet is looked into:

- It arrived on a configured interface and was sent to a unicast address.
- It came from a unicast address and a port that can be answered.
- A loopback address is at neither end, but on the loopback interface.
- It is one that its source may send yet, where there is a limit.

The reply leaves from the address that the request was sent to, with the DSCP
that it arrived with. The Hop Limit of the reply is 255; the one received is in
the packet (RFC 8762 §4.3.1).
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import logging
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address

from dataplane.addresses import address_of, is_loopback, not_unicast, packed
from dataplane.clock import Clock, monotonic_ns, wall_ns
from dataplane.config import IPAddress, Reflector, ReflectorSession
from dataplane.engines.base import (
    Attachment,
    EngineContext,
    OperState,
    ReflectorStatus,
    ReflectorStatusReport,
    Role,
    reflector_store_path,
)
from dataplane.engines.common.batch import BatchTransport
from dataplane.engines.common.batch_reflection import (
    DSCP_MASK,
    HOP_LIMIT,
    BatchReflection,
    rthdr_of,
    unanswered_text,
)
from dataplane.engines.common.interfaces import InterfaceFilter
from dataplane.engines.common.loop import Loop
from dataplane.engines.common.transport import (
    Datagram,
    OpenTransport,
    Transport,
    bind_error,
    drop_text,
    is_local,
)
from dataplane.mapped_file import StoreError
from dataplane.reflector_store import ReflectorStore
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.rate_limit import RateLimiter
from dataplane.stamp.session_reflector import Reply, SessionReflector, SessionState
from dataplane.stamp.timestamp import NS_PER_S, encode_timestamp

BATCH = 64
"""Packets that are reflected before others get their turn."""

CAPACITY_MIN = 64
"""Sessions that the store has room for at least; it grows where that is not enough."""

LOOPBACK_INTERFACE = 1
"""Index of the loopback interface of every network namespace."""

_MULTICAST = b"\xff"
_TIMESTAMP_AT = slice(4, 12)
"""T3 in an open-mode packet (RFC 8762 §4.3.1)."""

_ANY = {6: ip_address("::"), 4: ip_address("0.0.0.0")}

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Listener:
    """A transport that requests arrive at."""

    address: IPAddress
    """Unspecified for any of its family."""

    transport: Transport
    batches: BatchReflection | None
    """None for a transport that has no batches."""

    dropped: int = 0
    limitation: str | None = None
    """What was told of it."""


class ReflectorRole:
    """Belongs to the thread of its loop."""

    def __init__(
        self,
        name: str,
        loop: Loop,
        clock: Clock,
        context: EngineContext,
        open_transport: OpenTransport,
        families: Collection[int] = (6,),
    ) -> None:
        """`families` are those that are listened on where no address is given."""
        self._name = name
        self._loop = loop
        self._open = open_transport
        self._clock = clock
        self._emit = context.emit
        self._share_state = context.share_state
        self._path = reflector_store_path(context.state_dir)
        self._config = Reflector(enabled=False)
        self._filter = InterfaceFilter(())
        self._any = [_ANY[version] for version in sorted(families, reverse=True)]
        self._listeners: list[Listener] = []
        self._store: ReflectorStore | None = None
        self._core: SessionReflector | None = None
        self._limiter: RateLimiter | None = None
        self._status: ReflectorStatus | None = None
        self._noted_ns = -NS_PER_S

    def configure(self, config: Reflector | None) -> None:
        """Raises StoreError where the counters have no room."""
        if config is None:
            self._remove()
            return
        old, self._config = self._config, config
        if (config.udp_port, config.source_address) != (old.udp_port, old.source_address):
            self._close_transports()
        if config.interfaces != old.interfaces:
            self._filter = InterfaceFilter(config.interfaces)
        if config.rate_limit != old.rate_limit:
            self._limiter = None if config.rate_limit is None else RateLimiter(config.rate_limit)
        self._forget_verdicts()
        self._serve(config)
        if config.enabled:
            self._attempt("configured")
        else:
            self._close_transports()
            self._enter(OperState.DISABLED, "the Session-Reflector is disabled")

    def tick(self) -> None:
        """Once a second: look after what may be missing, or may have come back."""
        if self._core is not None:
            self._core.tai_offset_s = self._clock.status.tai_offset_s
        if self._status is not None and self._config.enabled:
            self._attempt("recovered")
        for listener in self._listeners:
            self._look_after(listener)

    def _look_after(self, listener: Listener) -> None:
        limitation = None if listener.batches is None else listener.batches.limitation
        if limitation != listener.limitation and (
            limitation is None or self._note_error(limitation)
        ):
            listener.limitation = limitation
        dropped = listener.transport.dropped()
        lost = dropped - listener.dropped
        listener.dropped = dropped
        if lost > 0:
            self._note_error(drop_text(lost, listener.address, self._config.udp_port))
            if self._store is not None:
                self._store.role.discard(DiscardReason.BUFFER_FULL, lost)

    def close(self) -> None:
        """Let go of the transports; the counters stay on disk."""
        self._close_transports()
        self._core = None
        if self._store is not None:
            self._store.close()
            self._store = None

    def _remove(self) -> None:
        if self._status is None:
            return
        self.close()
        self._path.unlink(missing_ok=True)
        self._config = Reflector(enabled=False)
        self._limiter = self._status = None
        self._emit(ReflectorStatusReport(None, "not configured"))

    def _serve(self, config: Reflector) -> None:
        """Have the sessions of `config`, with fresh counters for those that have changed."""
        store, core = self._store, self._core
        if store is None:
            store = self._open_store(len(config.sessions))
            stale = store.keys - config.sessions.keys()
        else:
            assert core is not None
            before = core.config.sessions
            stale = {key for key, session in before.items() if config.sessions.get(key) != session}
        for key in stale & store.keys:
            store.free(*key)
        if len(config.sessions) > store.capacity:
            store = store.grown(_capacity(len(config.sessions)))
            core = None
        self._store = store
        if core is None:
            self._core = SessionReflector(
                config,
                state_factory=self._state,
                tai_offset_s=self._clock.status.tai_offset_s,
            )
        else:
            core.update(config)

    def _open_store(self, sessions: int) -> ReflectorStore:
        if self._path.exists():
            try:
                return ReflectorStore.open(self._path, writable=True)
            except StoreError as error:
                # Of another version, as a rule.
                log.warning("all counters begin anew: %s", error)
        store = ReflectorStore.create(self._path, _capacity(sessions))
        store.role.start_time_ns = wall_ns()
        return store

    def _state(self, session: ReflectorSession | None) -> SessionState:
        assert self._store is not None
        if session is None:
            return self._store.role
        state = self._store.allocate(*session.key)
        return state if self._share_state is None else self._share_state(session, state)

    def _attempt(self, reason: str) -> None:
        """Listen, or fail for a reason."""
        before = self._filter.indices
        problem = self._filter.refresh()
        if self._filter.indices != before:
            self._forget_verdicts()
        address = self._config.source_address
        if address is not None and self._listeners and not is_local(address):
            self._close_transports()
        if problem is None and not self._listeners:
            problem = self._listen([address] if address is not None else self._any)
        if problem is None:
            self._enter(OperState.RUNNING, reason)
        else:
            self._close_transports()
            self._enter(OperState.FAILED, problem, problem)

    def _listen(self, addresses: list[IPAddress]) -> str | None:
        """Open a transport for each address; what keeps from it.

        A family that this machine does not have is none to listen on.
        """
        problem = None
        for address in addresses:
            try:
                transport = self._open(Role.REFLECTOR, address, self._config.udp_port)
            except OSError as error:
                problem = bind_error(address, self._config.udp_port, error)
                if error.errno == errno.EAFNOSUPPORT:
                    continue
                return problem
            batches = None
            if isinstance(transport, BatchTransport):
                batches = BatchReflection(transport, self._clock)
            listener = Listener(address, transport, batches)
            self._listeners.append(listener)
            self._loop.register(transport.fileno(), functools.partial(self._read, listener))
        return None if self._listeners else problem

    def _forget_verdicts(self) -> None:
        for listener in self._listeners:
            if listener.batches is not None:
                listener.batches.forget()

    def _read(self, listener: Listener, _events: int) -> bool:
        if listener.batches is not None:
            return self._read_batch(listener.transport, listener.batches)
        for _ in range(BATCH):
            datagram = listener.transport.receive()
            if datagram is None:
                return False
            self._reflect(listener.transport, datagram)
            if self._loop.overdue():
                break
        return True

    def _read_batch(self, transport: Transport, batches: BatchReflection) -> bool:
        core, store = self._core, self._store
        assert core is not None
        assert store is not None
        reflect = functools.partial(self._reflect, transport)
        failed, refused = batches.serve(core, reflect, self._limiter)
        if batches.flooded:
            self._loop.flooded()
        if refused:
            store.role.discard(DiscardReason.RATE_LIMITED, refused)
        for error, packets in failed.items():
            store.role.discard(DiscardReason.SEND_FAILED, packets)
            self._note_error(error)
        return batches.more

    def _reflect(self, transport: Transport, request: Datagram) -> Reply | None:
        """Answer one packet by itself; the reply if one was sent."""
        core, store = self._core, self._store
        assert core is not None
        assert store is not None
        reason = self._unfit(request)
        if reason is not None:
            store.role.discard(reason)
            return None
        reply = core.receive(
            request.data,
            source=address_of(request.source),
            source_port=request.source_port,
            hop_limit=request.hop_limit,
            t2_ns=request.received_ns,
            t2_method=request.received_method,
        )
        if isinstance(reply, DiscardReason):
            store.role.discard(reply)
            return None
        fmt = reply.timestamp_format
        try:
            transport.dress(rthdr_of(reply.segments), request.traffic_class & DSCP_MASK, HOP_LIMIT)
            payload = bytearray(reply.encode(wall_ns(), self._clock.error_estimate(fmt)))
            # T3 once more, now that the time-consuming part is over.
            t3 = encode_timestamp(wall_ns(), fmt, reply.tai_offset_s)
            payload[_TIMESTAMP_AT] = t3.to_bytes(8, "big")
            transport.answer(payload, request)
            reply.sent()
        except OSError as error:
            store.role.discard(DiscardReason.SEND_FAILED)
            self._note_error(unanswered_text(request.source, request.source_port, error))
            return None
        return reply

    def _unfit(self, request: Datagram) -> DiscardReason | None:
        """Why a packet is not even looked into."""
        if not self._filter.admits(request.interface):
            return DiscardReason.WRONG_INTERFACE
        source = address_of(request.source)
        if (
            request.destination[:1] == _MULTICAST
            or not any(request.destination)
            or not_unicast(source) is not None
            or request.source_port == 0
            or (
                request.interface != LOOPBACK_INTERFACE
                and (is_loopback(packed(source)) or is_loopback(request.destination))
            )
        ):
            return DiscardReason.UNANSWERABLE
        limiter = self._limiter
        if limiter is not None and not limiter.admits(packed(source), request.received_ns):
            return DiscardReason.RATE_LIMITED
        return None

    def _close_transports(self) -> None:
        for listener in self._listeners:
            self._loop.unregister(listener.transport.fileno())
            listener.transport.close()
        self._listeners.clear()

    def _note_error(self, text: str) -> bool:
        """Whether it was told: others can provoke errors at will, and one report a
        second is enough."""
        status, now_ns = self._status, monotonic_ns()
        if now_ns - self._noted_ns < NS_PER_S:
            return False
        if status is not None and status.last_error != text:
            self._noted_ns = now_ns
            self._status = dataclasses.replace(status, last_error=text)
            self._emit(ReflectorStatusReport(self._status, text))
        return True

    def _attachments(self) -> tuple[Attachment, ...]:
        found = {
            each.interface: each
            for listener in self._listeners
            if listener.batches is not None
            for each in listener.batches.attachments
        }
        return tuple(found[name] for name in sorted(found))

    def _enter(self, state: OperState, reason: str, error: str | None = None) -> None:
        old = self._status
        attachments = self._attachments()
        if old is None:
            new = ReflectorStatus(state, self._name, wall_ns(), error, attachments)
        else:
            since_ns = old.since_ns if old.oper_state is state else wall_ns()
            last_error = error or old.last_error
            new = ReflectorStatus(state, self._name, since_ns, last_error, attachments)
        if new != old:
            self._status = new
            self._emit(ReflectorStatusReport(new, reason))


def _capacity(sessions: int) -> int:
    return max(CAPACITY_MIN, 2 * sessions)
