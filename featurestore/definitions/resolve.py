"""Check definitions against their topic's schema, and make specs of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import lru_cache
from pathlib import Path

import msgspec
import polars as pl

from featurestore.definitions.agg import Aggregation
from featurestore.definitions.discover import Definitions
from featurestore.definitions.expression_text import parse_expression
from featurestore.definitions.expressions import canonical, root_columns
from featurestore.definitions.governance import check_replacements
from featurestore.definitions.metadata import check_valid_range
from featurestore.definitions.names import duration_us, nearest
from featurestore.definitions.resolve_batch import resolve_batch_view
from featurestore.definitions.schema import load_schema
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import KafkaSource
from featurestore.definitions.specs import (
    BatchViewSpec,
    ColumnSpec,
    EntitySpec,
    FeatureServiceSpec,
    FeatureSpec,
    ServiceViewSpec,
    SourceSpec,
    ViewSpec,
)
from featurestore.definitions.view import StreamFeatureView
from featurestore.errors import DefinitionError, SchemaError

DTYPES: Mapping[str, pl.DataType] = {
    "Int64": pl.Int64(),
    "Float64": pl.Float64(),
    "String": pl.String(),
    "Boolean": pl.Boolean(),
    "Binary": pl.Binary(),
    "Datetime": pl.Datetime("us", "UTC"),
    "Date": pl.Date(),
}
# Columns that the archive and the files of late events put beside those of the schema, or shards work with.
_ARCHIVE_COLUMNS = frozenset(
    {
        *("_partition", "_offset", "_partition_watermark", "event_time", "arrival_time"),
        *("watermark", "lateness"),
        *("_key", "_shard", "_tile_start", "_late", "_newest"),
    }
)
NUMERIC = ("Int64", "Float64")
EVENT_IDS = ("String", "Int64", "Binary")
_TOO_WIDE = (pl.UInt64(), pl.Int128(), pl.UInt128())
INPUTS: Mapping[str, tuple[str, ...]] = {
    "sum": (*NUMERIC, "Boolean"),
    "mean": (*NUMERIC, "Boolean"),
    "var": NUMERIC,
    "stddev": NUMERIC,
    "min": NUMERIC,
    "max": NUMERIC,
    "first": (*NUMERIC, "String", "Boolean"),
    "last": (*NUMERIC, "String", "Boolean"),
}


@dataclass(frozen=True)
class ResolvedDefinitions:
    """Specs by name."""

    sources: Mapping[str, SourceSpec]
    views: Mapping[str, ViewSpec]
    batch_views: Mapping[str, BatchViewSpec] = dataclass_field(default_factory=dict)
    feature_services: Mapping[str, FeatureServiceSpec] = dataclass_field(default_factory=dict)


def resolve_all(definitions: Definitions, base_dir: Path) -> ResolvedDefinitions:
    """Check every source, view and feature service. base_dir: what schema paths are relative to.

    Raises DefinitionError.
    """
    sources = {name: resolve_source(source, base_dir) for name, source in definitions.sources.items()}
    views = {name: resolve_view(view, sources[view.source.name]) for name, view in definitions.views.items()}
    batch_views = {name: resolve_batch_view(view) for name, view in definitions.batch_views.items()}
    all_views: dict[str, ViewSpec | BatchViewSpec] = {**views, **batch_views}
    check_replacements(all_views)
    services = {name: resolve_service(service, all_views) for name, service in definitions.feature_services.items()}
    return ResolvedDefinitions(sources, views, batch_views, services)


def resolve_source(source: KafkaSource, base_dir: Path) -> SourceSpec:
    """A source with the columns of its schema file. Raises SchemaError, DefinitionError."""
    what = f"source '{source.name}'"
    columns = load_schema(base_dir / source.schema, source.schema)
    if source.format != "json" and not source.schema.endswith(".avsc"):
        raise SchemaError(
            f"{what}: format {source.format} needs an Avro schema, not {source.schema}",
            hint="give an .avsc file",
        )
    by_name = {column.name: column for column in columns}
    time = by_name.get(source.event_time)
    if time is None:
        raise _unknown(f"{what}: event_time", source.event_time, by_name, f"schema {source.schema}")
    if time.dtype == "Int64":
        # A bare integer is taken as Kafka's own timestamps are: milliseconds since the epoch.
        time = msgspec.structs.replace(time, dtype="Datetime", unit="ms")
        columns = tuple(time if column.name == time.name else column for column in columns)
    if time.dtype != "Datetime":
        raise SchemaError(
            f"{what}: event_time column '{time.name}' is {time.dtype} in schema {source.schema}",
            hint="use a timestamp, an integer of epoch milliseconds, or a date-time string",
        )
    for name in sorted(_ARCHIVE_COLUMNS & set(by_name)):
        raise SchemaError(
            f"{what}: schema {source.schema} has a column '{name}', a name that the store uses itself",
            hint="rename the field, or leave it out of the schema file",
        )
    if source.dedupe_by is not None:
        _check_event_id(what, source, by_name)
    return SourceSpec(
        name=source.name,
        topic=source.topic,
        schema=source.schema,
        format=source.format,
        event_time=source.event_time,
        max_out_of_orderness_us=duration_us(source.max_out_of_orderness, what),
        allowed_lateness_us=duration_us(source.allowed_lateness, what),
        idle_timeout_us=duration_us(source.idle_timeout, what),
        max_future_us=duration_us(source.max_future, what),
        columns=columns,
        owner=source.owner,
        description=source.description,
        dedupe_by=source.dedupe_by,
        dedupe_within_us=_dedupe_within_us(what, source),
        tags=dict(source.tags),
    )


def _check_event_id(what: str, source: KafkaSource, by_name: Mapping[str, ColumnSpec]) -> None:
    assert source.dedupe_by is not None
    column = by_name.get(source.dedupe_by)
    if column is None:
        raise _unknown(f"{what}: dedupe_by", source.dedupe_by, by_name, f"schema {source.schema}")
    if column.dtype not in EVENT_IDS:
        raise SchemaError(
            f"{what}: dedupe_by column '{column.name}' is {column.dtype} in schema {source.schema}",
            hint=f"an event's id is {', '.join(EVENT_IDS[:-1])} or {EVENT_IDS[-1]}",
        )


def _dedupe_within_us(what: str, source: KafkaSource) -> int:
    if source.dedupe_by is None:
        return 0
    if source.dedupe_within is not None:
        return duration_us(source.dedupe_within, what)
    return duration_us(source.max_out_of_orderness, what) + duration_us(source.allowed_lateness, what)


def resolve_view(view: StreamFeatureView, source: SourceSpec) -> ViewSpec:
    """A view checked against its source's columns. Raises DefinitionError naming view, field and mend."""
    what = f"view '{view.name}'"
    schema = {column.name: DTYPES[column.dtype] for column in source.columns}
    place = f"schema {source.schema}"
    entities = tuple(entity.spec for entity in view.entities)
    _check_join_keys(what, entities, source)
    derive = dict(view.derive or {})
    for name in derive:
        if name in schema:
            raise DefinitionError(
                f"{what}: derived column '{name}' has the name of a column of {place}",
                hint="choose another name",
            )
    expressions = {**{f"derive '{name}'": expr for name, expr in derive.items()}}
    if view.where is not None:
        expressions["where"] = view.where
    for field, expression in expressions.items():
        for column in root_columns(expression):
            if column not in schema:
                if column in derive:
                    raise DefinitionError(
                        f"{what}, {field}: column '{column}' is derived; expressions read the columns of {place}",
                        hint="write its expression out",
                    )
                raise _unknown(f"{what}, {field}: column", column, schema, place)
    # Run on no rows: some misfits show only in running.
    rows = _no_rows(source.columns)
    dtypes = _collect(what, "derive", rows, derive)
    if view.where is not None:
        condition = _collect(what, "where", rows, {"_where": view.where})["_where"]
        if condition != pl.Boolean:
            raise DefinitionError(
                f"{what}: where is {condition}, not Boolean",
                hint='compare, e.g. where=pl.col("status") == "approved"',
            )
    features = tuple(spec for feature in view.features for spec in _features(what, feature, dtypes, place))
    return ViewSpec(
        name=view.name,
        source=source.name,
        entities=entities,
        features=features,
        where=None if view.where is None else _written(f"{what}: where", view.where),
        derive=tuple((name, _written(f"{what}: derive '{name}'", made)) for name, made in derive.items()),
        ttl_us=0 if view.ttl is None else duration_us(view.ttl, f"{what}: ttl"),
        snapshot_every_us=duration_us(view.snapshot_every, f"{what}: snapshot_every"),
        start=view.start,  # type: ignore[arg-type]
        owner=view.owner,
        description=view.description,
        tags=dict(view.tags or {}),
        criticality=view.criticality,
        slo=None if view.slo is None else view.slo.spec,
    )


