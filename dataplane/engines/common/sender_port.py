"""One local address and port of the Session-Sender, and the sessions that share it.

All of them send and receive through one transport; a reply is handed to the session
whose SSID it carries.
"""

from __future__ import annotations

import errno
import logging
import select
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np

from dataplane.addresses import address_of, endpoint
from dataplane.clock import Clock, monotonic_ns, wall_ns
from dataplane.config import IPAddress, SenderSession
from dataplane.engines.base import Attachment, Role
from dataplane.engines.common.batch import BURST_MIN, BatchTransport
from dataplane.engines.common.batch_collection import BatchCollection
from dataplane.engines.common.collecting import Collecting, CollectingHere
from dataplane.engines.common.interfaces import InterfaceFilter
from dataplane.engines.common.lane import Lane, lane_of
from dataplane.engines.common.loop import Loop
from dataplane.engines.common.run import SenderRun
from dataplane.engines.common.schedule import Schedule
from dataplane.engines.common.send_lead import SendLead
from dataplane.engines.common.sender_bursts import SenderBursts
from dataplane.engines.common.sender_rounds import SenderRounds
from dataplane.engines.common.transport import (
    Datagram,
    OpenTransport,
    Transport,
    bind_error,
    drop_text,
    is_local,
)
from dataplane.measurement import TimestampMethod
from dataplane.stamp.errors import DiscardReason
from dataplane.stamp.packet import OPEN
from dataplane.stamp.sender_rounds import Rows, all_sent
from dataplane.stamp.session_table import END_NS, SessionTable

BATCH = 64
"""Replies that are taken in before others get their turn."""

REST_NS = 15_000_000
REST_SLACKS = 3
"""How long the replies of a crowded port may wait to be taken in together; or so many times
as long as the packets of each of its sessions may, if that is more."""

GATHER = 2_048
"""Replies that may gather meanwhile, if they come as fast as before, and if twice as many
have room where they wait."""

FLOOD_REST_NS = 5_000_000
"""How long the replies of any port may wait while they flood in."""

CROWD = 64
"""Sessions of a port from which on each gives up some punctuality for the others' sake."""

LATE_NS = 10_000_000
"""Packets that leave so much later than they may say that this process was held up: the
replies that have waited as long are taken in before packets are given up."""

AWAITED_MAX = 4_096
"""Packets whose transmit timestamps are awaited; beyond, the oldest are given up."""

_PROBLEM_AGE_NS = 500_000_000
"""How long the sessions of a port share the outcome of one attempt to open it."""

_SSID_AT = slice(14, 16)
"""RFC 8972 §3."""
_SSID_ZERO = bytes(2)

_AMBIGUOUS = (
    "the Session-Reflector answers with SSID 0, and several sessions to it run: "
    "its replies are not used"
)

_READ = select.EPOLLIN | select.EPOLLERR

log = logging.getLogger(__name__)


