"""What the laboratory's integration tests share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from tools.lab import kernel, state
from tools.lab.lab import Lab
from tools.lab.takedown import take_down

PROBE = Path(__file__).with_name("probe.py")
PORT = 9000


@dataclass(frozen=True)
class Echo:
    """One answered probe; times in nanoseconds."""

    sequence: int
    t1: int
    t2: int
    t3: int
    t4: int


def name_of(purpose: str) -> str:
    """A lab name that no other run of the tests has."""
    return f"t{os.getpid()}-{purpose}"


@pytest.fixture
def lab_name(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name for a test's own lab, which is taken down whatever happens."""
    name = name_of("own")
    yield name
    take_down(name)


@pytest.fixture(scope="module")
def network() -> Iterator[Lab]:
    """The default topology without daemons."""
    with Lab.start(name=name_of("net"), daemons=False) as lab:
        yield lab


def probe(
    lab: Lab,
    source: str,
    destination: str,
    there: IPv6Address | None = None,
    back: IPv6Address | None = None,
    count: int = 100,
    interval_us: int = 2_000,
) -> list[Echo]:
    """Send UDP probes over SRv6 (`there`, `back`: the SID on the way) and return their echoes."""
    start, end = lab.nodes[source].loopback, lab.nodes[destination].loopback
    reflect = [sys.executable, str(PROBE), "reflect", str(end), str(PORT)]
    send = [sys.executable, str(PROBE), "send", str(start), str(end), str(PORT)]
    send += [str(count), str(interval_us), "300"]
    reflector = lab.popen(
        destination,
        reflect + ([str(back), str(start)] if back else []),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert reflector.stdout.readline() == "ready\n"
        done = lab.exec(source, send + ([str(there)] if there else []), timeout_s=60, check=True)
    finally:
        reflector.kill()
        reflector.communicate()
    answer = json.loads(done.stdout)
    assert answer["sent"] == count
    return [Echo(*values) for values in answer["echoes"]]


def line_counters(lab: Lab, direction: str) -> dict[str, int]:
    """The delay line's counters of one direction, now."""
    return lab.line_status()["directions"][direction]["counters"]


def remains(lab: Lab) -> list[str]:
    """Everything of a lab that is still on this machine."""
    found = [str(lab.state.folder)] if lab.state.folder.exists() else []
    found += sorted(kernel.existing_namespaces() & set(lab.plan.namespaces))
    found += [e.name for e in state.SHM_FOLDER.iterdir() if e.name.startswith(lab.plan.shm_prefix)]
    mark = f"STAMP_LAB_TOKEN={lab.state.token}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if mark in environment.split(b"\0"):
                found.append(f"process {entry.name}")
    return found