def resolve_service(service: FeatureService, views: Mapping[str, ViewSpec | BatchViewSpec]) -> FeatureServiceSpec:
    """A feature service as plain data, its versions not pinned yet. views: at least those that it reads."""
    return FeatureServiceSpec(
        name=service.name,
        views=tuple(
            ServiceViewSpec(name=part.view.name, features=part.features, fingerprint=fingerprint(views[part.view.name]))
            for part in service.selections
        ),
        owner=service.owner,
        description=service.description,
        tags=dict(service.tags),
    )


def _written(what: str, expression: pl.Expr) -> str:
    """The canonical text, which must say all: the registry is what views are computed from."""
    text = canonical(expression)
    if canonical(parse_expression(text)) != text:
        raise DefinitionError(
            f"{what}: the expression can't be written down as text: {text}",
            hint="write it with plain values and other operations",
        )
    return text


def fingerprint(spec: ViewSpec | BatchViewSpec | SourceSpec | EntitySpec | FeatureServiceSpec) -> str:
    """SHA-256 of what a definition computes, hexadecimal; what is said about it (owner, tags, SLO, …) left out.

    The order of features counts, for stored rows follow it; that of derived columns does not.
    """
    fields = msgspec.to_builtins(spec)
    if isinstance(spec, ViewSpec):
        fields["derive"] = dict(spec.derive)
    for part in (fields, *fields.get("entities", ())):
        for name in ("owner", "description", "tags", "criticality", "slo"):
            part.pop(name, None)
    for feature in fields.get("features", ()):
        feature.pop("metadata", None)
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


