"""Typed dataclasses to JSON values and back, driven by their annotations.

Understood: dataclasses, enums, IP addresses, `X | None`, unions of
dataclasses (a "type" member tells which), `tuple[X, ...]`, `tuple[X, Y]`,
`dict[K, V]` (as a list of pairs, since keys need not be strings), and what
JSON has itself. Decoding checks types as it goes and raises `CodecError`,
never anything else.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import ipaddress
import types
import typing
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

Json = Any
Convert = Callable[[Any], Any]


class CodecError(ValueError):
    """A JSON value that is not the encoding of the expected type."""


_SIMPLE = (int, str, bool, float, IPv4Address, IPv6Address)


@dataclasses.dataclass(frozen=True, slots=True)
class Codec:
    """Both directions for one type."""

    encode: Convert
    decode: Convert


@functools.cache
def codec(kind: Any) -> Codec:
    """The codec of a type; TypeError for one that is not understood."""
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            item = codec(arguments[0])
            return _shared(_sequence(item)) if arguments[0] in _SIMPLE else _sequence(item)
        return _pair([codec(argument) for argument in arguments])
    if origin is dict:
        return _mapping(codec(arguments[0]), codec(arguments[1]))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _record(kind)
    if isinstance(kind, type):
        if issubclass(kind, enum.Enum):
            return _enum(kind)
        if kind in (int, str, bool, float):
            return _plain(kind)
        if kind in (IPv4Address, IPv6Address):
            return _address(kind)
    raise TypeError(f"no codec for {kind!r}")


def _identity(value: Any) -> Any:
    return value


def _plain(kind: type) -> Codec:
    accepted = (int, float) if kind is float else (kind,)

    def decode(value: Json) -> Any:
        if type(value) not in accepted:
            raise CodecError(f"{value!r} is not of type {kind.__name__}")
        return kind(value)

    return Codec(_identity, decode)


def _address(kind: type) -> Codec:
    def decode(value: Json) -> Any:
        try:
            return _parsed(kind, value)
        except ValueError as error:
            raise CodecError(str(error)) from None

    return Codec(str, decode)


def _enum(kind: type[enum.Enum]) -> Codec:
    members = {member.value: member for member in kind}

    def encode(value: enum.Enum) -> Json:
        return value.value

    def decode(value: Json) -> enum.Enum:
        try:
            return members[value]
        except (KeyError, TypeError):
            raise CodecError(f"{value!r} is not a value of {kind.__name__}") from None

    return Codec(encode, decode)


def _union(arguments: tuple[Any, ...]) -> Codec:
    kinds = tuple(kind for kind in arguments if kind is not types.NoneType)
    if set(kinds) == {IPv4Address, IPv6Address}:
        inner = Codec(str, _decode_address)
    elif len(kinds) == 1:
        inner = codec(kinds[0])
    elif all(dataclasses.is_dataclass(kind) for kind in kinds):
        inner = _tagged(kinds)
    else:
        raise TypeError(f"no codec for a union of {kinds!r}")
    if len(kinds) == len(arguments):
        return inner
    return Codec(
        lambda value: None if value is None else inner.encode(value),
        lambda value: None if value is None else inner.decode(value),
    )


def _decode_address(value: Json) -> IPv4Address | IPv6Address:
    if not isinstance(value, str):
        raise CodecError(f"{value!r} is not an IP address")
    try:
        address: IPv4Address | IPv6Address = _parsed(ipaddress.ip_address, value)
    except ValueError as error:
        raise CodecError(str(error)) from None
    return address


@functools.lru_cache(maxsize=4096)
def _parsed(parse: Convert, value: str) -> Any:
    """Thousands of sessions have few addresses: most are the same object."""
    return parse(value)


def _tagged(kinds: tuple[type, ...]) -> Codec:
    by_name = {kind.__name__: kind for kind in kinds}

    def encode(value: Any) -> Json:
        kind: Any = type(value)
        return {"type": kind.__name__, **codec(kind).encode(value)}

    def decode(value: Json) -> Any:
        if not isinstance(value, dict):
            raise CodecError(f"{value!r} is not an object")
        members = dict(value)
        name = members.pop("type", None)
        kind: Any = by_name.get(name) if isinstance(name, str) else None
        if kind is None:
            raise CodecError(f"{name!r} is none of {', '.join(sorted(by_name))}")
        return codec(kind).decode(members)

    return Codec(encode, decode)


def _list(value: Json) -> list[Json]:
    if not isinstance(value, list):
        raise CodecError(f"{value!r} is not an array")
    return value


def _sequence(item: Codec) -> Codec:
    return Codec(
        lambda value: [item.encode(element) for element in value],
        lambda value: tuple(item.decode(element) for element in _list(value)),
    )


def _shared(kind: Codec) -> Codec:
    """Thousands of sessions have few paths: equal ones are one object."""
    known = functools.lru_cache(maxsize=4096)(lambda value: value)
    return Codec(kind.encode, lambda value: known(kind.decode(value)))


def _pair(items: list[Codec]) -> Codec:
    def encode(value: Any) -> Json:
        return [item.encode(element) for item, element in zip(items, value, strict=True)]

    def decode(value: Json) -> Any:
        if len(_list(value)) != len(items):
            raise CodecError(f"an array of {len(value)} is not one of {len(items)}")
        return tuple(item.decode(element) for item, element in zip(items, value, strict=True))

    return Codec(encode, decode)


def _mapping(key: Codec, item: Codec) -> Codec:
    entry = _pair([key, item])
    return Codec(
        lambda value: [entry.encode(pair) for pair in value.items()],
        lambda value: dict(entry.decode(pair) for pair in _list(value)),
    )


def _record(kind: type) -> Codec:
    hints = typing.get_type_hints(kind)
    fields = [(field.name, codec(hints[field.name])) for field in dataclasses.fields(kind)]
    names = {name for name, _ in fields}

    def encode(value: Any) -> Json:
        return {name: item.encode(getattr(value, name)) for name, item in fields}

    def decode(value: Json) -> Any:
        if not isinstance(value, dict) or value.keys() != names:
            raise CodecError(f"{value!r} does not have the members of {kind.__name__}")
        return kind(**{name: item.decode(value[name]) for name, item in fields})

    return Codec(encode, decode)
