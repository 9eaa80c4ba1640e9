"""Files of history: their rows as a source's events, and every row that can't be one.

They are asked for the columns of the source's schema, under the same names. What a message would be a dead letter for
(no event time, a null where none is allowed, a value of another type) is no event here either; since a row of a file
has no raw value that could be kept, it is told with its place, and the caller takes none of the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from featurestore.batch.conform import instants_us, misfit, typed
from featurestore.batch.files import FoundFile, SourceFiles
from featurestore.batches import ARRIVAL_TIME, EVENT_TIME
from featurestore.compile.columns import COLUMN_DTYPES
from featurestore.definitions.names import nearest
from featurestore.definitions.specs import ColumnSpec, FileSourceSpec, SourceSpec
from featurestore.errors import SchemaError

TIME_MIN_US, TIME_MAX_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999."""

_INSTANT = pl.Datetime("us", "UTC")
_ROW, _VALID = "_row", "_valid"
# Of numbers that stand for instants, (multiply, divide) to get µs.
_UNITS: Mapping[str, tuple[int, int]] = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
_TIMES: Mapping[str, tuple[type[pl.DataType], ...]] = {
    "Datetime": (pl.Datetime, pl.Date, pl.Int64, pl.Int32, pl.UInt64, pl.UInt32, pl.String),
    "Date": (pl.Date, pl.String),
    "Binary": (pl.Binary,),
}


@dataclass(frozen=True)
class BadRows:
    """Rows of a file that can't be events for one reason. first: number of the first, from 1; value: what it has."""

    file: str
    column: str
    reason: str
    first: int
    value: str
    rows: int


@dataclass(frozen=True)
class HistoryRows:
    """Some rows of a file. events: those older than asked for, with the source's columns, event_time and arrival_time.

    read: rows of the file; left_out: those that are not older. bad: what can't be an event of the older ones.
    """

    events: pl.DataFrame
    read: int
    left_out: int
    bad: tuple[BadRows, ...]


