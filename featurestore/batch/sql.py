"""The rows of a query, in batches, through SQLAlchemy: any database that it has a driver for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy import URL, DateTime, bindparam, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from featurestore.definitions.batch import ENVIRONMENT
from featurestore.definitions.specs import SQLSourceSpec
from featurestore.errors import ConfigError, SourceError, SourceUnavailableError

BATCH_ROWS = 20_000
"""Rows that are asked of the database at a time; each is a tuple of Python objects until it is a column."""
EARLIEST = datetime(1900, 1, 1, tzinfo=timezone.utc)
"""What :from_time is when everything is wanted: every database knows it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_PARAMETER = re.compile(r"(?<![:\w\\]):(from_time|to_time)\b")
_EXTRAS = {"psycopg": "postgres"}


def read_query(spec: SQLSourceSpec, base_dir: Path, from_us: int | None, to_us: int) -> Iterator[pl.DataFrame]:
    """Rows of the query in the database's order, some ten thousand at a time; at least one frame, which tells columns.

    base_dir: what the path of an SQLite file is relative to. from_us, to_us: bound to :from_time and :to_time where the
    query uses them. Nothing is ever committed. Raises SourceUnavailableError when the database does not answer,
    SourceError when it refuses the query, ConfigError for a URL that is none.
    """
    url = _url(spec, base_dir)
    instants = {
        "from_time": EARLIEST if from_us is None else _EPOCH + timedelta(microseconds=from_us),
        "to_time": _EPOCH + timedelta(microseconds=to_us),
    }
    used = sorted(set(_PARAMETER.findall(spec.query)))
    query = text(spec.query).bindparams(*(bindparam(name, type_=DateTime(timezone=True)) for name in used))
    with _told(url):
        engine = create_engine(url)
        try:
            with engine.connect().execution_options(stream_results=True, max_row_buffer=BATCH_ROWS) as connection:
                result = connection.execute(query, {name: instants[name] for name in used})
                names = list(result.keys())
                for name in names:
                    if names.count(name) > 1:
                        raise SourceError(f"the query gives two columns '{name}'", hint="rename one with AS")
                yield _frame(names, [])
                for rows in result.partitions(BATCH_ROWS):
                    yield _frame(names, rows)
        finally:
            engine.dispose()


def _url(spec: SQLSourceSpec, base_dir: Path) -> URL:
    written = spec.url
    if written.startswith(ENVIRONMENT):
        name = written.removeprefix(ENVIRONMENT)
        if not os.environ.get(name):
            raise ConfigError(
                f"the environment variable {name} is not set", hint="it is the URL of a batch view's database"
            )
        written = os.environ[name]
    try:
        url = make_url(written)
    except ArgumentError as error:
        # What can't be taken apart may hold a password anywhere.
        raise ConfigError(
            f"{spec.url if spec.url.startswith(ENVIRONMENT) else 'url'} is no database URL",
            hint="like postgresql://user:password@host/database",
        ) from error
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        path = (base_dir / url.database).resolve()
        if not path.exists():  # connecting would make it
            raise SourceUnavailableError(f"there is no SQLite database at {path}")
        url = url.set(database=str(path))
    return url


@contextmanager
def _told(url: URL) -> Iterator[None]:
    """Turn SQLAlchemy's errors into ours; passwords are not shown."""
    shown = url.render_as_string(hide_password=True)
    try:
        yield
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "")
        raise ConfigError(
            f"{shown} needs {error.name}, which is not installed",
            hint=f"pip install 'featurestore[{extra}]'" if extra else f"pip install {error.name}",
        ) from error
    except NoSuchModuleError as error:
        raise ConfigError(f"{shown}: SQLAlchemy knows no such database: {error}") from error
    except OperationalError as error:
        # SQLite calls a wrong query operational, too.
        if url.get_backend_name() == "sqlite" and "locked" not in str(error):
            raise _refused(shown, error) from error
        raise SourceUnavailableError(f"{shown}: {_line(error)}") from error
    except SQLAlchemyError as error:
        raise _refused(shown, error) from error


def _refused(shown: str, error: SQLAlchemyError) -> SourceError:
    return SourceError(f"{shown}: {_line(error)}", hint="check the query of the SQLSource")


def _line(error: SQLAlchemyError) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def _frame(names: Sequence[str], rows: Sequence[Any]) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pl.DataFrame([_series(name, values) for name, values in zip(names, columns, strict=True)])


def _series(name: str, values: Sequence[Any]) -> pl.Series:
    """A column; whole numbers among others become what the others are, which SQLite leaves to each row."""
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return pl.Series(name, values, dtype=pl.Null)
    if kinds == {int, float} or kinds == {int, Decimal}:
        values = [value if value is None else (float if float in kinds else Decimal)(value) for value in values]
    elif len(kinds) > 1:
        told = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise SourceError(f"column '{name}' of the query holds values of several types: {told}", hint="CAST it")
    if kinds == {datetime} and any(value is not None and value.tzinfo is not None for value in values):
        return pl.Series(name, [value and value.astimezone(timezone.utc) for value in values], pl.Datetime("us", "UTC"))
    try:
        return pl.Series(name, values)
    except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        told = ", ".join(kind.__name__ for kind in kinds)
        raise SourceError(f"column '{name}' of the query holds {told}, which can't be read: {error}") from error
