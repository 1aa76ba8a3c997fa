"""Departures find their slots; clocks are compared; drift is seen through noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.config import SenderSession
from dataplane.session_state import Counters
from dataplane.stamp.session_sender import SessionSender
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat
from tests.unit.stamp.network import REFLECTOR, SENDER
from tools.bench.beyond import schedule
from tools.bench.beyond.packets import PACKET
from tools.bench.beyond.schedule import Case, Ran, Settings, error_of
from tools.bench.beyond.schedule_fit import (
    DRIFT_PARTS,
    EARLY_NS,
    ClockReading,
    ClockSetError,
    drift_ppb,
    errors_ns,
    slots_of,
    wall_offset_ns,
)
from tools.bench.errors import BenchError
from tools.bench.extras import ScheduleError, quantile_ns

INTERVAL_NS = 1_000_000
START_NS = 5_000_000_000
ERROR = ErrorEstimate(False, TimestampFormat.NTP, 0, 1)


def ns(values: Sequence[int]) -> np.ndarray:
    return np.array(values, np.int64)


@given(st.lists(st.integers(-3 * INTERVAL_NS, 3 * INTERVAL_NS), max_size=30))
def test_without_skipped_slots_every_error_is_found_whatever_its_size(errors: list[int]) -> None:
    departures = [START_NS + slot * INTERVAL_NS + error for slot, error in enumerate(errors)]
    assert errors_ns(ns(departures), START_NS, INTERVAL_NS, 0).tolist() == errors


LATEST_NS = INTERVAL_NS - EARLY_NS - 1
"""Past the beginning of a slot; what leaves later looks like the next one's."""


