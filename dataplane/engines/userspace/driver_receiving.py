"""Where, and whether, packets are received in the driver (AF_XDP).

Rules that hold here:

- It is for roles with configured interfaces, while packets come fast enough for it to be
  worth it (`Demand`); it is attached there and nowhere else, by links that end with this
  process.
- Only a driver's own XDP is worth it, and no other program is replaced: where there is
  none, or another, packets are received by UDP sockets, and the role's state says so.
- An engine that cannot do without the hook gets it (`HookClaims`).
"""

from __future__ import annotations

import errno
import logging
import os
import platform
import threading
from collections.abc import Sequence
from ipaddress import IPv6Address

from dataplane.clock import REFRESH_NS, Clock, monotonic_ns
from dataplane.config import Node, Sender
from dataplane.engines.base import Role
from dataplane.engines.common.loop import EASY_NS, Loop, LoopClosedError
from dataplane.engines.driver.attach import Attachments, Wanted
from dataplane.engines.driver.interfaces import Devices, Interface
from dataplane.engines.driver.loading import Load, not_filled_text
from dataplane.engines.hook_claims import HookClaims
from dataplane.engines.userspace.demand import Demand, demand_pps
from dataplane.engines.userspace.driver_program import DriverProgram
from dataplane.engines.userspace.driver_socket import DriverSocket
from dataplane.engines.userspace.moderation import Moderation, make_moderation
from dataplane.engines.userspace.receiving import Receiver
from dataplane.engines.userspace.surroundings import NICE, Surroundings, Watch
from dataplane.engines.userspace.xsk import Pool, XdpSocket
from dataplane.stamp.timestamp import NS_PER_S

RING_SETTING = "STAMP_XDP_RING"
"""Environment variable: frames that can wait on each queue of an interface, a power of
two; `RING` where it is not set. Each takes 2 KiB of memory, which is locked."""

RING = 4_096

QUEUES_MAX = 16
"""Queues of an interface that are served. Packets of others come through the kernel."""

RETRY_NS = 30 * NS_PER_S
"""What the kernel has refused is tried again after this long."""

VACATE_NS = 50_000_000
"""As RETRY_NS, for a queue that was ours a moment ago."""

WAIT_S = 3.0
"""How long a configuration waits for the program; afterwards, roles begin without it."""

_MACHINES = ("x86_64",)
"""`xsk.Ring` says why."""

_CAPABILITIES = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 38: "CAP_PERFMON", 39: "CAP_BPF"}
_SYS_ADMIN, _PART_OF_SYS_ADMIN = 21, 1 << 38 | 1 << 39

log = logging.getLogger(__name__)


