"""What every engine is, and what it says about itself.

An engine runs in the host process. It is handed the whole `Node` each time
the configuration changes, finds out itself what differs, and leaves sessions
that are equal to what it already runs alone. It keeps the results of each
sender session in a `SessionStore` of its own below its state folder, and
reports everything else as events.

An engine is told what to do from one thread; it may emit events from any.

`dataplane.engines.common.engine.LoopEngine` is all of that but for how packets are
carried, which is a `dataplane.engines.common.transport.Transport`: an engine that reads
and writes packets in user space needs no more than one of these.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import NamedTuple, Protocol

from dataplane.config import IPAddress, Node, Reflector, ReflectorSession, Sender, SenderSession
from dataplane.engines.hook_claims import HookClaims
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.session_reflector import SessionState
from dataplane.stamp.timestamp import TimestampFormat


class EngineError(Exception):
    """An engine refuses a request or cannot carry it out; the text is for the operator."""


class Role(enum.Enum):
    SENDER = "session-sender"
    REFLECTOR = "session-reflector"


class OperState(enum.Enum):
    DISABLED = "disabled"
    """The role, or the session on a reflector, is disabled by configuration."""

    STOPPED = "stopped"
    RUNNING = "running"

    COMPLETED = "completed"
    """The packet count or the duration of the run has been reached."""

    FAILED = "failed"
    """It should run and cannot; `last_error` says why; it is tried again."""

    STARTING = "starting"
    """It should run, and does so by itself once its engine is ready, which takes a while."""


WANT_TO_RUN = (OperState.STARTING, OperState.RUNNING, OperState.FAILED)


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """How one session stands."""

    oper_state: OperState
    engine: str
    since_ns: int
    """CLOCK_REALTIME when `oper_state` was entered."""

    last_error: str | None = None
    """The latest error, kept after the session has recovered from it."""

    run_started_ns: int | None = None
    """CLOCK_MONOTONIC at which the first packet of the current run was due."""

    run_first_sequence: int = 0
    """Sequence number of the first packet of the current or latest run."""

    duration_s: int | None = None
    """Duration given to the start action, where it overrides the configured one."""


class AttachmentMode(enum.Enum):
    """Where an XDP program runs."""

    NATIVE = "native"
    """In the driver."""

    GENERIC = "generic"
    """In the kernel's stack, for drivers that have no XDP: slower."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """An interface that has a program of the engine."""

    interface: str
    mode: AttachmentMode
    note: str | None
    """What an operator should know about it: why the mode is not a better one, what the
    program does not get to see."""


@dataclass(frozen=True, slots=True)
class ReflectorStatus:
    """How the Session-Reflector role stands as a whole."""

    oper_state: OperState
    engine: str
    since_ns: int
    last_error: str | None = None
    attachments: tuple[Attachment, ...] = ()
    """Of an engine that attaches programs to interfaces."""


@dataclass(frozen=True, slots=True)
class SessionStateChanged:
    ssid: int | None
    """None: the Session-Reflector role as a whole."""

    role: Role
    old: OperState | None
    """None for what has just been configured."""

    new: OperState
    reason: str


@dataclass(frozen=True, slots=True)
class IntervalClosed:
    """A computation interval of a sender session is over and can be read."""

    ssid: int
    number: int


@dataclass(frozen=True, slots=True)
class HostRestarted:
    """The host process was replaced and the sessions were resumed."""

    count: int
    """Restarts since the supervisor was created."""

    reason: str


Event = SessionStateChanged | IntervalClosed | HostRestarted


@dataclass(frozen=True, slots=True)
class SenderStatusReport:
    ssid: int
    status: SessionStatus | None
    """None: the session is gone."""

    reason: str = ""
    """What led to `status`, for people."""


@dataclass(frozen=True, slots=True)
class ReflectorStatusReport:
    status: ReflectorStatus | None
    """None: the role is gone."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class SenderDiscards:
    """Packets on a Session-Sender's ports that belong to no session, since the last report."""

    packets: dict[DiscardReason, int]


