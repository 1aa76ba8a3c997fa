"""The tables of `stamp-results`."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tools import results
from tools.stamp_client import (
    DIRECTIONS,
    ClosedInterval,
    DelayStatistics,
    Loss,
    Record,
    SenderSessionState,
    StampClientError,
)

FORWARD = DelayStatistics(
    *(18, -9_000_000, 4_000_000, -5_000_000, 2_000, 1_500_000), percentiles={99.9: 3_000_000}
)
NOTHING = {direction: DelayStatistics() for direction in DIRECTIONS}
STATE = SenderSessionState(
    ssid=7,
    path="north",
    reflector_address="fd00::2",
    oper_state="running",
    last_error=None,
    counters={"sent": 20},
    delay=NOTHING | {"forward": FORWARD},
    loss=Loss(forward=1, round_trip=2, round_trip_ratio=10.0),
    results_available=18,
    latest_interval=ClosedInterval(
        number=4,
        suspect=False,
        sent=5,
        delay=NOTHING | {"round-trip": DelayStatistics(5, 1_000_000, 3_000_000, 2_000_000)},
        loss=Loss(round_trip=0, round_trip_ratio=0.0),
    ),
)
FAILED = replace(
    STATE, ssid=8, path=None, oper_state="failed", last_error="no such port", latest_interval=None
)
RECORD = Record(4, None, 10, 20, 30, 40, -3, None, None, 255)


@dataclass
class FakeClient:
    """In place of StampClient: its third batch of records fails."""

    sessions: dict[int, SenderSessionState] = field(default_factory=lambda: {7: STATE, 8: FAILED})
    clock: bool | None = True
    taken: int = 0

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sender_sessions(self, leaves: tuple[str, ...]) -> dict[int, SenderSessionState]:
        return self.sessions

    def clock_synchronized(self) -> bool | None:
        return self.clock

    def batches(self, ssid: int) -> Iterator[tuple[Record, ...]]:
        for sequence in (4, 5):
            self.taken += 1
            yield (RECORD._replace(sequence=sequence),)
        raise StampClientError(f"fetch-results of {ssid} failed")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, client: FakeClient | None = None) -> int:
    def connect(*_: Any, **__: Any) -> FakeClient:
        return client or FakeClient()

    monkeypatch.setattr(results.StampClient, "connect", connect)
    return results.main(["192.0.2.1", "--key", "k", *arguments])


def test_csv_has_nanoseconds_and_leaves_out_what_is_not_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--csv") == 0
    assert capsys.readouterr().out.splitlines()[:4] == [
        "ssid,path,reflector_address,oper_state,direction,samples,mean_ns,min_ns,max_ns,"
        "jitter_ns,p99.9_ns,sent,lost,loss_percent,last_error,clock_synchronized",
        "7,north,fd00::2,running,forward,18,-5000000,-9000000,4000000,1500000,3000000,20,1,,,true",
        "7,north,fd00::2,running,backward,0,,,,,,20,,,,true",
        "7,north,fd00::2,running,round-trip,0,,,,,,20,2,10.0,,true",
    ]


def test_json_says_null(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--json", client=FakeClient(clock=False)) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["version"]) == ("srv6-stamp-results", 1)
    rows = document["rows"]
    assert [row["p99.9_ns"] for row in rows] == [3_000_000, None, None] * 2
    assert [row["lost"] for row in rows] == [1, None, 2] * 2
    assert [row["last_error"] for row in rows] == [None] * 3 + ["no such port"] * 3
    assert {row["clock_synchronized"] for row in rows} == {False}


def test_the_table_is_in_milliseconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    header, forward, backward, round_trip, *failed = capsys.readouterr().out.splitlines()
    for title in ("PATH", "REFLECTOR ADDRESS", "MEAN ms", "P99.9 ms", "LOSS %"):
        assert title in header
    assert forward.split() == [
        *("7", "north", "fd00::2", "running", "forward"),
        *("18", "-5.000", "-9.000", "4.000", "1.500", "3.000"),
        *("20", "1", "-"),
    ]
    assert backward.split()[5:] == ["0", *5 * "-", "20", "-", "-"]
    assert round_trip.split()[5:] == ["0", *5 * "-", "20", "2", "10.0"]
    assert failed[2].split()[:5] == ["8", "-", "fd00::2", "failed", "round-trip"]
    assert failed[3:] == ["  session 8, last error: no such port"]


def test_the_table_says_what_one_way_delays_are_worth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, client=FakeClient(clock=False)) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("clock: unsynchronised per kernel")


def test_the_latest_interval_instead_of_the_total(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--interval", "--csv") == 0
    header, *rows = csv.reader(capsys.readouterr().out.splitlines())
    known = dict(zip(header, rows[2], strict=True))
    assert (known["interval"], known["suspect"], known["sent"]) == ("4", "false", "5")
    assert (known["mean_ns"], known["lost"], known["loss_percent"]) == ("2000000", "0", "0.0")
    assert "p99.9_ns" not in known
    none = dict(zip(header, rows[5], strict=True))
    assert (none["ssid"], none["interval"], none["samples"], none["sent"]) == ("8", "", "", "")


def test_a_node_that_no_stampd_serves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = replace(STATE, oper_state=None, counters={}, delay=NOTHING, loss=Loss())
    assert run(monkeypatch, client=FakeClient({7: silent}, clock=None)) == 1
    done = capsys.readouterr()
    assert done.out == ""
    assert done.err.startswith("stamp-results: no stampd serves this node")


@pytest.mark.parametrize(("form", "begin"), [("--csv", "ssid,path,"), ("--interval", "SSID  PATH")])
def test_no_sessions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: str, begin: str
) -> None:
    assert run(monkeypatch, form, client=FakeClient({}, clock=None)) == 0
    done = capsys.readouterr()
    (header,) = done.out.splitlines()
    assert header.startswith(begin)
    assert done.err == "stamp-results: no sessions\n"


def test_records_that_were_taken_are_not_lost_by_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--records", "7", "--csv") == 1
    done = capsys.readouterr()
    assert done.out.splitlines() == [
        ",".join(Record._fields),
        "4,,10,20,30,40,-3,,,255",
        "5,,10,20,30,40,-3,,,255",
    ]
    assert done.err == "stamp-results: fetch-results of 7 failed\n"
    assert run(monkeypatch, "--records", "7", "--json") == 1
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["sequence"] for row in rows] == [4, 5]


@pytest.mark.parametrize("form", ["--csv", "--json", "--records"])
def test_records_that_nobody_reads_stay_on_the_node(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    client = FakeClient()
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        assert run(monkeypatch, "--records", "7", *{form} - {"--records"}, client=client) == 0
    assert client.taken == 1
    assert capsys.readouterr().err == ""


def test_a_laboratory_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, problem in (
        ("", "standard input is not of `stamp-lab status --json`"),
        ('{"nodes": [{"name": "core1"}]}', "the laboratory has no network element core1"),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert results.main(["--lab", "core1"]) == 1
        assert capsys.readouterr().err == f"stamp-results: {problem}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["192.0.2.1"],
        ["192.0.2.1", "--lab", "edge1"],
        ["192.0.2.1", "--key", "k", "--records", "1", "--interval"],
    ],
)
def test_a_wrong_command_line(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        results.main(arguments)
    assert ended.value.code == 2
