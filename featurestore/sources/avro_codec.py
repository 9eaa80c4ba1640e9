"""Avro values by fastavro: raw data of the schema file, or with Confluent's five-byte header in front."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import fastavro

from featurestore.definitions.specs import SourceSpec
from featurestore.errors import SchemaError

_CONFLUENT_HEADER_BYTES = 5


def avro_codec(
    spec: SourceSpec, base_dir: Path
) -> tuple[Callable[[bytes], Any], Sequence[Callable[[Any], object]], Callable[[Exception], tuple[str, str]]]:
    """(decode, pickers, classify) for the source's schema file; see `decode.Codec`. Raises SchemaError."""
    path = base_dir / spec.schema
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SchemaError(f"source '{spec.name}': schema {spec.schema} can't be read: {error}") from error
    # Times stay numbers: fastavro would make a Python datetime of each, which costs more than the rest.
    schema = fastavro.parse_schema(_without_logical_types(raw))
    header = _CONFLUENT_HEADER_BYTES if spec.format == "avro-confluent" else 0

    def decode(value: bytes) -> Any:
        if header and (len(value) < header or value[0] != 0):
            raise ValueError("no Confluent header: the value must begin with a zero byte and a four-byte schema id")
        stream = io.BytesIO(value)
        stream.seek(header)
        row = fastavro.schemaless_reader(stream, schema, None)
        if stream.tell() != len(value):
            raise ValueError(f"{len(value) - stream.tell()} bytes follow the record")
        return row

    return decode, [itemgetter(column.name) for column in spec.columns], classify_avro


def _without_logical_types(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_logical_types(value) for key, value in node.items() if key != "logicalType"}
    if isinstance(node, list):
        return [_without_logical_types(item) for item in node]
    return node


def classify_avro(error: Exception) -> tuple[str, str]:
    """(reason, text) of what fastavro raised: bytes of another schema can't be told from broken ones."""
    return "malformed", f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
