"""The Segment Routing Header against exact bytes, and path helpers."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from dataplane.srv6 import (
    SEGMENTS_MAX,
    SegmentRoutingHeader,
    SrhError,
    complete_path,
    rthdr_for_socket,
)

FIRST, LAST = IPv6Address("fc00::1"), IPv6Address("2001:db8::9")
HEADER = SegmentRoutingHeader(
    segments=(FIRST, LAST), segments_left=1, next_header=17, flags=8, tag=0x1234
)
HEADER_BYTES = bytes.fromhex("11 04 04 01 01 08 1234") + LAST.packed + FIRST.packed


def test_bytes() -> None:
    assert HEADER.encode() == HEADER_BYTES
    assert SegmentRoutingHeader.decode(HEADER_BYTES + b"payload") == HEADER
    assert SegmentRoutingHeader.decode(memoryview(HEADER_BYTES)) == HEADER
    assert (HEADER.length, HEADER.last_entry) == (40, 1)


def test_tlvs() -> None:
    padding = bytes.fromhex("0406000000000000")
    data = bytes.fromhex("11 05") + HEADER_BYTES[2:] + padding
    assert replace(HEADER, tlvs=padding).encode() == data
    assert SegmentRoutingHeader.decode(data) == replace(HEADER, tlvs=padding)


def test_active_segment() -> None:
    assert HEADER.active_segment == FIRST
    assert replace(HEADER, segments_left=0).active_segment == LAST
    assert replace(HEADER, segments_left=2).active_segment is None


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (replace(HEADER, segments=()), "SRH has no segments"),
        (replace(HEADER, tlvs=b"\0"), "SRH TLVs of 1 bytes are not a multiple of 8"),
        (replace(HEADER, segments=(FIRST,) * 128), "SRH of 2056 bytes is longer than 2048"),
        (replace(HEADER, segments_left=3), "SRH Segments Left 3 is beyond Last Entry 1"),
        (replace(HEADER, segments_left=-1), "SRH Segments Left -1 is beyond Last Entry 1"),
    ],
)
def test_fields_that_make_no_header(header: SegmentRoutingHeader, message: str) -> None:
    with pytest.raises(SrhError) as caught:
        header.encode()
    assert str(caught.value) == message


def test_a_field_out_of_range() -> None:
    with pytest.raises(SrhError, match=r"^SRH has a field out of range: "):
        replace(HEADER, tag=0x10000).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEADER_BYTES[:7], "SRH of 7 bytes is shorter than 8"),
        (HEADER_BYTES[:39], "SRH of 40 bytes is truncated to 39"),
        (b"\x11\x04\x02" + HEADER_BYTES[3:], "routing header of type 2 is not an SRH"),
        (b"\x11\x03" + HEADER_BYTES[2:], "SRH of 32 bytes has no room for Last Entry 1"),
        (b"\x11\x04\x04\x03" + HEADER_BYTES[4:], "SRH Segments Left 3 is beyond Last Entry 1"),
    ],
)
def test_bytes_that_are_no_header(data: bytes, message: str) -> None:
    with pytest.raises(SrhError) as caught:
        SegmentRoutingHeader.decode(data)
    assert str(caught.value) == message


def test_complete_path() -> None:
    assert complete_path((), LAST) == ()
    assert complete_path((FIRST,), LAST) == (FIRST, LAST)
    assert complete_path((FIRST, LAST), LAST) == (FIRST, LAST)


def test_rthdr_for_socket() -> None:
    assert rthdr_for_socket((FIRST, LAST)) == (
        bytes.fromhex("3b 04 04 01 01 00 0000") + LAST.packed + FIRST.packed
    )
    assert len(rthdr_for_socket((FIRST,) * SEGMENTS_MAX)) == 2040


def test_rthdr_for_socket_refuses() -> None:
    with pytest.raises(SrhError, match=r"^SRH has no segments$"):
        rthdr_for_socket(())
    with pytest.raises(SrhError, match=r"^SRH of 2056 bytes is longer than 2048$"):
        rthdr_for_socket((FIRST,) * (SEGMENTS_MAX + 1))
