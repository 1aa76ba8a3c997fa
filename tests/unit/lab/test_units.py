"""Quantities with units."""

import pytest

from tools.lab.errors import TopologyError
from tools.lab.units import format_ns, parse_duration_ns, parse_probability


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("0ms", 0), ("1ns", 1), ("250us", 250_000), ("5ms", 5_000_000), ("1.5 s", 1_500_000_000)],
)
def test_durations(text: str, nanoseconds: int) -> None:
    assert parse_duration_ns("key", text) == nanoseconds


@pytest.mark.parametrize("value", [5, "5", "5 min", "-5ms", "ms", None, "", 0.5, True])
def test_durations_need_a_unit(value: object) -> None:
    with pytest.raises(TopologyError) as caught:
        parse_duration_ns("links[0].forward.delay", value)
    assert str(caught.value) == (
        f"links[0].forward.delay: {value!r} is not a duration: write it as '5ms' (ns, us, ms, s)"
    )


def test_a_fraction_of_a_nanosecond_is_refused() -> None:
    with pytest.raises(TopologyError, match="not a whole number of nanoseconds"):
        parse_duration_ns("key", "1.5ns")


@pytest.mark.parametrize(("text", "value"), [("0%", 0.0), ("2%", 0.02), ("100 %", 1.0)])
def test_probabilities(text: str, value: float) -> None:
    assert parse_probability("key", text) == value


@pytest.mark.parametrize("value", [2, 0.02, "2", "-1%", None])
def test_probabilities_need_a_percent_sign(value: object) -> None:
    with pytest.raises(TopologyError) as caught:
        parse_probability("key", value)
    assert str(caught.value) == f"key: {value!r} is not a percentage: write it as '2%'"


def test_more_than_everything_is_refused() -> None:
    with pytest.raises(TopologyError) as caught:
        parse_probability("key", "101%")
    assert str(caught.value) == "key: '101%' is above 100%"


def test_durations_are_shown_in_a_unit_of_their_size() -> None:
    shown = [format_ns(value) for value in (0, 12, 1_500, 20_000_000, 2_000_000_000)]
    assert shown == ["0", "12ns", "1.5us", "20ms", "2s"]
