"""The tables of `stamp-results`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tools import results
from tools.stamp_client import (
    DelayStatistics,
    Loss,
    Record,
    SenderSessionState,
    StampClientError,
)

FORWARD = DelayStatistics(
    *(18, -9_000_000, 4_000_000, -5_000_000, 2_000, 1_500_000), percentiles={99.9: 3_000_000}
)
STATE = SenderSessionState(
    ssid=7,
    oper_state="running",
    last_error=None,
    counters={"sent": 20},
    delay={"forward": FORWARD, "backward": DelayStatistics(), "round-trip": DelayStatistics()},
    loss=Loss(forward=1, round_trip=2),
    results_available=18,
)
RECORD = Record(4, None, 10, 20, 30, 40, -3, None, None, 255)


class FakeClient:
    """In place of StampClient: one session, whose second fetch fails."""

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sender_sessions(self) -> dict[int, SenderSessionState]:
        return {7: STATE}

    def drain(self, ssid: int) -> Iterator[Record]:
        yield RECORD
        raise StampClientError(f"fetch-results of {ssid} failed")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    def connect(*_: Any, **__: Any) -> FakeClient:
        return FakeClient()

    monkeypatch.setattr(results.StampClient, "connect", connect)
    return results.main(["192.0.2.1", "--key", "k", *arguments])


def test_csv_has_nanoseconds_and_leaves_out_what_is_not_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--csv") == 0
    assert capsys.readouterr().out.splitlines() == [
        "ssid,oper_state,direction,samples,mean_ns,min_ns,max_ns,jitter_ns,p99.9_ns,sent,lost",
        "7,running,forward,18,-5000000,-9000000,4000000,1500000,3000000,20,1",
        "7,running,backward,0,,,,,,20,",
        "7,running,round-trip,0,,,,,,20,2",
    ]


def test_json_says_null(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["version"]) == ("srv6-stamp-results", 1)
    assert [row["p99.9_ns"] for row in document["rows"]] == [3_000_000, None, None]
    assert [row["lost"] for row in document["rows"]] == [1, None, 2]


def test_the_table_is_in_milliseconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    header, forward, backward, _ = capsys.readouterr().out.splitlines()
    assert "MEAN ms" in header
    assert "P99.9 ms" in header
    assert forward.split()[3:] == [
        *("18", "-5.000", "-9.000", "4.000", "1.500", "3.000"),
        "20",
        "1",
    ]
    assert backward.split()[3:] == ["0", *5 * "-", "20", "-"]


def test_records_that_were_taken_are_not_lost_by_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--records", "7", "--csv") == 1
    done = capsys.readouterr()
    assert done.out.splitlines() == [",".join(Record._fields), "4,,10,20,30,40,-3,,,255"]
    assert done.err == "stamp-results: fetch-results of 7 failed\n"


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


def test_no_sessions() -> None:
    for write in (results.write_csv, results.write_table):
        stream = io.StringIO()
        write(stream, results.summary_rows({}))
        assert stream.getvalue() == ""


@pytest.mark.parametrize("arguments", [[], ["192.0.2.1"], ["192.0.2.1", "--lab", "edge1"]])
def test_a_wrong_command_line(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        results.main(arguments)
    assert ended.value.code == 2
