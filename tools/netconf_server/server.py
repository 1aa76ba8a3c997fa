"""The server: sessions on a Unix socket, each with its own thread for the datastore.

The event loop moves bytes and owns the protocol state; a session's requests run one after the other
in that session's thread, so replies keep their order and a slow request only holds up its own
session. While one runs, the session's socket is not read: that bounds what a client can queue.
Notifications come from sysrepo's threads into a session's outbox; the event loop writes them, one
whole message at a time, as it writes replies, and waits for the client between them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import socket
import struct
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from lxml import etree

from tools.netconf_server import framing, operations
from tools.netconf_server.backend import Backend, BackendSession, Timeouts
from tools.netconf_server.errors import ErrorTag, RpcError, application_error
from tools.netconf_server.messages import Rpc, local_name
from tools.netconf_server.monitoring import ServerStatistics, SessionRecord, sum_statistics
from tools.netconf_server.notifications import DEFAULT_MAX_QUEUED, Outbox, format_time
from tools.netconf_server.session import (
    HelloReceived,
    NetconfSession,
    RpcReceived,
    SessionEnded,
    SessionState,
)

LOG = logging.getLogger(__name__)

READ_BYTES = 65536


@dataclass(frozen=True)
class ServerSettings:
    """Bounds of the server."""

    max_sessions: int = 32
    """Connections above it are closed at once and counted as rejected."""
    max_message_bytes: int = framing.DEFAULT_MAX_MESSAGE_BYTES
    max_queued_notifications: int = DEFAULT_MAX_QUEUED
    """Those of one session that wait for its client; further ones are dropped, and logged."""
    hello_timeout_s: float = 60.0
    """A session without a client's hello by then is dropped."""
    kill_timeout_s: float = 15.0
    """How long a kill-session waits for the other session's request to finish."""
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass
class _Entry:
    """One open session."""

    protocol: NetconfSession
    user: str
    login_time: str
    task: asyncio.Task[None]
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    ending: bool = False
    """Cancelled or already cleaning up: a cancellation would interrupt the clean-up."""
    close_requested: bool = False
    opened: bool = False
    """The hello exchange is complete."""
    cancelled: bool = False
    """Ended by kill-session or with the server."""
    outbox: Outbox | None = None
    """Of the last subscription."""
    notified: asyncio.Event = field(default_factory=asyncio.Event)
    """The outbox is no longer empty."""
    delivery: asyncio.Task[None] | None = None
    """Empties the outbox while the subscription lasts."""


class _Control:
    """What a session's operations may do to sessions; called in the session's thread."""

    def __init__(self, server: NetconfServer, entry: _Entry) -> None:
        self._server = server
        self._entry = entry

    def close(self) -> None:
        self._entry.close_requested = True

    def outbox(self) -> Outbox:
        if self._entry.delivery is not None and not self._entry.delivery.done():
            raise application_error(
                ErrorTag.OPERATION_FAILED, "the session has a subscription already"
            )
        self._entry.outbox = self._server.new_outbox(self._entry)
        return self._entry.outbox

    def kill(self, session_id: int) -> bool:
        future = asyncio.run_coroutine_threadsafe(self._server.kill(session_id), self._server.loop)
        try:
            return future.result(self._server.settings.kill_timeout_s)
        except FutureTimeoutError:
            raise application_error(
                ErrorTag.OPERATION_FAILED,
                f"session {session_id} is still busy with a request",
            ) from None