def _check_join_keys(what: str, entities: Iterable[EntitySpec], source: SourceSpec) -> None:
    columns = {column.name: column for column in source.columns}
    for entity in entities:
        for key in entity.join_keys:
            if key.name not in columns:
                raise _unknown(
                    f"{what}: join key '{key.name}' of entity '{entity.name}': column",
                    key.name,
                    columns,
                    source.schema,
                )
            dtype = columns[key.name].dtype
            if dtype != key.dtype:
                raise DefinitionError(
                    f"{what}: join key '{key.name}' of entity '{entity.name}' is {key.dtype}, "
                    f"but schema {source.schema} declares it as {dtype}",
                    hint=f"declare it as pl.{dtype} in the entity" if dtype in ("String", "Int64", "Boolean") else None,
                )


@lru_cache(maxsize=64)
def _no_rows(columns: tuple[ColumnSpec, ...]) -> pl.DataFrame:
    """A frame of these columns. Making one takes longer than a view's expressions, and views share their source."""
    return pl.DataFrame(schema={column.name: DTYPES[column.dtype] for column in columns})


def _collect(what: str, field: str, rows: pl.DataFrame, expressions: Mapping[str, pl.Expr]) -> dict[str, pl.DataType]:
    try:
        return dict(rows.with_columns(**expressions).schema)
    except pl.exceptions.PolarsError as error:
        raise DefinitionError(f"{what}, {field}: {error}", hint="check the types of the columns it uses") from error


def _features(
    what: str, aggregation: Aggregation, dtypes: Mapping[str, pl.DataType], place: str
) -> Iterable[FeatureSpec]:
    function, column = aggregation.function, aggregation.column
    dtype: str | None = None
    if column is not None:
        names = [name for name, _ in aggregation.features()]
        if column not in dtypes:
            raise _unknown(f"{what}: feature '{names[0]}': column", column, dtypes, f"{place} or derive")
        dtype = _widened(dtypes[column])
        allowed = INPUTS.get(function)
        if allowed is not None and dtypes[column] in _TOO_WIDE:
            raise DefinitionError(
                f"{what}: feature '{names[0]}': column '{column}' is {dtypes[column]}, which does not fit into Int64",
                hint="cast it to pl.Int64 or pl.Float64 in `derive`",
            )
        if allowed is not None and dtype not in allowed:
            verb = {"sum": "sums", "mean": "averages"}.get(function, f"takes the {function} of")
            number = f'"{column}_number": pl.col("{column}").cast(pl.Float64, strict=False)'
            raise DefinitionError(
                f"{what}: feature '{names[0]}' {verb} column '{column}', which is {dtype}",
                hint=f"cast it in `derive`, like derive={{{number}}}",
            )
    output = _output(function, dtype)
    for name, window in aggregation.features():
        check_valid_range(f"{what}: feature '{name}'", aggregation.metadata, output)
        yield FeatureSpec(
            name=name,
            function=function,
            window=window,
            output_dtype=output,
            column=column,
            input_dtype=dtype,
            default=_default(what, name, aggregation.default, output),
            metadata=aggregation.metadata,
        )


def _widened(dtype: pl.DataType) -> str:
    if dtype.is_integer():
        return "Int64"
    if dtype.is_float():
        return "Float64"
    return str(dtype.base_type())


def _output(function: str, dtype: str | None) -> str:
    if function == "count" or dtype is None:
        return "Int64"
    if function in ("mean", "var", "stddev"):
        return "Float64"
    if function == "sum":
        return "Float64" if dtype == "Float64" else "Int64"
    return dtype


def _default(what: str, name: str, default: object, output: str) -> int | float | str | bool | None:
    kinds = {"Int64": int, "Float64": (int, float), "String": str, "Boolean": bool}
    if default is None:
        return None
    if not isinstance(default, kinds[output]) or (isinstance(default, bool) and output != "Boolean"):  # type: ignore[arg-type]
        raise DefinitionError(
            f"{what}: feature '{name}' is {output}, its default is {default!r}", hint="match its type"
        )
    return float(default) if output == "Float64" else default  # type: ignore[return-value, arg-type]


def _unknown(what: str, name: str, known: Iterable[str], place: str) -> DefinitionError:
    return DefinitionError(f"{what} '{name}' is not in {place}", hint=nearest(name, known))
