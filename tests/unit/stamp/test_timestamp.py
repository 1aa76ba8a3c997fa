"""Wire timestamps and the Error Estimate against hand-computed values."""

from __future__ import annotations

import pytest

from dataplane.stamp.timestamp import (
    ERA_NS,
    NS_PER_S,
    ErrorEstimate,
    TimestampFormat,
    decode_timestamp,
    encode_timestamp,
)

NTP, PTPV2 = TimestampFormat.NTP, TimestampFormat.PTPV2


@pytest.mark.parametrize(
    ("unix_ns", "fmt", "value"),
    [
        (0, NTP, 0x83AA7E80_00000000),
        (500_000_000, NTP, 0x83AA7E80_80000000),
        (1, NTP, 0x83AA7E80_00000004),
        (999_999_999, NTP, 0x83AA7E80_FFFFFFFC),
        (-2_208_988_800 * NS_PER_S, NTP, 0),
        (2_085_978_496 * NS_PER_S, NTP, 0),
        (0, PTPV2, 0),
        (1_642_167_729_971_258_123, PTPV2, 0x61E17DB1_39E4390B),
        (-1, PTPV2, 0xFFFFFFFF_3B9AC9FF),
        (4_294_967_296 * NS_PER_S, PTPV2, 0),
    ],
)
def test_vectors(unix_ns: int, fmt: TimestampFormat, value: int) -> None:
    assert encode_timestamp(unix_ns, fmt) == value
    assert decode_timestamp(value, fmt, unix_ns + 10 * 365 * 86_400 * NS_PER_S) == unix_ns


def test_the_fraction_is_of_two_to_the_32() -> None:
    assert decode_timestamp(0x83AA7E80_40000000, NTP, 0) == 250_000_000


def test_the_largest_fraction_rounds_up_to_the_next_second() -> None:
    assert decode_timestamp(0x83AA7E80_FFFFFFFF, NTP, 0) == NS_PER_S


@pytest.mark.parametrize("fmt", list(TimestampFormat))
@pytest.mark.parametrize("era", [-1, 0, 1, 2])
def test_the_era_nearest_to_the_reference_is_taken(fmt: TimestampFormat, era: int) -> None:
    value = encode_timestamp(12_345, fmt)
    assert decode_timestamp(value, fmt, era * ERA_NS - 5) == era * ERA_NS + 12_345


def test_a_reference_before_the_rollover_reads_a_timestamp_after_it() -> None:
    rollover_ns = 2_085_978_496 * NS_PER_S
    assert decode_timestamp(7 << 32, NTP, rollover_ns - 1) == rollover_ns + 7 * NS_PER_S


def test_the_tai_offset_counts_for_ptp_alone() -> None:
    assert encode_timestamp(NS_PER_S, PTPV2, tai_offset_s=37) == 38 << 32
    assert decode_timestamp(38 << 32, PTPV2, 0, tai_offset_s=37) == NS_PER_S
    assert encode_timestamp(0, NTP, tai_offset_s=37) == encode_timestamp(0, NTP)
    assert decode_timestamp(0x83AA7E80 << 32, NTP, 0, tai_offset_s=37) == 0


@pytest.mark.parametrize(
    ("estimate", "value"),
    [
        (ErrorEstimate(False, NTP, 0, 1), 0x0001),
        (ErrorEstimate(True, NTP, 0, 1), 0x8001),
        (ErrorEstimate(False, PTPV2, 0, 1), 0x4001),
        (ErrorEstimate(True, PTPV2, 63, 255), 0xFFFF),
    ],
)
def test_error_estimate_bits(estimate: ErrorEstimate, value: int) -> None:
    assert estimate.encode() == value
    assert ErrorEstimate.decode(value) == estimate


@pytest.mark.parametrize(
    ("scale", "multiplier", "error_ns"),
    [(0, 1, 1), (32, 1, NS_PER_S), (31, 3, 1_500_000_000), (0, 255, 60), (22, 1, 976_563)],
)
def test_error_ns_is_rounded_up(scale: int, multiplier: int, error_ns: int) -> None:
    assert ErrorEstimate(True, NTP, scale, multiplier).error_ns == error_ns


@pytest.mark.parametrize(
    ("error_ns", "scale", "multiplier"),
    [
        (0, 0, 1),
        (1, 0, 5),
        (59, 0, 254),
        (60, 1, 129),
        (NS_PER_S, 25, 128),
        # 65438 units are 255.6 of 256, so the multiplier rounds up to 256 and is halved.
        (15_236, 9, 128),
    ],
)
def test_from_error_ns(error_ns: int, scale: int, multiplier: int) -> None:
    estimate = ErrorEstimate.from_error_ns(error_ns, True, PTPV2)
    assert estimate == ErrorEstimate(True, PTPV2, scale, multiplier)


def test_the_largest_error_and_beyond() -> None:
    largest = ErrorEstimate(False, NTP, 63, 255)
    assert ErrorEstimate.from_error_ns(largest.error_ns, False, NTP) == largest
    message = "clock error 547608330240000000001 ns is beyond what an Error Estimate can say"
    with pytest.raises(ValueError, match=f"^{message}$"):
        ErrorEstimate.from_error_ns(largest.error_ns + 1, False, NTP)


def test_a_negative_error_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^clock error -1 ns is negative$"):
        ErrorEstimate.from_error_ns(-1, True, NTP)


@pytest.mark.parametrize("multiplier", [-1, 0, 256])
def test_the_multiplier_is_never_sent_out_of_range(multiplier: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^Error Estimate multiplier {multiplier} is not within 1\.\.255$"
    ):
        ErrorEstimate(True, NTP, 0, multiplier).encode()


@pytest.mark.parametrize("scale", [-1, 64])
def test_the_scale_is_never_sent_out_of_range(scale: int) -> None:
    with pytest.raises(ValueError, match=rf"^Error Estimate scale {scale} is not within 0\.\.63$"):
        ErrorEstimate(True, NTP, scale, 1).encode()


def test_in_format_changes_the_z_bit_alone() -> None:
    assert ErrorEstimate(True, NTP, 3, 4).in_format(PTPV2) == ErrorEstimate(True, PTPV2, 3, 4)
    assert ErrorEstimate(True, NTP, 3, 4).in_format(NTP) == ErrorEstimate(True, NTP, 3, 4)
