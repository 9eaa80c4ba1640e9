"""Avro values by fastavro: raw data of the schema file, or with Confluent's five-byte header in front.

With a schema registry the header's id gives the writer's schema, which is resolved to ours by Avro's rules. Without one
every value is read by our schema file, and must be used up by it exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import Any

import fastavro
from fastavro.read import SchemaResolutionError

from featurestore.definitions.specs import SourceSpec
from featurestore.errors import SchemaError
from featurestore.sources.schema_registry import SchemaRegistry, UnknownSchemaError

_HEADER_BYTES = 5
_TIMES = {"timestamp-millis", "timestamp-micros", "timestamp-nanos", "date"}
_ERROR_CHARS = 300


class SchemaMismatchError(ValueError):
    """The writer's schema does not resolve to ours."""


def avro_codec(
    spec: SourceSpec, base_dir: Path, registry: SchemaRegistry | None
) -> tuple[Callable[[bytes], Any], Sequence[Callable[[Any], object]], Callable[[Exception, bytes], tuple[str, str]]]:
    """(decode, pickers, classify) for the source's schema file; see `decode.Codec`. Raises SchemaError.

    registry: of the writers' schemas, for format avro-confluent; None reads all values by the schema file.
    """
    path = base_dir / spec.schema
    try:
        schema = json.loads(path.read_text())
        # Times stay numbers: a Python datetime for each would cost more than the rest.
        parsed = fastavro.parse_schema(_without_logical_types(schema))
    except (OSError, ValueError, fastavro.schema.SchemaParseException) as error:
        raise SchemaError(
            f"source '{spec.name}': schema {spec.schema} can't be read as Avro: {error}",
            hint=f"format '{spec.format}' needs the Avro schema file (.avsc) on every worker",
        ) from error
    decode = _reader(parsed, None)
    if spec.format == "avro-confluent":
        decode = _headed(decode) if registry is None else _ByWriter(spec, schema, registry).decode
    return decode, [itemgetter(column.name) for column in spec.columns], classify_avro


def avro_encoder(schema: Path) -> Callable[[Mapping[str, object]], bytes]:
    """Writes records of an Avro schema file, without a header; times are numbers in the field's unit.

    Raises SchemaError when the file can't be used.
    """
    try:
        parsed = fastavro.parse_schema(_without_logical_types(json.loads(schema.read_text())))
    except (OSError, ValueError, fastavro.schema.SchemaParseException) as error:
        raise SchemaError(f"schema {schema} can't be read as Avro: {error}") from error

    def encode(record: Mapping[str, object]) -> bytes:
        out = BytesIO()
        fastavro.schemaless_writer(out, parsed, record)
        return out.getvalue()

    return encode


def _reader(written_by: Any, ours: Any) -> Callable[[bytes], Any]:
    """Reads a value of one schema as another; ours: None for the same."""
    read = fastavro.schemaless_reader

    def decode(value: bytes) -> Any:
        stream = BytesIO(value)
        row = read(stream, written_by, ours)
        if stream.tell() != len(value):
            raise ValueError(f"{len(value) - stream.tell()} bytes follow the record")
        return row

    return decode


def _headed(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decode_headed(value: bytes) -> Any:
        _check_header(value)
        return decode(value[_HEADER_BYTES:])

    return decode_headed


def _check_header(value: bytes) -> None:
    if len(value) < _HEADER_BYTES or value[0] != 0:
        raise ValueError("no Confluent header: a zero byte and a schema id of four bytes come first")


class _ByWriter:
    """Reads each value by the schema that its header names."""

    def __init__(self, spec: SourceSpec, schema: Any, registry: SchemaRegistry) -> None:
        self._spec = spec
        self._schema = schema
        self._registry = registry
        self._readers: dict[bytes, Callable[[bytes], Any]] = {}

    def decode(self, value: bytes) -> Any:
        _check_header(value)
        header = value[1:_HEADER_BYTES]
        reader = self._readers.get(header) or self._learn(header)
        return reader(value[_HEADER_BYTES:])

    def _learn(self, header: bytes) -> Callable[[bytes], Any]:
        number = int.from_bytes(header, "big")
        written_by = self._registry.writer_schema(number)
        why = self._why_not(written_by, number)
        if why is not None:
            reader = _refuse(why)
        else:
            # Avro wants records of one name; what a topic's writers call theirs is nobody's business here.
            ours = {**self._schema, **{key: written_by[key] for key in ("name", "namespace") if key in written_by}}
            plain, as_ours = _without_logical_types(written_by), _without_logical_types(ours)
            reader = _reader(fastavro.parse_schema(plain), None if plain == as_ours else fastavro.parse_schema(as_ours))
        self._readers[header] = reader
        return reader

    def _why_not(self, written_by: Any, number: int) -> str | None:
        """Avro resolves by the number alone: it would take milliseconds for microseconds."""
        if not isinstance(written_by, dict) or written_by.get("type") != "record":
            return f"the writer's schema {number} is no record"
        written = {field["name"]: _logical_type(field["type"]) for field in written_by["fields"]}
        for field in self._schema["fields"]:
            theirs, ours = written.get(field["name"]), _logical_type(field["type"])
            if ours not in _TIMES and field["name"] == self._spec.event_time:
                ours = "timestamp-millis"
            if theirs in _TIMES and ours in _TIMES and theirs != ours:
                return f"field '{field['name']}' is {theirs} in the writer's schema {number}, {ours} in ours"
        return None


def _refuse(why: str) -> Callable[[bytes], Any]:
    def decode(value: bytes) -> Any:
        raise SchemaMismatchError(why)

    return decode


def _logical_type(kind: Any) -> str | None:
    options = kind if isinstance(kind, list) else [kind]
    found = [option["logicalType"] for option in options if isinstance(option, dict) and "logicalType" in option]
    return found[0] if found else None


def _without_logical_types(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_logical_types(value) for key, value in node.items() if key != "logicalType"}
    if isinstance(node, list):
        return [_without_logical_types(item) for item in node]
    return node


def classify_avro(error: Exception, value: bytes) -> tuple[str, str]:
    """(reason, text) of what was raised. Without the writer's schema, data of another one can't be told from broken."""
    if isinstance(error, UnknownSchemaError):
        return "unknown_schema", str(error)
    if isinstance(error, SchemaMismatchError | SchemaResolutionError):
        return "schema_mismatch", str(error)[:_ERROR_CHARS]
    name = type(error).__name__
    return "malformed", f"{name}: {error}" if str(error) else name
