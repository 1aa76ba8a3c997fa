"""Which measurements a bench makes beyond the grid."""

from __future__ import annotations

from functools import partial
from typing import cast

import pytest

from tools.bench.bed import Settings as BedSettings
from tools.bench.beyond.plan import KINDS, measurements
from tools.bench.beyond.schedule import Case, Settings


def test_an_hour_is_measured_only_where_it_is_asked_for() -> None:
    engines = ("userspace", "somebody-elses")
    usual = measurements(KINDS, engines, BedSettings(), quick=False)
    assert "hour" not in {each.kind for each in usual}
    (hour,) = measurements(("hour",), engines, BedSettings(), quick=False)
    assert str(hour) == "hour of engine userspace"
    engine, settings = cast("partial[object]", hour.make).args
    assert engine == "userspace"
    assert isinstance(settings, Settings)
    assert (settings.cases, settings.duration_s) == ((Case(1, 1_000),), 3_600)


def test_an_unknown_measurement_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"no measurement magic; there are: .*schedule.*, hour$"):
        measurements(("magic",), (), BedSettings(), quick=False)