class NetconfServer:
    """NETCONF sessions over one sysrepo connection. Use within one event loop."""

    def __init__(self, settings: ServerSettings | None = None) -> None:
        self.settings = settings or ServerSettings()
        self.statistics = ServerStatistics(start_time=_now())
        self._entries: dict[int, _Entry] = {}
        self._last_session_id = 0
        self._listener: asyncio.Server | None = None
        self._backend: Backend | None = None
        self.loop = asyncio.get_running_loop()

    async def start(self, path: Path, mode: int = 0o600, group: int | None = None) -> None:
        """Connect to sysrepo and listen.

        ``group`` is a numeric group id that is given the socket.

        :raises OSError: the path cannot be used, or another server listens there.
        """
        _remove_stale_socket(path)
        self._backend = Backend(self._records, self.statistics, self.settings.timeouts)
        try:
            sock = _listening_socket(path, mode, group)
            self._listener = await asyncio.start_unix_server(self._on_connection, sock=sock)
        except OSError:
            self._backend.close()
            raise

    async def stop(self) -> None:
        """Close the listener, every session and the sysrepo connection."""
        if self._listener is not None:
            self._listener.close()
        entries = list(self._entries.values())
        for entry in entries:
            self._cancel(entry)
        for entry in entries:
            await entry.closed.wait()
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    async def kill(self, session_id: int) -> bool:
        """End a session and wait until its locks are released; False if there is none."""
        entry = self._entries.get(session_id)
        if entry is None:
            return False
        self._cancel(entry)
        await entry.closed.wait()
        return True

    def _cancel(self, entry: _Entry) -> None:
        if not entry.ending:
            entry.ending = True
            entry.cancelled = True
            entry.task.cancel()

    def new_outbox(self, entry: _Entry) -> Outbox:
        """An outbox that announces to the event loop what is put into it."""

        def wake() -> None:
            self.loop.call_soon_threadsafe(entry.notified.set)

        return Outbox(entry.protocol.session_id, self.settings.max_queued_notifications, wake)

    def _records(self) -> list[SessionRecord]:
        return [
            SessionRecord(
                entry.protocol.session_id,
                entry.user,
                entry.login_time,
                entry.protocol.statistics,
            )
            for entry in list(self._entries.values())
        ]

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        if (
            self._backend is None
            or task is None
            or len(self._entries) >= self.settings.max_sessions
        ):
            self.statistics.rejected_sessions += 1
            LOG.warning("connection refused: %d sessions are open", len(self._entries))
            writer.close()
            return
        self._last_session_id += 1
        session_id = self._last_session_id
        user = peer_user(writer.get_extra_info("socket"))
        capabilities = self._backend.capabilities
        protocol = NetconfSession(session_id, capabilities, self.settings.max_message_bytes)
        entry = _Entry(protocol, user, _now(), task)
        self._entries[session_id] = entry
        self.statistics.in_sessions += 1
        LOG.info("session %d of %s opened", session_id, user)
        executor = ThreadPoolExecutor(1, thread_name_prefix=f"netconf-{session_id}")
        opening = executor.submit(self._backend.open_session, session_id, user)
        reason = "internal error"
        try:
            datastore = await asyncio.wrap_future(opening)
            reason = await self._converse(entry, datastore, executor, reader, writer)
        except asyncio.CancelledError:
            reason = "killed"
        except (ConnectionError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        except Exception:
            LOG.exception("session %d failed", session_id)
        finally:
            entry.ending = True
            if entry.delivery is not None:
                entry.delivery.cancel()
            # What is closed waits for the client to read the rest, which may be never.
            if entry.cancelled:
                writer.transport.abort()
            else:
                writer.close()
            await self.loop.run_in_executor(executor, _release, opening)
            executor.shutdown(wait=False)
            self._account(entry)
            del self._entries[session_id]
            entry.closed.set()
            LOG.info("session %d of %s closed: %s", session_id, user, reason)
            if entry.outbox is not None and entry.outbox.dropped:
                LOG.warning(
                    "session %d: %d notifications were dropped", session_id, entry.outbox.dropped
                )

    def _account(self, entry: _Entry) -> None:
        self.statistics.ended = sum_statistics([self.statistics.ended, entry.protocol.statistics])
        if entry.opened and not entry.close_requested and not entry.cancelled:
            self.statistics.dropped_sessions += 1

    async def _converse(
        self,
        entry: _Entry,
        datastore: BackendSession,
        executor: ThreadPoolExecutor,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> str:
        """Serve one session to its end; the reason why it ended."""
        protocol = entry.protocol
        context = operations.OperationContext(protocol.session_id, datastore, _Control(self, entry))
        hello_deadline = self.loop.time() + self.settings.hello_timeout_s
        while True:
            in_hello = protocol.state is SessionState.HELLO
            event = protocol.next_event()
            if isinstance(event, HelloReceived):
                entry.opened = True
            if isinstance(event, RpcReceived):
                outcome = await self.loop.run_in_executor(executor, _carry_out, context, event.rpc)
                _answer(protocol, event.rpc, outcome)
                if entry.outbox is not None and _has_subscribed(event.rpc, outcome):
                    entry.delivery = asyncio.create_task(_deliver(entry, entry.outbox, writer))
                if entry.close_requested:
                    protocol.end("close-session")
            writer.write(protocol.data_to_send())
            await writer.drain()
            if isinstance(event, SessionEnded):
                if in_hello or event.reason.startswith("bad hello"):
                    self.statistics.in_bad_hellos += 1
                return event.reason
            if event is None:
                deadline = hello_deadline if in_hello else None
                async with asyncio.timeout_at(deadline):
                    protocol.receive_data(await reader.read(READ_BYTES))


async def _deliver(entry: _Entry, outbox: Outbox, writer: asyncio.StreamWriter) -> None:
    """Send a session's notifications until its subscription is over."""
    try:
        while True:
            await entry.notified.wait()
            entry.notified.clear()
            while (notification := outbox.take()) is not None:
                entry.protocol.notify(format_time(notification.time_ns), notification.content)
                writer.write(entry.protocol.data_to_send())
                await writer.drain()
                if notification.last:
                    return
                # drain() alone lets nobody else run as long as the client keeps up.
                await asyncio.sleep(0)
    except ConnectionError:
        # Whoever reads from the client finds the same, and ends the session.
        return
    except Exception:
        LOG.exception("session %d: no more notifications", entry.protocol.session_id)


def _has_subscribed(rpc: Rpc, outcome: list[etree._Element] | RpcError) -> bool:
    return rpc.operation.tag == operations.CREATE_SUBSCRIPTION and not isinstance(outcome, RpcError)


def _release(opening: Future[BackendSession]) -> None:
    """Close a datastore session after whatever still ran for it; same thread, so it is done."""
    if opening.cancelled() or opening.exception() is not None:
        return
    try:
        opening.result().close()
    except Exception:
        LOG.exception("a datastore session could not be closed")


def _carry_out(context: operations.OperationContext, rpc: Rpc) -> list[etree._Element] | RpcError:
    try:
        return operations.execute(context, rpc.operation)
    except RpcError as failure:
        return failure
    except Exception as error:
        LOG.exception("operation <%s> failed", local_name(rpc.operation))
        return operations.failure_of(error)


def _answer(protocol: NetconfSession, rpc: Rpc, outcome: list[etree._Element] | RpcError) -> None:
    if isinstance(outcome, RpcError):
        protocol.reply_error(rpc, outcome)
    else:
        protocol.reply(rpc, outcome)


def peer_user(sock: socket.socket) -> str:
    """Name of the user at the other end of a Unix socket; the number if it has no name."""
    size = struct.calcsize("3i")
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _pid, uid, _gid = struct.unpack("3i", credentials)
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _remove_stale_socket(path: Path) -> None:
    """Remove the socket of a server that died.

    :raises OSError: a server answers there, or the path is something else.
    """
    if not path.is_socket():
        if path.exists():
            raise FileExistsError(f"{path} exists and is no socket")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise FileExistsError(f"another server listens on {path}")


def _listening_socket(path: Path, mode: int, group: int | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        # Nobody can connect before listen(), so the permissions are in place in time.
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(mode)
        sock.listen()
        sock.setblocking(False)
    except OSError:
        sock.close()
        path.unlink(missing_ok=True)
        raise
    return sock
