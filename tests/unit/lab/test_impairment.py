"""The delay line's decisions, with time as an argument."""

from tools.lab.impairment import DepartureQueue, Direction, Lateness
from tools.lab.topology import Impairment, JitterDistribution

MS = 1_000_000


def pass_through(direction: Direction, count: int, gap_ns: int = MS) -> list[tuple[int, int]]:
    """Send `count` frames, each departing on time; returns (departure_ns, frame number)."""
    queue = DepartureQueue([direction])
    departures = []
    for number in range(count):
        queue.receive(0, number.to_bytes(4, "big"), number * gap_ns)
    while queue.next_departure_ns is not None:
        item = queue.pop()
        direction.departed(item.sequence, 0)
        departures.append((item.departure_ns, int.from_bytes(item.frame, "big")))
    return departures


def balanced(direction: Direction) -> bool:
    counters = direction.counters
    gone = counters.lost + counters.dropped_queue + counters.dropped_send
    return counters.received == gone + direction.queued + counters.forwarded - counters.duplicated


def test_constant_delay() -> None:
    direction = Direction(Impairment(delay_ns=5 * MS), "seed")
    assert pass_through(direction, 3) == [(5 * MS, 0), (6 * MS, 1), (7 * MS, 2)]
    assert direction.counters.forwarded == 3
    assert balanced(direction)


def test_loss_is_counted_and_repeats_with_the_seed() -> None:
    runs = []
    for seed in ("1", "1", "2"):
        direction = Direction(Impairment(loss=0.1), seed)
        survivors = [number for _, number in pass_through(direction, 2000)]
        assert direction.counters.lost == 2000 - len(survivors)
        assert balanced(direction)
        runs.append(survivors)
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    # Bernoulli(2000, 0.1): mean 200, standard deviation 13.4; the seed is fixed.
    assert 140 < 2000 - len(runs[0]) < 260


def test_jitter_does_not_change_which_frames_are_lost() -> None:
    plain = pass_through(Direction(Impairment(5 * MS, loss=0.1), "1"), 500)
    jittered = pass_through(Direction(Impairment(5 * MS, 4 * MS, loss=0.1), "1"), 500)
    assert [number for _, number in plain] == [number for _, number in jittered]


def test_certain_loss_lets_nothing_through() -> None:
    direction = Direction(Impairment(loss=1.0), "1")
    assert pass_through(direction, 10) == []
    assert direction.counters.lost == 10


def test_uniform_jitter_stays_in_its_bounds_and_keeps_the_order() -> None:
    direction = Direction(Impairment(10 * MS, 5 * MS), "1")
    departures = pass_through(direction, 1000)
    assert [number for _, number in departures] == list(range(1000))
    delays = [departure - number * MS for departure, number in departures]
    assert min(delays) >= 5 * MS
    assert max(delays) <= 15 * MS
    assert max(delays) - min(delays) > 8 * MS
    assert direction.counters.reordered == 0


def test_normal_jitter_is_cut_at_three_deviations() -> None:
    jitter = Impairment(10 * MS, 2 * MS, JitterDistribution.NORMAL)
    # Frames so far apart that none waits for the one before.
    departures = pass_through(Direction(jitter, "1"), 2000, gap_ns=100 * MS)
    delays = [departure - number * 100 * MS for departure, number in departures]
    assert min(delays) >= 4 * MS
    assert max(delays) <= 16 * MS
    mean = sum(delays) / len(delays)
    deviation = (sum((delay - mean) ** 2 for delay in delays) / len(delays)) ** 0.5
    assert abs(mean - 10 * MS) < 0.2 * MS
    assert 1.8 * MS < deviation < 2.1 * MS


def test_a_duplicate_follows_its_original_at_once() -> None:
    direction = Direction(Impairment(delay_ns=MS, duplicate=1.0), "1")
    assert pass_through(direction, 2) == [(MS, 0), (MS, 0), (2 * MS, 1), (2 * MS, 1)]
    assert direction.counters.duplicated == 2
    assert direction.counters.forwarded == 4
    assert direction.counters.reordered == 0
    assert balanced(direction)


def test_a_held_frame_is_overtaken_and_counted() -> None:
    impairment = Impairment(delay_ns=MS, reorder=0.2, reorder_hold_ns=1_500_000)
    direction = Direction(impairment, "1")
    departures = pass_through(direction, 200)
    highest, late = -1, 0
    for _, number in departures:
        late += number < highest
        highest = max(highest, number)
    assert late > 0
    assert direction.counters.reordered == late
    assert direction.counters.held >= late
    assert sorted(number for _, number in departures) == list(range(200))


def test_a_hold_shorter_than_the_gap_reorders_nothing() -> None:
    direction = Direction(Impairment(reorder=1.0, reorder_hold_ns=MS // 2), "1")
    pass_through(direction, 20)
    assert direction.counters.held == 20
    assert direction.counters.reordered == 0


def test_a_full_queue_drops_and_counts() -> None:
    direction = Direction(Impairment(delay_ns=5 * MS), "1", queue_limit=3)
    assert [number for _, number in pass_through(direction, 5)] == [0, 1, 2]
    assert direction.counters.dropped_queue == 2
    assert direction.counters.lost == 0
    assert balanced(direction)


def test_a_refused_frame_is_counted() -> None:
    direction = Direction(Impairment(), "1")
    assert direction.admit(0) is not None
    direction.refused()
    assert direction.counters.dropped_send == 1
    assert balanced(direction)


def test_directions_share_one_order_of_departure() -> None:
    queue = DepartureQueue([Direction(Impairment(3 * MS), "1"), Direction(Impairment(MS), "2")])
    queue.receive(0, b"slow", 0)
    queue.receive(1, b"fast", MS)
    queue.receive(1, b"last", 2 * MS)
    assert [queue.pop().frame for _ in range(3)] == [b"fast", b"slow", b"last"]
    assert queue.next_departure_ns is None


def test_lateness_is_unknown_before_the_first_departure() -> None:
    assert Lateness().summary() == {
        "count": 0,
        "mean_ns": None,
        "p50_ns": None,
        "p99_ns": None,
        "max_ns": None,
    }


def test_lateness_percentiles() -> None:
    lateness = Lateness()
    for microseconds in range(100):
        lateness.add(microseconds * 1_000 + 500)
    assert lateness.summary() == {
        "count": 100,
        "mean_ns": 50_000,
        "p50_ns": 50_000,
        "p99_ns": 99_000,
        "max_ns": 99_500,
    }


def test_lateness_beyond_the_buckets_is_the_maximum() -> None:
    lateness = Lateness()
    lateness.add(1_000_000_000)
    assert lateness.percentile_ns(50) == lateness.max_ns == 1_000_000_000
