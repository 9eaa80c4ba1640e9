"""Avro values by fastavro: raw data of the schema file, or with Confluent's five-byte header in front.

The header's schema id is not looked up: every value is read by our schema file, and must be used up by it
exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import Any

import fastavro

from featurestore.definitions.specs import SourceSpec
from featurestore.errors import SchemaError

_CONFLUENT_HEADER_BYTES = 5


def avro_codec(
    spec: SourceSpec, base_dir: Path
) -> tuple[Callable[[bytes], Any], Sequence[Callable[[Any], object]], Callable[[Exception, bytes], tuple[str, str]]]:
    """(decode, pickers, classify) for the source's schema file; see `decode.Codec`. Raises SchemaError."""
    path = base_dir / spec.schema
    try:
        # Times stay numbers: a Python datetime for each would cost more than the rest.
        schema = fastavro.parse_schema(_without_logical_types(json.loads(path.read_text())))
    except (OSError, ValueError, fastavro.schema.SchemaParseException) as error:
        raise SchemaError(
            f"source '{spec.name}': schema {spec.schema} can't be read as Avro: {error}",
            hint=f"format '{spec.format}' needs the Avro schema file (.avsc) on every worker",
        ) from error
    read = fastavro.schemaless_reader

    def decode_raw(value: bytes) -> Any:
        stream = BytesIO(value)
        row = read(stream, schema, None)
        if stream.tell() != len(value):
            raise ValueError(f"{len(value) - stream.tell()} bytes follow the record")
        return row

    def decode_confluent(value: bytes) -> Any:
        if len(value) < _CONFLUENT_HEADER_BYTES or value[0] != 0:
            raise ValueError("no Confluent header: a zero byte and a schema id of four bytes come first")
        return decode_raw(value[_CONFLUENT_HEADER_BYTES:])

    decode = decode_raw if spec.format == "avro" else decode_confluent
    return decode, [itemgetter(column.name) for column in spec.columns], classify_avro


def _without_logical_types(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_logical_types(value) for key, value in node.items() if key != "logicalType"}
    if isinstance(node, list):
        return [_without_logical_types(item) for item in node]
    return node


def classify_avro(error: Exception, value: bytes) -> tuple[str, str]:
    """(reason, text) of what fastavro raised: data of another schema can't be told from broken ones."""
    name = type(error).__name__
    return "malformed", f"{name}: {error}" if str(error) else name
