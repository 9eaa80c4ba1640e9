"""Schema files, and definitions checked against them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from featurestore import Entity, KafkaSource, StreamFeatureView, agg, tumbling
from featurestore.definitions.resolve import fingerprint, resolve_source, resolve_view
from featurestore.definitions.specs import ColumnSpec, SourceSpec, ViewSpec
from featurestore.errors import DefinitionError, SchemaError

FIELDS: list[dict[str, Any]] = [
    {"name": "card_id", "type": "string"},
    {"name": "amount", "type": "double"},
    {"name": "rate", "type": "float", "default": 1},
    {"name": "quantity", "type": "int"},
    {"name": "online", "type": "boolean"},
    {"name": "country", "type": ["null", "string"], "default": None},
    {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
    {"name": "signature", "type": ["bytes", "null"]},
    {"name": "day", "type": {"type": "int", "logicalType": "date"}},
    {"name": "booked", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
]
CARD = Entity("card", join_keys={"card_id": pl.String}, description="A card.")


def avro(fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "record", "name": "Payment", "fields": fields}


def resolved_source(folder: Path, schema: object, name: str = "payments.avsc", **changes: Any) -> SourceSpec:
    (folder / name).write_text(schema if isinstance(schema, str) else json.dumps(schema))
    fields: dict[str, Any] = {"name": "payments", "topic": "topic", "schema": name, "event_time": "ts"}
    return resolve_source(KafkaSource(**{**fields, **changes}), folder)


@pytest.fixture
def source(tmp_path: Path) -> SourceSpec:
    return resolved_source(tmp_path, avro(FIELDS))


def view_of(*features: agg.Aggregation, **changes: Any) -> StreamFeatureView:
    payments = KafkaSource("payments", topic="topic", schema="payments.avsc", event_time="ts")
    fields: dict[str, Any] = {
        "source": payments,
        "entities": [CARD],
        "features": features or [agg.count(over="1h")],
    }
    return StreamFeatureView("activity", **{**fields, **changes})


# Schema files


def test_an_avro_record_becomes_columns_in_its_order(source: SourceSpec) -> None:
    assert source.columns == (
        ColumnSpec(name="card_id", dtype="String"),
        ColumnSpec(name="amount", dtype="Float64"),
        ColumnSpec(name="rate", dtype="Float64", has_default=True, default=1),
        ColumnSpec(name="quantity", dtype="Int64"),
        ColumnSpec(name="online", dtype="Boolean"),
        ColumnSpec(name="country", dtype="String", nullable=True, has_default=True),
        ColumnSpec(name="kind", dtype="String"),
        ColumnSpec(name="signature", dtype="Binary", nullable=True),
        ColumnSpec(name="day", dtype="Date"),
        ColumnSpec(name="booked", dtype="Datetime", unit="us"),
        ColumnSpec(name="ts", dtype="Datetime", unit="ms"),
    )


def test_a_json_schema_becomes_columns(tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "required": ["card_id", "amount", "country", "ts"],
        "properties": {
            "card_id": {"type": "string"},
            "amount": {"type": "number"},
            "quantity": {"type": "integer", "default": 1},
            "online": {"type": "boolean"},
            "country": {"type": ["string", "null"]},
            "ts": {"type": "string", "format": "date-time"},
        },
    }
    assert resolved_source(tmp_path, schema, "payments.json").columns == (
        ColumnSpec(name="card_id", dtype="String"),
        ColumnSpec(name="amount", dtype="Float64"),
        ColumnSpec(name="quantity", dtype="Int64", nullable=True, has_default=True, default=1),
        ColumnSpec(name="online", dtype="Boolean", nullable=True),
        ColumnSpec(name="country", dtype="String", nullable=True),
        ColumnSpec(name="ts", dtype="Datetime", unit="iso"),
    )


def test_a_bare_integer_as_event_time_is_epoch_milliseconds(tmp_path: Path) -> None:
    resolved = resolved_source(tmp_path, avro([{"name": "ts", "type": "long"}]))
    assert resolved.columns == (ColumnSpec(name="ts", dtype="Datetime", unit="ms"),)


TS = FIELDS[-1]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "can't be read"),
        ("[]", "no JSON object"),
        ({"type": "enum"}, "neither an Avro record nor"),
        (avro([]), "no fields"),
        (avro([TS, TS]), "field 'ts' occurs 2 times"),
        (avro([TS, {"name": "a", "type": {"type": "array", "items": "int"}}]), "field 'a' has type"),
        (
            avro([TS, {"name": "a", "type": {"type": "record", "name": "B", "fields": []}}]),
            "field 'a' has type",
        ),
        (avro([TS, {"name": "a", "type": ["int", "string"]}]), "field 'a' is a union of 2"),
        (
            avro([TS, {"name": "a", "type": {"type": "bytes", "logicalType": "decimal"}}]),
            "field 'a' is a decimal",
        ),
        (avro([TS, {"name": "a", "type": "int", "default": "1"}]), "not its default '1'"),
        (avro([TS, {"name": "a", "type": "int", "default": None}]), "defaults to null"),
        (avro([{"name": "a", "type": "int"}]), "event_time 'ts' is not in"),
        (avro([{"name": "ts", "type": "string"}]), "event_time column 'ts' is String"),
        (avro([TS, {"name": "lateness", "type": "long"}]), "column 'lateness'"),
        (avro([TS, {"name": "a", "type": "int", "default": 2**63}]), "not its default"),
        (avro([TS, {"name": "a", "type": {"logicalType": "date"}}]), "field 'a' has type null"),
        (avro([TS, {"name": 1, "type": "int"}]), "is no field"),
        (avro([TS, {"name": "_key", "type": "string"}]), "column '_key'"),
        ({"type": "object", "properties": {"a": {"type": "object"}}}, "property 'a' has type"),
        ({"type": "object", "properties": {"a": True}}, "property 'a' has type"),
        ({"type": "object", "properties": {"ts": {"type": "integer"}}, "required": True}, "required is true"),
    ],
)
def test_a_schema_that_can_not_be_used_is_refused(tmp_path: Path, schema: object, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        resolved_source(tmp_path, schema)


def test_an_event_id_is_remembered_as_far_as_an_event_may_be_late_unless_told(tmp_path: Path) -> None:
    late = {"max_out_of_orderness": "5s", "allowed_lateness": "10m"}
    plain = resolved_source(tmp_path, avro(FIELDS), **late)
    assert (plain.dedupe_by, plain.dedupe_within_us) == (None, 0)
    found = resolved_source(tmp_path, avro(FIELDS), dedupe_by="signature", **late)
    assert (found.dedupe_by, found.dedupe_within_us) == ("signature", 605_000_000)
    told = resolved_source(tmp_path, avro(FIELDS), dedupe_by="quantity", dedupe_within="1h", **late)
    assert told.dedupe_within_us == 3_600_000_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dedupe_by": "identity"}, "identity"),
        ({"dedupe_by": "amount"}, "'amount' is Float64"),
        ({"dedupe_by": "ts"}, "'ts' is Datetime"),
        ({"dedupe_within": "1h"}, "dedupe_within without dedupe_by"),
        ({"dedupe_by": "quantity", "dedupe_within": "4s", "allowed_lateness": "5s"}, "could count twice"),
    ],
)
def test_an_event_id_that_can_not_be_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((DefinitionError, SchemaError), match="source 'payments'") as caught:
        resolved_source(tmp_path, avro(FIELDS), **changes)
    assert message in caught.value.message


def test_a_missing_schema_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"schema payments\.avsc does not exist"):
        resolve_source(KafkaSource("p", topic="t", schema="payments.avsc", event_time="ts"), tmp_path)


def test_avro_on_the_wire_needs_an_avro_schema(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"ts": {"type": "integer"}}}
    with pytest.raises(SchemaError, match="format avro needs an Avro schema"):
        resolved_source(tmp_path, schema, "payments.json", format="avro")


# Views


@pytest.mark.parametrize(
    ("feature", "output"),
    [
        (agg.count(over="1h"), "Int64"),
        (agg.count("signature", over="1h"), "Int64"),
        (agg.sum("quantity", over="1h"), "Int64"),
        (agg.sum("online", over="1h"), "Int64"),
        (agg.sum("rate", over="1h"), "Float64"),
        (agg.mean("online", over="1h"), "Float64"),
        (agg.mean("quantity", over="1h"), "Float64"),
        (agg.stddev("quantity", over="1h"), "Float64"),
        (agg.max("quantity", over="1h"), "Int64"),
        (agg.min("rate", over="1h"), "Float64"),
        (agg.first("country"), "String"),
        (agg.last("online"), "Boolean"),
    ],
)
def test_output_dtypes(source: SourceSpec, feature: agg.Aggregation, output: str) -> None:
    assert resolve_view(view_of(feature), source).features[0].output_dtype == output


@pytest.mark.parametrize(
    "feature",
    [
        agg.sum("country", over="1h"),
        agg.mean("booked", over="1h"),
        agg.max("country", over="1h"),
        agg.min("online", over="1h"),
        agg.var("online", over="1h"),
        agg.sum("signature", over="1h"),
        agg.last("booked"),
        agg.first("signature"),
        agg.last("day"),
    ],
)
def test_an_aggregate_of_a_column_it_can_not_take_is_refused(source: SourceSpec, feature: agg.Aggregation) -> None:
    with pytest.raises(DefinitionError, match=f"view 'activity': feature '{feature.features()[0][0]}'") as caught:
        resolve_view(view_of(feature), source)
    assert caught.value.hint is not None
    assert "derive" in caught.value.hint


def test_derived_columns_are_aggregated_with_their_own_dtype(source: SourceSpec) -> None:
    derive = {"eur": pl.col("amount") * pl.col("rate"), "small": pl.col("quantity").cast(pl.Int16)}
    spec = resolve_view(view_of(agg.sum("eur", over="1h"), agg.max("small", over="1h"), derive=derive), source)
    assert [(feature.input_dtype, feature.output_dtype) for feature in spec.features] == [
        ("Float64", "Float64"),
        ("Int64", "Int64"),
    ]
    assert spec.derive[0] == ("eur", 'Multiply(col("amount"), col("rate"))')


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"where": pl.col("amuont") > 1}, "view 'activity', where: column 'amuont'", "amount"),
        ({"derive": {"x": pl.col("amout") * 2}}, "view 'activity', derive 'x': column 'amout'", "amount"),
        ({"features": [agg.sum("quantiti", over="1h")]}, "feature 'quantiti_sum_1h'", "quantity"),
        (
            {"where": pl.col("x") > 1, "derive": {"x": pl.col("amount") * 2}},
            "view 'activity', where: column 'x' is derived",
            "write its expression out",
        ),
        (
            {"derive": {"x": pl.col("quantity").cast(pl.UInt64)}, "features": [agg.sum("x", over="1h")]},
            "feature 'x_sum_1h': column 'x' is UInt64",
            "pl.Int64",
        ),
        ({"where": pl.col("amount")}, "where is Float64, not Boolean", "compare"),
        ({"derive": {"amount": pl.col("amount") * 2}}, "derived column 'amount'", "another name"),
        ({"derive": {"x": pl.col("amount") + pl.col("online").str.len_chars()}}, "derive", "types"),
        ({"entities": [Entity("e", {"card": pl.String})]}, "join key 'card'", "card_id"),
        ({"entities": [Entity("e", {"card_id": pl.Int64})]}, "join key 'card_id'", "pl.String"),
        ({"features": [agg.sum("amount", over="1h", default="none")]}, "its default is 'none'", "type"),
    ],
)
def test_what_does_not_fit_the_schema_is_refused(
    source: SourceSpec, changes: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(DefinitionError, match="view 'activity'") as caught:
        resolve_view(view_of(**changes), source)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_default_takes_the_type_of_its_feature(source: SourceSpec) -> None:
    spec = resolve_view(view_of(agg.mean("amount", over="1h", default=0)), source)
    assert isinstance(spec.features[0].default, float)


def test_specs_survive_the_registry(source: SourceSpec) -> None:
    spec = resolve_view(view_of(agg.count(over=["1h", tumbling("1m")]), where=pl.col("online"), ttl="7d"), source)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=ViewSpec) == spec
    assert msgspec.json.decode(msgspec.json.encode(source), type=SourceSpec) == source


def test_the_fingerprint_follows_what_is_computed_and_nothing_else(source: SourceSpec) -> None:
    plain = fingerprint(resolve_view(view_of(), source))
    told = view_of(owner="risk@example.com", description="Text", tags={"tier": "1"})
    assert fingerprint(resolve_view(told, source)) == plain
    for changes in (
        {"where": pl.col("online")},
        {"derive": {"x": pl.col("amount") * 2}},
        {"ttl": "7d"},
        {"features": [agg.count(over="2h")]},
        {"snapshot_every": "5m"},
    ):
        assert fingerprint(resolve_view(view_of(**changes), source)) != plain
    assert fingerprint(CARD.spec) == fingerprint(Entity("card", {"card_id": pl.String}).spec)
    assert fingerprint(source) != fingerprint(msgspec.structs.replace(source, allowed_lateness_us=1))


def test_the_description_of_an_entity_is_no_part_of_a_views_fingerprint(source: SourceSpec) -> None:
    other = Entity("card", {"card_id": pl.String}, description="Another text.")
    assert fingerprint(resolve_view(view_of(entities=[other]), source)) == fingerprint(resolve_view(view_of(), source))
