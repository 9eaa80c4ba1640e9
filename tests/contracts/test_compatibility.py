"""The rules of compatibility against the decoders: every pair of versions of a field, every value between them."""

from __future__ import annotations

import json
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import pytest

from featurestore.contracts.compatibility import Incompatibility, TopicSchema, avro_record, incompatibilities
from featurestore.definitions.schema import load_schema
from featurestore.definitions.specs import ColumnSpec, SourceSpec
from featurestore.sources.decode import Decoder
from featurestore.sources.schema_registry import SchemaRegistry
from tests.factories import source_spec

TS = ColumnSpec(name="ts", dtype="Datetime", unit="ms")
ABSENT: ColumnSpec | None = None
SAMPLES: dict[tuple[str, str | None], list[Any]] = {
    ("Int64", None): [7, -(2**62)],
    ("Float64", None): [1.5],
    ("String", None): ["abc"],
    ("Boolean", None): [True],
    ("Datetime", "ms"): [1_767_225_600_000],
    ("Datetime", "us"): [1_767_225_600_000_000],
    ("Datetime", "iso"): ["2026-01-01T00:00:00Z"],
    ("Date", "iso"): ["2026-01-01"],
}
# A number or text that both take, but of another meaning: refused, though it could be read.
READ_ALL_THE_SAME = {
    *product(["Int64"], ["Datetime"]),
    *product(["Datetime"], ["Int64", "Float64"]),
    *product(["Datetime", "Date"], ["String"]),
    *product(["Datetime"], ["Date"]),
}


def json_fields() -> list[ColumnSpec | None]:
    fields: list[ColumnSpec | None] = [ABSENT]
    for (dtype, unit), values in SAMPLES.items():
        for nullable, has_default in product([False, True], repeat=2):
            default = values[0] if has_default and unit != "iso" else None
            if has_default and default is None and not nullable:
                continue
            fields.append(
                ColumnSpec(
                    name="a", dtype=dtype, unit=unit, nullable=nullable, has_default=has_default, default=default
                )
            )
    return fields


def columns(field: ColumnSpec | None) -> tuple[ColumnSpec, ...]:
    return (TS,) if field is None else (TS, field)


def source(field: ColumnSpec | None, **changes: Any) -> SourceSpec:
    return msgspec.structs.replace(source_spec(), columns=columns(field), **changes)


def json_values(field: ColumnSpec | None) -> list[bytes]:
    """All that a writer of this version may write."""
    event = {"ts": 1_767_225_600_000}
    if field is None:
        return [json.dumps(event).encode()]
    values = [{**event, "a": value} for value in SAMPLES[(field.dtype, field.unit)]]
    if field.nullable:
        values.append({**event, "a": None})
    if field.nullable or field.has_default:
        values.append(event)
    return [json.dumps(value).encode() for value in values]


def test_json_rules_say_what_the_decoder_does():
    for old, new in product(json_fields(), repeat=2):
        broken = incompatibilities(TopicSchema(columns(old)), TopicSchema(columns(new)), "backward")
        decoded = Decoder(source(new), Path()).decode(json_values(old))
        rules = {one.rule for one in broken}
        if not rules:
            assert not decoded.bad, (old, new)
        elif rules & {"missing_field", "null_not_allowed"}:
            assert decoded.bad, (old, new, rules)
        elif rules == {"type_mismatch"} and not decoded.bad:
            assert old is not None
            assert new is not None
            assert (old.dtype, new.dtype) in READ_ALL_THE_SAME, (old, new)


