"""Holds a column of values to what a contract promises of it: type, range, allowed values, share of nulls."""

from __future__ import annotations

import math
from collections.abc import Iterator

import polars as pl

from featurestore.contracts.models import ColumnContract, FeatureContract

FLOAT_TOLERANCE = 1e-9
"""Of a float's size: sums may be added up in another order."""


def broken_dtype(promised: FeatureContract, dtype: str) -> str | None:
    """A sentence when the feature is of another type than promised."""
    if promised.dtype is None or promised.dtype == dtype:
        return None
    return f"it is {dtype}, promised is {promised.dtype}"


def broken_promises(promised: ColumnContract, values: pl.Series) -> Iterator[str]:
    """A sentence for each promise that the values break, shape (n,)."""
    if promised.max_null_rate is not None and len(values):
        rate = values.null_count() / len(values)
        if rate > promised.max_null_rate:
            yield f"{rate:.2%} of {len(values):,} values are null, promised are at most {promised.max_null_rate:.2%}"
    there = values.drop_nulls()
    if promised.allowed is not None:
        allowed = {(_kind(value), value) for value in promised.allowed}
        wrong = [value for value in there.unique(maintain_order=True).to_list() if (_kind(value), value) not in allowed]
        if wrong:
            yield f"{wrong[0]!r} is not among the allowed values" + (
                f", nor {len(wrong) - 1} more" if wrong[1:] else ""
            )
    if there.dtype.is_float() and (promised.min is not None or promised.max is not None):
        # Written so that NaN, which is neither below nor above, breaks a range, too.
        nan = int(there.is_nan().sum())
        if nan:
            yield f"{nan:,} of {len(there):,} values are NaN, which no range holds"
        there = there.drop_nans()
    if there.dtype.is_numeric() and len(there):
        lowest, highest = there.min(), there.max()
        if promised.min is not None and lowest < promised.min:  # type: ignore[operator]
            yield f"the smallest value is {lowest!r}, promised is at least {promised.min}"
        if promised.max is not None and highest > promised.max:  # type: ignore[operator]
            yield f"the largest value is {highest!r}, promised is at most {promised.max}"
    elif not there.dtype.is_numeric() and (promised.min is not None or promised.max is not None):
        yield f"it is {there.dtype}, and min and max are for numbers"


def same_value(expected: object, got: object) -> bool:
    """Whether a value is the golden one; integers and floats may stand for each other, truth values may not."""
    if isinstance(expected, bool) or isinstance(got, bool) or expected is None or got is None:
        return expected is got
    if isinstance(expected, int | float) and isinstance(got, int | float):
        if math.isnan(expected) or math.isnan(got):
            return math.isnan(expected) and math.isnan(got)
        return math.isclose(expected, got, rel_tol=FLOAT_TOLERANCE, abs_tol=FLOAT_TOLERANCE)
    return expected == got


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "truth"
    return "number" if isinstance(value, int | float) else "text"
