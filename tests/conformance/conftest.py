"""A live server for each test: private sysrepo repository, provider, server and sshd on loopback.

::

    ncclient, netconf-console2 ──ssh──► sshd ──► proxy ──unix──► stamp-netconfd
                                                                      │ sysrepo
                                                                  provider.py
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from ncclient import manager

ROOT = Path(__file__).resolve().parents[2]
YANG = Path(__file__).parent / "yang"
START_TIMEOUT_S = 20.0


def standard_module(name: str) -> Path:
    """File of an IETF module, from the system's YANG folders or the ones pyang brings."""
    folders = [
        *sorted(Path("/usr/share/yang/modules").glob("*")),
        Path(sys.prefix) / "share/yang/modules/ietf",
    ]
    for folder in folders:
        for path in sorted(folder.glob(f"{name}@*.yang")) + sorted(folder.glob(f"{name}.yang")):
            return path
    pytest.skip(f"{name}.yang is not installed")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll; the timeout only bounds a failing test."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"timeout: {what}")
        time.sleep(0.02)


@contextmanager
def running(
    command: list[str], *, env: dict[str, str] | None = None, log: Path
) -> Iterator[subprocess.Popen[str]]:
    """A process of this test, ended with it; its standard error goes to a file."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            env=env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(START_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGABRT)
                    process.wait()
                    pytest.fail(f"{command} ignored SIGTERM: {log.read_text()}")
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


def await_server(daemon: subprocess.Popen[str], log: Path) -> None:
    """Wait until the server accepts connections; its socket is there a little before."""

    def ready() -> bool:
        return "listening on" in log.read_text() or daemon.poll() is not None

    wait_until(ready, "server socket")
    assert daemon.poll() is None, log.read_text()


@dataclass
class Lab:
    """What a test needs to reach its server."""

    folder: Path
    env: dict[str, str]
    socket: Path
    port: int
    key: Path
    daemon: subprocess.Popen[str]
    provider: subprocess.Popen[str]

    def connect(self) -> manager.Manager:
        """An ncclient session as root; use it as a context manager."""
        return manager.connect(
            host="127.0.0.1",
            port=self.port,
            username="root",
            key_filename=str(self.key),
            hostkey_verify=False,
            allow_agent=False,
            look_for_keys=False,
            timeout=30,
        )

    def notify(self, line: str) -> None:
        """Have the provider send notifications; see there."""
        assert self.provider.stdin is not None
        assert self.provider.stdout is not None
        self.provider.stdin.write(f"{line}\n")
        self.provider.stdin.flush()
        assert self.provider.stdout.readline() == "sent\n", (
            self.folder / "provider.log"
        ).read_text()

    def log(self) -> str:
        """What the server has logged."""
        return (self.folder / "netconfd.log").read_text()

    @contextmanager
    def locked(self, datastore: str) -> Iterator[None]:
        """Another program, without NETCONF, holds the lock of a datastore."""
        script = (
            "import sys, sysrepo\n"
            f"with sysrepo.SysrepoConnection() as c, c.start_session({datastore!r}) as s:\n"
            "    s.lock('netconf-test'); print('locked', flush=True); sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "locked\n"
            yield
            holder.communicate("")

    def keep_notifications(self) -> None:
        """Have sysrepo replay them."""
        subprocess.run(
            ["sysrepoctl", "--change", "netconf-test", "--replay", "on"],
            env=self.env,
            check=True,
            capture_output=True,
        )

    def console_command(self, *arguments: str) -> list[str]:
        """The command line of netconf-console2."""
        return [
            str(Path(sys.executable).parent / "netconf-console2"),
            *("--host=127.0.0.1", f"--port={self.port}", "-u", "root"),
            *("--ssh-config", str(self.folder / "ssh_config")),
            *arguments,
        ]

    def console(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run netconf-console2."""
        return subprocess.run(
            self.console_command(*arguments),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can traverse; short, for Unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="nct-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def repository(folder: Path) -> Iterator[dict[str, str]]:
    """Environment of a private sysrepo repository that holds the test modules."""
    if shutil.which("sysrepoctl") is None:
        pytest.skip("sysrepoctl is not installed")
    prefix = f"nct{uuid.uuid4().hex[:8]}"
    env = {
        **os.environ,
        "SYSREPO_REPOSITORY_PATH": str(folder / "repository"),
        "SYSREPO_SHM_PREFIX": prefix,
        "PYTHONFAULTHANDLER": "1",
    }
    monitoring = standard_module("ietf-netconf-monitoring")
    search = {str(YANG), str(monitoring.parent), str(standard_module("ietf-yang-types").parent)}
    try:
        subprocess.run(
            [
                *("sysrepoctl", "-s", ":".join(sorted(search))),
                *("-i", str(YANG / "netconf-test.yang"), "-i", str(monitoring)),
            ],
            env=env,
            check=True,
            capture_output=True,
        )
        yield env
    finally:
        for path in Path("/dev/shm").glob(f"{prefix}*"):
            path.unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _can_connect(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _sshd_config(folder: Path, port: int, netconf_socket: Path) -> Path:
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    proxy = f"{sys.executable} -m tools.netconf_server.proxy {netconf_socket}"
    config = folder / "sshd_config"
    config.write_text(
        f"""\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder / "host_key"}
PidFile none
AuthorizedKeysFile {folder / "authorized_keys"}
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
SetEnv PYTHONPATH={ROOT}
Subsystem netconf {proxy}
"""
    )
    # netconf-console2 sends a default password unless it is given a client configuration.
    (folder / "ssh_config").write_text(f"Host *\n  IdentityFile {folder / 'user_key'}\n")
    return config


@contextmanager
def _lab(folder: Path, env: dict[str, str], options: tuple[str, ...]) -> Iterator[Lab]:
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if sshd is None or os.geteuid() != 0:
        pytest.skip("needs root and sshd")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    path = folder / "netconf.sock"
    port = _free_port()
    config = _sshd_config(folder, port, path)
    env = {**env, "PYTHONPATH": str(ROOT)}
    with ExitStack() as stack:
        provider = stack.enter_context(
            running(
                [sys.executable, str(Path(__file__).parent / "provider.py")],
                env=env,
                log=folder / "provider.log",
            )
        )
        assert provider.stdout is not None
        assert provider.stdout.readline() == "ready\n", (folder / "provider.log").read_text()
        daemon = stack.enter_context(
            running(
                [
                    *(sys.executable, "-m", "tools.netconf_server.daemon"),
                    *("--socket", str(path), "--group", "nogroup", *options),
                ],
                env=env,
                log=folder / "netconfd.log",
            )
        )
        await_server(daemon, folder / "netconfd.log")
        stack.enter_context(running([sshd, "-D", "-e", "-f", str(config)], log=folder / "sshd.log"))
        wait_until(lambda: _can_connect(port), "sshd")
        yield Lab(folder, env, path, port, folder / "user_key", daemon, provider)


@pytest.fixture
def lab(request: pytest.FixtureRequest, folder: Path, repository: dict[str, str]) -> Iterator[Lab]:
    """A running server with its clients' key; an indirect parameter adds options to it."""
    with _lab(folder, repository, getattr(request, "param", ())) as running_lab:
        yield running_lab
