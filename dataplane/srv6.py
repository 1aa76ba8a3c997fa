"""SID lists and the Segment Routing Header (RFC 8754 §2).

Segment lists are in travel order everywhere in this project: the first element
is visited first, the last is the destination. Only the wire has them reversed,
and only this module knows.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address

ROUTING_TYPE = 4
"""Routing Type of the Segment Routing Header (RFC 8754 §2)."""

NEXT_HEADER_NONE = 59
"""No Next Header (RFC 8200 §4.7)."""

SEGMENTS_MAX = 127
"""SIDs that the 8-bit Hdr Ext Len leaves room for, at two units each."""

_FIXED = struct.Struct("!BBBBBBH")
_ADDRESS_LENGTH = 16
_LENGTH_MAX = 8 * 256


class SrhError(ValueError):
    """Bytes that are no Segment Routing Header, or fields that make none."""


@dataclass(frozen=True, slots=True)
class SegmentRoutingHeader:
    """One Segment Routing Header.

    Layout in bytes: Next Header 1, Hdr Ext Len 1, Routing Type 1, Segments
    Left 1, Last Entry 1, Flags 1, Tag 2, then 16 for each segment, then TLVs.
    """

    segments: tuple[IPv6Address, ...]
    """At least one, in travel order."""

    segments_left: int
    """Index, in wire order, of the active segment. One more than the last entry
    in a reduced header, whose first segment is in the destination address alone
    (RFC 8754 §4.1.1)."""

    next_header: int
    flags: int = 0
    tag: int = 0
    tlvs: bytes = b""
    """Encoded TLVs with their padding: a multiple of 8 bytes."""

    @property
    def last_entry(self) -> int:
        """Index, in wire order, of the segment that is visited first."""
        return len(self.segments) - 1

    @property
    def length(self) -> int:
        """Bytes on the wire."""
        return _FIXED.size + _ADDRESS_LENGTH * len(self.segments) + len(self.tlvs)

    @property
    def active_segment(self) -> IPv6Address | None:
        """The segment that Segments Left points at; None where a reduced header lacks it."""
        index = self.last_entry - self.segments_left
        return self.segments[index] if index >= 0 else None

    def encode(self) -> bytes:
        """The header's bytes; SrhError where the fields make none."""
        if not self.segments:
            raise SrhError("SRH has no segments")
        if len(self.tlvs) % 8:
            raise SrhError(f"SRH TLVs of {len(self.tlvs)} bytes are not a multiple of 8")
        if self.length > _LENGTH_MAX:
            raise SrhError(f"SRH of {self.length} bytes is longer than {_LENGTH_MAX}")
        _check_segments_left(self.segments_left, self.last_entry)
        try:
            fixed = _FIXED.pack(
                self.next_header,
                self.length // 8 - 1,
                ROUTING_TYPE,
                self.segments_left,
                self.last_entry,
                self.flags,
                self.tag,
            )
        except struct.error as cause:
            raise SrhError(f"SRH has a field out of range: {cause}") from None
        return fixed + b"".join(sid.packed for sid in reversed(self.segments)) + self.tlvs

    @classmethod
    def decode(cls, data: bytes | memoryview) -> SegmentRoutingHeader:
        """Read the header that ``data`` starts with; what follows ``length`` bytes is ignored."""
        if len(data) < _FIXED.size:
            raise SrhError(f"SRH of {len(data)} bytes is shorter than {_FIXED.size}")
        next_header, ext_len, routing_type, segments_left, last_entry, flags, tag = (
            _FIXED.unpack_from(data)
        )
        if routing_type != ROUTING_TYPE:
            raise SrhError(f"routing header of type {routing_type} is not an SRH")
        length = 8 * (ext_len + 1)
        if len(data) < length:
            raise SrhError(f"SRH of {length} bytes is truncated to {len(data)}")
        end = _FIXED.size + _ADDRESS_LENGTH * (last_entry + 1)
        if end > length:
            raise SrhError(f"SRH of {length} bytes has no room for Last Entry {last_entry}")
        _check_segments_left(segments_left, last_entry)
        return cls(
            segments=tuple(
                IPv6Address(bytes(data[at : at + _ADDRESS_LENGTH]))
                for at in range(end - _ADDRESS_LENGTH, _FIXED.size - 1, -_ADDRESS_LENGTH)
            ),
            segments_left=segments_left,
            next_header=next_header,
            flags=flags,
            tag=tag,
            tlvs=bytes(data[end:length]),
        )


def _check_segments_left(segments_left: int, last_entry: int) -> None:
    if not 0 <= segments_left <= last_entry + 1:
        raise SrhError(f"SRH Segments Left {segments_left} is beyond Last Entry {last_entry}")


def complete_path(
    segments: Sequence[IPv6Address], destination: IPv6Address
) -> tuple[IPv6Address, ...]:
    """A SID list that ends with ``destination``, which is appended where it is missing.

    An empty list stays empty: no SIDs, no SRH.
    """
    path = tuple(segments)
    if path and path[-1] != destination:
        path += (destination,)
    return path


def rthdr_for_socket(segments: Sequence[IPv6Address]) -> bytes:
    """The value of the ``IPV6_RTHDR`` socket option for a complete path.

    ``segments`` ends with the destination. Linux sends to the first segment,
    writes the address given to ``connect`` or ``sendto`` into the slot of the
    last, and fills in the Next Header. It reads the first segment from this value
    before it writes the last, so a path of one needs the real destination here.
    SrhError for an empty path or one of more than ``SEGMENTS_MAX``.
    """
    path = tuple(segments)
    return SegmentRoutingHeader(
        segments=path, segments_left=len(path) - 1, next_header=NEXT_HEADER_NONE
    ).encode()
