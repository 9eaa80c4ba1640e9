"""Columns of events as frames: their dtypes, and how older events take the shape of today's schema."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import polars as pl

from featurestore.definitions.specs import ColumnSpec

COLUMN_DTYPES: dict[str, pl.DataType] = {
    "Int64": pl.Int64(),
    "Float64": pl.Float64(),
    "String": pl.String(),
    "Boolean": pl.Boolean(),
    "Binary": pl.Binary(),
    "Datetime": pl.Datetime("us", "UTC"),
    "Date": pl.Date(),
}
"""By the name that a column's spec has."""


def conform(rows: pl.DataFrame, columns: Sequence[ColumnSpec], needed: Collection[str] | None = None) -> pl.DataFrame:
    """Archived events with the columns that the source has now.

    A column that was not there when they were archived takes its default, or null; one of another type is cast, to null
    where that can't be done. needed: other columns are left as they are.
    """
    changed = []
    for column in columns:
        dtype = COLUMN_DTYPES[column.dtype]
        if needed is not None and column.name not in needed:
            continue
        if column.name not in rows.columns:
            changed.append(pl.lit(column.default if column.has_default else None).cast(dtype).alias(column.name))
        elif rows.schema[column.name] != dtype:
            changed.append(pl.col(column.name).cast(dtype, strict=False))
    return rows.with_columns(changed) if changed else rows
