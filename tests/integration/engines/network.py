"""A small SRv6 network of namespaces.

    sender                     router                     reflector
    fd00:a::1 ──── va / ra ── fd00:a::ff
                              fd00:b::ff ── rb / vb ──── fd00:b::1

The router owns the SIDs fc00:e::1 (End, used on the way forth) and fc00:e::2
(End, used on the way back). Everything the tests send stays inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address

import pytest

from dataplane.bpf.syscall import bpf, load_program

SENDER = IPv6Address("fd00:a::1")
REFLECTOR = IPv6Address("fd00:b::1")
FORTH = IPv6Address("fc00:e::1")
BACK = IPv6Address("fc00:e::2")

_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 0x0003
_LINK_CREATE, _SCHED_CLS, _TCX_EGRESS, _SKB_VLAN_PUSH = 28, 3, 47, 18
_MOVE, _CALL, _EXIT = 0xB7, 0x85, 0x95
_libc = ctypes.CDLL(None, use_errno=True)
_count = itertools.count()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread, and the threads and processes that it starts, are in the namespace."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        _setns(there.fileno())
        try:
            yield
        finally:
            _setns(home.fileno())


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def eventually(condition: Callable[[], object], what: str, timeout_s: float = 15.0) -> None:
    """Wait until `condition` holds; fail with `what` if it never does."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"never happened: {what}")
        time.sleep(0.02)


class Network:
    """Three namespaces, gone at the end."""

    def __init__(self) -> None:
        tag = f"stamp-{os.getpid()}-{next(_count)}"
        self.sender, self.router, self.reflector = f"{tag}-s", f"{tag}-r", f"{tag}-x"

    def __enter__(self) -> Network:
        try:
            self._build()
        except subprocess.CalledProcessError as error:
            self.__exit__()
            raise RuntimeError(f"{error.cmd}: {error.stderr}") from error
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.sender, self.router, self.reflector):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def _build(self) -> None:
        for name in (self.sender, self.router, self.reflector):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            for knob in ("net.ipv6.conf.all.seg6_enabled", "net.ipv6.conf.default.seg6_enabled"):
                sysctl(name, knob, 1)
            sysctl(name, "net.ipv6.conf.default.accept_dad", 0)
        sysctl(self.router, "net.ipv6.conf.all.forwarding", 1)
        self.join_sender()
        self.join_reflector()

    def join_sender(self) -> None:
        """The link between router and sender, which a test may have deleted."""
        self._join(self.sender, "va", "fd00:a::1/64", "ra", "fd00:a::ff/64")
        ip("-n", self.sender, "-6", "route", "add", "default", "via", "fd00:a::ff")
        self._route_sid(BACK, "ra")

    def join_reflector(self) -> None:
        """The same between router and reflector."""
        self._join(self.reflector, "vb", "fd00:b::1/64", "rb", "fd00:b::ff/64")
        ip("-n", self.reflector, "-6", "route", "add", "default", "via", "fd00:b::ff")
        self._route_sid(FORTH, "rb")

    def _route_sid(self, sid: IPv6Address, device: str) -> None:
        ip(
            *("-n", self.router, "-6", "route", "replace", f"{sid}/128"),
            *("encap", "seg6local", "action", "End", "dev", device),
        )

    def _join(self, node: str, near: str, address: str, far: str, router_address: str) -> None:
        ip(
            *("-n", node, "link", "add", near, "type", "veth"),
            *("peer", "name", far, "netns", self.router),
        )
        for name, device, local in ((node, near, address), (self.router, far, router_address)):
            ip("-n", name, "-6", "address", "add", local, "dev", device, "nodad")
            ip("-n", name, "link", "set", device, "up")
            sysctl(name, f"net.ipv6.conf.{device}.seg6_enabled", 1)
        # A veth takes frames of an XDP program at the other end only with this.
        gro = ("ethtool", "-K", far, "gro", "on")
        with inside(self.router):
            subprocess.run(gro, check=True, capture_output=True, text=True)


def sysctl(namespace: str, knob: str, value: int) -> None:
    with inside(namespace), open("/proc/sys/" + knob.replace(".", "/"), "w") as file:
        file.write(str(value))


@contextlib.contextmanager
def tagging(namespace: str, device: str, vlan: int) -> Iterator[None]:
    """What leaves by a device has a VLAN tag, as from a VLAN on the device: beside the frame,
    unless the device puts it in (`ethtool -K`: txvlan). Skips the test where the kernel has
    no such hook (before Linux 6.6)."""
    # skb_vlan_push(skb, htons(ETH_P_8021Q), vlan), then let it pass.
    code = b"".join(
        struct.pack("=BBhi", operation, register, 0, value)
        for operation, register, value in (
            (_MOVE, 2, socket.htons(0x8100)),
            (_MOVE, 3, vlan),
            (_CALL, 0, _SKB_VLAN_PUSH),
            (_MOVE, 0, 0),
            (_EXIT, 0, 0),
        )
    )
    program = load_program(_SCHED_CLS, code, "tagging", "GPL")
    try:
        with inside(namespace):
            index = socket.if_nametoindex(device)
            link = bpf(_LINK_CREATE, struct.pack("=IIII32x", program, index, _TCX_EGRESS, 0))
    except OSError as error:
        if error.errno == errno.EINVAL:
            pytest.skip("this kernel has no programs at tcx hooks")
        raise
    finally:
        os.close(program)
    try:
        yield
    finally:
        os.close(link)


class Capture:
    """What passes one interface: whole frames, from an AF_PACKET socket."""

    def __init__(self, namespace: str, device: str) -> None:
        with inside(namespace):
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)
            )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind((device, 0))
        self._socket.setblocking(False)

    def frames(self) -> list[bytes]:
        """Those that have passed since the last call."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(2048))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()
