"""Replies in runs: many of one session at once, in order and in time.

What is needed of a session before, and done with it afterwards; the arithmetic that
sessions share is in `dataplane.stamp.collector_batch`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.histogram import origin_at
from dataplane.stamp.replies import Outlook, Run
from dataplane.stamp.reply_taking import ReplyTaking
from dataplane.stamp.window import (
    RECEIVED,
    UNDER_WAY,
)
from dataplane.statistics import DelayRun

_HALF = 1 << 31


class RunTaking(ReplyTaking):
    """Takes in runs of replies."""

    __slots__ = ()

    def outlook(self) -> Outlook:
        """What decides whether the next replies make a run."""
        loss = self._intervals.loss
        return Outlook(
            self._next - 1,
            self._first,
            min(self.window, _HALF),
            self._mask,
            self._highest,
            self._intervals.end_ns,
            self._timeout_ns,
            loss is not None,
            0 if loss is None else loss.latest,
            self.window if loss is None else loss.room,
        )

    def packets(
        self, slots: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Whether packets are under way, and when they were sent; `slots` are sequence
        numbers under `Outlook.mask`."""
        fates, sent_ns = self._as_arrays()
        return fates[slots] == UNDER_WAY, sent_ns[slots]

    def refined_t1(self, sequence: int) -> tuple[int, int] | None:
        """A better T1 for a packet, and the code of its method, where there is one."""
        return self._refined.get(sequence)

    def refine_records(self, run: Run, records: npt.NDArray[Any]) -> None:
        """Put a better T1 into the `records` of a run, where there is one."""
        if not self._refined:
            return
        for row, sequence in enumerate(run.sequences.tolist()):
            refined = self._refined.pop(sequence, None)
            if refined is not None:
                records["t1_ns"][row], records["t1_method"][row] = refined

    def origin_ns(self, direction: int, first_ns: int) -> int:
        """What a `DelayRun` is to be about, if its first sample is `first_ns`."""
        return self._intervals.delays[direction].origin_ns or origin_at(first_ns)

    def receive_run(
        self,
        run: Run,
        records: npt.NDArray[Any],
        delays: list[DelayRun],
        buckets: npt.NDArray[np.int64],
        *,
        estimate: int,
    ) -> None:
        """What `receive` does for each of the replies of a `run`, which is in keeping
        with the `outlook`.

        `records` are theirs, refined; `delays` and `buckets` as `Intervals.add_run`
        wants them; `estimate` is the Error Estimate of the last reply.
        """
        sequences = run.sequences
        first, last, count = int(sequences[0]), int(sequences[-1]), len(sequences)
        self._begin_write()
        self._records.extend(records)
        head = self._head
        self._counters.received += count
        head.last_received_ns = int(records["t4_ns"][-1])
        head.t1_method = int(records["t1_method"][-1])
        head.t4_method = int(records["t4_method"][-1])
        self._know_reflector(estimate)
        self._highest = last
        self._intervals.add_run(last, delays, buckets)
        fates, _ = self._as_arrays()
        slots = sequences & self._mask
        fates[slots] = RECEIVED
        t3_ns = int(records["t3_ns"][-1])
        consecutive = first == self._settled and last - first + 1 == count
        if run.numbers is None:
            if consecutive:
                self._settled = last + 1
        else:
            self._number_run(slots, run.numbers, t3_ns, consecutive, last)
        if self._settled in (first, last + 1):
            self._settle()
        self._end_write()

    def _number_run(
        self,
        slots: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.int64],
        t3_ns: int,
        consecutive: bool,
        last: int,
    ) -> None:
        loss = self._intervals.loss
        assert loss is not None
        np.frombuffer(self._number, np.int64)[slots] = numbers
        count, first = len(numbers), int(numbers[0])
        if consecutive and int(numbers[-1]) - first + 1 == count:
            agreed = loss.settle_run(first, count, t3_ns)
            if agreed is not None:
                if agreed:
                    self._intervals.attribute(loss)
                self._settled = last + 1
                return
        loss.observe_run(numbers.tolist(), t3_ns)
