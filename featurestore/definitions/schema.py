"""A topic's schema file: its columns, their dtypes, which may be null, which have defaults.

Avro (.avsc): a flat record. JSON Schema (.json): an object with properties. Integers widen to Int64, floats to Float64.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featurestore.definitions.specs import ColumnSpec
from featurestore.errors import SchemaError

_AVRO = {
    "int": "Int64",
    "long": "Int64",
    "float": "Float64",
    "double": "Float64",
    "string": "String",
    "boolean": "Boolean",
    "bytes": "Binary",
    "enum": "String",
}
_AVRO_TIMES = {"timestamp-millis": "ms", "timestamp-micros": "us", "timestamp-nanos": "ns"}
_JSON = {"integer": "Int64", "number": "Float64", "string": "String", "boolean": "Boolean"}


def load_schema(path: Path, shown_as: str) -> tuple[ColumnSpec, ...]:
    """Columns of a schema file, in its order. shown_as: the path as the author wrote it, for messages.

    Raises SchemaError when the file is missing, is no schema, or uses what is not supported.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SchemaError(f"schema {shown_as} does not exist", hint=f"looked for {path}") from error
    except (OSError, ValueError) as error:
        raise SchemaError(f"schema {shown_as} can't be read: {error}", hint="it must be JSON text") from error
    if not isinstance(raw, dict):
        raise SchemaError(f"schema {shown_as} is no JSON object")
    columns = _columns(raw, shown_as)
    if not columns:
        raise SchemaError(f"schema {shown_as} has no fields", hint="name the fields of an event in it")
    for column in columns:
        number = sum(other.name == column.name for other in columns)
        if number > 1:
            raise SchemaError(f"schema {shown_as}: field '{column.name}' occurs {number} times")
        _check_default(column, shown_as)
    return columns


def _columns(raw: dict[str, Any], shown_as: str) -> tuple[ColumnSpec, ...]:
    if raw.get("type") == "record" and isinstance(raw.get("fields"), list):
        return tuple(_avro_column(field, shown_as) for field in raw["fields"])
    if raw.get("type") == "object" and isinstance(raw.get("properties"), dict):
        required = raw.get("required", [])
        if not isinstance(required, list):
            raise SchemaError(f"schema {shown_as}: required is {json.dumps(required)}", hint="list the names of fields")
        return tuple(_json_column(name, body, name in required, shown_as) for name, body in raw["properties"].items())
    raise SchemaError(
        f"schema {shown_as} is neither an Avro record nor a JSON Schema object",
        hint='begin with {"type": "record", "fields": […]} or {"type": "object", "properties": {…}}',
    )


def _check_default(column: ColumnSpec, shown_as: str) -> None:
    value = column.default
    if value is None:
        if column.has_default and not column.nullable:
            raise SchemaError(
                f"schema {shown_as}: field '{column.name}' defaults to null, which it does not allow",
                hint='allow it with the type ["null", …], or give another default',
            )
        return
    integer = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    fits = {
        "Int64": integer,
        "Float64": integer or (isinstance(value, float) and math.isfinite(value)),
        "String": isinstance(value, str),
        "Boolean": isinstance(value, bool),
        "Datetime": integer and column.unit != "iso",
        "Date": integer and column.unit != "iso",
    }
    if not fits.get(column.dtype, False):
        raise SchemaError(
            f"schema {shown_as}: field '{column.name}' is {column.dtype}, not its default {value!r}",
            hint="give a number, text or truth value of the field's type, or no default",
        )


def _avro_column(field: Any, shown_as: str) -> ColumnSpec:
    if not isinstance(field, Mapping) or not isinstance(field.get("name"), str) or "type" not in field:
        raise SchemaError(
            f"schema {shown_as}: {field!r} is no field", hint='fields look like {"name": "a", "type": "long"}'
        )
    name, kind = field["name"], field["type"]
    nullable = False
    if isinstance(kind, list):
        options = [option for option in kind if option != "null"]
        nullable = len(options) < len(kind)
        if len(options) != 1:
            raise SchemaError(
                f"schema {shown_as}: field '{name}' is a union of {len(options)} types",
                hint="use one type, or null and one",
            )
        kind = options[0]
    logical = kind.get("logicalType") if isinstance(kind, Mapping) else None
    base = kind.get("type") if isinstance(kind, Mapping) else kind
    if not isinstance(base, str) or base not in _AVRO:
        raise SchemaError(
            f"schema {shown_as}: field '{name}' has type {json.dumps(base)}, which is not supported",
            hint="fields are flat: int, long, float, double, string, boolean, bytes, enum, timestamps, date",
        )
    dtype, unit = _AVRO[base], None
    if logical == "decimal":
        raise SchemaError(
            f"schema {shown_as}: field '{name}' is a decimal, which is not supported",
            hint="use double, or a long of the smallest unit such as cents",
        )
    if logical in _AVRO_TIMES and base == "long":
        dtype, unit = "Datetime", _AVRO_TIMES[logical]
    elif logical == "date" and base == "int":
        dtype = "Date"
    elif isinstance(logical, str) and logical.startswith("local-timestamp"):
        raise SchemaError(
            f"schema {shown_as}: field '{name}' is a {logical}, a time without a zone",
            hint="use timestamp-millis (UTC)",
        )
    return ColumnSpec(
        name=name,
        dtype=dtype,
        nullable=nullable,
        unit=unit,
        has_default="default" in field,
        default=field.get("default"),
    )


def _json_column(name: str, body: Any, required: bool, shown_as: str) -> ColumnSpec:
    kind = body.get("type") if isinstance(body, Mapping) else None
    options = [option for option in (kind if isinstance(kind, list) else [kind]) if option != "null"]
    if len(options) != 1 or options[0] not in _JSON:
        raise SchemaError(
            f"schema {shown_as}: property '{name}' has type {json.dumps(kind)}, which is not supported",
            hint="properties are flat: integer, number, string or boolean, each possibly with null",
        )
    dtype, unit = _JSON[options[0]], None
    if dtype == "String" and body.get("format") == "date-time":
        dtype, unit = "Datetime", "iso"
    elif dtype == "String" and body.get("format") == "date":
        dtype, unit = "Date", "iso"
    nullable = isinstance(kind, list) and "null" in kind
    return ColumnSpec(
        name=name,
        dtype=dtype,
        # A property that may be left out is null then, whether or not null may be written.
        nullable=nullable or not required,
        unit=unit,
        has_default="default" in body,
        default=body.get("default"),
    )
