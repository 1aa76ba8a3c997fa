"""What the compiler makes of the headers that programs share with user space."""

from __future__ import annotations

import re

import numpy as np

from dataplane.bpf.btf import Field, Structure


def as_compiled(dtype: np.dtype[np.void], name: str) -> Structure:
    """A structure as `map_types` describes it, if the compiler lays it out like `dtype`."""
    fields = {}
    assert dtype.fields is not None
    for field in dtype.names or ():
        kind, offset = dtype.fields[field][:2]
        fields[field] = Field(offset, kind.itemsize)
    return Structure(name, dtype.itemsize, fields)


def macros(prefix: str, text: str) -> dict[str, int]:
    """Numbers that are defined in the text of a header, without the prefix of their names."""
    found = re.findall(rf"#define {prefix}(\w+)\s+(\d+)\b", text)
    return {name: int(value) for name, value in found}


def enumeration(name: str, text: str) -> dict[str, int]:
    """The members of an enumeration in the text of a header."""
    body = re.search(rf"enum {name} \{{(.*?)\}};", text, re.DOTALL)
    assert body is not None
    members = {}
    following = 0
    for member, value in re.findall(
        r"^\s*(\w+)(?:\s*=\s*(\d+))?\s*,", re.sub(r"/\*.*?\*/", "", body[1]), re.MULTILINE
    ):
        members[member] = following = int(value) if value else following
        following += 1
    return members