class HistoryFiles:
    """The files of one or more places, each once, in the order of the places and their names.

    paths: as FileSource takes them; one that ends in .csv is CSV, all others Parquet. arrival: a column of instants,
    None: an event arrived when it happened. Raises SourceUnavailableError when a place can't be listed or nothing
    matches, SchemaError, naming file and column, when a file lacks what the source needs; SourceError for one of
    another format.
    """

    def __init__(self, source: SourceSpec, paths: Sequence[str], base_dir: Path, arrival: str | None = None) -> None:
        self._source = source
        self._arrival = arrival
        self._found: dict[tuple[str, str], tuple[SourceFiles, FoundFile, str]] = {}
        for path in paths:
            kind = "csv" if path.partition("?")[0].endswith(".csv") else "parquet"
            files = SourceFiles(FileSourceSpec(path=path, format=kind, event_time=source.event_time), base_dir)
            for file in files.files:
                # Named twice, as by two patterns that overlap, a file still counts once.
                self._found.setdefault(
                    (path.partition("://")[0] if "://" in path else "", file.path), (files, file, kind)
                )
        self._missing = [self._check(files, file, kind) for files, file, kind in self._found.values()]

    def __len__(self) -> int:
        return len(self._found)

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size for _, file, _ in self._found.values())

    def read(self, before_us: int) -> Iterator[HistoryRows]:
        """The rows of all files, some ten thousand at a time. Raises SourceError when one can't be read."""
        for (files, file, _), missing in zip(self._found.values(), self._missing, strict=True):
            names = [column.name for column in self._source.columns if column.name not in missing]
            wanted = [*names, *([self._arrival] if self._arrival and self._arrival not in names else [])]
            first = 1
            for raw in files.read(file, wanted):
                yield self._rows(raw, file.path, first, before_us)
                first += raw.height

    def _check(self, files: SourceFiles, file: FoundFile, kind: str) -> frozenset[str]:
        """The source's columns that the file may lack, and does. Raises SchemaError."""
        schema, what = files.schema(file), f"source '{self._source.name}'"
        missing = []
        for column in self._source.columns:
            found = schema.get(column.name)
            if found is None and (column.has_default or column.nullable) and column.name != self._source.event_time:
                missing.append(column.name)
            elif found is None:
                raise SchemaError(
                    f"{what}: column '{column.name}' is not in {file.path}", hint=nearest(column.name, schema)
                )
            elif self._misfit(found, column, kind):
                raise SchemaError(
                    f"{what}: column '{column.name}' is {column.dtype}, but {found} in {file.path}",
                    hint="cast it where the file is made; nothing was imported",
                )
        if self._arrival is not None:
            arrival = schema.get(self._arrival)
            if arrival is None:
                raise SchemaError(
                    f"{what}: arrival column '{self._arrival}' is not in {file.path}",
                    hint=nearest(self._arrival, schema),
                )
            if self._misfit(arrival, ColumnSpec(name=self._arrival, dtype="Datetime"), kind):
                raise SchemaError(f"{what}: arrival column '{self._arrival}' is {arrival} in {file.path}, no instant")
        return frozenset(missing)

    @staticmethod
    def _misfit(found: pl.DataType, column: ColumnSpec, kind: str) -> bool:
        if column.dtype in _TIMES:
            return found != pl.Null and found.base_type() not in _TIMES[column.dtype]
        return misfit(found, column.dtype, kind)

    def _rows(self, raw: pl.DataFrame, file: str, first: int, before_us: int) -> HistoryRows:
        columns = {column.name: column for column in self._source.columns}
        time = columns[self._source.event_time]
        event_us = _instants(raw[time.name], time)
        event_us = event_us.set((event_us < TIME_MIN_US) | (event_us > TIME_MAX_US), None)
        rows = raw.with_columns(
            pl.Series(_ROW, range(first, first + raw.height), dtype=pl.Int64), event_us.alias(EVENT_TIME)
        )
        # A row whose time is not known can't be left out either.
        rows = rows.filter(event_us.is_null() | (event_us < before_us))
        bad = list(_bad_rows(file, time, rows[time.name], rows[EVENT_TIME], rows[_ROW], nullable=False))
        made = []
        for column in self._source.columns:
            if column.name in rows.columns:
                values = _values(rows[column.name], column)
                if column is not time:
                    bad += _bad_rows(file, column, rows[column.name], values, rows[_ROW], nullable=column.nullable)
            else:
                default = column.default if column.has_default else None
                values = pl.Series([default], dtype=COLUMN_DTYPES[column.dtype]).new_from_index(0, rows.height)
            made.append(values.alias(column.name))
        arrival = rows[EVENT_TIME]
        if self._arrival is not None:
            arrived = ColumnSpec(name=self._arrival, dtype="Datetime")
            given = _instants(rows[self._arrival], arrived)
            bad += _bad_rows(file, arrived, rows[self._arrival], given, rows[_ROW], nullable=True)
            arrival = given.fill_null(arrival)
        times = [rows[EVENT_TIME].cast(_INSTANT), arrival.cast(_INSTANT).alias(ARRIVAL_TIME)]
        return HistoryRows(pl.DataFrame([*made, *times]), raw.height, raw.height - rows.height, tuple(bad))


def _values(values: pl.Series, column: ColumnSpec) -> pl.Series:
    """Values as the source's column has them, null for what is none."""
    if column.dtype == "Datetime":
        return _instants(values, column).cast(_INSTANT)
    if column.dtype == "Date":
        text = values.dtype == pl.String
        return values.str.strip_chars().str.to_date("%Y-%m-%d", strict=False) if text else values.cast(pl.Date)
    if column.dtype == "Binary":
        return values.cast(pl.Binary)
    return typed(values, column.dtype)


def _instants(values: pl.Series, column: ColumnSpec) -> pl.Series:
    """In µs. A number, or text that is one, is in the unit that the schema says, milliseconds where it says none."""
    multiply, divide = _UNITS.get(column.unit or "ms", _UNITS["ms"])
    numbers = values
    if values.dtype == pl.String:
        numbers = values.str.strip_chars().str.to_integer(strict=False)
    if not numbers.dtype.is_integer():
        return instants_us(values)
    numbers = numbers.cast(pl.Int64, strict=False)
    counted = numbers.set(numbers.abs() > TIME_MAX_US * divide // multiply, None) * multiply // divide
    return counted if values.dtype != pl.String else counted.zip_with(numbers.is_not_null(), instants_us(values))


def _bad_rows(
    file: str, column: ColumnSpec, given: pl.Series, values: pl.Series, numbers: pl.Series, *, nullable: bool
) -> Iterator[BadRows]:
    lost = given.is_not_null() & values.is_null()
    if lost.any():
        kind = "instant between the years 1 and 9999" if column.dtype == "Datetime" else column.dtype
        value = f"{given.filter(lost)[0]!r}"
        yield BadRows(file, column.name, f"no {kind}", int(numbers.filter(lost)[0]), value, int(lost.sum()))
    null = given.is_null()
    if not nullable and null.any():
        yield BadRows(file, column.name, "null", int(numbers.filter(null)[0]), "null", int(null.sum()))
