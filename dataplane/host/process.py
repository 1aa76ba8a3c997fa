"""One host process and the channel to it: requests out, answers and reports in."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path

from dataplane.engines.base import EngineError, Report
from dataplane.host.messages import Answer, ChannelError, Reports, Request, Splitter, encode

RECEIVE_SIZE = 1 << 18

_TIMEVAL = struct.Struct("@ll")


class HostDied(EngineError):
    """The host process ended, or was ended, before it answered."""


class HostProcess:
    """A running host. `request` may be called from any thread, the rest from one."""

    def __init__(self, state_dir: Path, send_timeout_s: float) -> None:
        """Raises OSError where no process can be started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "dataplane.host",
                        f"--fd={theirs.fileno()}",
                        f"--state-dir={state_dir}",
                    ],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
            except OSError:
                ours.close()
                raise
        seconds = int(send_timeout_s)
        ours.setsockopt(
            socket.SOL_SOCKET,
            socket.SO_SNDTIMEO,
            _TIMEVAL.pack(seconds, int((send_timeout_s - seconds) * 1e6)),
        )
        self._channel = ours
        self._splitter = Splitter()
        self._send_lock = threading.Lock()
        self._pending: dict[int, Future[None]] = {}
        self._pending_lock = threading.Lock()
        self._dead: str | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        return self._channel.fileno()

    def request(self, message: Request, timeout_s: float) -> None:
        """Wait until it is carried out. Raises EngineError with the host's
        text; HostDied where no answer can come; TimeoutError where none came."""
        future = self.submit(message)
        try:
            future.result(timeout_s)
        except FutureTimeoutError:
            raise TimeoutError("the data-plane host does not answer") from None
        finally:
            with self._pending_lock:
                self._pending.pop(message.request, None)

    def submit(self, message: Request) -> Future[None]:
        """Send, and have the answer in a future. Raises as `request` does."""
        future: Future[None] = Future()
        with self._pending_lock:
            if self._dead is not None:
                raise HostDied(self._dead)
            self._pending[message.request] = future
        try:
            with self._send_lock:
                self._channel.sendall(encode(message))
        except BlockingIOError:
            raise TimeoutError("the data-plane host does not read its requests") from None
        except OSError as error:
            raise HostDied(f"the data-plane host died: {error}") from error
        return future

    def readable(self, timeout_s: float, wakeup: int) -> bool:
        """Wait for the channel, the descriptor `wakeup` or the time-out."""
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        poll.register(wakeup, select.POLLIN)
        ready = poll.poll(max(0, timeout_s * 1000))
        return any(fd == self._channel.fileno() for fd, _ in ready)

    def receive(self, on_report: Callable[[Report], None]) -> bool:
        """Take in what has arrived; False at the end of the channel."""
        try:
            data = self._channel.recv(RECEIVE_SIZE)
        except ConnectionError:
            return False
        if not data:
            return False
        for answer in self._messages(data, on_report):
            self._resolve(answer)
        return True

    def _messages(self, data: bytes, on_report: Callable[[Report], None]) -> Iterator[Answer]:
        for message in self._splitter.feed(data):
            if isinstance(message, Reports):
                for report in message.reports:
                    on_report(report)
            elif isinstance(message, Answer):
                yield message
            else:
                raise ChannelError(f"{type(message).__name__} is no answer")

    def _resolve(self, answer: Answer) -> None:
        with self._pending_lock:
            future = self._pending.pop(answer.request, None)
        if future is None:
            return
        if answer.error is None:
            future.set_result(None)
        else:
            future.set_exception(EngineError(answer.error))

    def kill(self) -> None:
        """End the process whatever it is doing."""
        self._process.kill()

    def bury(self, grace_s: float) -> str:
        """Close the channel, see the process end, and say how it did. What
        still waits for an answer gets `HostDied`."""
        with contextlib.suppress(OSError):  # The other side may have closed it first.
            self._channel.shutdown(socket.SHUT_RDWR)
        try:
            code = self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        how = f"killed by {_signal_name(-code)}" if code < 0 else f"exit status {code}"
        with self._pending_lock:
            self._dead = f"the data-plane host died: {how}"
            pending = list(self._pending.values())
            self._pending.clear()
        for future in pending:
            future.set_exception(HostDied(self._dead))
        with self._send_lock:
            self._channel.close()
        return how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