class OneSchema(SchemaRegistry):
    """The writer's schema, whatever id is asked for."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema

    def writer_schema(self, schema_id: int) -> Any:
        return self._schema


AVRO_TYPES: dict[str, tuple[Any, list[Any]]] = {
    "int": ("int", [7]),
    "long": ("long", [2**40]),
    "double": ("double", [1.5]),
    "string": ("string", ["abc"]),
    "boolean": ("boolean", [True]),
    "enum": ({"type": "enum", "name": "E", "symbols": ["x", "y"]}, ["x", "y"]),
    "smaller enum": ({"type": "enum", "name": "E", "symbols": ["x"]}, ["x"]),
}


def avro_schemas() -> list[tuple[dict[str, Any], list[Any]]]:
    """(record, values of field a) of each version of the field."""
    ts = {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}}
    found: list[tuple[dict[str, Any], list[Any]]] = [({"type": "record", "name": "R", "fields": [ts]}, [None])]
    for kind, values in AVRO_TYPES.values():
        for nullable, has_default in product([False, True], repeat=2):
            field: dict[str, Any] = {"name": "a", "type": [kind, "null"] if nullable else kind}
            if has_default:
                field["default"] = values[0]
            found.append(
                ({"type": "record", "name": "R", "fields": [ts, field]}, [*values, *([None] if nullable else [])])
            )
    return found


def test_avro_rules_say_what_the_decoder_does(tmp_path: Path):
    schemas = avro_schemas()
    for number, (record, _) in enumerate(schemas):
        (tmp_path / f"{number}.avsc").write_text(json.dumps(record))
    for (old, values), (number, (new, _)) in product(schemas, enumerate(schemas)):
        path = tmp_path / f"{number}.avsc"
        new_columns = load_schema(path, path.name)
        spec = msgspec.structs.replace(source_spec(), columns=new_columns, format="avro-confluent", schema=path.name)
        written = []
        for value in values:
            out = BytesIO(bytes(5))
            out.seek(5)
            fastavro.schemaless_writer(out, fastavro.parse_schema(old), {"ts": 1, "a": value})
            written.append(out.getvalue())
        decoded = Decoder(spec, tmp_path, OneSchema(old)).decode(written)
        broken = incompatibilities(
            TopicSchema(load_schema(tmp_path / f"{schemas.index((old, values))}.avsc", ""), old),
            TopicSchema(new_columns, new),
            "backward",
        )
        assert bool(broken) == bool(decoded.bad), (old["fields"][1:], new["fields"][1:], broken, decoded.bad)


def versions(old: list[ColumnSpec], new: list[ColumnSpec]) -> tuple[TopicSchema, TopicSchema]:
    return TopicSchema(tuple(old)), TopicSchema(tuple(new))


def told(found: list[Incompatibility]) -> list[tuple[str, str, str]]:
    return [(one.field, one.direction, one.rule) for one in found]


def test_a_new_field_without_a_default_is_forward_compatible_only():
    old, new = versions([TS], [TS, ColumnSpec(name="a", dtype="Int64")])
    assert told(incompatibilities(old, new, "backward")) == [("a", "backward", "missing_field")]
    assert incompatibilities(old, new, "forward") == []
    assert told(incompatibilities(old, new, "full")) == [("a", "backward", "missing_field")]


def test_a_removed_field_is_backward_compatible_only():
    old, new = versions([TS, ColumnSpec(name="a", dtype="Int64")], [TS])
    assert incompatibilities(old, new, "backward") == []
    assert told(incompatibilities(old, new, "full")) == [("a", "forward", "missing_field")]


@pytest.mark.parametrize("avro", [False, True])
def test_milliseconds_are_no_microseconds(avro: bool):
    old, new = [TS], [ColumnSpec(name="ts", dtype="Datetime", unit="us")]
    schemas = [TopicSchema(tuple(one), avro_record(one) if avro else None) for one in (old, new)]
    assert told(incompatibilities(schemas[0], schemas[1], "backward")) == [("ts", "backward", "unit_mismatch")]


def test_columns_make_the_avro_record_that_they_came_from(tmp_path: Path):
    root = Path(__file__).parents[2]
    for name in ("transaction.avsc", "sensor_reading.avsc"):
        read = load_schema(root / "schemas" / name, name)
        (tmp_path / name).write_text(json.dumps(avro_record(read)))
        assert load_schema(tmp_path / name, name) == read
