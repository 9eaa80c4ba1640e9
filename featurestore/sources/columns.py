"""Columns of decoded values: dtypes and times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from featurestore.definitions.specs import ColumnSpec

POLARS_DTYPES: dict[str, pl.DataType] = {
    "Int64": pl.Int64(),
    "Float64": pl.Float64(),
    "String": pl.String(),
    "Boolean": pl.Boolean(),
    "Binary": pl.Binary(),
    "Datetime": pl.Datetime("us", "UTC"),
    "Date": pl.Date(),
}
US_PER_UNIT = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
"""unit -> (multiply, divide) to get µs."""

TIME_MIN_US = -62_135_596_800_000_000
"""0001-01-01T00:00:00Z"""
TIME_MAX_US = 253_402_300_799_999_999
"""9999-12-31T23:59:59.999999Z"""


def column_series(column: ColumnSpec, values: Sequence[object]) -> tuple[pl.Series, np.ndarray | None]:
    """One column of decoded values as a series of its dtype.

    Returns also a mask of the values that are no instant between the years 1 and 9999 (null in the series), or None
    where every value fits.
    """
    if column.dtype == "Datetime" and column.unit in US_PER_UNIT:
        numbers = pl.Series(column.name, values, dtype=pl.Int64)
        multiply, divide = US_PER_UNIT[column.unit]
        low, high = -((-TIME_MIN_US * divide) // multiply), (TIME_MAX_US * divide) // multiply
        outside = ((numbers < low) | (numbers > high)).fill_null(False)
        if outside.any():
            numbers = numbers.zip_with(~outside, pl.Series([None], dtype=pl.Int64))
        times = (numbers * multiply if multiply > 1 else numbers // divide).cast(POLARS_DTYPES["Datetime"])
        return times, outside.to_numpy() if outside.any() else None
    return pl.Series(column.name, values, dtype=POLARS_DTYPES[column.dtype]), None


def empty_frame(columns: Sequence[ColumnSpec]) -> pl.DataFrame:
    """No rows, with the columns' dtypes."""
    return pl.DataFrame(schema={column.name: POLARS_DTYPES[column.dtype] for column in columns})
