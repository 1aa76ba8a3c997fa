"""A network element for tests: a namespace, a private sysrepo, and stampd.

    stampd-a-XXXX [fd00:a::1] veth ---- veth [fd00:a::2] stampd-b-XXXX

The client is sysrepocfg, as an operator at a shell would use it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.repository import SHARED_MEMORY, Repository

Tree = dict[str, Any]

SENDER_ADDRESS = "fd00:a::1"
REFLECTOR_ADDRESS = "fd00:a::2"
SENDER = "/srv6-stamp:stamp/session-sender"
REFLECTOR = "/srv6-stamp:stamp/session-reflector"


class ClientError(Exception):
    """sysrepocfg failed; the text is what it printed."""


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True, **options)


def eventually(probe: Callable[[], Any], what: str, timeout_s: float = 20) -> Any:
    """The first true value of `probe`; AssertionError after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := probe()):
        assert time.monotonic() < deadline_s, f"{what} did not happen in {timeout_s} s"
        time.sleep(0.05)
    return value


@dataclass
class Element:
    """One node; `start` runs stampd in its namespace."""

    namespace: str
    folder: Path
    repository: Repository
    daemon: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / "stampd.log"
        self.state_dir = self.folder / "state"
        self.environment = os.environ | self.repository.environment()

    def start(self) -> None:
        ready = self.folder / "ready"
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self.namespace),
                    *(sys.executable, "-m", "sysrepo_plugin.stampd"),
                    *("--state-dir", str(self.state_dir), "--ready-file", str(ready)),
                ],
                env=self.environment,
                stderr=log,
            )

        def is_ready() -> bool:
            assert self.daemon is not None
            assert self.daemon.poll() is None, self.log.read_text()
            return ready.exists()

        eventually(is_ready, "start of stampd")

    def stop(self) -> int:
        """End stampd as an operator would; its exit status."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        try:
            return self.daemon.wait(20)
        finally:
            self.daemon.kill()

    def host_pid(self) -> int:
        """Of the process in which the engines run."""
        assert self.daemon is not None
        children = run("pgrep", "--parent", str(self.daemon.pid)).stdout.split()
        assert len(children) == 1, children
        return int(children[0])

    def edit(self, stamp: Tree) -> None:
        """Merge into the running configuration. Raises ClientError."""
        self._sysrepocfg(
            {"srv6-stamp:stamp": stamp}, "--edit", "--datastore=running", "--module=srv6-stamp"
        )

    def replace(self, stamp: Tree) -> None:
        """Replace the whole running configuration. Raises ClientError."""
        self._sysrepocfg(
            {"srv6-stamp:stamp": stamp}, "--import", "--datastore=running", "--module=srv6-stamp"
        )

    def act(self, ssid: int, action: str, values: Tree | None = None) -> Tree:
        """Call an action of a sender session; its output. Raises ClientError."""
        session = {"ssid": ssid, action: values or {}}
        tree = {"srv6-stamp:stamp": {"session-sender": {"session": [session]}}}
        text = self._sysrepocfg(tree, "--rpc")
        if not text.strip():
            return {}
        output: Tree = json.loads(text)
        return output[f"srv6-stamp:{action}"]

    def state(self, xpath: str) -> Tree:
        """The operational `stamp`, as far as `xpath` selects it."""
        text = run(
            *("sysrepocfg", "--export", "--datastore=operational", "--format=json"),
            *("--xpath", xpath),
            env=self.environment,
        ).stdout
        stamp: Tree = json.loads(text or "{}").get("srv6-stamp:stamp", {})
        return stamp

    def session(self, ssid: int) -> Tree:
        """Configuration and state of a sender session."""
        stamp = self.state(f"{SENDER}/session[ssid='{ssid}']")
        session: Tree = stamp["session-sender"]["session"][0]
        return session

    def counter(self, ssid: int, name: str) -> int:
        """0 for a session that has not begun."""
        return int(self.session(ssid).get("counters", {}).get(name, 0))

    def await_state(self, ssid: int, oper_state: str) -> Tree:
        def reached() -> Tree | None:
            session = self.session(ssid)
            return session if session["oper-state"] == oper_state else None

        session: Tree = eventually(reached, f"session {ssid} becoming {oper_state}")
        return session

    def await_received(self, ssid: int, more: int) -> int:
        """Wait until `more` further replies are in; how many there are then."""
        wanted = self.counter(ssid, "received") + more
        eventually(lambda: self.counter(ssid, "received") >= wanted, f"{more} more replies")
        return self.counter(ssid, "received")

    def destroy(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.terminate()
            try:
                self.daemon.wait(20)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False)
        self.repository.destroy()

    def _sysrepocfg(self, tree: Tree, operation: str, *options: str) -> str:
        with tempfile.NamedTemporaryFile("w", suffix=".json", dir=self.folder) as document:
            json.dump(tree, document)
            document.flush()
            done = subprocess.run(
                ["sysrepocfg", f"{operation}={document.name}", "--format=json", *options],
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise ClientError(done.stderr)
        return done.stdout


@contextlib.contextmanager
def elements(folder: Path) -> Iterator[tuple[Element, Element]]:
    """Two elements joined by a link, with repositories and without daemons."""
    unique = f"{os.getpid():x}"
    made: list[Element] = []
    try:
        for side in "ab":
            own = folder / side
            own.mkdir()
            repository = Repository(own / "repository", f"stampd-{side}-{unique}")
            made.append(Element(f"stampd-{side}-{unique}", own, repository))
            run("ip", "netns", "add", made[-1].namespace)
            repository.create()
        first, second = made
        run(
            *("ip", "-n", first.namespace, "link", "add", "wan0", "type", "veth"),
            *("peer", "name", "wan0", "netns", second.namespace),
        )
        for element, address in ((first, SENDER_ADDRESS), (second, REFLECTOR_ADDRESS)):
            ip = ("ip", "-n", element.namespace)
            run(*ip, "address", "add", f"{address}/64", "dev", "wan0", "nodad")
            for interface in ("lo", "wan0"):
                run(*ip, "link", "set", interface, "up")
        for element, address, peer in (
            (first, REFLECTOR_ADDRESS, second),
            (second, SENDER_ADDRESS, first),
        ):
            # The kernel ignores solicitations while a link-local address is
            # tentative, and then holds packets back for a second.
            shown = run("ip", "-n", peer.namespace, "-j", "link", "show", "wan0").stdout
            run(
                *("ip", "-n", element.namespace, "neighbor", "replace", address),
                *("lladdr", json.loads(shown)[0]["address"], "dev", "wan0", "nud", "permanent"),
            )
        yield first, second
    finally:
        for element in made:
            element.destroy()
        leftovers = list(SHARED_MEMORY.glob(f"stampd-?-{unique}*"))
        assert not leftovers, leftovers
