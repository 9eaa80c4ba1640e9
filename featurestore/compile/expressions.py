"""Evaluate an author's expressions so that a row that makes one fail costs itself alone.

A strict cast of "abc" to a number raises for the whole batch. Here such a row's value is null, whatever batch it came
in: derived columns are null there, and `where` leaves the event out.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl


def derived(frame: pl.DataFrame, expressions: Mapping[str, pl.Expr]) -> pl.DataFrame:
    """`frame` with the derived columns; null in rows in which an expression fails."""
    try:
        return frame.with_columns(**expressions)
    except pl.exceptions.PolarsError:
        return frame.with_columns(*(evaluate(frame, expr).alias(name) for name, expr in expressions.items()))


def filtered(frame: pl.DataFrame, where: pl.Expr) -> pl.DataFrame:
    """The rows for which `where` is true; not those in which it is false, null, or fails."""
    try:
        return frame.filter(where)
    except pl.exceptions.PolarsError:
        return frame.filter(evaluate(frame, where))


def evaluate(frame: pl.DataFrame, expression: pl.Expr) -> pl.Series:
    """Values of an elementwise expression, shape (n,), null in rows in which it fails.

    Failing rows are found by halving: a batch with few of them costs few evaluations more.
    """
    dtype = frame.clear().select(expression).to_series().dtype
    return _evaluate(frame, expression, dtype)


def _evaluate(frame: pl.DataFrame, expression: pl.Expr, dtype: pl.DataType) -> pl.Series:
    try:
        # with_columns, not select: an expression of literals alone must have a value for each row, too.
        return frame.with_columns(_value=expression)["_value"].cast(dtype)
    except pl.exceptions.PolarsError:
        if frame.height == 1:
            return pl.Series([None], dtype=dtype)
        half = frame.height // 2
        parts = (frame.slice(0, half), frame.slice(half))
        values: pl.Series = pl.concat([_evaluate(part, expression, dtype) for part in parts])
        return values
