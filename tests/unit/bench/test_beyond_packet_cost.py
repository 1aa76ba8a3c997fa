"""Programs take turns; what engines offer is found; what cannot be measured says why."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from dataplane.bpf.program import BpfError
from dataplane.bpf.syscall import XDP_DROP, XDP_TX, Run
from tools.bench.beyond import packet_cost
from tools.bench.beyond.packet_cost import CALL, Costed, Settings, mean_ns, measure
from tools.bench.errors import BenchError
from tools.bench.extras import PacketCost


@dataclass
class Program:
    """Tells a number, one higher each time."""

    name: str
    program: str
    segments: int
    log: list[str] = field(default_factory=list)
    ns: float = 0.0

    def ns_per_packet(self, repeat: int) -> float:
        self.log.append(f"{self.name} {repeat}")
        self.ns += 1
        return self.ns


@pytest.fixture(autouse=True)
def only_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_cost, "ENGINES", {"fast": "engine_of_a_test.engine"})
    monkeypatch.setattr(packet_cost, "on_core", contextlib.nullcontext)


@contextlib.contextmanager
def bare(log: list[str]) -> Iterator[Sequence[Costed]]:
    yield [Program("xdp-tx", "bare_tx", 0, log)]
    log.append("unloaded")


def offer(monkeypatch: pytest.MonkeyPatch, programs: Sequence[Costed]) -> None:
    module = types.ModuleType("engine_of_a_test.cost")
    module.costed_programs = lambda: contextlib.nullcontext(programs)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "engine_of_a_test", types.ModuleType("engine_of_a_test"))
    monkeypatch.setitem(sys.modules, "engine_of_a_test.cost", module)


def test_programs_of_engines_take_turns_with_the_bare_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []
    monkeypatch.setattr(packet_cost, "_bare", lambda: bare(log))
    offer(monkeypatch, [Program("reflector", "reflect", 2, log)])
    found = list(measure(Settings(runs=2, repeat=9)))
    assert found == [
        PacketCost("xdp-tx", "bare_tx", 0, (1.0, 2.0)),
        PacketCost("reflector", "reflect", 2, (1.0, 2.0)),
    ]
    assert log == ["xdp-tx 9", "reflector 9", "xdp-tx 9", "reflector 9", "unloaded"]


def test_without_engines_that_offer_any_the_bare_ones_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packet_cost, "_bare", lambda: bare([]))
    assert [cost.name for cost in measure(Settings(runs=1))] == ["xdp-tx"]


@pytest.mark.parametrize("error", [BpfError("bcc is not there"), OSError(1, "not permitted")])
def test_what_cannot_be_loaded_says_why(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse() -> None:
        raise error

    monkeypatch.setattr(packet_cost, "_bare", refuse)
    with pytest.raises(BenchError) as caught:
        list(measure())
    assert str(caught.value) == f"costs of packets cannot be measured: {error}"


def test_the_mean_is_over_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def run(fd: int, packet: bytes, *, repeat: int) -> Run:
        asked.append(repeat)
        return Run(XDP_TX, packet, 10 * len(asked))

    monkeypatch.setattr(packet_cost, "run_program", run)
    assert mean_ns(3, b"", XDP_TX, 2 * CALL + CALL // 2) == (10 + 20 + 30 / 2) / 2.5
    assert asked == [CALL, CALL, CALL // 2]


def test_another_end_is_not_what_was_to_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_cost, "run_program", lambda *_, **__: Run(XDP_DROP, b"", 5))
    with pytest.raises(BpfError, match=r"^the program ends with action 1, not 3$"):
        mean_ns(3, b"", XDP_TX, 1)
