"""From the datastore's tree to what the data plane is asked to do.

The tree is the RFC 7951 JSON form of `srv6-stamp:stamp`, defaults included,
as `json.loads` gives it. libyang has validated it against the model; what the
model cannot say is checked here, and refused with the YANG path and a reason.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import IPv6Address
from typing import Any

from dataplane.addresses import address_of, not_unicast
from dataplane.config import (
    DelayMode,
    IPAddress,
    Node,
    Reflector,
    ReflectorMode,
    ReflectorSession,
    Sender,
    SenderSession,
    SsidZeroAction,
)
from dataplane.engines.base import (
    Capabilities,
    EngineError,
    Refusal,
    check_reflector,
    check_reflector_session,
    check_sender,
    check_sender_role,
)
from dataplane.stamp.timestamp import TimestampFormat

ROOT = "/srv6-stamp:stamp"
SENDER_PATH = f"{ROOT}/session-sender"
REFLECTOR_PATH = f"{ROOT}/session-reflector"

SENDER_LEAVES = {"interfaces": "interface"}
SENDER_SESSION_LEAVES = {
    "reflector_address": "reflector-address",
    "source_address": "source-address",
    "segments": "path",
    "interval_us": "interval",
    "timestamp_format": "timestamp-format",
}
REFLECTOR_LEAVES = {
    "source_address": "source-address",
    "interfaces": "interface",
    "sessions": "session",
}
REFLECTOR_SESSION_LEAVES = {
    "sender_address": "sender-address",
    "segments": "return-path",
    "timestamp_format": "timestamp-format",
}
"""The model's names of what an engine may refuse, by the data plane's."""

Tree = Mapping[str, Any]
Segments = Mapping[str, tuple[IPv6Address, ...]]


class ConfigurationError(Exception):
    """A configuration is refused. `str()` is "<YANG path>: <reason>"."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def sender_session_path(ssid: int) -> str:
    return f"{SENDER_PATH}/session[ssid='{ssid}']"


def reflector_session_path(ssid: int, sender_address: IPAddress | None) -> str:
    address = "any" if sender_address is None else sender_address
    return f"{REFLECTOR_PATH}/session[ssid='{ssid}'][sender-address='{address}']"


def node_from_tree(tree: Tree | None) -> Node:
    """The data plane's configuration; `tree` is the container `stamp`, or None."""
    if not tree:
        return Node()
    segments = dict(_paths(tree))
    sender, reflector = tree.get("session-sender"), tree.get("session-reflector")
    return Node(
        sender=None if sender is None else _sender(sender, segments),
        reflector=None if reflector is None else _reflector(reflector, segments),
    )


def check(node: Node, capabilities_of: Callable[[str], Capabilities]) -> None:
    """Raises ConfigurationError for the first thing that an engine cannot run.

    `capabilities_of` is given an engine's name, and raises EngineError where
    that engine cannot be used.
    """
    if (sender := node.sender) is not None:
        able = _capabilities(capabilities_of, sender.engine, SENDER_PATH)
        refusals = check_sender_role(sender.engine, able, sender)
        _refuse(refusals, SENDER_PATH, SENDER_PATH, SENDER_LEAVES)
        for session in sender.sessions.values():
            refusals = check_sender(sender.engine, able, session)
            path = sender_session_path(session.ssid)
            _refuse(refusals, SENDER_PATH, path, SENDER_SESSION_LEAVES)
    if (reflector := node.reflector) is not None:
        able = _capabilities(capabilities_of, reflector.engine, REFLECTOR_PATH)
        refusals = check_reflector(reflector.engine, able, reflector)
        _refuse(refusals, REFLECTOR_PATH, REFLECTOR_PATH, REFLECTOR_LEAVES)
        for served in reflector.sessions.values():
            refusals = check_reflector_session(reflector.engine, able, served)
            path = reflector_session_path(*served.key)
            _refuse(refusals, REFLECTOR_PATH, path, REFLECTOR_SESSION_LEAVES)


def _capabilities(
    capabilities_of: Callable[[str], Capabilities], engine: str, path: str
) -> Capabilities:
    try:
        return capabilities_of(engine)
    except EngineError as error:
        raise ConfigurationError(f"{path}/engine", str(error)) from error


@dataclass(frozen=True, slots=True)
class Presentation:
    """What of the configuration matters to the operational state alone."""

    record_depth: Mapping[int, int]
    """Records to show, by SSID."""


def presentation_from_tree(tree: Tree | None) -> Presentation:
    sender = (tree or {}).get("session-sender") or {}
    return Presentation({s["ssid"]: s["record-depth"] for s in sender.get("session", ())})


