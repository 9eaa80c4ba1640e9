"""The spine of a training set: its rows, the instant of each, and the entities of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from featurestore.compile.columns import COLUMN_DTYPES
from featurestore.definitions.specs import JoinKeySpec
from featurestore.errors import MalformedRequestError

_INSTANT = pl.Datetime("us", "UTC")
_ZONE_HINT = 'give it a zone, in polars .dt.replace_time_zone("UTC"), in a file 2026-11-23T09:00:00Z or …+01:00'


@dataclass(frozen=True)
class Spine:
    """frame: as it was given, shape (n, …). as_of: Int64 µs UTC, shape (n,). keys: join key columns in their dtypes."""

    frame: pl.DataFrame
    as_of: pl.Series
    keys: pl.DataFrame


def read_spine(given: Any, event_timestamp: str, join_keys: Sequence[JoinKeySpec]) -> Spine:
    """A spine from a polars, pandas or pyarrow frame, or from a Parquet or CSV file by its path.

    event_timestamp: column of the instants, with a zone; text is read as ISO 8601. Raises MalformedRequestError that
    names the column, and the row where one is to blame: a missing column, an instant without a zone or null, a key of
    another type than the view's (1 and "1" are different keys).
    """
    frame = _frame_of(given, {key.name: COLUMN_DTYPES[key.dtype] for key in join_keys})
    for name in (event_timestamp, *(key.name for key in join_keys)):
        if name not in frame.columns:
            raise MalformedRequestError(
                f"the spine has no column '{name}'", hint=f"it has {', '.join(frame.columns) or 'none'}"
            )
    keys = pl.DataFrame([_key_column(frame[key.name], key) for key in join_keys]) if join_keys else pl.DataFrame()
    return Spine(frame, _instants(frame[event_timestamp]), keys)


def spine_columns(path: Path) -> list[str]:
    """The columns of a Parquet or CSV file. Raises MalformedRequestError when it can't be read."""
    if not path.exists():
        raise MalformedRequestError(f"there is no spine at {path}")
    try:
        scan = pl.scan_csv(path) if path.suffix.lower() == ".csv" else pl.scan_parquet(path, hive_partitioning=False)
        return scan.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise MalformedRequestError(f"the spine {path} can't be read: {error}") from error


def _frame_of(given: Any, key_dtypes: dict[str, pl.DataType]) -> pl.DataFrame:
    if isinstance(given, pl.DataFrame):
        return given
    if isinstance(given, pl.LazyFrame):
        return given.collect()
    if isinstance(given, str | Path):
        return _read_file(Path(given), key_dtypes)
    try:
        frame = pl.from_dataframe(given) if hasattr(given, "__dataframe__") else pl.from_arrow(given)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise MalformedRequestError(f"the spine can't be read as a frame: {error}") from error
    assert isinstance(frame, pl.DataFrame)
    return frame


def _read_file(path: Path, key_dtypes: dict[str, pl.DataType]) -> pl.DataFrame:
    if not path.exists():
        raise MalformedRequestError(f"there is no spine at {path}")
    try:
        if path.suffix.lower() == ".csv":
            return pl.read_csv(path, schema_overrides=key_dtypes, infer_schema_length=10_000)
        return pl.read_parquet(path, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise MalformedRequestError(
            f"the spine {path} can't be read: {error}", hint="it is a Parquet file, or CSV with that ending"
        ) from error


def _instants(column: pl.Series) -> pl.Series:
    dtype = column.dtype
    if isinstance(dtype, pl.String):
        column = _parsed(column)
    elif not isinstance(dtype, pl.Datetime):
        raise MalformedRequestError(f"spine column '{column.name}' is {dtype}, no instant", hint=_ZONE_HINT)
    elif dtype.time_zone is None:
        raise MalformedRequestError(f"spine column '{column.name}' has no time zone", hint=_ZONE_HINT)
    if column.null_count():
        row = column.is_null().arg_max()
        raise MalformedRequestError(f"spine column '{column.name}' is null in row {row}", hint="drop such rows")
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_unit == "ns":
        # What happened in the very µs of the instant, but before it, is before it.
        return (column.dt.epoch("ns") + 999) // 1_000
    return column.dt.epoch("us")


def _parsed(column: pl.Series) -> pl.Series:
    has_zone = column.str.contains(r"[T ].*(?:Z|[+-]\d{2}:?\d{2})$")
    parsed = column.str.replace(" ", "T", literal=True).str.to_datetime(
        "%+", time_unit="us", time_zone="UTC", strict=False
    )
    wrong = column.is_not_null() & (parsed.is_null() | ~has_zone)
    if wrong.any():
        row = wrong.arg_max()
        assert row is not None
        what = "no ISO 8601 instant" if has_zone[row] else "an instant without a zone"
        raise MalformedRequestError(
            f"spine column '{column.name}', row {row}: {column[row]!r} is {what}", hint=_ZONE_HINT
        )
    return parsed


def _key_column(column: pl.Series, key: JoinKeySpec) -> pl.Series:
    dtype = column.dtype
    if key.dtype == "String" and isinstance(dtype, pl.Categorical | pl.Enum):
        return column.cast(pl.String)
    if key.dtype == "Int64" and dtype.is_integer():
        return column.cast(pl.Int64)
    if dtype != COLUMN_DTYPES[key.dtype] and not isinstance(dtype, pl.Null):
        raise MalformedRequestError(
            f"spine column '{key.name}' is {dtype}, the join key is {key.dtype}",
            hint=f'1 and "1" are different keys: cast it, in polars .cast(pl.{key.dtype})',
        )
    return column.cast(COLUMN_DTYPES[key.dtype])
