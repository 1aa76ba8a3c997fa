"""The host process: engines on one side, the channel to the supervisor on the other.

The main thread reads requests and carries them out one after another, but that a
thread of its own brings stores up to date, for nobody else is to wait for that. One
more thread writes answers and reports in the order in which they came to be,
so that an answer never overtakes the reports that led up to it. The end of
the channel is the end of the process.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import logging
import queue
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dataplane.allocator import give_back
from dataplane.config import Node
from dataplane.engines import registry
from dataplane.engines.base import Engine, EngineContext, EngineError, Report, Resume
from dataplane.host.limits import raise_descriptor_limit
from dataplane.host.messages import (
    Answer,
    Apply,
    ChannelError,
    Clear,
    Freshen,
    Message,
    NodeDelta,
    Ping,
    Reports,
    Request,
    Shutdown,
    Splitter,
    Start,
    Stop,
    encode,
    patched,
)

REPORTS_MAX = 500
"""Reports in one message."""

GATHER_S = 0.03
"""How long reports wait for more of them: whenever the thread that writes them wakes up, it
interrupts those that carry packets."""

RECEIVE_SIZE = 1 << 16

SWITCH_INTERVAL_S = 0.000_5
"""How long decoding a large configuration may hold up the packet threads."""

_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)

log = logging.getLogger(__name__)


class EngineSet:
    """The engines that run the two roles of a node."""

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._node = Node()
        self._engines: dict[str, Engine] = {}

    def apply(self, delta: NodeDelta, resume: dict[int, Resume]) -> None:
        """Raises EngineError: the old configuration is in force then."""
        node = patched(self._node, delta)
        refused = next(registry.refusals(node), None)
        if refused is not None:
            raise EngineError(refused)
        new = {
            name: registry.create(name, self._context)
            for name in _engine_names(node)
            if name not in self._engines
        }
        before, self._node = self._node, node
        self._engines |= new
        try:
            self._release(before, node)
            for name, engine in self._engines.items():
                engine.configure(_view(node, name), resume)
        except Exception:
            self._restore(before)
            raise
        finally:
            used = _engine_names(self._node)
            for name in [name for name in self._engines if name not in used]:
                self._engines.pop(name).close()

    def _restore(self, node: Node) -> None:
        """As far as that is possible."""
        self._node = node
        for name, engine in self._engines.items():
            try:
                engine.configure(_view(node, name))
            except Exception:
                log.exception("engine %s could not go back to the old configuration", name)

    def sender(self) -> Engine:
        """Raises EngineError: the node has no Session-Sender."""
        if self._node.sender is None:
            raise EngineError("there is no Session-Sender")
        return self._engines[self._node.sender.engine]

    def ping(self) -> None:
        for engine in self._engines.values():
            engine.ping()

    def freshen(self) -> None:
        """From any thread."""
        for engine in list(self._engines.values()):
            engine.freshen()

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def _release(self, old: Node, new: Node) -> None:
        """A role that moves to another engine leaves its ports first."""
        for name, engine in self._engines.items():
            before, after = _view(old, name), _view(new, name)
            kept = Node(
                before.sender if after.sender is not None else None,
                before.reflector if after.reflector is not None else None,
            )
            if kept != before:
                engine.configure(kept)


def _engine_names(node: Node) -> set[str]:
    return {role.engine for role in (node.sender, node.reflector) if role is not None}


def _view(node: Node, name: str) -> Node:
    """What of `node` concerns engine `name`."""
    sender, reflector = node.sender, node.reflector
    return dataclasses.replace(
        node,
        sender=sender if sender is not None and sender.engine == name else None,
        reflector=reflector if reflector is not None and reflector.engine == name else None,
    )


class Server:
    """Runs until a Shutdown request or the end of the channel."""

    def __init__(self, channel: socket.socket, state_dir: Path) -> None:
        self._channel = channel
        self._outgoing: queue.SimpleQueue[Answer | Report | None] = queue.SimpleQueue()
        self._answered = threading.Event()
        self._engines = EngineSet(EngineContext(state_dir, self._outgoing.put))
        self._writer = threading.Thread(target=self._write, name="channel-writer", daemon=True)
        self._freshener = ThreadPoolExecutor(1, "freshen")

    def run(self) -> None:
        self._writer.start()
        try:
            self._read()
        finally:
            self._engines.close()
            self._freshener.shutdown(cancel_futures=True)
            self._send(None)
            self._writer.join()

    def _send(self, item: Answer | None) -> None:
        """Nobody is kept waiting for an answer; None ends the writer."""
        self._outgoing.put(item)
        self._answered.set()

    def _read(self) -> None:
        splitter = Splitter()
        while True:
            try:
                data = self._channel.recv(RECEIVE_SIZE)
            except ConnectionError:
                return
            if not data:
                return
            for message in splitter.feed(data):
                if isinstance(message, Answer | Reports):
                    raise ChannelError(f"{type(message).__name__} is no request")
                if isinstance(message, Shutdown):
                    self._engines.close()
                    self._send(Answer(message.request))
                    return
                if isinstance(message, Freshen):
                    self._freshener.submit(self._answer, message)
                else:
                    self._answer(message)

    def _answer(self, message: Request) -> None:
        problem = None
        try:
            self._carry_out(message)
        except EngineError as error:
            problem = str(error)
        except Exception as error:
            log.exception("a request failed")
            problem = f"{type(error).__name__}: {error}"
        self._send(Answer(message.request, problem))

    def _carry_out(self, message: Request) -> None:
        match message:
            case Apply():
                self._engines.apply(message.delta, message.resume)
                # What lives as long as the configuration need not be searched
                # for garbage, which would hold up packets for milliseconds.
                gc.collect()
                gc.freeze()
                # Neither need memory that is free be kept.
                give_back()
            case Start():
                self._engines.sender().start(message.ssid, message.duration_s)
            case Stop():
                self._engines.sender().stop(message.ssid)
            case Clear():
                self._engines.sender().clear(message.ssid)
            case Ping():
                self._engines.ping()
            case Freshen():
                self._engines.freshen()

    def _write(self) -> None:
        ended = False
        while not ended:
            item = self._outgoing.get()
            if self._outgoing.empty():
                self._answered.wait(GATHER_S)
            self._answered.clear()
            batch: list[Report] = []
            messages: list[Message] = []
            while True:
                if item is None:
                    ended = True
                    break
                if isinstance(item, Answer):
                    if batch:
                        messages.append(Reports(tuple(batch)))
                        batch = []
                    messages.append(item)
                else:
                    batch.append(item)
                if len(batch) == REPORTS_MAX or self._outgoing.empty():
                    break
                item = self._outgoing.get()
            if batch:
                messages.append(Reports(tuple(batch)))
            try:
                self._channel.sendall(b"".join(map(encode, messages)))
            except OSError:
                # The supervisor is gone; the reading side sees it too and ends the process.
                return


def serve(fd: int, state_dir: Path) -> None:
    """Run the host process on an inherited Unix stream socket."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    raise_descriptor_limit()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with socket.socket(fileno=fd) as channel:
        signal.signal(signal.SIGTERM, lambda *_: channel.shutdown(socket.SHUT_RD))
        Server(channel, state_dir).run()
