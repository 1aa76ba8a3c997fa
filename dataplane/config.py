"""What an engine is asked to do: plain, validated, immutable values.

Nothing here knows YANG. The plugin makes these from the datastore, the host
process carries them to an engine, and two equal values mean that a running
session need not be touched.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from dataplane.stamp.timestamp import TimestampFormat

STAMP_PORT = 862
"""Default UDP port of a Session-Reflector (RFC 8762 §4.1)."""

SENDER_PORT = 49862
"""Default UDP port of a Session-Sender, from the dynamic range (RFC 8762 §4.1)."""

SSID_MAX = 0xFFFF


IPAddress = IPv4Address | IPv6Address


class DelayMode(enum.Enum):
    """Which delays a session evaluates."""

    TWO_WAY = "two-way"
    """Forward, backward and round-trip: the reply takes the measured return path."""

    ONE_WAY = "one-way"
    """Forward only: the reply may take any path back."""


class ReflectorMode(enum.Enum):
    """How the Session-Reflector numbers its packets (RFC 8762 §4)."""

    STATELESS = "stateless"
    """The Session-Sender's sequence number is copied."""

    STATEFUL = "stateful"
    """A counter per session, which tells forward loss from backward loss."""


class SsidZeroAction(enum.Enum):
    """What to do when replies carry SSID 0 (RFC 8972 §3)."""

    CONTINUE = "continue"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class SenderSession:
    """One STAMP session as its Session-Sender runs it."""

    ssid: int
    """1..65535 (RFC 8972 §3)."""

    reflector_address: IPAddress
    source_address: IPAddress
    reflector_udp_port: int = STAMP_PORT
    sender_udp_port: int = SENDER_PORT

    segments: tuple[IPv6Address, ...] = ()
    """SIDs in the order they are visited. The reflector's address is appended
    as the last segment where the list does not end with it. Empty: no SRH."""

    interval_us: int = 1_000_000
    packet_count: int | None = None
    """Packets after which a run is complete; None for no such end."""

    duration_s: int | None = None
    """Seconds after which a run is complete; None for no such end."""

    dscp: int = 0
    hop_limit: int = 255
    timestamp_format: TimestampFormat = TimestampFormat.NTP
    delay_mode: DelayMode = DelayMode.TWO_WAY
    reflector_mode: ReflectorMode = ReflectorMode.STATELESS
    on_ssid_zero: SsidZeroAction = SsidZeroAction.CONTINUE

    loss_timeout_ms: int = 2_000
    """A reply later than this is late: its packet already counts as lost."""

    computation_interval_s: int = 10
    history_depth: int = 10
    """Closed computation intervals that are kept."""

    result_depth: int = 1_000
    """Records that are kept until they are fetched; the oldest are dropped
    and counted when the ring is full."""

    percentiles: tuple[float, ...] = (50.0, 95.0, 99.0)
    """Percents, ascending, each within 0 < p < 100."""

    autostart: bool = True
    """Whether the session runs as soon as it is configured."""


@dataclass(frozen=True, slots=True)
class ReflectorSession:
    """One STAMP session as its Session-Reflector serves it.

    A packet belongs to the most specific session that matches its SSID, its
    source address and, where given, its source port.
    """

    ssid: int
    sender_address: IPAddress | None = None
    """None for any sender."""

    sender_udp_port: int | None = None
    """None for any port."""

    segments: tuple[IPv6Address, ...] = ()
    """SIDs of the return path in the order they are visited; the sender's
    address is appended as the last segment. Empty: no SRH on replies."""

    mode: ReflectorMode = ReflectorMode.STATELESS
    timestamp_format: TimestampFormat | None = None
    """None: the format of the request."""

    enabled: bool = True

    @property
    def key(self) -> tuple[int, IPAddress | None]:
        return self.ssid, self.sender_address


@dataclass(frozen=True, slots=True)
class Sender:
    """The Session-Sender role of a node: the paper's Init parameters."""

    enabled: bool = True
    engine: str = "userspace"
    interfaces: tuple[str, ...] = ()
    """Interfaces that replies may arrive on; empty for any."""

    sessions: dict[int, SenderSession] = field(default_factory=dict)
    """By SSID."""


@dataclass(frozen=True, slots=True)
class Reflector:
    """The Session-Reflector role of a node."""

    enabled: bool = True
    engine: str = "userspace"
    interfaces: tuple[str, ...] = ()
    """Interfaces that requests may arrive on; empty for any."""

    udp_port: int = STAMP_PORT
    source_address: IPAddress | None = None
    """The only address that is listened on; None for any."""

    require_configured_session: bool = True
    """False: an unknown SSID is reflected, stateless and without a return path."""

    rate_limit: int | None = None
    """Requests a second that are taken from one source; None for any number."""

    sessions: dict[tuple[int, IPAddress | None], ReflectorSession] = field(default_factory=dict)
    """By SSID and sender address."""


@dataclass(frozen=True, slots=True)
class Node:
    """Everything a node's data plane has to do; None for a role it has not."""

    sender: Sender | None = None
    reflector: Reflector | None = None
