"""Dataclasses survive JSON, and what is none is refused with its place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest

from tools.bench.jsonform import JsonFormError, from_json, to_json


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    share: Decimal
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.share > 100:
            raise ValueError(f"{self.share} is more than everything")


@dataclass(frozen=True)
class Outer:
    name: str
    count: int
    good: bool
    colour: Colour
    inners: tuple[Inner, ...] = ()
    counters: dict[str, int] = field(default_factory=dict)


OUTER = Outer("a", 3, True, Colour.BLUE, (Inner(Decimal("0.001"), 2.0),), {"x": 1})
FORM: dict[str, Any] = {
    "name": "a",
    "count": 3,
    "good": True,
    "colour": "blue",
    "inners": [{"share": "0.001", "ratio": 2.0}],
    "counters": {"x": 1},
}


def test_there_and_back() -> None:
    assert to_json(OUTER) == FORM
    assert from_json(Outer, json.loads(json.dumps(FORM))) == OUTER


def test_what_is_empty_or_has_a_default_may_be_absent() -> None:
    short = Outer("a", 3, True, Colour.BLUE)
    form = to_json(short)
    assert set(form) == {"name", "count", "good", "colour"}
    assert from_json(Outer, form) == short
    assert to_json(Inner(Decimal(5))) == {"share": "5", "ratio": None}
    assert from_json(Inner, {"share": "5"}) == Inner(Decimal(5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 5}, "$.name: expected a string, not 5"),
        ({"count": 1.5}, "$.count: expected an integer, not 1.5"),
        ({"count": True}, "$.count: expected an integer, not true"),
        ({"good": 1}, "$.good: expected true or false, not 1"),
        ({"colour": "green"}, '$.colour: expected one of red, blue, not "green"'),
        ({"inners": {}}, "$.inners: expected a list, not an object"),
        ({"inners": [3]}, "$.inners[0]: expected an object, not 3"),
        ({"inners": [{}]}, "$.inners[0]: key 'share' is missing"),
        ({"inners": [{"share": 1}]}, "$.inners[0].share: expected a string, not 1"),
        (
            {"inners": [{"share": "x"}]},
            '$.inners[0].share: expected a decimal number, not "x"',
        ),
        (
            {"inners": [{"share": "NaN"}]},
            '$.inners[0].share: expected a decimal number, not "NaN"',
        ),
        (
            {"inners": [{"share": "1", "ratio": "2"}]},
            '$.inners[0].ratio: expected a number, not "2"',
        ),
        ({"inners": [{"share": "101"}]}, "$.inners[0]: 101 is more than everything"),
        ({"counters": []}, "$.counters: expected an object, not a list"),
        ({"counters": {"x": None}}, "$.counters.x: expected an integer, not null"),
        ({"extra": 1}, "$: unknown key 'extra'"),
        ({"name": ["a"]}, "$.name: expected a string, not a list"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(JsonFormError) as caught:
        from_json(Outer, {**FORM, **change})
    assert str(caught.value) == message


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(JsonFormError, match=r'^\$\.count: expected an integer, not "x{36}\.\.\.$'):
        from_json(Outer, {**FORM, "count": "x" * 99})


def test_what_has_no_form() -> None:
    with pytest.raises(TypeError, match="nan has no form in JSON"):
        to_json(float("nan"))
    with pytest.raises(TypeError, match="has no form in JSON"):
        to_json(object())
    with pytest.raises(TypeError, match="has no form in JSON"):
        from_json(set[int], [])
    with pytest.raises(TypeError, match="has no form in JSON"):
        from_json(dict[str, int | str], {})
