"""One session of the reflector on two CPUs at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from dataplane.bpf.program import BpfModule
from dataplane.bpf.syscall import XDP_TX, run_program
from dataplane.engines.xdp.cost import ORIGINAL
from tests.integration.engines.xdp.conftest import SOURCES, in_own_namespace
from tests.integration.engines.xdp.reflecting import T2_NS, Bench, request

pytestmark = pytest.mark.integration

STATEFUL = 2
REQUESTS = 500_000
"""On each CPU."""


@pytest.fixture
def repeating() -> Iterator[BpfModule]:
    """The reflector, which puts its request back so that it can be run over and over."""
    module = BpfModule(SOURCES / "cost.c", {"FIXED_CLOCK": 1})
    module.load("reflector")
    module.free_compiler()
    with in_own_namespace():
        yield module
    module.close()


def test_no_number_is_given_twice(repeating: BpfModule) -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    bench = Bench(repeating)
    asked = request(STATEFUL).encode()
    words = len(asked) // 8
    original = repeating.array("originals", ORIGINAL)
    original["words"] = words
    original["word"][0, :words] = np.frombuffer(asked, np.uint64, words)
    bench.tables.fix_clock(T2_NS, T2_NS + 777)
    actions: list[int] = []

    def answer(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        actions.append(run_program(bench.program, asked, repeat=REQUESTS).action)

    threads = [threading.Thread(target=answer, args=(cpu,)) for cpu in cpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert actions == [XDP_TX] * 2
    counts = bench.tables.session_counts((STATEFUL, None))
    # Each takes one, so there are as many as replies only if all differ.
    assert counts.next_sequence == counts.answered == 2 * REQUESTS