@given(
    st.lists(
        st.tuples(st.integers(0, 4 * INTERVAL_NS), st.floats(0, 0.9), st.integers(0, EARLY_NS)),
        max_size=30,
    )
)
def test_slots_are_those_that_the_session_sender_used(
    turns: list[tuple[int, float, int]],
) -> None:
    """It is held up before each packet, and again between deciding and departing; where it
    is not, packets leave early."""
    config = SenderSession(1, REFLECTOR, SENDER, interval_us=INTERVAL_NS // 1_000)
    sender = SessionSender(config, start_ns=START_NS)
    free_ns, used, departures = START_NS, [], []
    for held_up_ns, dawdle, early_ns in turns:
        due_ns = sender.next_send_ns() or 0
        now_ns = max(due_ns, free_ns + held_up_ns)
        rest_ns = LATEST_NS - (now_ns - START_NS) % INTERVAL_NS
        now_ns += min(0, rest_ns)
        sender.send(now_ns, 0, ERROR)
        used.append((now_ns - START_NS) // INTERVAL_NS)
        free_ns = now_ns + max(0, int(rest_ns * dawdle))
        departures.append(due_ns - early_ns if now_ns == due_ns else free_ns)
    slots = slots_of(ns(departures), START_NS, INTERVAL_NS, sender.skipped).tolist()
    assert slots == used


def test_a_packet_that_departs_in_the_next_slot_is_late_by_more_than_an_interval() -> None:
    # Slot 1 is skipped; the packet of slot 3 leaves when slot 4 has begun.
    at = [0, 2 * INTERVAL_NS + 10, 4 * INTERVAL_NS + 20, 4 * INTERVAL_NS + 500, 5 * INTERVAL_NS]
    departures = ns([START_NS + each for each in at])
    assert slots_of(departures, START_NS, INTERVAL_NS, 1).tolist() == [0, 2, 3, 4, 5]
    found = errors_ns(departures, START_NS, INTERVAL_NS, 1).tolist()
    assert found == [0, 10, INTERVAL_NS + 20, 500, 0]


def test_where_slots_were_skipped_a_packet_belongs_to_the_latest_that_had_begun() -> None:
    departures = ns([START_NS, START_NS + 2 * INTERVAL_NS + LATEST_NS])
    assert errors_ns(departures, START_NS, INTERVAL_NS, 2).tolist() == [0, LATEST_NS]


def test_a_packet_that_leaves_a_little_early_is_of_the_slot_that_is_about_to_begin() -> None:
    at = [0, 2 * INTERVAL_NS - EARLY_NS, 3 * INTERVAL_NS - 1]
    departures = ns([START_NS + each for each in at])
    assert errors_ns(departures, START_NS, INTERVAL_NS, 1).tolist() == [0, -EARLY_NS, -1]


def test_the_clocks_differ_by_what_all_readings_allow() -> None:
    readings = [ClockReading(0, 1_040, 50), ClockReading(100, 1_110, 130)]
    # 990..1040, and 980..1010
    assert wall_offset_ns(readings) == (1_000, 10)


def test_a_clock_that_was_set_is_noticed() -> None:
    readings = [ClockReading(0, 1_005, 10), ClockReading(100, 2_105, 110)]
    with pytest.raises(ClockSetError, match=r"^the clock was set: its readings differ by 990 ns$"):
        wall_offset_ns(readings)


@given(st.integers(-100_000, 100_000))
def test_drift_shows_through_late_packets(ppb: int) -> None:
    times = np.arange(0, 10_000_000_000, 10_000_000, dtype=np.int64)
    late = np.where(np.arange(len(times)) % 3 == 0, 400_000, 0)
    found = drift_ppb(times, times * ppb // 1_000_000_000 + late)
    assert found == pytest.approx(ppb, abs=5)


def test_a_few_packets_say_nothing_about_drift() -> None:
    few = ns(range(2 * DRIFT_PARTS - 1))
    assert drift_ppb(few, few) is None


def ran(departures: dict[int, list[int]], skipped: int = 0, sent: int | None = None) -> Ran:
    """Sessions that all start at `START_NS`, on a machine whose wall clock is 10^18 ahead."""
    offset_ns = 10**18
    rows = sorted(
        (offset_ns + at, ssid, number, True, True)
        for ssid, times in departures.items()
        for number, at in enumerate(times)
    )
    counters = {
        ssid: Counters(sent=len(times) if sent is None else sent, skipped=skipped)
        for ssid, times in departures.items()
    }
    starts = dict.fromkeys(departures, START_NS)
    return Ran(INTERVAL_NS // 1_000, np.array(rows, PACKET), starts, counters, offset_ns)


def test_each_session_has_its_own_schedule() -> None:
    late = {
        1: [START_NS + 5, START_NS + INTERVAL_NS + 1],
        4: [START_NS + 3, START_NS + INTERVAL_NS - 2],
    }
    found = error_of("any", ran(late))
    assert (found.engine, found.sessions, found.rate_pps) == ("any", 2, 2_000)
    assert (found.count, found.skipped, found.drift_ppb) == (4, 0, None)
    assert quantile_ns(found.quantiles, 0.0) == -2
    assert quantile_ns(found.quantiles, 1.0) == 5


def test_no_packets_are_no_errors() -> None:
    found = error_of("any", ran({1: []}, skipped=9))
    assert (found.count, found.skipped, found.quantiles) == (0, 9, ())


def test_a_capture_that_missed_packets_is_not_trusted() -> None:
    with pytest.raises(BenchError) as caught:
        error_of("any", ran({1: [START_NS]}, sent=2))
    assert str(caught.value) == ("engine any says that it sent 2 packets, the capture has seen 1")


def test_an_engine_that_skips_most_is_not_given_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(engine: str, case: Case, settings: Settings) -> Ran:
        return ran({1: [START_NS]}, skipped=0 if case.rate_pps < 100 else 2)

    monkeypatch.setattr(schedule, "_run", run)
    cases = (Case(1, 10), Case(1, 100), Case(1, 1_000))
    found: list[ScheduleError] = []
    with pytest.raises(BenchError) as caught:
        found.extend(schedule.measure("any", Settings(cases=cases)))
    assert str(caught.value) == (
        "engine any skipped 2 of 3 packets at 1000 packets/s: higher rates are not tried"
    )
