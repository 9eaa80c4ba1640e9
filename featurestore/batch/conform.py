"""Rows of a source in the view's types: keys, features and both times, whatever the file or database had.

`misfit` says from dtypes alone whether a column can serve; `conform` then converts values, all or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from featurestore.compile.batch import CompiledBatchView
from featurestore.compile.keys import encoded_key
from featurestore.definitions.names import nearest
from featurestore.errors import SchemaError, SourceError

KEY, EVENT_US, CREATED_US = "_key", "_event_us", "_created_us"

_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
_FLOATS = (pl.Float32, pl.Float64)
_TEXTS = (pl.String, pl.Categorical, pl.Enum)
_TAKES: Mapping[str, tuple[type[pl.DataType], ...]] = {
    "Int64": _INTEGERS,
    "Float64": (*_FLOATS, *_INTEGERS, pl.Decimal),
    "String": _TEXTS,
    "Boolean": (pl.Boolean,),
}
_TIMES = (pl.Datetime, pl.Date, *_INTEGERS, *_TEXTS)
# Databases without the type: SQLite has no truth values, PostgreSQL's numeric may be a whole number.
_ALSO_FROM_SQL: Mapping[str, tuple[type[pl.DataType], ...]] = {"Boolean": _INTEGERS, "Int64": (pl.Decimal,)}
_TEXT = pl.col("text")
# How an instant may be written, as expressions that are null for any other text: with a zone, in UTC without one, a
# date, milliseconds since the epoch.
_TEXT_FORMS = (
    *(
        _TEXT.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False).dt.epoch("us")
        for form in ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")
    ),
    *(
        _TEXT.str.to_datetime(form, time_unit="us", strict=False).dt.epoch("us")
        for form in ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M")
    ),
    _TEXT.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")).dt.epoch("us"),
    pl.when(_TEXT.str.contains(r"^\d{11,15}$")).then(_TEXT).cast(pl.Int64, strict=False) * 1_000,
)


@dataclass(frozen=True)
class Converted:
    """rows: `_key`, join keys, features, `_event_us`, `_created_us` (Int64, null where the source says none).

    null_keys, null_times: rows that were left out because a join key, or the event time, is null.
    """

    rows: pl.DataFrame
    null_keys: int
    null_times: int


def needed_columns(view: CompiledBatchView) -> list[str]:
    """Columns that the view reads from its source, each once."""
    source = view.spec.source
    times = [source.event_time, *([source.created_time] if source.created_time else [])]
    return list(dict.fromkeys([*view.key_names, *view.features, *times]))


def check_schema(view: CompiledBatchView, schema: Mapping[str, pl.DataType], place: str, kind: str) -> None:
    """Check that a source has what the view needs. kind: "parquet" | "csv" | "sql". Raises SchemaError."""
    what = f"view '{view.name}'"
    source = view.spec.source
    roles = {source.event_time: "event_time column", source.created_time or "": "created_time column"}
    wanted = {key.name: ("join key", key.dtype) for key in view.spec.join_keys}
    wanted |= {field.name: ("field", field.output_dtype) for field in view.spec.features}
    for column in needed_columns(view):
        role = wanted[column][0] if column in wanted else roles[column]
        if column not in schema:
            raise SchemaError(f"{what}: {role} '{column}' is not in {place}", hint=nearest(column, schema))
    for column, (role, dtype) in wanted.items():
        if misfit(schema[column], dtype, kind):
            fitting = next((name for name, takes in _TAKES.items() if schema[column].base_type() in takes), None)
            raise SchemaError(
                f"{what}: {role} '{column}' is {dtype}, but {schema[column]} in {place}",
                hint=f"declare it as pl.{fitting}" if fitting else "cast it where the source is made",
            )
    for column in filter(None, (source.event_time, source.created_time)):
        if schema[column].base_type() not in (*_TIMES, pl.Null):
            raise SchemaError(
                f"{what}: {roles[column]} '{column}' is {schema[column]} in {place}",
                hint="use a timestamp, a date, an integer of epoch milliseconds, or ISO 8601 text",
            )


def misfit(found: pl.DataType, wanted: str, kind: str) -> bool:
    """Whether a column of dtype `found` can't serve as `wanted`. CSV is all text, which is read as what is wanted."""
    if kind == "csv" or found == pl.Null:
        return False
    also = _ALSO_FROM_SQL.get(wanted, ()) if kind == "sql" else ()
    return found.base_type() not in (*_TAKES[wanted], *also)


