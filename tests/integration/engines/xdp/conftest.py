from __future__ import annotations

import contextlib
import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import dataplane.engines.xdp
from dataplane.bpf.program import BpfModule
from dataplane.config import Reflector
from tests.integration.engines.xdp.collecting import Node, Twins
from tests.integration.engines.xdp.reflecting import SESSIONS, Bench
from tests.unit.stamp.network import UNIX_NS, session

_CLONE_NEWNET = 0x40000000

SOURCES = Path(dataplane.engines.xdp.__file__).parent


@pytest.fixture(scope="package")
def reflector_module() -> Iterator[BpfModule]:
    """The reflector with a clock that the tests set."""
    module = BpfModule(SOURCES / "reflector.c", {"FIXED_CLOCK": 1})
    module.load("reflector")
    module.free_compiler()
    yield module
    module.close()


@pytest.fixture(scope="package")
def collector_module() -> Iterator[BpfModule]:
    """The collector with a clock that the tests set."""
    module = BpfModule(SOURCES / "collector.c", {"FIXED_CLOCK": 1})
    for program in ("collector", "control", "controls"):
        module.load(program)
    module.free_compiler()
    yield module
    module.close()


@contextlib.contextmanager
def in_own_namespace() -> Iterator[None]:
    """This thread is in a network namespace that has a loopback interface alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home:
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            libc.setns(home.fileno(), _CLONE_NEWNET)


@pytest.fixture(scope="module")
def module_bench(reflector_module: BpfModule) -> Iterator[Bench]:
    with in_own_namespace():
        yield Bench(reflector_module)


@pytest.fixture
def bench(module_bench: Bench) -> Bench:
    module_bench.serve(Reflector(sessions=SESSIONS))
    return module_bench


@pytest.fixture(scope="module")
def node(collector_module: BpfModule) -> Iterator[Node]:
    with in_own_namespace():
        yield Node(collector_module)


@pytest.fixture
def twins(node: Node, tmp_path: Path) -> Iterator[Twins]:
    twins = Twins(node, session(), tmp_path)
    twins.start(0, UNIX_NS)
    yield twins
    twins.close()
