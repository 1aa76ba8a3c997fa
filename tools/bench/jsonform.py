"""Dataclasses as JSON and back, strictly: what does not fit is refused, with its place.

Known are dataclasses, str, int, float, bool, None, Decimal (as a string, so that it
stays exact), StrEnum, ``tuple[X, ...]``, ``dict[str, X]``, and unions of one of them with
None. Empty lists and objects are left out where the field has them as default; a key may be
absent where its field has a default: a version of a schema only ever gains keys. A key that
no field has is refused: it would be lost when the file is written.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, TypeVar

from tools.bench.cell import format_share

T = TypeVar("T")


class JsonFormError(ValueError):
    """A value that is not what the schema wants: the JSON path to it, and what is wrong."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


def to_json(value: Any) -> Any:
    """Return what `json.dumps` takes. Raises TypeError for a type that has no form."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_json(content)
            for f in dataclasses.fields(value)
            if (content := getattr(value, f.name)) or not _may_be_absent(f, content)
        }
    if isinstance(value, Decimal):
        return format_share(value)
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise TypeError(f"{value!r} has no form in JSON")


def _may_be_absent(field: dataclasses.Field[Any], content: Any) -> bool:
    """Whether it is an empty list or object, as it would be without the key."""
    return content == () == field.default or (content == {} and field.default_factory is dict)


def from_json(kind: type[T], value: Any, path: str = "$") -> T:
    """Return the dataclass, or other value, that `value` is the form of.

    Raises JsonFormError where it is not one.
    """
    result: T = _decoder(typing.cast(Any, kind))(value, path)
    return result


_Decoder = Callable[[Any, str], Any]


@functools.cache
def _decoder(kind: Any) -> _Decoder:
    """Return the function that decodes a type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _optional(kind, arguments)
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return functools.partial(_decode_list, _decoder(arguments[0]))
    if origin is dict and arguments[0] is str:
        return functools.partial(_decode_dict, _decoder(arguments[1]))
    if dataclasses.is_dataclass(kind):
        return functools.partial(_decode_dataclass, kind)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return functools.partial(_decode_enum, kind)
    if kind in _SCALARS:
        return _SCALARS[kind]
    raise TypeError(f"{kind} has no form in JSON")


def _optional(kind: Any, arguments: tuple[Any, ...]) -> _Decoder:
    known = [argument for argument in arguments if argument is not types.NoneType]
    if len(known) != 1 or len(arguments) != 2:
        raise TypeError(f"{kind} has no form in JSON")
    inner = _decoder(known[0])
    return lambda value, path: None if value is None else inner(value, path)


def _decode_list(inner: _Decoder, value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise JsonFormError(path, f"expected a list, not {_name(value)}")
    return tuple(inner(item, f"{path}[{index}]") for index, item in enumerate(value))


def _decode_dict(inner: _Decoder, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise JsonFormError(path, f"expected an object, not {_name(value)}")
    return {key: inner(item, f"{path}.{key}") for key, item in value.items()}


def _decode_dataclass(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise JsonFormError(path, f"expected an object, not {_name(value)}")
    hints = _hints(kind)
    for key in value:
        if key not in hints:
            raise JsonFormError(path, f"unknown key {key!r}")
    content: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            decode = _decoder(hints[field.name])
            content[field.name] = decode(value[field.name], f"{path}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise JsonFormError(path, f"key {field.name!r} is missing")
    try:
        return kind(**content)
    except JsonFormError:
        raise
    except ValueError as error:
        raise JsonFormError(path, str(error)) from error


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode_enum(kind: type[StrEnum], value: Any, path: str) -> StrEnum:
    known = [member.value for member in kind]
    if value not in known:
        raise JsonFormError(path, f"expected one of {', '.join(known)}, not {_name(value)}")
    return kind(value)


def _decode_str(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise JsonFormError(path, f"expected a string, not {_name(value)}")
    return value


def _decode_bool(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise JsonFormError(path, f"expected true or false, not {_name(value)}")
    return value


def _decode_int(value: Any, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise JsonFormError(path, f"expected an integer, not {_name(value)}")
    return value


def _decode_float(value: Any, path: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise JsonFormError(path, f"expected a number, not {_name(value)}")
    return float(value)


def _decode_decimal(value: Any, path: str) -> Decimal:
    text = _decode_str(value, path)
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise JsonFormError(path, f"expected a decimal number, not {_name(value)}")
    return number


_SCALARS: dict[Any, _Decoder] = {
    str: _decode_str,
    bool: _decode_bool,
    int: _decode_int,
    float: _decode_float,
    Decimal: _decode_decimal,
}


def _name(value: Any) -> str:
    """Return a value as an error names it: short."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
