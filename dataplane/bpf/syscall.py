"""bpf(2): what bcc has no word for.

Layouts are those of `union bpf_attr` in include/uapi/linux/bpf.h; fields that a
command does not need are left to the zeros that follow.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = range(5)
"""enum xdp_action."""

PROG_TYPE_XDP = 6
ATTACH_XDP = 37

XDP_FLAGS_UPDATE_IF_NOEXIST = 1 << 0
XDP_FLAGS_SKB_MODE = 1 << 1
XDP_FLAGS_DRV_MODE = 1 << 2

TEST_LIVE_FRAMES = 1 << 1
"""BPF_F_TEST_XDP_LIVE_FRAMES: frames are really sent, dropped or passed on."""

_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}
_MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE = 1, 2, 3
_PROG_LOAD, _PROG_TEST_RUN = 5, 10
_PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 13, 15
_MAP_UPDATE_BATCH = 26
_LINK_CREATE, _LINK_UPDATE = 28, 29

_ACTION, _ROOM, _SIZE_OUT_AT = struct.Struct("=4xI"), struct.Struct("=I"), 12
"""Of what a test run is asked and answers: `retval` and `data_size_out`."""

_NAME_LENGTH = 15

LOG_SIZE = 1 << 24
"""Bytes that the verifier may use to explain itself."""

_libc = ctypes.CDLL(None, use_errno=True)


class LoadError(OSError):
    """The kernel refuses a program; `log` is what the verifier said."""

    def __init__(self, number: int, name: str, log: str) -> None:
        super().__init__(number, f"program {name} is refused: {os.strerror(number)}")
        self.log = log

    @property
    def reason(self) -> str:
        """The last line of the verifier's log that says something, else the error."""
        lines = [line for line in self.log.splitlines() if line and not _is_count(line)]
        return lines[-1] if lines else str(self.strerror)


def _is_count(line: str) -> bool:
    return line.startswith(("processed ", "verification time", "stack depth"))


@dataclass(frozen=True, slots=True)
class Run:
    """What a program did with one packet."""

    action: int
    data: bytes
    """The packet as the program left it."""

    duration_ns: int
    """Mean time of one run."""


