"""What the supervisor and the host process say to each other.

A message on the channel is its length in bytes (4, big endian) and a JSON
object. Requests carry an identifier that the answer repeats; reports come
unasked. Configuration travels as the difference to what was applied before.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from dataplane.config import IPAddress, Node, Reflector, Sender
from dataplane.engines.base import Report, Resume
from dataplane.host.codec import CodecError, codec

LENGTH = struct.Struct("!I")

MESSAGE_MAX = 64 << 20
"""Bytes; a longer one means that the channel is out of step."""


class ChannelError(Exception):
    """The other side sent what is no message."""


@dataclass(frozen=True, slots=True)
class SenderDelta:
    settings: Sender
    """The role, with those sessions alone that are new or have changed."""

    removed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ReflectorDelta:
    settings: Reflector
    removed: tuple[tuple[int, IPAddress | None], ...] = ()


@dataclass(frozen=True, slots=True)
class NodeDelta:
    """None: the node does not have the role any more."""

    sender: SenderDelta | None = None
    reflector: ReflectorDelta | None = None


@dataclass(frozen=True, slots=True)
class Apply:
    request: int
    delta: NodeDelta
    resume: dict[int, Resume] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    request: int
    ssid: int
    duration_s: int | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    request: int
    ssid: int


@dataclass(frozen=True, slots=True)
class Clear:
    request: int
    ssid: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Answered by the engines' own threads: a host that hangs stays silent."""

    request: int


@dataclass(frozen=True, slots=True)
class Freshen:
    """Bring the stores up to date. Requests that come after it may be answered before."""

    request: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Stop the engines and exit."""

    request: int


@dataclass(frozen=True, slots=True)
class Answer:
    """To any request. `error` None: it was carried out."""

    request: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Reports:
    """In the order in which the engines emitted them."""

    reports: tuple[Report, ...]


Request = Apply | Start | Stop | Clear | Ping | Freshen | Shutdown
Message = Request | Answer | Reports

Key = TypeVar("Key")
Session = TypeVar("Session")


_integer = functools.lru_cache(maxsize=256)(int)
_float = functools.lru_cache(maxsize=256)(float)
"""Thousands of sessions have few different settings: most are the same object."""


def encode(message: Message) -> bytes:
    """A message with its length in front."""
    body = json.dumps(codec(Message).encode(message), separators=(",", ":")).encode()
    return LENGTH.pack(len(body)) + body


def decode(body: bytes | bytearray) -> Message:
    """A message without its length. Raises ChannelError."""
    try:
        message: Message = codec(Message).decode(
            json.loads(body, parse_int=_integer, parse_float=_float)
        )
    except (CodecError, ValueError) as error:
        raise ChannelError(f"not a message: {error}") from None
    return message


class Splitter:
    """Takes bytes as they arrive and gives whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Raises ChannelError for an impossible length or content."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(buffer)
            if length > MESSAGE_MAX:
                raise ChannelError(f"message of {length} bytes is longer than {MESSAGE_MAX}")
            end = LENGTH.size + length
            if len(buffer) < end:
                return
            body = bytes(buffer[LENGTH.size : end])
            del buffer[:end]
            yield decode(body)


def difference(old: Node, new: Node) -> NodeDelta:
    """What turns `old` into `new`; see `patched`."""
    sender = reflector = None
    if new.sender is not None:
        before = {} if old.sender is None else old.sender.sessions
        changed, gone = _difference(before, new.sender.sessions)
        sender = SenderDelta(dataclasses.replace(new.sender, sessions=changed), gone)
    if new.reflector is not None:
        served = {} if old.reflector is None else old.reflector.sessions
        changes, lost = _difference(served, new.reflector.sessions)
        reflector = ReflectorDelta(dataclasses.replace(new.reflector, sessions=changes), lost)
    return NodeDelta(sender, reflector)


def patched(old: Node, delta: NodeDelta) -> Node:
    """`patched(old, difference(old, new)) == new`; unchanged sessions are the same objects."""
    sender = reflector = None
    if delta.sender is not None:
        sessions = _patched(
            {} if old.sender is None else old.sender.sessions,
            delta.sender.settings.sessions,
            delta.sender.removed,
        )
        sender = dataclasses.replace(delta.sender.settings, sessions=sessions)
    if delta.reflector is not None:
        served = _patched(
            {} if old.reflector is None else old.reflector.sessions,
            delta.reflector.settings.sessions,
            delta.reflector.removed,
        )
        reflector = dataclasses.replace(delta.reflector.settings, sessions=served)
    return Node(sender, reflector)


def _difference(
    old: dict[Key, Session], new: dict[Key, Session]
) -> tuple[dict[Key, Session], tuple[Key, ...]]:
    changed = {key: value for key, value in new.items() if old.get(key) != value}
    return changed, tuple(key for key in old if key not in new)


def _patched(
    old: dict[Key, Session], changed: dict[Key, Session], removed: tuple[Key, ...]
) -> dict[Key, Session]:
    gone = set(removed)
    return {key: value for key, value in old.items() if key not in gone} | changed
