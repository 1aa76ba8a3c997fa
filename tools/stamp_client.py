"""A NETCONF client for the YANG module `srv6-stamp`: configuration out, typed state in.

Small on purpose, to be read, used and copied by whoever connects an OSS:

    with StampClient.connect("192.0.2.1", 830, "admin", key_file="id_ed25519") as client:
        client.edit(Node(
            source_address="fd00:0:1::1",
            paths=(SrPath("north", ("fd00:0:101::e", "fd00:0:2::1")),),
            sender_sessions=(SenderSession(1, "fd00:0:2::1", path="north"),),
        ))
        print(client.sender_session(1).delay["round-trip"].mean_ns)
        records = list(client.drain(1))

Delays are signed nanoseconds. What the network element does not know is absent
from its answer, and None here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from lxml import etree
from ncclient import manager
from ncclient.operations import OperationError, RPCError
from ncclient.transport.errors import SSHError, SSHUnknownHostError, TransportError

Element = etree._Element

STAMP_NS = "urn:x-srv6-stamp:yang:srv6-stamp"
BASE_NS = "urn:ietf:params:xml:ns:netconf:base:1.0"
ACTION_NS = "urn:ietf:params:xml:ns:yang:1"

_OPERATION = f"{{{BASE_NS}}}operation"
"""The attribute of RFC 6241 §7.2."""

_DATA_MISSING = "data-missing"
"""The error-tag (RFC 6241 appendix A) of an action on a session that is not there."""

DIRECTIONS = ("forward", "backward", "round-trip")
"""The directions for which there are delay statistics, named as in the model."""

FETCH_MAX = 1000
"""Records that one fetch-results asks for: the model's default."""

SUMMARY_LEAVES = (
    *("path", "reflector-address", "oper-state", "last-error"),
    *("counters", "delay", "loss", "results-available"),
)
"""What `sender_sessions` reads by default: neither history nor records."""

INTERVAL_LEAVES = (*SUMMARY_LEAVES, "interval-statistics")
"""What it reads where the latest closed computation interval is wanted."""


class StampClientError(Exception):
    """The connection or an operation failed; the text says which and why."""


@dataclass(frozen=True, slots=True)
class SrPath:
    """A named SRv6 path (list `path`), whole: one of that name is replaced, its description
    included."""

    name: str
    segments: tuple[str, ...]
    """SID list in order of travel."""


@dataclass(frozen=True, slots=True)
class SenderSession:
    """Configuration of one session of the Session-Sender.

    None sends nothing: what is configured stays, and where nothing is, the model's default
    holds.
    """

    ssid: int
    reflector_address: str
    path: str | None = None
    interval_us: int | None = None
    packet_count: int | None = None
    reflector_mode: str | None = None
    """"stateless" or "stateful"; configure it alike on both ends."""
    timestamp_format: str | None = None
    loss_timeout_ms: int | None = None
    result_depth: int | None = None
    enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class ReflectorSession:
    """Configuration of one session of the Session-Reflector; None as in `SenderSession`."""

    ssid: int
    sender_address: str
    """An address, or "any"."""
    return_path: str | None = None
    reflector_mode: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """What is merged into a node's configuration: paths are replaced, sessions merged, and
    a role without sessions is not touched."""

    source_address: str
    paths: tuple[SrPath, ...] = ()
    sender_sessions: tuple[SenderSession, ...] = ()
    reflector_sessions: tuple[ReflectorSession, ...] = ()


@dataclass(frozen=True, slots=True)
class DelayStatistics:
    """Statistics of the delay in one direction (grouping `delay-statistics`)."""

    samples: int = 0
    min_ns: int | None = None
    max_ns: int | None = None
    mean_ns: int | None = None
    stddev_ns: int | None = None
    jitter_ns: int | None = None
    percentiles: Mapping[float, int] = field(default_factory=dict)
    """Percent → the delay that this share of delays does not exceed."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Lost packets by direction (grouping `losses`)."""

    forward: int | None = None
    backward: int | None = None
    undetermined: int | None = None
    round_trip: int | None = None
    round_trip_ratio: float | None = None
    """Percent of the packets whose fate is known."""


@dataclass(frozen=True, slots=True)
class ClosedInterval:
    """One closed computation interval (list `interval-statistics`)."""

    number: int
    suspect: bool
    """Cut short or interrupted: its counters compare with no other's."""
    sent: int
    delay: Mapping[str, DelayStatistics]
    loss: Loss