class ReplyHandedUp(enum.Enum):
    """Why an engine that collects in the driver left a packet on a Session-Sender's port
    to user space."""

    FORM = "form"
    LENGTH = "length"
    SHORT = "short"
    TRAILER = "trailer"
    SESSION = "session"
    PEER = "peer"
    INTERFACE = "interface"
    CHECKSUM = "checksum"
    MULTIPLIER = "multiplier"
    SEQUENCE = "sequence"
    COPY = "copy"
    AHEAD = "ahead"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class SenderDriver:
    """What an engine that collects in the driver has done there."""

    attachments: tuple[Attachment, ...] = ()
    """As they are now."""

    collected: int = 0
    """Packets since the last report, as all that follow."""

    duplicates: int = 0
    late: int = 0
    handed_up: dict[ReplyHandedUp, int] = field(default_factory=dict)


Report = SenderStatusReport | ReflectorStatusReport | SenderDiscards | SenderDriver | IntervalClosed
"""What an engine emits. The supervisor makes `SessionStateChanged` of it."""


@dataclass(frozen=True, slots=True)
class Resume:
    """The run that a session was in when its host process died."""

    oper_state: OperState
    run_started_ns: int | None = None
    """CLOCK_MONOTONIC, which goes on while processes come and go."""

    run_first_sequence: int = 0
    duration_s: int | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; configuration beyond it is refused."""

    roles: frozenset[Role] = frozenset(Role)
    address_families: frozenset[int] = frozenset({6})
    min_interval_us: int = 1_000
    max_segments: int = 16
    timestamp_formats: frozenset[TimestampFormat] = frozenset(TimestampFormat)
    authentication: bool = False
    tlvs: frozenset[int] = field(default_factory=frozenset)
    """TLV types that are understood (RFC 8972 §5)."""

    needs_interfaces: bool = False
    """Whether a role has to name the interfaces that its packets arrive on."""

    counters_lag_ms: int = 0
    """How far behind the packets the counters of a Session-Reflector may be."""

    reflector_sessions_max: int | None = None
    """Sessions that a Session-Reflector can have; None for any number."""


class Refusal(NamedTuple):
    """Why an engine cannot run what is configured."""

    parameter: str
    """The field of the configuration that would have to be another: of the session or role
    that was checked, except for "engine", which is the role's."""
    reason: str
    """For the operator."""


def check_sender_role(name: str, capabilities: Capabilities, sender: Sender) -> list[Refusal]:
    """Why engine `name` cannot run `sender` itself, its sessions aside."""
    return _interfaces(name, capabilities, sender.interfaces, "replies")


def check_sender(name: str, capabilities: Capabilities, session: SenderSession) -> list[Refusal]:
    """Why engine `name` cannot run `session`; empty if it can."""
    if Role.SENDER not in capabilities.roles:
        return [Refusal("engine", f"engine {name} has no Session-Sender")]
    source, reflector = session.source_address, session.reflector_address
    refusals = _families(
        name, capabilities, {"reflector_address": reflector, "source_address": source}
    )
    refusals += _segments(name, capabilities, session.segments, reflector)
    if source.version != reflector.version:
        text = f"source {source} and reflector {reflector} are of different address families"
        refusals.append(Refusal("reflector_address", text))
    if session.interval_us < capabilities.min_interval_us:
        text = f"engine {name} needs an interval of at least {capabilities.min_interval_us} us"
        refusals.append(Refusal("interval_us", text))
    return refusals + _timestamp_format(name, capabilities, session.timestamp_format)


def check_reflector(name: str, capabilities: Capabilities, reflector: Reflector) -> list[Refusal]:
    """Why engine `name` cannot run `reflector` itself, its sessions aside."""
    if Role.REFLECTOR not in capabilities.roles:
        return [Refusal("engine", f"engine {name} has no Session-Reflector")]
    refusals = _families(name, capabilities, {"source_address": reflector.source_address})
    refusals += _interfaces(name, capabilities, reflector.interfaces, "requests")
    most, sessions = capabilities.reflector_sessions_max, len(reflector.sessions)
    if most is not None and sessions > most:
        text = f"engine {name} reflects at most {most} sessions, not {sessions}"
        refusals.append(Refusal("sessions", text))
    return refusals


