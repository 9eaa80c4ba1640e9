"""Columns of decoded values: dtypes and times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from featurestore.compile.columns import COLUMN_DTYPES
from featurestore.definitions.specs import ColumnSpec

US_PER_UNIT = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
"""unit -> (multiply, divide) to get µs."""

TIME_MIN_US = -62_135_596_800_000_000
"""0001-01-01T00:00:00Z"""
TIME_MAX_US = 253_402_300_799_999_999
"""9999-12-31T23:59:59.999999Z"""
DATE_MIN_DAYS, DATE_MAX_DAYS = TIME_MIN_US // 86_400_000_000, TIME_MAX_US // 86_400_000_000


def column_series(column: ColumnSpec, values: Sequence[object]) -> tuple[pl.Series, np.ndarray | None]:
    """One column of decoded values as a series of its dtype.

    Returns also which values are no time between the years 1 and 9999 in UTC, boolean, shape (n,), or None
    where all are; such a value is null in the series, or must not be used.
    """
    dtype = COLUMN_DTYPES[column.dtype]
    if column.dtype == "Datetime" and column.unit in US_PER_UNIT:
        multiply, divide = US_PER_UNIT[column.unit]
        # Of a unit finer than µs the last instant has more digits than TIME_MAX_US.
        low, high = -(-TIME_MIN_US * divide // multiply), ((TIME_MAX_US + 1) * divide - 1) // multiply
        numbers, outside = _split(pl.Series(column.name, values, dtype=pl.Int64), low, high)
        return (numbers * multiply if multiply > 1 else numbers // divide).cast(dtype), outside
    if column.dtype == "Date" and column.unit != "iso":
        days, outside = _split(pl.Series(column.name, values, dtype=pl.Int64), DATE_MIN_DAYS, DATE_MAX_DAYS)
        return days.cast(pl.Int32).cast(dtype), outside
    series = pl.Series(column.name, values, dtype=dtype)
    if column.dtype == "Datetime":
        # 9999-12-31T23:00-02:00 is a date-time that Python holds, but lies in the year 10000 in UTC.
        _, outside = _split(series.to_physical(), TIME_MIN_US, TIME_MAX_US)
        return series, outside
    return series, None


def _split(numbers: pl.Series, low: int, high: int) -> tuple[pl.Series, np.ndarray | None]:
    """The numbers with null for those outside [low, high], and which these are (None: none)."""
    least, most = numbers.min(), numbers.max()
    if not isinstance(least, int) or not isinstance(most, int) or (least >= low and most <= high):
        return numbers, None
    outside = ((numbers < low) | (numbers > high)).fill_null(False)
    return numbers.zip_with(~outside, pl.Series([None], dtype=numbers.dtype)), outside.to_numpy()


def empty_frame(columns: Sequence[ColumnSpec]) -> pl.DataFrame:
    """No rows, with the columns' dtypes."""
    return pl.DataFrame(schema={column.name: COLUMN_DTYPES[column.dtype] for column in columns})
