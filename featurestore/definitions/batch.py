"""Batch feature views: features that a file or a database already holds, rows valid from their event time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Union

import polars as pl

from featurestore.definitions.entity import Entity
from featurestore.definitions.metadata import (
    SLO,
    Deprecated,
    check_people,
    check_valid_range,
    check_view_metadata,
    feature_metadata,
)
from featurestore.definitions.names import Duration, check_identifier, check_name, check_not_reserved, duration_us
from featurestore.definitions.service import FeatureSelection, select
from featurestore.definitions.specs import NO_METADATA, Criticality, FeatureMetadataSpec, Number, PIIClass
from featurestore.errors import DefinitionError

FILE_FORMATS = ("parquet", "csv")
ENVIRONMENT = "env:"
"""What a database URL begins with that is looked up in an environment variable."""

_USER_IN_URL = re.compile(r"://[^/?#]*@")
_PASSWORD_IN_URL = re.compile(r"://[^/?#@]*:[^/?#@]*@")


@dataclass(frozen=True)
class FileSource:
    """Parquet or CSV files as a source of rows, one state of an entity each.

    path: a file, a folder, a glob ("limits/*.parquet", "limits/**/*.csv"), relative to the project, or a URL of an
    object store (s3://bucket/limits/*.parquet, gs://…, file://…). event_time: the column that says from when on a row
    is valid; without a zone it is UTC, an integer is milliseconds since the epoch. created_time: the column that says
    when the row was known, None where there is none. format: "parquet" or "csv", by default what the path ends in.
    Raises DefinitionError when built wrongly.
    """

    path: str
    event_time: str
    created_time: str | None = None
    format: str | None = None

    def __post_init__(self) -> None:
        what = f"file source {self.path!r}"
        if not isinstance(self.path, str) or not self.path:
            raise DefinitionError(f"{what}: path is no text", hint='like "data/limits/*.parquet"')
        if _USER_IN_URL.search(self.path):
            shown = _USER_IN_URL.sub("://…@", self.path)
            raise DefinitionError(
                f"file source {shown!r}: a key in the URL would end up in the registry",
                hint="leave it to the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role)",
            )
        _check_times(what, self.event_time, self.created_time)
        if self.format is None:
            ending = self.path.split("?")[0] if "://" in self.path else self.path
            found = next((name for name in FILE_FORMATS if ending.lower().endswith(f".{name}")), None)
            if found is None:
                raise DefinitionError(f"{what}: its format can't be told from the path", hint='say format="parquet"')
            object.__setattr__(self, "format", found)
        if self.format not in FILE_FORMATS:
            raise DefinitionError(f"{what}: unknown format {self.format!r}", hint=f"use {', '.join(FILE_FORMATS)}")


@dataclass(frozen=True)
class SQLSource:
    """The rows of a query as a source, one state of an entity each.

    url: of the database as SQLAlchemy writes it ("sqlite:///limits.db"), or "env:NAME" for one that stands in an
    environment variable, as one with a password must. query: one SELECT; it may use :from_time and :to_time, the bounds
    of what is being materialized, to let the database leave out older rows. event_time, created_time: as in FileSource.
    Raises DefinitionError when built wrongly.
    """

    url: str
    query: str
    event_time: str
    created_time: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.url, str) or not (
            re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*", self.url) or "://" in self.url
        ):
            raise DefinitionError(
                f"SQL source: url is {self.url!r}", hint='like "sqlite:///limits.db", or "env:WAREHOUSE_URL"'
            )
        if _PASSWORD_IN_URL.search(self.url):
            raise DefinitionError(
                "SQL source: a password in the URL would end up in the registry",
                hint='put the URL into an environment variable and write url="env:WAREHOUSE_URL"',
            )
        if not isinstance(self.query, str) or not self.query.strip():
            raise DefinitionError("SQL source: query is empty", hint='like "SELECT card_id, credit_limit FROM limits"')
        _check_times("SQL source", self.event_time, self.created_time)


BatchSource = Union[FileSource, SQLSource]


@dataclass(frozen=True)
class Field:
    """One feature of a batch view: a column of its source.

    dtype: String, Boolean, an integer (kept as Int64) or a float (kept as Float64). default: for entities never seen.
    Raises DefinitionError when built wrongly.
    """

    name: str
    dtype: Any
    default: int | float | str | bool | None = None
    metadata: FeatureMetadataSpec = NO_METADATA

    def __post_init__(self) -> None:
        check_identifier(self.name, "field")
        check_not_reserved(self.name, "field")
        kinds: Mapping[str, tuple[type, ...]] = {
            "Int64": (int,),
            "Float64": (int, float),
            "String": (str,),
            "Boolean": (bool,),
        }
        dtype = self.output_dtype
        is_bool = isinstance(self.default, bool)
        if self.default is not None and (not isinstance(self.default, kinds[dtype]) or is_bool != (dtype == "Boolean")):
            raise DefinitionError(
                f"field '{self.name}' is {dtype}, its default is {self.default!r}", hint="match its type"
            )

    def describe(
        self,
        description: str = "",
        *,
        unit: str | None = None,
        pii: PIIClass | None = None,
        valid_range: tuple[Number | None, Number | None] | None = None,
        deprecated: Deprecated | None = None,
    ) -> Field:
        """As `Aggregation.describe`."""
        metadata = feature_metadata(f"field '{self.name}'", description, unit, pii, valid_range, deprecated)
        check_valid_range(f"field '{self.name}'", metadata, self.output_dtype)
        return replace(self, metadata=metadata)

    @property
    def output_dtype(self) -> str:
        """What its values are: "Int64" | "Float64" | "String" | "Boolean"."""
        dtype = self.dtype
        if isinstance(dtype, pl.DataType) or (isinstance(dtype, type) and issubclass(dtype, pl.DataType)):
            if dtype in (pl.String, pl.Boolean):
                return str(dtype)
            if dtype in (pl.Float32, pl.Float64):
                return "Float64"
            if dtype in (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32):
                return "Int64"
        raise DefinitionError(
            f"field '{self.name}': {dtype!r} is no dtype of a feature",
            hint="use pl.Int64, pl.Float64, pl.String or pl.Boolean",
        )


@dataclass(frozen=True, eq=False)
class BatchFeatureView:
    """Features of one or several entities from a batch source: of each entity the newest row before the read's instant.

    A row is a state, valid from its event time until the next one; of rows with one event time the one created last
    counts, then the later one in the files. ttl: how long a row is believed, None for ever. Each join key of the
    entities, each field and the source's time columns are columns of the source. Raises DefinitionError when built
    wrongly, naming the view, the field and the way to mend it.
    """

    name: str
    source: BatchSource
    entities: Sequence[Entity]
    features: Sequence[Field]
    ttl: Duration | None = None
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    criticality: Criticality | None = None
    slo: SLO | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "view")
        what = f"view '{self.name}'"
        if not isinstance(self.source, FileSource | SQLSource):
            raise DefinitionError(f"{what}: source is {self.source!r}", hint="give a FileSource or an SQLSource")
        _check_list(what, "entities", self.entities, Entity, "entities=[card]")
        _check_list(what, "features", self.features, Field, 'features=[Field("credit_limit", pl.Float64)]')
        tags = check_people(what, self.owner, self.description, self.tags)
        check_view_metadata(what, self.criticality, self.slo)
        # Frozen from here on, and what the author passed can't change below it.
        object.__setattr__(self, "entities", tuple(self.entities))
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "tags", tags)
        self._check_names(what)
        if self.ttl is not None:
            duration_us(self.ttl, f"{what}: ttl", positive=True)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of all features, in order."""
        return tuple(feature.name for feature in self.features)

    def __getitem__(self, names: Sequence[str]) -> FeatureSelection:
        """Some of the features, for a FeatureService: `view[["a", "b"]]`. Raises DefinitionError for unknown ones."""
        return select(self, names)

    # Python would take a class with __getitem__ for one that can be gone through by 0, 1, 2, …
    __iter__ = None

    def _check_names(self, what: str) -> None:
        keys = [key for entity in self.entities for key in entity.join_keys]
        for name, number in Counter(keys).items():
            if number > 1:
                raise DefinitionError(
                    f"{what}: join key '{name}' comes from two entities", hint="give each its own join key"
                )
        for name, number in Counter(feature.name for feature in self.features).items():
            if number > 1:
                raise DefinitionError(f"{what}: feature '{name}' is defined {number} times", hint="name it once")
            if name in keys:
                raise DefinitionError(
                    f"{what}: feature '{name}' has the name of a join key", hint="a join key is no feature"
                )


def _check_times(what: str, event_time: object, created_time: object) -> None:
    if not isinstance(event_time, str) or not event_time:
        raise DefinitionError(f"{what}: event_time is {event_time!r}", hint="name the column")
    if created_time is not None and (not isinstance(created_time, str) or not created_time):
        raise DefinitionError(f"{what}: created_time is {created_time!r}", hint="name the column, or leave it out")
    if created_time == event_time:
        raise DefinitionError(
            f"{what}: created_time is the event_time column '{event_time}'",
            hint="leave created_time out where the source does not say when a row was known",
        )


def _check_list(what: str, name: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise DefinitionError(f"{what}: {name} is {value!r}, not a list with something in it", hint=f"write {example}")
    for item in value:
        if not isinstance(item, kind):
            raise DefinitionError(f"{what}: {name} holds {item!r}", hint=f"write {example}")