def check_reflector_session(
    name: str, capabilities: Capabilities, session: ReflectorSession
) -> list[Refusal]:
    """Why engine `name` cannot serve `session`; empty if it can."""
    sender = session.sender_address
    refusals = _families(name, capabilities, {"sender_address": sender})
    refusals += _segments(name, capabilities, session.segments, sender)
    return refusals + _timestamp_format(name, capabilities, session.timestamp_format)


def _interfaces(
    name: str, capabilities: Capabilities, interfaces: tuple[str, ...], packets: str
) -> list[Refusal]:
    if interfaces or not capabilities.needs_interfaces:
        return []
    text = f"engine {name} needs the names of the interfaces that {packets} arrive on"
    return [Refusal("interfaces", text)]


def _families(
    name: str, capabilities: Capabilities, addresses: Mapping[str, IPAddress | None]
) -> list[Refusal]:
    """One for each missing family, with the first parameter that has an address of it."""
    missing: dict[int, str] = {}
    for parameter, address in addresses.items():
        if address is not None and address.version not in capabilities.address_families:
            missing.setdefault(address.version, parameter)
    return [
        Refusal(parameter, f"engine {name} does not support IPv{version}")
        for version, parameter in sorted(missing.items())
    ]


def _timestamp_format(
    name: str, capabilities: Capabilities, wanted: TimestampFormat | None
) -> list[Refusal]:
    if wanted is None or wanted in capabilities.timestamp_formats:
        return []
    text = f"engine {name} does not support timestamp format {wanted.name}"
    return [Refusal("timestamp_format", text)]


def _segments(
    name: str,
    capabilities: Capabilities,
    segments: tuple[IPv6Address, ...],
    peer: IPAddress | None,
) -> list[Refusal]:
    most, reasons = capabilities.max_segments, []
    if len(segments) > most:
        reasons.append(f"engine {name} supports at most {most} segments, not {len(segments)}")
    if segments and peer is not None and peer.version != 6:
        reasons.append(f"packets to {peer} cannot take a path of SRv6 segments: it is not IPv6")
    return [Refusal("segments", reason) for reason in reasons]


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What an engine is given to live on."""

    state_dir: Path
    """Folder of the stores, shared by the engines of one host process."""

    emit: Callable[[Report], None]
    """May be called from any thread; never blocks."""

    share_state: Callable[[ReflectorSession, SessionState], SessionState] | None = None
    """Given a session that is reflected and the state that it would have, the state
    to use: of an engine that serves the same sessions elsewhere as well."""

    hook_claims: HookClaims = field(default_factory=HookClaims)
    """Shared by the engines of one host process."""


class Engine(Protocol):
    """One way of sending, reflecting and collecting STAMP packets.

    `configure` is called with what concerns this engine alone: a role that
    another engine runs is None in its `Node`. Errors of the environment
    (an address or an interface that is missing) are no reason to refuse:
    the session fails, says why, and is tried again.
    """

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def configure(self, node: Node, resume: Mapping[int, Resume] | None = None) -> None:
        """Run exactly `node`. `resume`, by SSID, is how sessions that are new
        to this engine stood in the host process before it. Raises `EngineError`."""

    def start(self, ssid: int, duration_s: int | None) -> None:
        """Raises `EngineError`: no such session, role disabled, already running."""

    def stop(self, ssid: int) -> None:
        """Raises `EngineError`: no such session, not running."""

    def clear(self, ssid: int) -> None:
        """Forget a session's results and counters. Raises `EngineError`: no such session."""

    def announce(self, ssid: int, packets: int) -> int:
        """Take the next `packets` packets of a session as sent, without sending
        them: what measures the receiving side brings replies of its own.

        Returns the sequence number of the first, unwrapped. The session goes on
        behind the last. Raises `EngineError`: no such session, not running.
        """

    def ping(self) -> None:
        """Return once the threads that do the work have shown that they run."""

    def freshen(self) -> None:
        """Return once the stores are up to date with what had come before."""

    def close(self) -> None:
        """Stop everything and let go of sockets and threads; stores stay on disk."""


def session_store_path(state_dir: Path, ssid: int) -> Path:
    """Where a sender session's `SessionStore` is."""
    return state_dir / f"session-{ssid}.store"


def reflector_store_path(state_dir: Path) -> Path:
    """Where the `ReflectorStore` is."""
    return state_dir / "reflector.store"