def bpf(command: int, attributes: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """One call. Raises OSError."""
    number = _SYSCALL_NUMBERS[platform.machine()]
    size = len(attributes)
    buffer = (
        attributes
        if isinstance(attributes, ctypes.Array)
        else ctypes.create_string_buffer(attributes, size)
    )
    result = int(_libc.syscall(number, command, buffer, size))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def load_program(
    kind: int, code: bytes, name: str, licence: str, expected_attach_type: int = 0
) -> int:
    """The descriptor of a program that the verifier has accepted. Raises LoadError."""
    instructions = ctypes.create_string_buffer(code, len(code))
    licence_text = ctypes.create_string_buffer(licence.encode())

    def attributes(log: ctypes.Array[ctypes.c_char] | None) -> bytes:
        return struct.pack(
            "=IIQQIIQII16sII",
            kind,
            len(code) // 8,
            ctypes.addressof(instructions),
            ctypes.addressof(licence_text),
            1 if log else 0,
            len(log) if log else 0,
            ctypes.addressof(log) if log else 0,
            0,
            0,
            name.encode()[:_NAME_LENGTH],
            0,
            expected_attach_type,
        )

    try:
        return bpf(_PROG_LOAD, attributes(None))
    except OSError:
        log = ctypes.create_string_buffer(LOG_SIZE)
        try:
            return bpf(_PROG_LOAD, attributes(log))
        except OSError as error:
            text = log.value.decode(errors="replace")
            raise LoadError(error.errno or 0, name, text) from None


def run_program(
    fd: int, packet: bytes, *, repeat: int = 1, context: bytes = b"", room: int = 512
) -> Run:
    """Run an XDP program on `packet`, `repeat` times, in the kernel's test bench.

    `context` is what `xdp_context` makes; `room` is how much longer
    than the request the packet may become. Raises OSError.
    """
    source = ctypes.create_string_buffer(packet, len(packet))
    result = ctypes.create_string_buffer(len(packet) + room)
    md = ctypes.create_string_buffer(context, len(context)) if context else None
    attributes = bytearray(
        struct.pack(
            "=IIIIQQIIIIQQIII4x",
            fd,
            0,
            len(packet),
            len(result),
            ctypes.addressof(source),
            ctypes.addressof(result),
            repeat,
            0,
            len(context),
            0,
            ctypes.addressof(md) if md else 0,
            0,
            0,
            0,
            0,
        )
    )
    buffer = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    bpf(_PROG_TEST_RUN, buffer)
    _, action, _, length, _, _, _, duration_ns = struct.unpack_from("=IIIIQQII", attributes)
    return Run(action, result.raw[:length], duration_ns)


class Exchange:
    """An XDP program that is run on one packet, again and again: what user space asks it
    and what it answers. `packet` is written before, and read after."""

    def __init__(self, fd: int, length: int) -> None:
        self.packet = ctypes.create_string_buffer(length)
        at = ctypes.addressof(self.packet)
        request = struct.pack(
            "=IIIIQQIIIIQQIII4x", fd, 0, length, length, at, at, 1, 0, *(0,) * 7
        )  # fmt: skip
        self._attributes = ctypes.create_string_buffer(request, len(request))
        self._length = length

    def run(self) -> int:
        """The program's action. Raises OSError."""
        # The kernel leaves the length of the answer where that of its room was.
        _ROOM.pack_into(self._attributes, _SIZE_OUT_AT, self._length)
        bpf(_PROG_TEST_RUN, self._attributes)
        return int(_ACTION.unpack_from(self._attributes)[0])


def xdp_context(length: int, ingress_ifindex: int) -> bytes:
    """A `struct xdp_md` for a packet of `length` bytes that arrives on an interface."""
    return struct.pack("=IIIIII", 0, length, 0, ingress_ifindex, 0, 0)


def run_live(fd: int, packet: bytes, *, repeat: int, batch: int, ingress_ifindex: int = 0) -> bool:
    """Have an XDP program send `repeat` frames that begin as copies of `packet`.

    The program says by its action what becomes of each; `batch` (1..256) of them
    are flushed at once. Blocks, in the calling thread, until all are done (True) or
    a signal arrives (False). `ingress_ifindex` is where the frames seem to come
    from. Raises OSError.
    """
    source = ctypes.create_string_buffer(packet, len(packet))
    context = xdp_context(len(packet), ingress_ifindex)
    md = ctypes.create_string_buffer(context, len(context))
    attributes = struct.pack(
        "=IIIIQQIIIIQQIII4x",
        fd,
        0,
        len(packet),
        0,
        ctypes.addressof(source),
        0,
        repeat,
        0,
        len(context),
        0,
        ctypes.addressof(md),
        0,
        TEST_LIVE_FRAMES,
        0,
        batch,
    )
    try:
        bpf(_PROG_TEST_RUN, attributes)
    except OSError as error:
        if error.errno != errno.EINTR:
            raise
        return False
    return True


def attach_xdp(fd: int, ifindex: int, flags: int) -> int:
    """The descriptor of a link: the program is detached when its last holder dies.

    The interface is one of the calling thread's network namespace. Raises OSError:
    EBUSY or EEXIST where another program is there.
    """
    return bpf(_LINK_CREATE, struct.pack("=IIII", fd, ifindex, ATTACH_XDP, flags) + bytes(32))


def update_link(link: int, program: int) -> None:
    """Put another program in the place of a link's, without a packet in between that
    sees neither. Raises OSError."""
    bpf(_LINK_UPDATE, struct.pack("=IIII", link, program, 0, 0))


def link_ifindex(fd: int) -> int:
    """The interface that an XDP link is attached to; 0 where it is no more. Raises OSError."""
    return int(struct.unpack_from("=I", object_info(fd, 32), 16)[0])


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """A loaded program as the kernel knows it."""

    identifier: int
    name: str
    """At most 15 characters."""


@dataclass(frozen=True, slots=True)
class MapInfo:
    """A map as the kernel knows it; the types are numbers in the BTF object."""

    name: str
    key_size: int
    value_size: int
    max_entries: int
    btf_id: int
    """0 where its types are not known."""

    btf_key_type: int
    btf_value_type: int


def program_info(fd: int) -> ProgramInfo:
    """About a program. Raises OSError."""
    info = object_info(fd, 80)
    return ProgramInfo(struct.unpack_from("=II", info)[1], _name(info[64:80]))


def program_by_id(identifier: int) -> ProgramInfo:
    """About a program of anyone. Raises OSError: ENOENT where it is gone."""
    fd = bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", identifier, 0, 0))
    try:
        return program_info(fd)
    finally:
        os.close(fd)


def map_info(fd: int) -> MapInfo:
    """About a map. Raises OSError."""
    info = object_info(fd, 80)
    key_size, value_size, max_entries = struct.unpack_from("=III", info, 8)
    btf_id, key_type, value_type = struct.unpack_from("=III", info, 64)
    name = _name(info[24:40])
    return MapInfo(name, key_size, value_size, max_entries, btf_id, key_type, value_type)


def map_id(fd: int) -> int:
    """The kernel's number of a map. Raises OSError."""
    return int(struct.unpack_from("=II", object_info(fd, 8))[1])


def object_info(fd: int, size: int, request: bytes = b"") -> bytes:
    """`size` bytes of what BPF_OBJ_GET_INFO_BY_FD says; `request` is what the kernel
    finds there. Raises OSError."""
    info = ctypes.create_string_buffer(request, size)
    bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, size, ctypes.addressof(info)))
    return info.raw


