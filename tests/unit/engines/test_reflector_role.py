"""Which packets the Session-Reflector does not even look into."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dataplane.addresses import packed
from dataplane.clock import Clock
from dataplane.config import Reflector
from dataplane.engines.base import EngineContext, reflector_store_path
from dataplane.engines.common.loop import Loop
from dataplane.engines.common.reflector import LOOPBACK_INTERFACE, ReflectorRole
from dataplane.engines.common.transport import Datagram
from dataplane.reflector_store import LAYOUT_VERSION, ReflectorHeader, ReflectorStore
from dataplane.stamp.errors import DiscardReason

LINK = LOOPBACK_INTERFACE + 1


class Queue:
    """A transport that holds one request."""

    def __init__(self, request: Datagram) -> None:
        self._waiting = [request]

    def fileno(self) -> int:
        return 3

    def receive(self) -> Datagram | None:
        return self._waiting.pop() if self._waiting else None

    def dress(self, *_: object) -> None: ...

    answer = dress
    close = dress

    def dropped(self) -> int:
        return 0


def answered(folder: Path, source: str, destination: str, interface: int) -> bool:
    """Whether a request is; otherwise it is counted as unanswerable."""
    readers: list[Callable[[int], bool]] = []
    loop = SimpleNamespace(
        register=lambda _, reader: readers.append(reader),
        unregister=lambda _: None,
        overdue=lambda: False,
    )
    arrived = Datagram(
        bytes(13) + b"\1" + bytes(30),
        *(source, 49_862, 0, 255, 0, packed(ip_address(destination)), interface, 1, True),
    )

    def open_queue(*_: object) -> Any:
        return Queue(arrived)

    folder /= str(interface)
    folder.mkdir(exist_ok=True)
    context = EngineContext(folder, lambda _: None)
    role = ReflectorRole("name", cast(Loop, loop), Clock(), context, open_queue)
    role.configure(Reflector(require_configured_session=False))
    readers[0](1)
    role.close()
    store = ReflectorStore.open(reflector_store_path(folder), writable=False)
    found = store.snapshot()
    store.close()
    assert found.reflected + found.discards[DiscardReason.UNANSWERABLE] == 1
    return found.reflected == 1


@pytest.mark.parametrize(
    ("source", "destination"),
    [("::1", "fd00::1"), ("fd00::2", "::1"), ("127.0.0.1", "192.0.2.1")],
)
def test_a_loopback_address_is_nobodys_on_a_link(
    tmp_path: Path, source: str, destination: str
) -> None:
    assert not answered(tmp_path, source, destination, LINK)
    assert answered(tmp_path, source, destination, LOOPBACK_INTERFACE)


def test_anybody_else_is_answered(tmp_path: Path) -> None:
    assert answered(tmp_path, "fd00::2", "fd00::1", LINK)


def test_counters_of_another_version_begin_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / str(LINK)
    folder.mkdir()
    path = reflector_store_path(folder)
    ReflectorStore.create(path, 1).close()
    with path.open("r+b") as file:
        file.seek(ReflectorHeader.layout_version.offset)  # type: ignore[attr-defined]
        file.write(bytes([LAYOUT_VERSION - 1]))
    assert answered(tmp_path, "fd00::1", "fd00::2", LINK)
    assert f"layout version is {LAYOUT_VERSION - 1}, not {LAYOUT_VERSION}" in caplog.text