@dataclass(frozen=True, slots=True)
class SenderSessionState:
    """Operational state of one session of the Session-Sender."""

    ssid: int
    path: str | None
    """Name of the measured SRv6 path; None: no SID list."""
    reflector_address: str | None
    oper_state: str | None
    last_error: str | None
    counters: Mapping[str, int]
    """Leaf name → packets, as in the model: "sent", "received", "in-flight" …"""
    delay: Mapping[str, DelayStatistics]
    """One for each of DIRECTIONS."""
    loss: Loss
    results_available: int | None
    latest_interval: ClosedInterval | None = None
    """None also where intervals were not asked for."""

    @property
    def sent(self) -> int:
        """Test packets so far."""
        return self.counters.get("sent", 0)

    @property
    def received(self) -> int:
        """Replies that were used."""
        return self.counters.get("received", 0)


@dataclass(frozen=True, slots=True)
class ReflectorState:
    """Operational state of the Session-Reflector."""

    oper_state: str | None
    last_error: str | None


class Record(NamedTuple):
    """What one reply told (grouping `measurement-record`); times are Unix nanoseconds."""

    sequence: int
    reflector_sequence: int | None
    t1: int | None
    t2: int | None
    t3: int | None
    t4: int | None
    forward_delay: int | None
    backward_delay: int | None
    round_trip_delay: int | None
    session_sender_ttl: int | None


class FetchedResults(NamedTuple):
    """One answer to `fetch-results`."""

    records: tuple[Record, ...]
    remaining: int
    dropped: int


