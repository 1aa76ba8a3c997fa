"""Interfaces interrupt less while replies flood in; and as before afterwards."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator

import pytest

from dataplane.engines.common.loop import Loop
from dataplane.engines.userspace import moderation as modules
from dataplane.engines.userspace.moderation import (
    MODERATION_SETTING,
    MODERATION_US,
    Moderation,
    Napi,
    moderation_us,
)

IFINDEX, OTHER = 7, 8
DEADLINE_S = 10.0


class Control:
    """Two instances of one interface, one of another, and what became of them."""

    def __init__(self) -> None:
        self.napi = {each.identifier: each for each in (Napi(1, 0, 0), Napi(2, 0, 0))}
        self.refusal: OSError | None = None
        self.closed = False

    def of(self, ifindex: int) -> list[Napi]:
        if self.refusal is not None:
            raise self.refusal
        return list(self.napi.values()) if ifindex == IFINDEX else []

    def set(self, napi: Napi) -> None:
        if napi.identifier not in self.napi:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        self.napi[napi.identifier] = napi

    def close(self) -> None:
        self.closed = True

    @property
    def waits_ns(self) -> list[int]:
        return [each.wait_ns for each in self.napi.values()]


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop("test-moderation")
    loop.start()
    yield loop
    loop.close()


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
def moderation(loop: Loop, control: Control, monkeypatch: pytest.MonkeyPatch) -> Moderation:
    monkeypatch.setattr(modules, "FLOOD_NS", 50_000_000)
    return Moderation(loop, control, 64)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_replies_that_cannot_be_taken_in_wait_for_each_other_until_the_flood_is_over(
    loop: Loop, control: Control, moderation: Moderation
) -> None:
    loop.call(lambda: moderation.flooded([IFINDEX, OTHER], overrun=True))
    assert list(control.napi.values()) == [Napi(1, 1, 64_000), Napi(2, 1, 64_000)]
    wait_for(lambda: control.waits_ns == [0, 0])
    assert list(control.napi.values()) == [Napi(1, 0, 0), Napi(2, 0, 0)]


def test_a_flood_that_can_be_taken_in_changes_nothing(
    loop: Loop, control: Control, moderation: Moderation
) -> None:
    loop.call(lambda: moderation.flooded([IFINDEX], overrun=False))
    assert control.waits_ns == [0, 0]


def test_it_goes_on_for_as_long_as_replies_flood_in(
    loop: Loop, control: Control, moderation: Moderation
) -> None:
    def flood() -> None:
        moderation.flooded([IFINDEX], overrun=False)
        # What the timer would do now.
        moderation._look(0)

    loop.call(lambda: moderation.flooded([IFINDEX], overrun=True))
    loop.call(flood)
    assert control.waits_ns == [64_000, 64_000]


def test_what_somebody_else_has_set_is_left_alone(
    loop: Loop, control: Control, moderation: Moderation
) -> None:
    control.napi[1] = own = Napi(1, 2, 20_000)
    loop.call(lambda: moderation.flooded([IFINDEX], overrun=True))
    assert control.napi[1] == own
    assert control.napi[2].wait_ns == 64_000
    loop.call(moderation.end)
    assert list(control.napi.values()) == [own, Napi(2, 0, 0)]


def test_an_instance_that_has_gone_is_no_matter(
    loop: Loop, control: Control, moderation: Moderation
) -> None:
    loop.call(lambda: moderation.flooded([IFINDEX], overrun=True))
    del control.napi[1]
    loop.call(moderation.close)
    assert control.waits_ns == [0]
    assert control.closed


def test_a_kernel_that_refuses_is_named_once(
    loop: Loop,
    control: Control,
    moderation: Moderation,
    caplog: pytest.LogCaptureFixture,
) -> None:
    control.refusal = OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    for _ in range(2):
        loop.call(lambda: moderation.flooded([IFINDEX], overrun=True))
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert warnings == [
        "interface 7: replies flood in, interrupts are left: [Errno 95] Operation not supported"
    ]


@pytest.mark.parametrize(("text", "wait_us"), [(None, MODERATION_US), ("0", 0), ("100", 100)])
def test_the_environment_says_for_how_long(
    text: str | None, wait_us: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MODERATION_SETTING, raising=False)
    if text is not None:
        monkeypatch.setenv(MODERATION_SETTING, text)
    assert moderation_us() == wait_us


@pytest.mark.parametrize("text", ["soon", "-1", "10001", ""])
def test_what_is_no_time_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODERATION_SETTING, text)
    with pytest.raises(ValueError, match=f"^{MODERATION_SETTING} is '{text}', which is none of"):
        moderation_us()
