"""The processes of an edge: stampd in its namespace; stamp-netconfd and sshd outside, on 127.0.0.1.

Management is out of band: an edge's sshd listens on the machine's loopback
interface only, so that any local client can reach it and no other interface is
touched.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.lab.errors import LabError
from tools.lab.kernel import in_namespace, run

PROJECT_FOLDER = Path(__file__).resolve().parents[2]
SSH_HOST = "127.0.0.1"
PRIVILEGE_SEPARATION_FOLDER = Path("/run/sshd")
"""Compiled into Debian's sshd, which shares it between all its instances: made when
missing, never removed."""


def management_user() -> str:
    """The account that the lab's sshd lets in: the one that runs the laboratory."""
    return pwd.getpwuid(os.geteuid()).pw_name


def python_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, with this checkout importable, and `extra`."""
    paths = [str(PROJECT_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **extra}


def delay_line_command(namespace: str, config_file: Path, status_file: Path) -> list[str]:
    """The delay line, in the wire's namespace."""
    arguments = ["--config", str(config_file), "--status", str(status_file)]
    return in_namespace(namespace, [sys.executable, "-m", "tools.lab.delay_line", *arguments])


def stampd_command(namespace: str, state_folder: Path, ready_file: Path) -> list[str]:
    """The STAMP daemon, in the edge's namespace."""
    arguments = ["--state-dir", str(state_folder), "--ready-file", str(ready_file)]
    return in_namespace(namespace, [*_entry("sysrepo_plugin.stampd"), *arguments])


def netconfd_command(socket_path: Path) -> list[str]:
    """The NETCONF daemon, outside any namespace of the laboratory."""
    return [*_entry("tools.netconf_server.daemon"), "--socket", str(socket_path)]


def _entry(module: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())"]


def accepts_connections(socket_path: Path) -> bool:
    """Whether something listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(socket_path))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind((SSH_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def greets_as_ssh(port: int) -> bool:
    """Whether an SSH server answers at 127.0.0.1:port (RFC 4253 §4.2)."""
    try:
        with socket.create_connection((SSH_HOST, port), timeout=1.0) as client:
            return client.recv(4) == b"SSH-"
    except OSError:
        return False


def make_key(path: Path, comment: str) -> None:
    """Make an Ed25519 key pair at `path` and `path`.pub, without a passphrase."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


def sshd_binary() -> str:
    """Where sshd is; LabError when it is not installed."""
    found = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        raise LabError("sshd is not installed (Debian package openssh-server)")
    return found


def write_sshd_files(
    folder: Path, port: int, client_public_key: Path, netconf: Path, token: str
) -> None:
    """Write one edge's host key, sshd_config, authorized_keys and known_hosts.

    `netconf` is the Unix socket of its stamp-netconfd. sshd insists on an
    absolute path to itself when it starts and on its privilege separation folder.
    """
    PRIVILEGE_SEPARATION_FOLDER.mkdir(mode=0o755, exist_ok=True)
    host_key = folder / "host_key"
    if not host_key.exists():
        make_key(host_key, "stamp-lab")
    authorized = folder / "authorized_keys"
    authorized.write_text(f"restrict {client_public_key.read_text(encoding='ascii')}", "ascii")
    public = " ".join(host_key.with_suffix(".pub").read_text(encoding="ascii").split()[:2])
    (folder / "known_hosts").write_text(f"[{SSH_HOST}]:{port} {public}\n", "ascii")
    proxy = shlex.join([sys.executable, "-P", "-m", "tools.netconf_server.proxy", str(netconf)])
    (folder / "sshd_config").write_text(
        sshd_config(
            port,
            host_key,
            authorized,
            proxy,
            {"PYTHONPATH": str(PROJECT_FOLDER), "STAMP_LAB_TOKEN": token},
        ),
        "utf-8",
    )


def sshd_config(
    port: int, host_key: Path, authorized_keys: Path, proxy: str, environment: Mapping[str, str]
) -> str:
    """The text of an sshd_config: one key, one subsystem, loopback only."""
    variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
    return f"""\
Port {port}
ListenAddress {SSH_HOST}
HostKey {host_key}
AuthorizedKeysFile {authorized_keys}
AllowUsers {management_user()}
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
X11Forwarding no
AllowTcpForwarding no
AllowAgentForwarding no
PermitTunnel no
PrintMotd no
UseDNS no
MaxStartups 100
MaxSessions 100
SetEnv {variables}
Subsystem netconf {proxy}
"""