def conform(view: CompiledBatchView, raw: pl.DataFrame, place: str) -> Converted:
    """Convert rows of a source that passed `check_schema`.

    Raises SourceError naming the first value that is none of its type; nothing is guessed or left out for that.
    """
    source = view.spec.source
    wanted = {key.name: key.dtype for key in view.spec.join_keys}
    wanted |= {field.name: field.output_dtype for field in view.spec.features}
    columns = [_typed(raw[name], dtype, f"{place}: column '{name}'") for name, dtype in wanted.items()]
    columns.append(_instant_us(raw[source.event_time], f"{place}: column '{source.event_time}'").alias(EVENT_US))
    if source.created_time is None:
        columns.append(pl.Series(CREATED_US, [None], dtype=pl.Int64).new_from_index(0, len(raw)))
    else:
        created = _instant_us(raw[source.created_time], f"{place}: column '{source.created_time}'")
        columns.append(created.alias(CREATED_US))
    rows = pl.DataFrame(columns).with_columns(encoded_key(view.spec.join_keys).alias(KEY))
    keyed = rows.filter(pl.col(KEY).is_not_null())
    timed = keyed.filter(pl.col(EVENT_US).is_not_null())
    return Converted(timed, len(rows) - len(keyed), len(keyed) - len(timed))


def _typed(values: pl.Series, dtype: str, what: str) -> pl.Series:
    out = typed(values, dtype)
    _refuse_lost(values, out, f"{what} holds", f"which is no {dtype}")
    return out


def typed(values: pl.Series, dtype: str) -> pl.Series:
    """Values of a column that is no `misfit` as "Int64", "Float64", "String" or "Boolean"; null for one that is
    none."""
    if values.dtype == pl.Null:
        return values.cast(getattr(pl, dtype))
    text = values.dtype.base_type() in _TEXTS
    if dtype == "Boolean" and (text or values.dtype.is_integer()):
        words = {"true": True, "false": False} if text else {"1": True, "0": False}
        plain = values.cast(pl.String).str.to_lowercase()
        out = plain.replace_strict(words, default=None, return_dtype=pl.Boolean)
    elif dtype == "Int64" and values.dtype.is_decimal():
        whole = values.cast(pl.Int64, strict=False)
        out = whole.set(whole.cast(pl.Float64) != values.cast(pl.Float64), None)
    else:
        out = values.cast(getattr(pl, dtype), strict=False)
    return out.alias(values.name)


def _instant_us(values: pl.Series, what: str) -> pl.Series:
    out = instants_us(values)
    why = "in milliseconds since the epoch" if values.dtype.is_integer() else ""
    _refuse_lost(values, out, f"{what} holds", f"which is no {'' if why else 'ISO 8601 '}instant {why}".rstrip())
    return out


def instants_us(values: pl.Series) -> pl.Series:
    """Instants in µs, null for what is none. Without a zone they are UTC; integers are milliseconds since the epoch,
    as Kafka's are."""
    dtype = values.dtype
    if dtype == pl.Null:
        return values.cast(pl.Int64)
    if isinstance(dtype, pl.Datetime):
        return values.dt.epoch("us")
    if dtype == pl.Date:
        return values.cast(pl.Datetime("us")).dt.epoch("us")
    if dtype.is_integer():
        out = values.cast(pl.Int64, strict=False)
        return (out * 1_000).set(out.abs() > 2**53, None)
    text = values.cast(pl.String).str.strip_chars().alias("text").to_frame()
    text = text.with_columns(
        pl.col("text").str.replace(r"^(\d{4}-\d{2}-\d{2}) ", "${1}T").str.replace(r"[zZ]$", "+00:00")
    )
    out = pl.Series([None], dtype=pl.Int64).new_from_index(0, len(values))
    for form in _TEXT_FORMS:
        # Most often the first one that fits any row fits all.
        if out.null_count() > values.null_count():
            out = text.select(pl.coalesce(out, form)).to_series()
    return out


def _refuse_lost(before: pl.Series, after: pl.Series, holds: str, why: str) -> None:
    lost = before.is_not_null() & after.is_null()
    if lost.any():
        raise SourceError(
            f"{holds} {before.filter(lost)[0]!r}, {why}", hint="mend the value at its source, or change the definition"
        )
