"""The value of an aggregate over a list of events, from its definition, exact wherever Python can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tests.oracle.model import Feature
from tests.oracle.verdicts import Applied

Number = int | float

REL = 1e-9


def aggregate(feature: Feature, events: Sequence[Applied]) -> Any:
    """The feature's value over these events, which are in order."""
    if feature.column is None:
        assert feature.function == "count"
        return len(events)
    values = _column(feature, events)
    function = feature.function
    if function == "count":
        return len(values)
    if function == "sum":
        return _sum(values) if values or not feature.floats else 0.0
    if not values:
        return None
    if function == "mean":
        return _mean(values)
    if function in ("min", "max"):
        if any(_is_nan(value) for value in values):
            return math.nan
        return min(values) if function == "min" else max(values)
    if function in ("first", "last"):
        return values[0] if function == "first" else values[-1]
    assert function in ("var", "stddev"), function
    if len(values) < 2:
        return None
    variance = _variance(values)
    return variance if function == "var" else math.sqrt(variance)


def scale(feature: Feature, events: Sequence[Applied]) -> float:
    """A value may differ by 1e-9 of this: Σ|x| of a sum, that by n of a mean, 0 of what is only picked.

    var and stddev: 1e-6 of the spread itself, and what rounding the inputs alone can do to it.
    """
    if feature.column is None or feature.function not in ("sum", "mean", "var", "stddev"):
        return 0.0
    values = [abs(float(value)) for value in _column(feature, events)]
    if not values or not all(math.isfinite(value) for value in values):
        return 0.0
    if feature.function == "sum":
        return math.fsum(values)
    if feature.function == "mean":
        return math.fsum(values) / len(values)
    if len(values) < 2:
        return 0.0
    deviation = math.sqrt(_variance(_column(feature, events)))
    noise = 1e-12 * max(values)
    if feature.function == "stddev":
        return (1e-6 * deviation + noise) / REL
    return (1e-6 * deviation**2 + noise * deviation + noise**2) / REL


def _column(feature: Feature, events: Sequence[Applied]) -> list[Any]:
    assert feature.column is not None
    values = [event.event.get(feature.column) for event in events]
    return [float(value) if feature.floats else value for value in values if value is not None]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _plain(values: Sequence[Number]) -> float | None:
    """What IEEE arithmetic makes of infinities and NaN; None when there are none."""
    odd = [value for value in values if isinstance(value, float) and not math.isfinite(value)]
    return sum(odd) if odd else None


def _sum(values: Sequence[Number]) -> Number:
    if any(isinstance(value, float) for value in values):
        odd = _plain(values)
        return math.fsum(values) if odd is None else odd
    return sum(int(value) for value in values)


def _mean(values: Sequence[Number]) -> float:
    odd = _plain(values)
    if odd is not None:
        return odd
    return float(sum(Fraction(value) for value in values) / len(values))


def _variance(values: Sequence[Number]) -> float:
    if _plain(values) is not None:
        return math.nan
    exact = [Fraction(value) for value in values]
    mean = sum(exact, Fraction(0)) / len(exact)
    return float(sum((value - mean) ** 2 for value in exact) / (len(exact) - 1))
