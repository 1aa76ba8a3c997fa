"""Having interfaces interrupt less while replies come faster than they can be taken in.

A busy network card interrupts once for many packets. A veth wakes its NAPI thread for each
packet that finds it asleep, and where that thread shares a core with whoever takes the
packets in, most of the core goes into waking up. So where batches are full, the NAPI
instances of the interface are told to wait a moment for company (`gro_flush_timeout`,
Documentation/networking/napi.rst of the kernel; of a single instance since Linux 6.13).

The driver's timestamps are later by up to that time: it is for replies that would be lost
otherwise, and for as long as they flood in. Whatever somebody else has set is left alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

from dataplane.clock import monotonic_ns
from dataplane.engines.common.loop import EASY_NS, FLOOD_NS, Loop

MODERATION_SETTING = "STAMP_MODERATION_US"
"""Environment variable: microseconds for which packets wait for company where replies flood
in, 0 for never; `MODERATION_US` where it is not set."""

MODERATION_US = 100
"""A veth's ring has room for 256 packets: two and a half million a second, for so long."""

MODERATION_US_MAX = 10_000

_NAPI_GET, _NAPI_SET = 11, 14
"""linux/netdev.h."""

log = logging.getLogger(__name__)


class Napi(NamedTuple):
    """How one NAPI instance of an interface moderates interrupts."""

    identifier: int
    deferrals: int
    """`defer-hard-irqs`: polls in a row without packets after which interrupts are awaited."""

    wait_ns: int
    """`gro-flush-timeout`."""


class NapiControl(Protocol):
    """Raises OSError where the kernel refuses."""

    def of(self, ifindex: int) -> list[Napi]:
        """The instances of an interface."""

    def set(self, napi: Napi) -> None:
        """Have the instance of this identifier be so."""

    def close(self) -> None: ...


class _Message(genlmsg):  # type: ignore[misc]
    """NETDEV_CMD_NAPI_GET and NETDEV_CMD_NAPI_SET; Documentation/netlink/specs/netdev.yaml."""

    nla_map = (
        ("NAPI_UNSPEC", "none"),
        ("NAPI_IFINDEX", "uint32"),
        ("NAPI_ID", "uint32"),
        ("NAPI_IRQ", "uint32"),
        ("NAPI_PID", "uint32"),
        ("NAPI_DEFER_HARD_IRQS", "uint32"),
        ("NAPI_GRO_FLUSH_TIMEOUT", "uint32"),
    )


class KernelNapi:
    """Of the calling thread's network namespace. Raises OSError where the kernel has no such
    thing; `NapiControl`."""

    def __init__(self) -> None:
        self._socket = GenericNetlinkSocket()
        try:
            self._socket.bind("netdev", _Message)
        except NetlinkError as error:
            self._socket.close()
            raise _os_error(error) from error

    def of(self, ifindex: int) -> list[Napi]:
        return [
            Napi(
                found.get_attr("NAPI_ID"),
                found.get_attr("NAPI_DEFER_HARD_IRQS", 0),
                found.get_attr("NAPI_GRO_FLUSH_TIMEOUT", 0),
            )
            for found in self._ask(_NAPI_GET, NLM_F_DUMP, NAPI_IFINDEX=ifindex)
        ]

    def set(self, napi: Napi) -> None:
        self._ask(
            _NAPI_SET,
            NLM_F_ACK,
            NAPI_ID=napi.identifier,
            NAPI_DEFER_HARD_IRQS=napi.deferrals,
            NAPI_GRO_FLUSH_TIMEOUT=napi.wait_ns,
        )

    def close(self) -> None:
        self._socket.close()

    def _ask(self, command: int, flags: int, **attributes: int) -> list[Any]:
        message = _Message()
        message["cmd"], message["version"] = command, 1
        message["attrs"] = list(attributes.items())
        try:
            return list(self._socket.nlm_request(message, self._socket.prid, NLM_F_REQUEST | flags))
        except NetlinkError as error:
            raise _os_error(error) from error


class Moderation:
    """Of the interfaces of one engine; belongs to the thread of its loop."""

    def __init__(self, loop: Loop, control: NapiControl, wait_us: int) -> None:
        """Packets wait for each other for `wait_us`, not 0."""
        self._control = control
        self._wait_ns = wait_us * 1_000
        self._before: dict[int, Napi] = {}
        """How instances were that have been told to wait, by identifier."""

        self._interfaces: set[int] = set()
        self._over_ns = 0
        self._timer = loop.timer(self._look)

    def flooded(self, interfaces: Iterable[int], overrun: bool) -> None:
        """Replies flood in from these interfaces (indices); `overrun` says whether faster
        than they can be taken in."""
        if not (overrun or self._interfaces):
            return
        self._over_ns = monotonic_ns() + FLOOD_NS
        if overrun:
            for ifindex in set(interfaces) - self._interfaces:
                self._interfaces.add(ifindex)
                self._moderate(ifindex)
            self._timer.no_later_than(self._over_ns, EASY_NS)

    def end(self) -> None:
        """Have everything be as it was."""
        self._timer.at(None)
        for napi in self._before.values():
            try:
                self._control.set(napi)
            except OSError as error:
                # Gone with its interface, or with the program, more often than not.
                log.debug("NAPI instance %d: %s", napi.identifier, error)
        self._before.clear()
        self._interfaces.clear()

    def close(self) -> None:
        self.end()
        self._control.close()

    def _look(self, now_ns: int) -> None:
        if now_ns < self._over_ns:
            self._timer.at(self._over_ns, EASY_NS)
            return
        log.info("replies no longer flood in, interrupts come as before")
        self.end()

    def _moderate(self, ifindex: int) -> None:
        try:
            for napi in self._control.of(ifindex):
                if not napi.wait_ns:
                    self._control.set(napi._replace(deferrals=1, wait_ns=self._wait_ns))
                    self._before[napi.identifier] = napi
        except OSError as error:
            log.warning("interface %d: replies flood in, interrupts are left: %s", ifindex, error)
            return
        log.info(
            "interface %d: replies flood in, so that they wait up to %d us for each other",
            ifindex,
            self._wait_ns // 1_000,
        )


def make_moderation(loop: Loop) -> Moderation | None:
    """In the thread of `loop`; None where it is not wanted, or cannot be had."""
    try:
        wait_us = moderation_us()
        return Moderation(loop, KernelNapi(), wait_us) if wait_us else None
    except (OSError, ValueError) as error:
        log.warning("interrupts are left as they are where replies flood in: %s", error)
        return None


def moderation_us() -> int:
    """As configured. Raises ValueError for what is no such number."""
    text = os.environ.get(MODERATION_SETTING, str(MODERATION_US))
    if not text.isdecimal() or int(text) > MODERATION_US_MAX:
        raise ValueError(
            f"{MODERATION_SETTING} is {text!r}, which is none of 0 to {MODERATION_US_MAX}"
        )
    return int(text)


def _os_error(error: NetlinkError) -> OSError:
    return OSError(error.code, os.strerror(error.code))
