"""The engine under test, on a stand of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dataplane.engines.base import AttachmentMode, ReflectorStatusReport
from dataplane.engines.registry import ENGINES
from dataplane.engines.userspace.demand import DEMAND_SETTING
from tests.integration.engines.conformance.stand import MAIN, OTHER, Running, Stand
from tests.integration.engines.other_end import counting_at


@pytest.fixture
def stand() -> Iterator[Stand]:
    with Stand() as built:
        yield built


IN_DRIVER = "userspace-in-driver"
"""The userspace engine with interfaces, where it receives by AF_XDP."""


NATIVE = "xdp-native"
"""The xdp engine as a reflector in the driver: on veth it is in generic mode otherwise."""

_ALL = [*sorted(ENGINES), IN_DRIVER]

in_both_modes = pytest.mark.parametrize("running", [*_ALL, NATIVE], indirect=True)


@pytest.fixture(params=_ALL)
def running(request: pytest.FixtureRequest, stand: Stand) -> Iterator[Running]:
    in_driver = request.param == IN_DRIVER
    if in_driver:
        monkeypatch = request.getfixturevalue("monkeypatch")
        monkeypatch.setenv(DEMAND_SETTING, "0")
        # On a busy machine the compiler takes its time.
        monkeypatch.setattr("dataplane.engines.userspace.driver_receiving.WAIT_S", 60.0)
    name = {IN_DRIVER: "userspace", NATIVE: "xdp"}.get(request.param, request.param)
    with (
        ExitStack() as other_ends,
        tempfile.TemporaryDirectory(prefix="stamp-test-", dir="/dev/shm") as folder,
    ):
        if request.param == NATIVE:
            for link in (MAIN, OTHER):
                other_ends.enter_context(counting_at(stand.peer, link.far))
        engine = Running(stand, name, Path(folder), everywhere=in_driver)
        yield engine
        if request.param == NATIVE:
            assert _modes(engine) <= {AttachmentMode.NATIVE}
        engine.close()
    assert not stand.has_program(MAIN)


def _modes(engine: Running) -> set[AttachmentMode]:
    """Of a reflector's programs, as it has told last."""
    told = [each.status for each in engine.reports if isinstance(each, ReflectorStatusReport)]
    return {each.mode for each in told[-1].attachments} if told and told[-1] else set()
