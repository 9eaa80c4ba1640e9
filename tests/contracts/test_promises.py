"""Each promise holds for values within it, and is told as broken for those outside."""

from __future__ import annotations

import math

import polars as pl
import pytest

from featurestore.contracts import FeatureContract
from featurestore.contracts.promises import broken_dtype, broken_promises, same_value


@pytest.mark.parametrize(
    ("promised", "values", "says"),
    [
        ({"min": 0}, [0, 5], None),
        ({"min": 0}, [-1, 5], "smallest value is -1"),
        ({"max": 5}, [0, 5], None),
        ({"max": 5}, [0, 6], "largest value is 6"),
        ({"min": 0}, [math.nan, 1.0], "1 of 2 values are NaN"),
        ({"min": 0}, [None, None], None),
        ({"max_null_rate": 0.5}, [None, 1], None),
        ({"max_null_rate": 0.4}, [None, 1], "50.00% of 2 values are null"),
        ({"max_null_rate": 0}, [], None),
        ({"allowed": ["a", "b"]}, ["a", None, "b"], None),
        ({"allowed": ["a"]}, ["a", "c", "d"], "'c' is not among the allowed values, nor 1 more"),
        ({"allowed": [1]}, [True], "True is not among"),
        ({"allowed": [1]}, [1.0], None),
        ({"min": 1}, ["a"], "min and max are for numbers"),
    ],
)
def test_promises(promised: dict[str, object], values: list[object], says: str | None):
    series = pl.Series(values, dtype=pl.Int64 if not any(value is not None for value in values) else None)
    broken = list(broken_promises(FeatureContract(**promised), series))  # type: ignore[arg-type]
    assert len(broken) == (says is not None)
    assert says is None or says in broken[0]


def test_a_type_is_promised():
    assert broken_dtype(FeatureContract(dtype="Int64"), "Int64") is None
    assert broken_dtype(FeatureContract(), "Int64") is None
    assert broken_dtype(FeatureContract(dtype="Int64"), "Float64") == "it is Float64, promised is Int64"


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        (1, 1, True),
        (30.5, 30.5 * (1 + 1e-12), True),
        (30.5, 30.6, False),
        (30, 30.0, True),
        (True, 1, False),
        (None, None, True),
        (None, 0, False),
        (0, None, False),
        ("a", "a", True),
        ("1", 1, False),
        (math.nan, math.nan, True),
        (math.nan, 1.0, False),
    ],
)
def test_golden_values(expected: object, got: object, same: bool):
    assert same_value(expected, got) is same