def _refuse(refusals: list[Refusal], role: str, path: str, leaves: Mapping[str, str]) -> None:
    """Raises ConfigurationError for the first refusal of what is at `path` of `role`."""
    for parameter, reason in refusals:
        leaf = f"{role}/engine" if parameter == "engine" else f"{path}/{leaves[parameter]}"
        raise ConfigurationError(leaf, reason)


def _paths(tree: Tree) -> Iterator[tuple[str, tuple[IPv6Address, ...]]]:
    for path in tree.get("path", ()):
        ordered = sorted(path.get("segment", ()), key=lambda segment: segment["index"])
        for segment in ordered:
            where = f"{ROOT}/path[name='{path['name']}']/segment[index='{segment['index']}']"
            _unicast(segment["sid"], f"{where}/sid", "segment")
        yield path["name"], tuple(IPv6Address(segment["sid"]) for segment in ordered)


def _sender(tree: Tree, segments: Segments) -> Sender:
    sessions = (_sender_session(session, tree, segments) for session in tree.get("session", ()))
    return Sender(
        enabled=tree["enabled"],
        engine=tree["engine"],
        interfaces=tuple(sorted(tree.get("interface", ()))),
        sessions={session.ssid: session for session in sessions},
    )


def _sender_session(tree: Tree, role: Tree, segments: Segments) -> SenderSession:
    path = sender_session_path(tree["ssid"])
    owner = path if "source-address" in tree else SENDER_PATH
    source_text = tree.get("source-address", role.get("source-address"))
    source = _unicast(source_text, f"{owner}/source-address", "source")
    reflector = _unicast(tree["reflector-address"], f"{path}/reflector-address", "reflector")
    if source.version != reflector.version:
        raise ConfigurationError(
            f"{path}/reflector-address",
            f"source address {source} and reflector address {reflector} differ in family",
        )
    return SenderSession(
        ssid=tree["ssid"],
        reflector_address=reflector,
        source_address=source,
        reflector_udp_port=tree["reflector-udp-port"],
        sender_udp_port=tree.get("sender-udp-port", role["udp-port"]),
        segments=segments[tree["path"]] if "path" in tree else (),
        interval_us=int(tree["interval"]),
        packet_count=tree.get("packet-count"),
        duration_s=tree.get("duration"),
        dscp=tree["dscp"],
        hop_limit=tree["hop-limit"],
        timestamp_format=TimestampFormat(tree["timestamp-format"]),
        delay_mode=DelayMode(tree["delay-mode"]),
        reflector_mode=ReflectorMode(tree["reflector-mode"]),
        on_ssid_zero=SsidZeroAction(tree["on-ssid-zero"]),
        loss_timeout_ms=tree["loss-timeout"],
        computation_interval_s=tree["computation-interval"],
        history_depth=tree["history-depth"],
        result_depth=tree["result-depth"],
        percentiles=_percentiles(*tree.get("percentile", ())),
        autostart=tree["enabled"],
    )


@functools.lru_cache(maxsize=256)
def _percentiles(*texts: str) -> tuple[float, ...]:
    """Thousands of sessions have few different lists: equal ones are one object."""
    return tuple(sorted(float(Decimal(text)) for text in texts))


def _reflector(tree: Tree, segments: Segments) -> Reflector:
    sessions = (_reflector_session(session, segments) for session in tree.get("session", ()))
    source = tree.get("source-address")
    where = f"{REFLECTOR_PATH}/source-address"
    return Reflector(
        enabled=tree["enabled"],
        engine=tree["engine"],
        interfaces=tuple(sorted(tree.get("interface", ()))),
        udp_port=tree["udp-port"],
        source_address=None if source is None else _unicast(source, where, "source"),
        require_configured_session=tree["require-configured-session"],
        rate_limit=_rate_limit(tree),
        sessions={session.key: session for session in sessions},
    )


def _rate_limit(tree: Tree) -> int | None:
    limit = tree["rate-limit"]
    return None if limit == "unlimited" else int(limit)


def _reflector_session(tree: Tree, segments: Segments) -> ReflectorSession:
    sender = tree["sender-address"]
    address = None if sender == "any" else address_of(sender)
    wanted = tree.get("timestamp-format")
    if address is not None:
        entry = reflector_session_path(tree["ssid"], address)
        _unicast(sender, f"{entry}/sender-address", "sender")
    return ReflectorSession(
        ssid=tree["ssid"],
        sender_address=address,
        sender_udp_port=tree.get("sender-udp-port"),
        segments=segments[tree["return-path"]] if "return-path" in tree else (),
        mode=ReflectorMode(tree["reflector-mode"]),
        timestamp_format=None if wanted is None else TimestampFormat(wanted),
        enabled=tree["enabled"],
    )


def _unicast(text: str, path: str, what: str) -> IPAddress:
    address = address_of(text)
    problem = not_unicast(address)
    if problem is not None:
        raise ConfigurationError(path, f"the {what} address {address} is {problem}")
    return address