class StampClient:
    """One NETCONF session with one network element; a context manager."""

    def __init__(self, session: Any) -> None:
        self._session = session

    @classmethod
    def connect(
        cls,
        host: str,
        port: int,
        user: str,
        *,
        key_file: Path | str,
        host_key: str | None = None,
        timeout_s: float = 30.0,
    ) -> Self:
        """Open a session over SSH with a private key.

        `host_key` is the Base64 part of the server's public key: no other server is
        talked to. Without it the user's own known_hosts decides. Raises StampClientError.
        """
        try:
            # Of one that is missing ncclient gives the Python exception for a reason.
            with open(key_file, "rb"):
                pass
        except OSError as error:
            raise StampClientError(f"cannot read the key {key_file}: {error.strerror}") from error
        try:
            session = manager.connect_ssh(
                host=host,
                port=port,
                username=user,
                key_filename=str(key_file),
                allow_agent=False,
                look_for_keys=False,
                hostkey_b64=host_key,
                timeout=timeout_s,
                manager_params={"timeout": timeout_s},
            )
        except SSHUnknownHostError as error:
            raise StampClientError(
                f"{host} is not in ~/.ssh/known_hosts: look at its key, and have it put there, by"
                f" `ssh -p {port} -s {user}@{host} netconf`"
            ) from error
        except (SSHError, TransportError, OSError) as error:
            raise StampClientError(f"cannot connect to {user}@{host}:{port}: {error}") from error
        return cls(session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session; nothing happens when it is gone already."""
        try:
            self._session.close_session()
        except (OperationError, TransportError, OSError):
            return

    def edit(self, node: Node) -> None:
        """Merge a configuration into `running`, wholly or not at all (one edit-config).

        A path is replaced, so that a SID list may become shorter.
        """
        self._ask("edit-config", "edit_config", target="running", config=build_config(node))

    def remove_sender(self) -> None:
        """Take the Session-Sender and all its sessions out of `running`, if it is there."""
        self._ask("edit-config", "edit_config", target="running", config=build_removal())

    def sender_sessions(
        self, leaves: tuple[str, ...] = SUMMARY_LEAVES, ssid: int | None = None
    ) -> dict[int, SenderSessionState]:
        """Read the operational state of the Session-Sender's sessions, or of one, by SSID."""
        reply = self._ask("get", "get", filter=("subtree", sender_filter(leaves, ssid)))
        return parse_sender_sessions(reply.data_ele)

    def sender_session(self, ssid: int) -> SenderSessionState:
        """Read one session's state; StampClientError when there is no such session."""
        sessions = self.sender_sessions(ssid=ssid)
        if ssid not in sessions:
            raise StampClientError(f"the node has no session with SSID {ssid}")
        return sessions[ssid]

    def clock_synchronized(self) -> bool | None:
        """Whether the node's kernel says that its clock is synchronized; None: not said."""
        stamp = etree.Element(_tag("stamp"), nsmap={"stamp": STAMP_NS})
        _add(_add(stamp, "session-sender"), "clock-synchronized")
        reply = self._ask("get", "get", filter=("subtree", stamp))
        leaf = "/".join(map(_tag, ("stamp", "session-sender", "clock-synchronized")))
        text = reply.data_ele.findtext(leaf)
        return None if text is None else text == "true"

    def reflector(self) -> ReflectorState:
        """Read the Session-Reflector's state; all None where the role is not configured."""
        reply = self._ask("get", "get", filter=("subtree", reflector_filter()))
        role = f"{_tag('stamp')}/{_tag('session-reflector')}/"
        return ReflectorState(
            reply.data_ele.findtext(role + _tag("oper-state")),
            reply.data_ele.findtext(role + _tag("last-error")),
        )

    def start(self, ssid: int, duration_s: int | None = None) -> None:
        """Start a configured session, for a limited time if asked."""
        self._action(ssid, "start", duration=duration_s)

    def stop(self, ssid: int) -> None:
        """Stop a session; its results stay."""
        self._action(ssid, "stop")

    def clear(self, ssid: int) -> None:
        """Set a session's statistics to zero and drop its records."""
        self._action(ssid, "clear")

    def fetch_results(self, ssid: int, max_records: int = FETCH_MAX) -> FetchedResults:
        """Take up to `max_records` records, oldest first; they are gone from the node then."""
        return parse_results(self._action(ssid, "fetch-results", max=max_records))

    def batches(self, ssid: int) -> Iterator[tuple[Record, ...]]:
        """Take all records that there are at the moment, a batch each time one is asked for:
        who stops asking leaves the rest on the node."""
        while True:
            fetched = self.fetch_results(ssid)
            yield fetched.records
            if not fetched.remaining or not fetched.records:
                return

    def drain(self, ssid: int) -> Iterator[Record]:
        """Take all records that there are at the moment."""
        for batch in self.batches(ssid):
            yield from batch

    def _action(self, ssid: int, name: str, **parameters: int | None) -> Element:
        action = build_action(ssid, name, **parameters)
        try:
            reply = self._ask(name, "dispatch", action)
        except StampClientError as error:
            cause = error.__cause__
            if isinstance(cause, RPCError) and cause.tag == _DATA_MISSING:
                raise StampClientError(f"the node has no session with SSID {ssid}") from error
            raise
        return etree.fromstring(reply.xml.encode())

    def _ask(self, what: str, method: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self._session, method)(*arguments, **options)
        except RPCError as error:
            where = f" (at {error.path.strip()})" if error.path else ""
            raise StampClientError(f"{what} was refused: {error.message}{where}") from error
        except (OperationError, TransportError, OSError) as error:
            raise StampClientError(f"{what} failed: {error}") from error


def build_config(node: Node) -> Element:
    """Return the <config> of an edit-config."""
    config = etree.Element(f"{{{BASE_NS}}}config", nsmap={"nc": BASE_NS})
    stamp = etree.SubElement(config, _tag("stamp"), nsmap={"stamp": STAMP_NS})
    for path in node.paths:
        entry = _add(stamp, "path", name=path.name)
        # Merging would leave the tail of a longer SID list in place.
        entry.set(_OPERATION, "replace")
        for index, sid in enumerate(path.segments, start=1):
            _add(entry, "segment", index=index, sid=sid)
    if node.sender_sessions:
        sender = _add(stamp, "session-sender", source_address=node.source_address)
        for session in node.sender_sessions:
            _add(
                sender,
                "session",
                ssid=session.ssid,
                enabled=session.enabled,
                reflector_address=session.reflector_address,
                path=session.path,
                interval=session.interval_us,
                packet_count=session.packet_count,
                timestamp_format=session.timestamp_format,
                reflector_mode=session.reflector_mode,
                loss_timeout=session.loss_timeout_ms,
                result_depth=session.result_depth,
            )
    if node.reflector_sessions:
        reflector = _add(
            stamp,
            "session-reflector",
            source_address=node.source_address,
            require_configured_session=True,
        )
        for reflected in node.reflector_sessions:
            _add(
                reflector,
                "session",
                ssid=reflected.ssid,
                sender_address=reflected.sender_address,
                return_path=reflected.return_path,
                reflector_mode=reflected.reflector_mode,
            )
    return config


def build_removal() -> Element:
    """Return the <config> of an edit-config that removes the Session-Sender (RFC 6241 §7.2)."""
    config = etree.Element(f"{{{BASE_NS}}}config", nsmap={"nc": BASE_NS})
    stamp = etree.SubElement(config, _tag("stamp"), nsmap={"stamp": STAMP_NS})
    _add(stamp, "session-sender").set(_OPERATION, "remove")
    return config


def build_action(ssid: int, name: str, **parameters: int | None) -> Element:
    """Return the <action> (RFC 7950 §7.15.2) on one session of the Session-Sender."""
    action = etree.Element(f"{{{ACTION_NS}}}action", nsmap={"yang": ACTION_NS})
    stamp = etree.SubElement(action, _tag("stamp"), nsmap={"stamp": STAMP_NS})
    session = _add(_add(stamp, "session-sender"), "session", ssid=ssid)
    _add(session, name, **parameters)
    return action


def sender_filter(leaves: tuple[str, ...], ssid: int | None = None) -> Element:
    """Return a subtree filter (RFC 6241 §6) for these children of every sender session,
    or of one."""
    stamp = etree.Element(_tag("stamp"), nsmap={"stamp": STAMP_NS})
    session = _add(_add(stamp, "session-sender"), "session")
    for leaf in ("ssid", *leaves):
        _add(session, leaf)
    if ssid is not None:
        session[0].text = str(ssid)
    return stamp


def reflector_filter() -> Element:
    """Return a subtree filter for the state of the Session-Reflector."""
    stamp = etree.Element(_tag("stamp"), nsmap={"stamp": STAMP_NS})
    reflector = _add(stamp, "session-reflector")
    for leaf in ("oper-state", "last-error"):
        _add(reflector, leaf)
    return stamp


def parse_sender_sessions(data: Element) -> dict[int, SenderSessionState]:
    """Read the sender sessions out of the <data> of a reply, by SSID."""
    found = data.iterfind("/".join(map(_tag, ("stamp", "session-sender", "session"))))
    states = (_sender_session(session) for session in found)
    return {state.ssid: state for state in states}


def parse_results(reply: Element) -> FetchedResults:
    """Read the output of fetch-results."""
    records = tuple(
        Record(*(_integer(result, name.replace("_", "-")) for name in Record._fields))  # type: ignore[arg-type]
        for result in reply.iterfind(_tag("result"))
    )
    return FetchedResults(
        records, _integer(reply, "remaining") or 0, _integer(reply, "dropped") or 0
    )


def _sender_session(session: Element) -> SenderSessionState:
    ssid = _integer(session, "ssid")
    if ssid is None:
        raise StampClientError("the node sent a session without its key")
    counters = session.find(_tag("counters"))
    intervals = map(_closed_interval, session.iterfind(_tag("interval-statistics")))
    return SenderSessionState(
        ssid=ssid,
        path=session.findtext(_tag("path")),
        reflector_address=session.findtext(_tag("reflector-address")),
        oper_state=session.findtext(_tag("oper-state")),
        last_error=session.findtext(_tag("last-error")),
        counters={
            etree.QName(leaf).localname: int(leaf.text or 0)
            for leaf in (() if counters is None else counters)
            if not len(leaf)
        },
        delay=_delays(session),
        loss=_loss(session.find(_tag("loss"))),
        results_available=_integer(session, "results-available"),
        latest_interval=max(intervals, key=lambda interval: interval.number, default=None),
    )


def _closed_interval(entry: Element) -> ClosedInterval:
    return ClosedInterval(
        number=_integer(entry, "number") or 0,
        suspect=entry.findtext(_tag("suspect")) == "true",
        sent=_integer(entry, "sent") or 0,
        delay=_delays(entry),
        loss=_loss(entry.find(_tag("loss"))),
    )


def _delays(parent: Element) -> dict[str, DelayStatistics]:
    return {
        direction: _delay_statistics(parent.find(f"{_tag('delay')}/{_tag(direction)}"))
        for direction in DIRECTIONS
    }


def _loss(element: Element | None) -> Loss:
    if element is None:
        return Loss()
    names = ("forward", "backward", "undetermined", "round_trip")
    ratio = element.findtext(_tag("round-trip-ratio"))
    return Loss(
        **{name: _integer(element, name.replace("_", "-")) for name in names},
        round_trip_ratio=None if ratio is None else float(ratio),
    )


def _delay_statistics(element: Element | None) -> DelayStatistics:
    if element is None:
        return DelayStatistics()
    return DelayStatistics(
        samples=_integer(element, "samples") or 0,
        min_ns=_integer(element, "min"),
        max_ns=_integer(element, "max"),
        mean_ns=_integer(element, "mean"),
        stddev_ns=_integer(element, "stddev"),
        jitter_ns=_integer(element, "jitter"),
        percentiles={
            float(entry.findtext(_tag("percent"), "")): int(entry.findtext(_tag("value"), ""))
            for entry in element.iterfind(_tag("percentile"))
        },
    )


def _tag(name: str) -> str:
    return f"{{{STAMP_NS}}}{name}"


def _add(parent: Element, name: str, /, **leaves: object) -> Element:
    """Append a child with leaves; None adds no leaf, and `_` in a name stands for `-`."""
    child = etree.SubElement(parent, _tag(name))
    for leaf, value in leaves.items():
        if value is None:
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value)
        etree.SubElement(child, _tag(leaf.replace("_", "-"))).text = text
    return child


def _integer(parent: Element, name: str) -> int | None:
    text = parent.findtext(_tag(name))
    return None if text is None else int(text)
