"""Table, document, record files, picture and progress."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.unit.demo.samples import CORE1, CORE2, PATHS, make_records, make_state
from tools.demo import plot, table
from tools.demo.progress import Progress, progress_line
from tools.demo.records import LostPacket, lost_packets, write_csv, write_json
from tools.demo.verdict import PathVerdict, judge
from tools.stamp_client import Loss, Record

SENT = 400
LOST = frozenset(range(5, 400, 50))
GOOD_LOSS = Loss(forward=0, backward=0, undetermined=0, round_trip=0)
FORWARD_LOSS = Loss(forward=8, backward=0, undetermined=0, round_trip=8)


def verdicts(error_ns: int = 0) -> tuple[PathVerdict, PathVerdict]:
    first, second = make_records(CORE1, SENT, error_ns=error_ns), make_records(CORE2, SENT, LOST)
    return (
        judge(CORE1, make_state(CORE1, first, SENT, GOOD_LOSS), first, SENT, {}),
        judge(CORE2, make_state(CORE2, second, SENT, FORWARD_LOSS), second, SENT, {}),
    )


def test_table_shows_every_row_with_its_verdict() -> None:
    text = table.render_table(verdicts())
    rows = [line for line in text.splitlines() if line.endswith("  ok")]
    assert len(rows) == 12
    assert (
        "via-core2  > fd00:0:102::e, fd00:0:2::1  forward delay     20.000 + 0.000 ms  20.0" in text
    )
    assert "8 of 400" in text
    assert "NOT OK" not in text


def test_table_says_what_is_off() -> None:
    text = table.render_table(verdicts(error_ns=2_000_000))
    assert text.count("NOT OK: ") == 3
    assert "NOT OK: round-trip delay off by +4.0" in text


def test_document() -> None:
    lateness = {"edge1>core1": {"count": 3, "mean_ns": 1500, "p99_ns": 2000, "max_ns": 2500}}
    made = table.document(
        verdicts(), interval_us=10_000, packets=SENT, clock_synchronized=False, lateness=lateness
    )
    assert json.loads(json.dumps(made)) == made
    assert (made["schema"], made["version"], made["agrees"]) == ("srv6-stamp-demo", 1, True)
    assert made["paths"][1]["delay"]["forward"]["injected_ns"] == 20_000_000
    assert made["paths"][1]["loss"]["forward"]["lost"] == 8
    wrong = table.document(
        verdicts(2_000_000), interval_us=10_000, packets=SENT, clock_synchronized=False, lateness={}
    )
    assert wrong["agrees"] is False
    assert wrong["paths"][0]["delay"]["forward"]["verdict"].startswith("forward delay off by +2.0")


@pytest.mark.parametrize(
    ("synchronized", "word"),
    [(True, "synchronised"), (False, "unsynchronised"), (None, "of unknown state")],
)
def test_clock(synchronized: bool | None, word: str) -> None:
    assert table.render_clock(synchronized) == (
        f"clock: {word} per kernel, but both edges share one kernel clock: one-way delays are true"
    )


def test_error_of_the_delay_line() -> None:
    lateness = {
        "edge1>core1": {"count": 3, "mean_ns": 1500, "p99_ns": 2000, "max_ns": 2500},
        "unused": {"count": 0, "mean_ns": None, "p99_ns": None, "max_ns": None},
    }
    assert table.render_line_error(lateness).splitlines()[1:] == [
        "  edge1>core1  mean 1.5us, p99 2us, max 2.5us, 3 frames"
    ]
    assert table.render_line_error({}) == "delay line's own error: not known"


def test_lost_packets_by_direction() -> None:
    records = make_records(CORE1, 10, frozenset({2, 6}), frozenset({4, 7, 9}))
    assert list(lost_packets(records, 10)) == [
        LostPacket(2, "forward"),
        LostPacket(4, "backward"),
        LostPacket(6, None),
        LostPacket(7, None),
        LostPacket(9, None),
    ]


def test_lost_packets_across_the_wrap_of_the_reflectors_counter() -> None:
    before, after = make_records(CORE1, 4)[::3]
    before = before._replace(reflector_sequence=2**32 - 2)
    after = after._replace(reflector_sequence=1)
    assert [packet.direction for packet in lost_packets((before, after), 4)] == ["backward"] * 2


def test_no_records_at_all() -> None:
    assert [packet.sequence for packet in lost_packets((), 3)] == [0, 1, 2]


def test_record_files(tmp_path: Path) -> None:
    records = {"via-core1": make_records(CORE1, 3)}
    records["via-core1"] = (*records["via-core1"][:2], records["via-core1"][2]._replace(t4=None))
    write_csv(tmp_path / "records.csv", records)
    write_json(tmp_path / "records.json", records)
    with (tmp_path / "records.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == ("path", *Record._fields)
    assert (rows[0]["path"], int(rows[1]["sequence"]), rows[2]["t4"]) == ("via-core1", 1, "")
    assert int(rows[0]["t2"]) - int(rows[0]["t1"]) == int(rows[0]["forward_delay"])
    document = json.loads((tmp_path / "records.json").read_text(encoding="utf-8"))
    assert document["version"] == 1
    assert [Record(**row) for row in document["paths"]["via-core1"]] == [*records["via-core1"]]


def test_panel_data() -> None:
    records = make_records(CORE2, SENT, LOST)
    forward = plot.panel(records, "forward", SENT, 10_000)
    assert forward.time_s.size == SENT - len(LOST)
    assert forward.delay_ms.min() >= 20
    assert sorted(forward.lost_s) == pytest.approx([sequence / 100 for sequence in sorted(LOST)])
    assert plot.panel(records, "backward", SENT, 10_000).lost_s.size == 0


def test_scale_holds_the_truth_and_the_bulk_and_leaves_outliers_out() -> None:
    low, high = plot.scale_ms(np.append(np.full(999, 7.0), 60.0), 5.0, 1.0)
    assert low < 5.0
    assert 7.0 < high < 10.0
    # Perfect measurements are not blown up to fill the panel.
    low, high = plot.scale_ms(np.full(1000, 5.0), 5.0, 1.0)
    assert high - low > plot.REACH
    # Nothing can be below the truth but the marks of lost packets.
    assert 0.0 < 5.0 - low < 0.2 * (high - low)
    assert plot.scale_ms(np.array([]), 5.0, 1.0) == (low, high)


def test_picture(tmp_path: Path) -> None:
    records = {1: make_records(CORE1, SENT), 2: make_records(CORE2, SENT, LOST)}
    plot.draw(verdicts(), records, 10_000, tmp_path / "delay.png")
    content = (tmp_path / "delay.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == (1560, 996)


def test_progress_line() -> None:
    records = make_records(CORE1, 20)
    states = {1: make_state(CORE1, records, 20, GOOD_LOSS)}
    assert progress_line(3.2, PATHS, states) == (
        "  3 s | via-core1: 20 sent, 5.01 + 5.01 ms, 0 lost | via-core2: not there yet"
    )


def test_progress_is_sparse_away_from_a_terminal() -> None:
    stream = io.StringIO()
    progress = Progress(PATHS, stream)
    for second in range(12):
        progress(float(second), {})
    progress.done()
    assert [line[:5] for line in stream.getvalue().splitlines()] == ["  0 s", "  5 s", " 10 s"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    progress = Progress(PATHS, stream)
    progress(0.0, {})
    progress(1.0, {})
    progress.done()
    shown = stream.getvalue()
    assert shown.count("\n") == 1
    assert [len(part.removesuffix("\n")) for part in shown.split("\r")[1:]] == [29 + 3, 29 + 3]
