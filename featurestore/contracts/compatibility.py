"""Whether a topic's schema may change as it did: can a reader of one version read what the other one's writers wrote?

backward: the new schema reads old values; forward: the old one reads new values; full: both.

Avro values are judged by the rules of Avro's specification, with Apache's own `avro` library. JSON values carry no
types, so they are judged by what our decoder (`sources/json_codec.py`) takes. It knows columns; a keyword that it does
not look at ("enum", "minimum") can't make a value unreadable. Like Avro, this takes writers to send what their schema
names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType, SchemaIncompatibilityType
from avro.errors import AvroException
from avro.schema import make_avsc_object

from featurestore.definitions.source import Compatibility
from featurestore.definitions.specs import ColumnSpec
from featurestore.errors import SchemaError

DIRECTIONS: Mapping[Compatibility, tuple[str, ...]] = {
    "backward": ("backward",),
    "forward": ("forward",),
    "full": ("backward", "forward"),
}
_AVRO_TYPES = {"Int64": "long", "Float64": "double", "String": "string", "Boolean": "boolean", "Binary": "bytes"}
_AVRO_TIMES = {"ms": "timestamp-millis", "us": "timestamp-micros", "ns": "timestamp-nanos"}
# Why, by the rule that is broken; of the reader's point of view.
_AVRO_WHY = {
    SchemaIncompatibilityType.reader_field_missing_default_value: "it is not in the other and has no default",
    SchemaIncompatibilityType.missing_enum_symbols: "the reader's enum lacks symbols of the writer's",
    SchemaIncompatibilityType.missing_union_branch: "the reader's union lacks a type of the writer's",
    SchemaIncompatibilityType.name_mismatch: "the named types have different names",
    SchemaIncompatibilityType.fixed_size_mismatch: "the sizes of the fixed types differ",
}


@dataclass(frozen=True)
class Incompatibility:
    """A field that breaks a direction. rule: in one word, as Avro names it; why: in a sentence."""

    field: str
    direction: str
    rule: str
    why: str


@dataclass(frozen=True)
class TopicSchema:
    """One version of a topic's schema. avro: its Avro record, None where values are JSON."""

    columns: tuple[ColumnSpec, ...]
    avro: Mapping[str, Any] | None = None


def incompatibilities(old: TopicSchema, new: TopicSchema, mode: Compatibility) -> list[Incompatibility]:
    """What breaks the mode, by field; judged as Avro if both are, else as JSON. Raises SchemaError for wrong Avro."""
    found: list[Incompatibility] = []
    for direction in DIRECTIONS[mode]:
        reader, writer = (new, old) if direction == "backward" else (old, new)
        broken = list(_units(reader.columns, writer.columns))
        if reader.avro is not None and writer.avro is not None:
            broken += _avro(reader.avro, writer.avro)
        else:
            broken += _json(reader.columns, writer.columns)
        found += [Incompatibility(field, direction, rule, why) for field, rule, why in broken]
    return found


def avro_record(columns: Sequence[ColumnSpec]) -> dict[str, Any]:
    """The Avro record that has these columns: for versions whose file is not at hand, as those in the registry."""
    return {"type": "record", "name": "Value", "fields": [_avro_field(column) for column in columns]}


def _avro_field(column: ColumnSpec) -> dict[str, Any]:
    kind: Any = _AVRO_TYPES.get(column.dtype)
    if column.dtype == "Date":
        kind = {"type": "int", "logicalType": "date"}
    elif kind is None:
        kind = {"type": "long", "logicalType": _AVRO_TIMES.get(column.unit or "", "timestamp-millis")}
    if column.nullable:
        # The default of a union is of its first type.
        kind = [kind, "null"] if column.default is not None else ["null", kind]
    return {
        "name": column.name,
        "type": kind,
        **({"default": column.default} if column.has_default else {}),
    }


def _avro(reader: Mapping[str, Any], writer: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(field, rule, why), each field on its own: the library does not say which message belongs to which field."""
    # What a topic's writers call their record is nobody's business here: the decoder goes by the fields, too.
    names = {key: writer[key] for key in ("name", "namespace") if key in writer}
    written = _parsed(writer)
    for field in reader["fields"]:
        anonymous = {key: value for key, value in reader.items() if key not in ("name", "namespace", "aliases")}
        one = _parsed({**anonymous, **names, "fields": [field]})
        result = ReaderWriterCompatibilityChecker().get_compatibility(one, written)  # type: ignore[no-untyped-call]
        if result.compatibility is SchemaCompatibilityType.compatible:
            continue
        for kind in dict.fromkeys(result.incompatibilities):
            why = _AVRO_WHY.get(kind) or "; ".join(sorted(result.messages))
            yield field["name"], kind.value, why


def _parsed(record: Mapping[str, Any]) -> Any:
    try:
        return make_avsc_object(json.loads(json.dumps(record)), validate_enum_symbols=False)
    except AvroException as error:
        raise SchemaError(f"the schema is no Avro record: {error}") from error


def _units(reader: Sequence[ColumnSpec], writer: Sequence[ColumnSpec]) -> Iterator[tuple[str, str, str]]:
    """Times whose number means another instant: Avro resolves by the number alone."""
    written = {column.name: column for column in writer}
    for column in reader:
        other = written.get(column.name)
        if other is not None and other.dtype == column.dtype and other.unit != column.unit:
            what = f"the reader takes it in {column.unit}, it is written in {other.unit}"
            yield column.name, "unit_mismatch", what


def _json(reader: Sequence[ColumnSpec], writer: Sequence[ColumnSpec]) -> Iterator[tuple[str, str, str]]:
    """What our JSON decoder would refuse: the table of rules."""
    written = {column.name: column for column in writer}
    for column in reader:
        other = written.get(column.name)
        may_be_missing = column.has_default or column.nullable
        if other is None:
            if not may_be_missing:
                yield column.name, "missing_field", "it is not in the other, and is neither nullable nor has a default"
            continue
        if other.dtype != column.dtype and (other.dtype, column.dtype) != ("Int64", "Float64"):
            yield column.name, "type_mismatch", f"the reader takes {column.dtype}, {other.dtype} is written"
        if other.nullable and not column.nullable:
            yield column.name, "null_not_allowed", "it may be null or left out when written, the reader needs a value"
        elif other.has_default and not may_be_missing:
            yield column.name, "missing_field", "it may be left out when written, the reader has no default"