class DriverReceiving:
    """Belongs to the thread of its loop, but for `configure`, `wait` and `close`."""

    def __init__(self, loop: Loop, clock: Clock, claims: HookClaims) -> None:
        self._loop = loop
        self._clock = clock
        self._claims = claims
        self._sockets: dict[DriverSocket, list[tuple[XdpSocket, int]]] = {}
        from_pps, now_ns = demand_pps(), monotonic_ns()
        self._demand = {role: Demand(from_pps, now_ns) for role in Role}
        self._roles: frozenset[Role] = frozenset()
        """Whose packets are to be received in the driver."""

        self._pools: dict[int, list[Pool]] = {}
        self._refusals: dict[int, tuple[str, int]] = {}
        self._vacated_ns: dict[int, int] = {}
        self._program: DriverProgram | None = None
        self._attachments: Attachments | None = None
        self._moderation: Moderation | None = None
        self._watch: Watch | None = None
        self._found: Surroundings | None = None
        self._problem: str | None = None
        self._failed_ns = 0
        self._loading: Load[DriverProgram] | None = None
        self._settled = threading.Event()
        self._timer = loop.timer(self._tick)
        clock.watch(self._set_clock)

    def configure(self, node: Node) -> None:
        """Serve the roles of `node` from now on. Not in the thread of the loop."""
        roles = ((Role.SENDER, node.sender), (Role.REFLECTOR, node.reflector))
        names = {
            role: config.interfaces
            for role, config in roles
            if config is not None and config.enabled and config.interfaces
        }
        if names and self._watch is None:
            # A thread that the loop starts is in the loop's network namespace.
            self._watch = self._loop.call(self._begin)
        if self._watch is not None:
            found = self._watch.ask(names)
            pps = _configured_pps(node.sender)
            self._loop.call(lambda: self._configured(found, pps))

    def wait(self) -> None:
        """Until the program is loaded or refused, where roles are to begin with it; not in the
        thread of the loop."""
        if any(self._demand[role].is_foreseen for role in self._roles):
            self._settled.wait(WAIT_S)

    def open(
        self,
        role: Role,
        address: IPv6Address,
        port: int,
        receiver: Receiver,
    ) -> DriverSocket:
        """See `OpenTransport`."""
        sock = DriverSocket(
            role, address, port, receiver=receiver, on_close=self._forget, on_flood=self._flooded
        )
        self._sockets[sock] = []
        if self._program is None:
            sock.shortcoming = self._shortcoming(role)
            return sock
        try:
            self._attend()
        except BaseException:
            sock.close()
            raise
        return sock

    def withdraw(self) -> None:
        """Claim and watch nothing any more. Not in the thread of the loop; `end` is next."""
        self._claims.leave(self)
        if self._watch is not None:
            self._watch.close()

    def end(self) -> None:
        """Detach, and let go of everything but the sockets."""
        if self._loading is not None:
            self._loading.abandon()
        self._timer.at(None)
        self._found = None
        if self._moderation is not None:
            self._moderation.close()
        if self._program is not None:
            self._attend()
            self._program.close()

    def _begin(self) -> Watch:
        self._claims.attend(self, self._let_go)
        return Watch(lambda found: self._loop.post(lambda: self._seen(found)))

    def _configured(self, found: Surroundings, sent_pps: float) -> None:
        self._found = found
        self._demand[Role.SENDER].foresee(sent_pps)
        self._refusals.clear()
        now_ns = monotonic_ns()
        self._timer.no_later_than(now_ns + REFRESH_NS)
        self._look_for_demand(now_ns)
        if self._program is not None:
            self._attend()
        elif self._roles:
            self._load()

    def _tick(self, now_ns: int) -> None:
        """Once a second: look after what is attached, and what may be tried again."""
        self._timer.at(now_ns + REFRESH_NS, EASY_NS)
        self._look_for_demand(now_ns)
        if self._program is not None:
            self._attend()
        elif self._roles and now_ns - self._failed_ns >= RETRY_NS:
            self._load()

    def _look_for_demand(self, now_ns: int) -> None:
        for sock in self._sockets:
            self._demand[sock.role].count(sock.take_received())
        names = {} if self._found is None else self._found.names
        roles = frozenset(role for role in names if self._demand[role].is_there(now_ns))
        for role in roles ^ self._roles:
            way = "in the driver, if possible" if role in roles else "by UDP sockets"
            log.info("%s: packets are to be received %s", role.value, way)
        self._roles = roles
        if self._program is None:
            self._tell()

    def _seen(self, found: Surroundings) -> None:
        """How things stand now."""
        if self._found is None or found.names != self._found.names:
            return
        self._found = found
        if self._program is not None:
            self._attend()

    def _load(self) -> None:
        """In a thread of its own: packets do not wait for the compiler."""
        if self._loading is not None:
            return
        missing = unfit()
        if missing is not None:
            self._not_loaded(missing)
            return
        self._loading = Load(
            "userspace-load", self._loop, _compiled, self._loaded, self._not_loaded
        )

    def _not_loaded(self, problem: str) -> None:
        self._loading = None
        self._problem = problem
        self._failed_ns = monotonic_ns()
        self._tell()
        self._settled.set()

    def _tell(self) -> None:
        """Of what is in the way of everything."""
        for sock in self._sockets:
            sock.shortcoming = self._shortcoming(sock.role)

    def _loaded(self, program: DriverProgram) -> None:
        self._loading = None
        self._problem = None
        self._program = program
        self._attachments = Attachments()
        self._moderation = make_moderation(self._loop)
        self._attend()
        self._settled.set()

    def _let_go(self, claimed: frozenset[str]) -> frozenset[str]:
        """In the thread of another engine: leave it the hooks of these interfaces."""

        def leave() -> frozenset[str]:
            if self._attachments is None:
                return frozenset()
            before = {one.interface for one in self._attachments.attachments}
            if before & claimed:
                self._attend()
            return frozenset(before) & claimed

        try:
            return self._loop.call(leave)
        except LoopClosedError:
            # So is the engine, which has let go of everything.
            return frozenset()

    def _attend(self) -> None:
        """Be attached where packets may arrive, with sockets that read them."""
        found, problem = self._found, None
        if found is not None:
            try:
                self._fill(found)
            except OSError as error:
                found, problem = None, not_filled_text(error)
        self._attach(() if found is None else found.interfaces(self._roles))
        self._problem = problem or self._problem
        for sock in self._sockets:
            devices = None if found is None else found.by_role.get(sock.role)
            self._equip(sock, devices if sock.role in self._roles else None)
        if problem is not None:
            self._tell()

    def _fill(self, found: Surroundings) -> None:
        """Tell the program. Raises OSError."""
        program = self._program
        assert program is not None
        self._set_clock()
        program.tables.set_locals(found.locals)
        program.set_partial(any(each.leaves_checksums for each in found.devices.interfaces))
        program.tables.set_interfaces(found.devices.devices)

    def _set_clock(self) -> None:
        if self._program is not None:
            self._program.tables.set_clock(self._clock.status)

    def _attach(self, interfaces: Sequence[Interface]) -> None:
        attachments = self._attachments
        assert attachments is not None
        now_ns, claimed = monotonic_ns(), self._claims.claimed()
        wanted = []
        for interface in interfaces:
            _, until_ns = self._refusals.get(interface.index, ("", 0))
            if interface.name not in claimed and now_ns >= until_ns:
                wanted.append(interface)
        problems = attachments.refresh(map(self._wanted, wanted))
        self._problem = next(iter(problems.values()), None)
        attached = {one.interface for one in attachments.attachments}
        kept = {each.index for each in wanted if each.name in attached and self._pool(each)}
        for ifindex in self._pools.keys() - kept:
            self._drop_pools(ifindex)
        if len(kept) < len(attached):
            attachments.refresh(self._wanted(each) for each in wanted if each.index in kept)
        if self._problem is None:
            self._problem = next(
                (self._refusals[each.index][0] for each in interfaces
                 if each.index in self._refusals and each.index not in kept), None,
            )  # fmt: skip
        taken = sorted(claimed & {each.name for each in interfaces})
        if taken:
            self._problem = f"interface {taken[0]} has the program of another engine"

    def _wanted(self, interface: Interface) -> Wanted:
        assert self._program is not None
        return Wanted(interface, self._program.fd, transmits=False, native_only=True)

    def _pool(self, interface: Interface) -> bool:
        """Whether there is memory for packets of this interface."""
        ifindex = interface.index
        if ifindex in self._pools:
            return True
        pools: list[Pool] = []
        try:
            while len(pools) < QUEUES_MAX:
                pools.append(Pool(ifindex, len(pools), ring_size()))
        except (OSError, ValueError) as error:
            # After the first, this is how the kernel says that there is no such queue.
            if not pools:
                why = os.strerror(error.errno or 0) if isinstance(error, OSError) else error
                text = f"no AF_XDP on interface {interface.name}: {why}"
                self._refusals[ifindex] = text, self._retry_ns(ifindex, error)
                return False
        self._refusals.pop(ifindex, None)
        self._pools[ifindex] = pools
        return True

    def _retry_ns(self, ifindex: int, error: Exception) -> int:
        """When to try again. The kernel takes a moment to give back what was ours."""
        now_ns = monotonic_ns()
        ours = now_ns - self._vacated_ns.get(ifindex, -NS_PER_S) < NS_PER_S
        if not (ours and isinstance(error, OSError) and error.errno == errno.EBUSY):
            return now_ns + RETRY_NS
        self._timer.no_later_than(now_ns + VACATE_NS)
        return now_ns + VACATE_NS

    def _drop_pools(self, ifindex: int) -> None:
        for sock, sockets in self._sockets.items():
            for each, place in [one for one in sockets if one[0].pool.ifindex == ifindex]:
                self._detach(sock, each, place)
        for pool in self._pools.pop(ifindex):
            pool.close()
        self._vacated_ns[ifindex] = monotonic_ns()

    def _equip(self, sock: DriverSocket, devices: Devices | None) -> None:
        """Have a transport read what is handed over on the interfaces of its role."""
        assert self._attachments is not None
        served = {} if devices is None else {each.index: each.name for each in devices.interfaces}
        for each, place in list(self._sockets[sock]):
            if each.pool.ifindex not in served:
                self._detach(sock, each, place)
        there = {each.pool for each, _ in self._sockets[sock]}
        problem = None
        for ifindex in served:
            for pool in self._pools.get(ifindex, ()):
                if pool not in there:
                    problem = problem or self._attach_socket(sock, pool)
        names = {served[each.pool.ifindex] for each, _ in self._sockets[sock]}
        sock.served = tuple(one for one in self._attachments.attachments if one.interface in names)
        whole = len(names) == len(served)
        sock.shortcoming = None if whole else self._shortcoming(sock.role, problem)

    def _attach_socket(self, sock: DriverSocket, pool: Pool) -> str | None:
        """What is in the way, if anything."""
        assert self._program is not None
        try:
            each = XdpSocket(pool, pool.size)
        except OSError as error:
            return f"no AF_XDP socket: {os.strerror(error.errno or 0)}"
        try:
            place = self._program.add(sock.address, sock.port, each)
        except OSError as error:
            each.close()
            return f"no place for an AF_XDP socket: {os.strerror(error.errno or 0)}"
        sock.attach(each)
        self._sockets[sock].append((each, place))
        return None

    def _detach(self, sock: DriverSocket, each: XdpSocket, place: int) -> None:
        assert self._program is not None
        self._program.remove(sock.address, sock.port, each, place)
        self._sockets[sock].remove((each, place))
        sock.detach(each)

    def _forget(self, sock: DriverSocket) -> None:
        for each, place in list(self._sockets[sock]):
            self._detach(sock, each, place)
        del self._sockets[sock]

    def _flooded(self, sock: DriverSocket, overrun: bool) -> None:
        interfaces = {each.pool.ifindex for each, _ in self._sockets[sock]}
        # What comes by the UDP socket is not what any interface was moderated for.
        if interfaces and self._moderation is not None:
            self._moderation.flooded(interfaces, overrun)

    def _shortcoming(self, role: Role, problem: str | None = None) -> str | None:
        problem = problem or self._problem
        if role not in self._roles or problem is None:
            return None
        return f"packets are received by UDP sockets, not in the driver: {problem}"


def _compiled() -> DriverProgram:
    # Packets go first: it may be their flood that asks for the program.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    return DriverProgram()


def _configured_pps(sender: Sender | None) -> float:
    """Packets a second of sessions that start by themselves: so many replies are to come."""
    if sender is None or not sender.enabled:
        return 0.0
    return sum(1e6 / each.interval_us for each in sender.sessions.values() if each.autostart)


def ring_size() -> int:
    """As configured. Raises ValueError where that is no power of two."""
    text = os.environ.get(RING_SETTING, str(RING))
    if not text.isdecimal() or int(text).bit_count() != 1:
        raise ValueError(f"{RING_SETTING} is {text!r}, which is no power of two")
    return int(text)


def unfit() -> str | None:
    """What this machine or this process lacks for certain, if anything."""
    if platform.machine() not in _MACHINES:
        return f"no AF_XDP rings on {platform.machine()}"
    with open("/proc/thread-self/status") as status:
        line = next(line for line in status if line.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    have = effective | (_PART_OF_SYS_ADMIN if effective >> _SYS_ADMIN & 1 else 0)
    missing = [name for bit, name in _CAPABILITIES.items() if not have >> bit & 1]
    return f"no privilege: {', '.join(missing)} missing" if missing else None
