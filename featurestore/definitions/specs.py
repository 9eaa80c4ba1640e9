"""Definitions as plain data: what the registry stores and the server reads.

A spec is made from an author's objects after all checks (`definitions/resolve.py`) and holds no polars expression, only
its canonical text. Dtypes are the polars names ("Int64", "Float64", "String", "Boolean").
"""

from __future__ import annotations

from typing import Literal, Union

import msgspec

WindowKind = Literal["sliding", "tumbling", "hopping", "lifetime"]
Scalar = Union[int, float, str, bool, None]
Number = Union[int, float]
Criticality = Literal["low", "medium", "high", "critical"]
PIIClass = Literal["none", "indirect", "direct", "sensitive"]
"""Whether values tell of a person: not; only with other data; by themselves; of a special category such as health."""


class DeprecatedSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A feature that should no longer be used. since: ISO 8601 day. replacement: "view:feature" or None."""

    since: str
    replacement: str | None = None


class FeatureMetadataSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is said about a feature; no part of what it computes. valid_range: least and largest, None for no bound."""

    description: str = ""
    unit: str | None = None
    pii: PIIClass | None = None
    valid_range: tuple[Number | None, Number | None] | None = None
    deprecated: DeprecatedSpec | None = None


NO_METADATA = FeatureMetadataSpec()


class SLOSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a view's readers may rely on; None: nothing. latency_ms: p99 of a read. availability: a share up to 1."""

    freshness_us: int | None = None
    latency_ms: float | None = None
    availability: float | None = None


class ColumnSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a topic's schema.

    dtype: "Int64" | "Float64" | "String" | "Boolean" | "Binary" | "Datetime" (µs, UTC) | "Date".
    unit: for times written as numbers on the wire, "s" | "ms" | "us" | "ns"; "iso" for ISO 8601 text; else None.
    nullable: null is allowed. has_default: a missing field takes `default` (Avro semantics).
    """

    name: str
    dtype: str
    nullable: bool = False
    unit: str | None = None
    has_default: bool = False
    default: Scalar = None


class JoinKeySpec(msgspec.Struct, frozen=True, kw_only=True):
    """One join key column; dtype "String" | "Int64" | "Boolean"."""

    name: str
    dtype: str


class EntitySpec(msgspec.Struct, frozen=True, kw_only=True):
    """An entity: what features are keyed by."""

    name: str
    join_keys: tuple[JoinKeySpec, ...]
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}


class SourceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A Kafka source, durations in µs. schema: path as the author wrote it; columns: what the file said then.

    dedupe_by: the column of an event's id, None: no event is taken for a duplicate.
    """

    name: str
    topic: str
    schema: str
    format: str
    event_time: str
    max_out_of_orderness_us: int
    allowed_lateness_us: int
    idle_timeout_us: int
    max_future_us: int
    columns: tuple[ColumnSpec, ...]
    owner: str = ""
    description: str = ""
    dedupe_by: str | None = None
    dedupe_within_us: int = 0
    tags: dict[str, str] = {}


class WindowSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A window. size/every/offset/tile in µs; every: hopping only; tile: sliding only; lifetime has none of them."""

    kind: WindowKind
    size_us: int = 0
    every_us: int = 0
    offset_us: int = 0
    tile_us: int = 0


class FeatureSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One feature: an aggregate of a column (None for count of rows) over one window.

    function: "count" | "sum" | "mean" | "min" | "max" | "var" | "stddev" | "first" | "last".
    input_dtype: of the column after `derive`, widened ("Int64", "Float64", "String", "Boolean"); None without a column.
    output_dtype: of the feature.
    """

    name: str
    function: str
    window: WindowSpec
    output_dtype: str
    column: str | None = None
    input_dtype: str | None = None
    default: Scalar = None
    metadata: FeatureMetadataSpec = NO_METADATA


class ViewSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A stream feature view, checked against its source's schema. ttl_us 0: never expires."""

    name: str
    source: str
    entities: tuple[EntitySpec, ...]
    features: tuple[FeatureSpec, ...]
    where: str | None = None
    derive: tuple[tuple[str, str], ...] = ()
    ttl_us: int = 0
    snapshot_every_us: int = 60_000_000
    start: Literal["earliest", "latest"] = "earliest"
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}
    criticality: Criticality | None = None
    slo: SLOSpec | None = None

    @property
    def join_keys(self) -> tuple[JoinKeySpec, ...]:
        """Join keys of all entities, in order."""
        return tuple(key for entity in self.entities for key in entity.join_keys)


class ServiceViewSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a feature service reads of a view. features: names, in order.

    version, fingerprint: what was deployed when the service was applied; version 0 before that.
    """

    name: str
    features: tuple[str, ...]
    fingerprint: str
    version: int = 0


class FeatureServiceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The features that a model reads, under one name."""

    name: str
    views: tuple[ServiceViewSpec, ...]
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}

    @property
    def references(self) -> tuple[str, ...]:
        """ "view:feature" of each feature, in order."""
        return tuple(f"{view.name}:{feature}" for view in self.views for feature in view.features)


class FieldSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One feature of a batch view: a column of its source. output_dtype: "Int64" | "Float64" | "String" | "Boolean"."""

    name: str
    output_dtype: str
    default: Scalar = None
    metadata: FeatureMetadataSpec = NO_METADATA


class FileSourceSpec(msgspec.Struct, frozen=True, kw_only=True, tag="file"):
    """Files of a batch view. path: as the author wrote it. format: "parquet" | "csv"."""

    path: str
    format: str
    event_time: str
    created_time: str | None = None


class SQLSourceSpec(msgspec.Struct, frozen=True, kw_only=True, tag="sql"):
    """A query of a batch view. url: "env:NAME" for one that stands in an environment variable."""

    url: str
    query: str
    event_time: str
    created_time: str | None = None


class BatchViewSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A batch feature view. ttl_us 0: never expires."""

    name: str
    source: Union[FileSourceSpec, SQLSourceSpec]
    entities: tuple[EntitySpec, ...]
    features: tuple[FieldSpec, ...]
    ttl_us: int = 0
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}
    criticality: Criticality | None = None
    slo: SLOSpec | None = None

    @property
    def join_keys(self) -> tuple[JoinKeySpec, ...]:
        """Join keys of all entities, in order."""
        return tuple(key for entity in self.entities for key in entity.join_keys)
