"""Aggregates: which slots each reads, and how its value comes from them.

Results for no events, nulls and NaN: count and sum of nothing are 0, everything else is null; nulls are skipped as in
SQL; NaN propagates (IEEE 754). var and stddev are the sample forms (n - 1), null below two values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from featurestore.compute.slots import Column, Slot, StoredText

Fields = Mapping[str, Column]


class Values(NamedTuple):
    """Values of an aggregate, shape (m,). valid: which of them there are, None for all; text has its nulls inside."""

    values: np.ndarray | pl.Series
    valid: np.ndarray | None = None

    def series(self) -> pl.Series:
        """As a polars series with nulls."""
        values, valid = self
        if isinstance(values, pl.Series):
            return values
        if values.dtype == object:
            return pl.Series(values.tolist(), dtype=pl.String)
        series = pl.Series(values)
        return series if valid is None else series.zip_with(pl.Series(valid), pl.Series([None], dtype=series.dtype))

    def scalars(self, dtype: str) -> list[Any]:
        """As Python scalars of `dtype` with None; what a read of few entities wants (a series costs 25 µs)."""
        values, valid = self
        if isinstance(values, np.ndarray) and dtype in _NUMPY_DTYPES:
            values = values.astype(_NUMPY_DTYPES[dtype], copy=False)
        scalars: list[Any] = values.to_list() if isinstance(values, pl.Series) else values.tolist()
        if valid is None:
            return scalars
        return [value if known else None for value, known in zip(scalars, valid.tolist(), strict=True)]


_NUMPY_DTYPES = {"Int64": np.int64, "Float64": np.float64, "Boolean": np.bool_}


@dataclass(frozen=True)
class Aggregate:
    """One aggregate function.

    slots(column, dtype): what a tile must keep; dtype is the input's ("Int64" | "Float64" | "String" | "Boolean").
    finalize(fields, column): merged fields, shape (m,), to values, shape (m,).
    output(dtype): dtype of the values. column_required: False for count only.
    """

    name: str
    slots: Callable[[str, str], tuple[Slot, ...]]
    finalize: Callable[[Fields, str], Values]
    output: Callable[[str], str]
    column_required: bool = True


def state_dtype(dtype: str) -> str:
    """How a slot stores a value of `dtype`: booleans as Int64."""
    return "Int64" if dtype == "Boolean" else dtype


def _numbers(fields: Fields, name: str) -> np.ndarray:
    return np.asarray(fields[name])


def _where(values: np.ndarray, valid: np.ndarray) -> Values:
    return Values(values, None if valid.all() else valid)


def _count(fields: Fields, column: str) -> Values:
    return Values(_numbers(fields, f"{column}:n" if column else "count"))


def _sum(fields: Fields, column: str) -> Values:
    return Values(_numbers(fields, f"{column}:sum"))


def _mean(fields: Fields, column: str) -> Values:
    n = _numbers(fields, f"{column}:n")
    with np.errstate(divide="ignore", invalid="ignore"):
        return _where(_numbers(fields, f"{column}:sum") / n, n > 0)


def _variance(fields: Fields, column: str) -> Values:
    n = _numbers(fields, f"{column}:n")
    with np.errstate(divide="ignore", invalid="ignore"):
        return _where(_numbers(fields, f"{column}:m2") / (n - 1), n > 1)


def _stddev(fields: Fields, column: str) -> Values:
    n = _numbers(fields, f"{column}:n")
    with np.errstate(divide="ignore", invalid="ignore"):
        return _where(np.sqrt(_numbers(fields, f"{column}:m2") / (n - 1)), n > 1)


def _extreme(kind: str) -> Callable[[Fields, str], Values]:
    def finalize(fields: Fields, column: str) -> Values:
        return _where(_numbers(fields, f"{column}:{kind}"), _numbers(fields, f"{column}:n") > 0)

    return finalize


def _pick(kind: str) -> Callable[[Fields, str], Values]:
    def finalize(fields: Fields, column: str) -> Values:
        values = fields[f"{column}:{kind}"]
        assert not isinstance(values, StoredText), "text is merged before it is finalized"
        if isinstance(values, pl.Series) or values.dtype == object:
            return Values(values)
        return _where(values, _numbers(fields, f"{column}:n") > 0)

    return finalize


def _column_count_slots(column: str, dtype: str) -> tuple[Slot, ...]:
    return (Slot("n", column),) if column else (Slot("count"),)


def _slots(*kinds: str) -> Callable[[str, str], tuple[Slot, ...]]:
    def slots(column: str, dtype: str) -> tuple[Slot, ...]:
        stored = state_dtype(dtype)
        return tuple(Slot(kind, column, "Int64" if kind == "n" else stored) for kind in kinds)  # type: ignore[arg-type]

    return slots


AGGREGATES: Mapping[str, Aggregate] = {
    aggregate.name: aggregate
    for aggregate in (
        Aggregate("count", _column_count_slots, _count, lambda dtype: "Int64", column_required=False),
        Aggregate("sum", _slots("sum"), _sum, state_dtype),
        Aggregate("mean", _slots("n", "sum"), _mean, lambda dtype: "Float64"),
        Aggregate("min", _slots("n", "min"), _extreme("min"), state_dtype),
        Aggregate("max", _slots("n", "max"), _extreme("max"), state_dtype),
        Aggregate("var", _slots("n", "sum", "m2"), _variance, lambda dtype: "Float64"),
        Aggregate("stddev", _slots("n", "sum", "m2"), _stddev, lambda dtype: "Float64"),
        Aggregate("first", _slots("n", "first"), _pick("first"), lambda dtype: dtype),
        Aggregate("last", _slots("n", "last"), _pick("last"), lambda dtype: dtype),
    )
}
"""Every aggregate by name; the laws test walks this table."""
