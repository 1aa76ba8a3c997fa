"""What the kernel knows about the types of a map (BTF): names, offsets and sizes.

The compiler writes it, the kernel checks and keeps it: two sides that share a
structure can be compared without repeating a layout by hand.
Documentation/bpf/btf.rst of the kernel describes the encoding.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dataplane.bpf.syscall import bpf, map_info, object_info

_BTF_GET_FD_BY_ID = 19
_BTF_INFO = struct.Struct("=QII")
_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")
_MEMBER = struct.Struct("=III")
_ARRAY = struct.Struct("=III")
_MAGIC = 0xEB9F

_INT, _POINTER, _ARRAY_KIND, _STRUCT, _UNION, _ENUM = range(1, 7)
_TYPEDEF, _VOLATILE, _CONST = 8, 9, 10
_TRAILING = {_INT: 4, _ARRAY_KIND: _ARRAY.size, 14: 4, 17: 4}
"""Bytes behind a type of this kind."""
_TRAILING_EACH = {_STRUCT: _MEMBER.size, _UNION: _MEMBER.size, _ENUM: 8, 13: 8, 15: 12, 19: 12}
"""Bytes behind a type of this kind, for each of its parts."""


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a structure, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Structure:
    name: str
    """Empty for a type without a name of its own."""

    size: int
    fields: dict[str, Field]
    """Empty for what is not a structure."""


@dataclass(frozen=True, slots=True)
class _Type:
    name: str
    kind: int
    parts: int
    size_or_type: int
    trailing: bytes


class TypeTable:
    """All types of one BTF object."""

    def __init__(self, data: bytes) -> None:
        """Raises ValueError where `data` is no BTF."""
        magic, _, _, header, type_at, type_length, string_at, string_length = _HEADER.unpack_from(
            data
        )
        if magic != _MAGIC:
            raise ValueError(f"BTF begins with {_MAGIC:#x}, not with {magic:#x}")
        strings = data[header + string_at : header + string_at + string_length]
        body = data[header + type_at : header + type_at + type_length]
        self._types = list(_types(body, strings))
        self._strings = strings

    def structure(self, number: int) -> Structure:
        """The type with this number, by what it is called and made of."""
        kind = self._resolve(number)
        fields = {}
        if kind.kind == _STRUCT:
            for name_at, member, bits in _MEMBER.iter_unpack(kind.trailing):
                fields[_text(self._strings, name_at)] = Field(bits // 8, self.size(member))
        return Structure(kind.name, self.size(number), fields)

    def size(self, number: int) -> int:
        """Bytes of a value of this type."""
        kind = self._resolve(number)
        if kind.kind == _POINTER:
            return 8
        if kind.kind == _ARRAY_KIND:
            element, _, count = _ARRAY.unpack(kind.trailing)
            return int(count) * self.size(element)
        return kind.size_or_type

    def _resolve(self, number: int) -> _Type:
        kind = self._types[number - 1]
        while kind.kind in (_TYPEDEF, _VOLATILE, _CONST):
            kind = self._types[kind.size_or_type - 1]
        return kind


def map_types(fd: int) -> tuple[Structure, Structure]:
    """Key and value of a map. Raises OSError; ENODATA where its types are not known."""
    info = map_info(fd)
    if not info.btf_id:
        raise OSError(errno.ENODATA, f"map {info.name} has no BTF")
    table = _load(info.btf_id)
    return table.structure(info.btf_key_type), table.structure(info.btf_value_type)


def _load(number: int) -> TypeTable:
    with _object(number) as fd:
        length = _BTF_INFO.unpack_from(object_info(fd, _BTF_INFO.size))[1]
        data = ctypes.create_string_buffer(length)
        request = _BTF_INFO.pack(ctypes.addressof(data), length, number)
        object_info(fd, _BTF_INFO.size, request)
        return TypeTable(data.raw)


@contextlib.contextmanager
def _object(number: int) -> Iterator[int]:
    fd = bpf(_BTF_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))
    try:
        yield fd
    finally:
        os.close(fd)


def _types(body: bytes, strings: bytes) -> Iterator[_Type]:
    at = 0
    while at < len(body):
        name_at, info, size_or_type = _TYPE.unpack_from(body, at)
        at += _TYPE.size
        kind, parts = info >> 24 & 0x1F, info & 0xFFFF
        length = _TRAILING.get(kind, 0) + parts * _TRAILING_EACH.get(kind, 0)
        yield _Type(_text(strings, name_at), kind, parts, size_or_type, body[at : at + length])
        at += length


def _text(strings: bytes, at: int) -> str:
    return strings[at : strings.index(b"\0", at)].decode()