def _name(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="replace")


def update_element(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Put one entry into a map. Raises OSError: E2BIG where it is full."""
    _element(_MAP_UPDATE, fd, key, ctypes.create_string_buffer(value, len(value)), flags)


def update_elements(fd: int, keys: bytes, values: bytes, count: int) -> None:
    """Put `count` entries into a map, one after another, with one wait of the kernel's for
    all of them. Raises OSError: those before the one that failed are in the map."""
    key_buffer = ctypes.create_string_buffer(keys, len(keys))
    value_buffer = ctypes.create_string_buffer(values, len(values))
    at = ctypes.addressof(key_buffer), ctypes.addressof(value_buffer)
    bpf(_MAP_UPDATE_BATCH, struct.pack("=QQQQIIQQ", 0, 0, *at, count, fd, 0, 0))


def lookup_element(fd: int, key: bytes, size: int) -> bytes | None:
    """The value of `key`, `size` bytes; None where there is none. Raises OSError."""
    value = ctypes.create_string_buffer(size)
    try:
        _element(_MAP_LOOKUP, fd, key, value, 0)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def lookup_per_cpu(fd: int, key: bytes, size: int) -> list[bytes]:
    """The values of `key` in a per-CPU map, one a possible CPU. Raises OSError."""
    step = -(-size // 8) * 8
    value = lookup_element(fd, key, step * possible_cpus())
    if value is None:
        return []
    return [value[at : at + size] for at in range(0, len(value), step)]


@functools.cache
def possible_cpus() -> int:
    """How many CPUs the kernel makes room for."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")
    return 1 + max(int(part.rpartition("-")[2]) for part in ranges)


def delete_element(fd: int, key: bytes) -> bool:
    """Whether there was such an entry. Raises OSError."""
    try:
        _element(_MAP_DELETE, fd, key, None, 0)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def _element(
    command: int, fd: int, key: bytes, value: ctypes.Array[ctypes.c_char] | None, flags: int
) -> None:
    key_buffer = ctypes.create_string_buffer(key, len(key))
    address = ctypes.addressof(value) if value is not None else 0
    bpf(command, struct.pack("=I4xQQQ", fd, ctypes.addressof(key_buffer), address, flags))