class SenderPort:
    """One local address and port, open while it has sessions that want to run."""

    def __init__(
        self,
        address: IPAddress,
        port: int,
        loop: Loop,
        clock: Clock,
        open_transport: OpenTransport,
        discards: Counter[DiscardReason],
        collecting: Collecting | None = None,
    ) -> None:
        """`discards` counts packets that belong to no session."""
        self.address = address
        self.port = port
        self.discards = discards
        self.filter = InterfaceFilter(())
        self.runs: dict[int, SenderRun] = {}
        self.t1_method = TimestampMethod.USERSPACE
        self.emptied_ns = 0
        """CLOCK_MONOTONIC before which nothing that is still to be read has arrived:
        where the wall clock has been set meanwhile, it does not make replies older."""

        self._loop = loop
        self._clock = clock
        self._open = open_transport
        self._collecting = collecting or CollectingHere()
        self._transport: Transport | None = None
        self._batch_transport: BatchTransport | None = None
        """The same, if it is one."""
        self._batches: BatchCollection | None = None
        self._problem: str | None = None
        self._problem_ns = 0
        self._awaited: dict[int, tuple[SenderRun, int, int]] = {}
        self._lead = SendLead()
        self._due: list[SenderRun] = []
        self._ending: list[SenderRun] = []
        self._bursts = SenderBursts(address)
        self._lanes: dict[Lane, int] = {}
        self._schedule: Schedule | None = None
        self._rounds: SenderRounds | None = None
        table = self._collecting.table
        if table is not None:
            self._schedule = Schedule(
                loop,
                table,
                self._flush_soon,
                self._expire_together,
                self._expire,
                self._collecting.next_timers,
            )
            self._rounds = SenderRounds(
                *(address, table, clock, self._lanes),
                *(self._collecting.announced, self._end_intervals),
            )
        self._resting = False
        self._rest_over_ns = 0
        """From when on replies are read if packets are sent anyway."""
        self._rest_timer = loop.timer(lambda _now_ns: self._wake())
        self._read_ns = 0
        self._gathered = 0
        """Replies that have been read since the last rest."""
        self._by_peer: dict[tuple[IPAddress, int], dict[int, SenderRun]] = {}
        self._ambiguous: set[tuple[IPAddress, int]] = set()
        """Peers that have lately answered with SSID 0 while several sessions to them ran."""
        self._told_ambiguous: set[int] = set()
        self._dropped = 0
        self._limitation: str | None = None

    def add(self, run: SenderRun) -> None:
        config = run.config
        self.runs[config.ssid] = run
        peer = config.reflector_address, config.reflector_udp_port
        self._by_peer.setdefault(peer, {})[config.ssid] = run
        self.changed(config.ssid)

    def remove(self, run: SenderRun) -> None:
        config = run.config
        del self.runs[config.ssid]
        peer = config.reflector_address, config.reflector_udp_port
        del self._by_peer[peer][config.ssid]
        if not self._by_peer[peer]:
            del self._by_peer[peer]
        self.changed(config.ssid)

    def changed(self, ssid: int) -> None:
        """A session has come, gone or got another store."""
        self._limitation = None
        self._told_ambiguous.discard(ssid)
        if self._batches is not None:
            self._batches.changed(ssid)

    @property
    def schedule(self) -> Schedule | None:
        return self._schedule if len(self.runs) >= CROWD else None

    def lane_of(self, config: SenderSession) -> int:
        return self._lanes.setdefault(lane_of(config), len(self._lanes))

    def problem(self) -> str | None:
        """What keeps sessions from running now; opens the port where it is closed."""
        problem = self.filter.missing or self._collecting.problem()
        if problem is not None:
            return problem
        if self._transport is not None:
            return None
        now_ns = monotonic_ns()
        if self._problem is not None and now_ns < self._problem_ns + _PROBLEM_AGE_NS:
            return self._problem
        try:
            transport = self._open(Role.SENDER, self.address, self.port)
        except OSError as error:
            self._problem = bind_error(self.address, self.port, error)
            self._problem_ns = now_ns
            return self._problem
        self._problem = None
        self._transport = transport
        self._collecting.opened(self.port)
        if isinstance(transport, BatchTransport):
            self._batch_transport = transport
            self._batches = BatchCollection(transport, self, self._clock)
        self._loop.register(transport.fileno(), self.read)
        return None

    def dress(self, run: SenderRun) -> OSError | None:
        if self._transport is None:
            return OSError(errno.ENOTCONN, "")
        try:
            self._transport.dress(run.rthdr, run.traffic_class, run.config.hop_limit)
        except OSError as error:
            return error
        return None

    def hold(self, due_ns: int) -> None:
        at_ns = due_ns - self._lead.ns
        while monotonic_ns() < at_ns:
            pass

    def transmit(self, run: SenderRun, sequence: int, payload: bytes, t1_ns: int) -> OSError | None:
        assert self._transport is not None
        try:
            identifier = self._transport.send(
                payload, run.destination, run.config.reflector_udp_port
            )
        except OSError as error:
            self._awaited.clear()
            return error
        self._awaited[identifier] = run, sequence, t1_ns
        if len(self._awaited) > AWAITED_MAX:
            del self._awaited[next(iter(self._awaited))]
        return None

    def enqueue(self, run: SenderRun) -> None:
        if not self._due:
            self._loop.soon(self._flush)
        self._due.append(run)

    def ending(self, run: SenderRun) -> None:
        """Of thousands of runs that end together each takes a moment: packets have their
        turn in between."""
        if not self._ending:
            self._loop.post(lambda: self._loop.begin(self._end()))
        self._ending.append(run)

    def _end(self) -> Iterator[None]:
        ending, self._ending = self._ending, []
        for run in ending:
            run.complete(monotonic_ns())
            yield

    def _flush(self) -> None:
        """Send the packets of sessions that have timers, and whose time has come."""
        due, self._due = self._due, []
        due_ns = due[0].due_ns
        if due_ns is not None and monotonic_ns() - due_ns > LATE_NS:
            self.drain()
        transport = self._batch_transport
        if len(due) < BURST_MIN or transport is None:
            for run in due:
                run.send(monotonic_ns())
            return
        self.hold(max(run.due_ns or 0 for run in due))
        if self._rounds is not None:
            rows = np.array([run.config.ssid for run in due if run.running], np.intp)
            self._rounds.send(transport, rows, self.runs)
            for run in due:
                if run.running:
                    run.plan()
        else:
            self._bursts.send(transport, due)

    def _flush_soon(self) -> None:
        self._loop.soon(self._flush_schedule)

    def _flush_schedule(self) -> None:
        """Send the packets of sessions in the schedule that are due."""
        schedule, rounds, transport = self._schedule, self._rounds, self._batch_transport
        assert schedule is not None
        assert rounds is not None
        begun_ns = monotonic_ns()
        rows = schedule.due(begun_ns)
        held_up = len(rows) and schedule.overdue_ns(rows, begun_ns) > LATE_NS
        if held_up and begun_ns - self.emptied_ns > LATE_NS:
            self.drain()
            rows = schedule.due(monotonic_ns())
        if len(rows) < BURST_MIN or transport is None:
            for ssid in rows.tolist():
                self.runs[ssid].send(monotonic_ns())
        else:
            rounds.send(transport, rows, self.runs)
        if self._resting and begun_ns >= self._rest_over_ns:
            self.read()
        schedule.arm(monotonic_ns() - begun_ns)

    def _expire_together(self, rows: Rows, pressing_ns: int, now_ns: int) -> int:
        """Time out packets of these sessions, and close intervals, as far as that goes
        together. What was due by `pressing_ns` cannot wait any longer.

        Returns as of when that was done.
        """
        table = self._collecting.table
        assert table is not None
        as_of_ns = self._expire_read(rows, pressing_ns, now_ns)
        self._tell_closed(table)
        for ssid in rows[all_sent(table, rows)].tolist():
            if ssid in self.runs:
                self.runs[ssid].received_run(now_ns)
        return as_of_ns

    def _end_intervals(self, rows: Rows, now_ns: int) -> None:
        """Close those of these sessions, which are over; they are told of it later."""
        table = self._collecting.table
        assert table is not None
        self._expire_read(rows, int(table.columns[END_NS][rows].max()), now_ns)

    def _expire_read(self, rows: Rows, pressing_ns: int, now_ns: int) -> int:
        """Expire as of when all that had arrived has been read, no earlier than `pressing_ns`."""
        as_of_ns = self.emptied_ns
        if as_of_ns < pressing_ns:
            self.drain()
            as_of_ns = now_ns
        self._collecting.expire_together(rows, as_of_ns)
        return as_of_ns

    def _tell_closed(self, table: SessionTable) -> None:
        for ssid in [ssid for ssid in table.untold if ssid in self.runs]:
            self.runs[ssid].tell_closed()

    def _expire(self, ssid: int, now_ns: int) -> None:
        self.runs[ssid].collect(now_ns)

    def read(self, events: int = _READ) -> bool:
        """Transmit timestamps first: they are older than the replies."""
        if self._transport is None:
            return False
        # Where nothing is awaited any more timestamps may come all the same, and an error
        # queue that nobody reads would keep the loop awake.
        if self._awaited or events & select.EPOLLERR:
            self._refine()
        if not events & select.EPOLLIN:
            return False
        if self._batches is not None:
            more = self._batches.serve(self._hand_over)
            self._gathered += self._batches.latest_count
            if self._batches.flooded:
                self._loop.flooded()
            if not more:
                self._rest(self._batches)
            return more
        for _ in range(BATCH):
            if not self._receive_one():
                return False
            if self._loop.overdue():
                break
        return True

    def _rest(self, batches: BatchCollection) -> None:
        """Let replies gather, where many sessions share the port, so that there will be
        more, or where they flood in. Their timestamps are the kernel's."""
        now_ns = monotonic_ns()
        since_ns, self._read_ns = now_ns - self._read_ns, now_ns
        gathered, self._gathered = self._gathered, 0
        schedule = self.schedule
        if schedule is not None:
            longest_ns = max(REST_NS, REST_SLACKS * schedule.slack_ns)
        elif batches.flooded:
            longest_ns = FLOOD_REST_NS
        else:
            return
        gather = min(GATHER, batches.room // 2)
        rest_ns = min(longest_ns, since_ns * gather // max(1, gathered))
        self._rest_over_ns = now_ns + rest_ns // 2
        self._rest_timer.at(now_ns + rest_ns)
        if not self._resting:
            assert self._transport is not None
            self._resting = True
            self._loop.pause(self._transport.fileno())

    def _wake(self) -> None:
        if self._resting and self._transport is not None:
            self._resting = False
            self._loop.resume(self._transport.fileno())

    def drain(self) -> None:
        """Take in everything that has arrived until now."""
        begun_ns = wall_ns()
        if self._awaited:
            self._refine()
        if self._batches is not None:
            self._batches.drain(begun_ns, self._hand_over)
            return
        while (datagram := self._receive_one()) and datagram.received_ns <= begun_ns:
            pass

    def _receive_one(self) -> Datagram | None:
        before_ns = monotonic_ns()
        datagram = None if self._transport is None else self._transport.receive()
        if datagram is None:
            self.emptied_ns = before_ns
        else:
            self._hand_over(datagram)
        return datagram

    def _refine(self) -> None:
        """Take in the transmit timestamps that have come."""
        transport = self._transport
        if transport is None:
            return
        for identifier, sent_ns in transport.transmitted():
            awaited = self._awaited.pop(identifier, None)
            # One that was sent before a restart of the identifiers has a
            # timestamp that is older than T1 as read before the send.
            if awaited is not None and sent_ns >= awaited[2]:
                self.t1_method = TimestampMethod.KERNEL_SOFTWARE
                self._lead.learn(sent_ns - awaited[2])
                awaited[0].refine_t1(awaited[1], sent_ns)

    def look_after(self) -> bool:
        """Once a second: say what the kernel had no room for, and whether the
        address is gone; the port is closed then."""
        dropped = 0 if self._transport is None else self._transport.dropped()
        if dropped > self._dropped:
            self.discards[DiscardReason.BUFFER_FULL] += dropped - self._dropped
            log.warning(drop_text(dropped - self._dropped, self.address, self.port))
        self._dropped = dropped
        self._tell_limitation()
        self._tell_ambiguous()
        if self._transport is None or is_local(self.address):
            return False
        self.close()
        return True

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """Interfaces whose packets reach this port by a program in the driver."""
        return () if self._batches is None else self._batches.attachments

    def _tell_limitation(self) -> None:
        """Each session once what the transport cannot do here."""
        limitation = None if self._batches is None else self._batches.limitation
        if limitation not in (None, self._limitation):
            for run in self.runs.values():
                run.note_error(limitation)
        self._limitation = limitation

    def _tell_ambiguous(self) -> None:
        """Each session once that its `on_ssid_zero` cannot be followed."""
        for peer in self._ambiguous:
            for ssid, run in self._by_peer.get(peer, {}).items():
                if run.wants_to_run and ssid not in self._told_ambiguous:
                    self._told_ambiguous.add(ssid)
                    run.note_error(_AMBIGUOUS)
        self._ambiguous.clear()

    def close(self) -> None:
        if self._transport is not None:
            self._rest_timer.at(None)
            self._resting = False
            self._loop.unregister(self._transport.fileno())
            self._collecting.closed(self.port)
            self._transport.close()
            self._transport = self._batch_transport = None
            self._batches = None
        self._problem = None
        self._awaited.clear()

    def _hand_over(self, datagram: Datagram) -> None:
        source = address_of(datagram.source)
        run = self.runs.get(int.from_bytes(datagram.data[_SSID_AT], "big"))
        if run is None:
            run = self._only_candidate(datagram, source)
        if run is None:
            short = len(datagram.data) < OPEN.length
            reason = DiscardReason.TRUNCATED if short else DiscardReason.UNKNOWN_SESSION
            self.discards[reason] += 1
            log.debug("packet from %s is no session's", endpoint(source, datagram.source_port))
        elif not self.filter.admits(datagram.interface):
            run.discard(DiscardReason.WRONG_INTERFACE)
        else:
            now_ns, unix_ns = monotonic_ns(), wall_ns()
            self._clock.look(now_ns, unix_ns)
            # A reply that waited for us to read it is not late.
            waited_ns = max(0, unix_ns - datagram.received_ns)
            run.receive(datagram, source, now_ns, max(now_ns - waited_ns, self.emptied_ns))

    def _only_candidate(self, datagram: Datagram, source: IPAddress) -> SenderRun | None:
        """The session of a reply that does not say which: a peer without
        RFC 8972 answers with SSID 0, and rubbish says nothing. Where there are several
        to the peer, the one that runs."""
        peer = source, datagram.source_port
        found = self._by_peer.get(peer, {}).values()
        if len(found) == 1:
            return next(iter(found))
        first_two = list(islice((run for run in found if run.wants_to_run), 2))
        if len(first_two) == 1:
            return first_two[0]
        if first_two and datagram.data[_SSID_AT] == _SSID_ZERO:
            self._ambiguous.add(peer)
        return None
