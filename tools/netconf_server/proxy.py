"""OpenSSH subsystem: joins standard input and output to the server's Unix socket.

``Subsystem netconf PYTHON -m tools.netconf_server.proxy SOCKET`` in sshd_config. It runs as the
user who logged in, which is what the server sees as the peer of its socket. Standard library only:
one process starts for each NETCONF session.

Exit status: 0 after either side closed, 1 if the server cannot be reached, 2 for wrong usage.
"""

import os
import select
import socket
import sys

BUFFER_BYTES = 65536


def relay(sock: socket.socket, in_fd: int, out_fd: int) -> None:
    """Copy both ways until the server closes; end of input is passed on as a half-close.

    Writing to the server never blocks: it may itself be waiting for us to read.
    """
    sock.setblocking(False)
    server = sock.fileno()
    pending = b""
    reading = True
    while True:
        sources = [server, in_fd] if reading and not pending else [server]
        readable, writable, _ = select.select(sources, [server] if pending else [], [])
        if in_fd in readable:
            pending = os.read(in_fd, BUFFER_BYTES)
            if not pending:
                reading = False
                sock.shutdown(socket.SHUT_WR)
        if server in writable:
            pending = pending[sock.send(pending) :]
        if server in readable:
            data = sock.recv(BUFFER_BYTES)
            if not data:
                return
            while data:
                data = data[os.write(out_fd, data) :]


def main(arguments: list[str]) -> int:
    """Command line; returns the exit status."""
    if len(arguments) != 1:
        print("usage: python -m tools.netconf_server.proxy SOCKET", file=sys.stderr)
        return 2
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(arguments[0])
        except OSError as error:
            print(f"{arguments[0]}: {error.strerror}", file=sys.stderr)
            return 1
        try:
            relay(sock, sys.stdin.fileno(), sys.stdout.fileno())
        except (BrokenPipeError, ConnectionResetError):
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
