"""JSON values by msgspec, strictly typed by the topic's schema.

A missing field takes its default, else null where null is allowed, else it is a dead letter. Fields that
the schema does not name are ignored; of a field written twice the last one counts, and each must fit. An
integer is taken for a float; nothing else is converted: no string for a number, no 3.0 for an integer, no
date-time without a zone. Binary is base64.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, timezone
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from featurestore.definitions.specs import ColumnSpec
from featurestore.durations import parse_instant_us
from featurestore.errors import ConfigError, SchemaError

_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_TYPES: dict[str, Any] = {
    "Int64": _INT64,
    "Float64": float,
    "String": str,
    "Boolean": bool,
    "Binary": bytes,
    "Datetime": _INT64,
    "Date": _INT64,
}
_ISO_TYPES: dict[str, Any] = {"Datetime": Annotated[datetime, msgspec.Meta(tz=True)], "Date": date}
_PLACE = re.compile(r" - at `\$.*$", re.DOTALL)


def json_codec(
    columns: Sequence[ColumnSpec],
) -> tuple[Callable[[bytes], Any], Sequence[Callable[[Any], object]], Callable[[Exception, bytes], tuple[str, str]]]:
    """(decode, pickers, classify) for values with these columns; see `decode.Codec`.

    Raises SchemaError when a default does not fit its column.
    """
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    # Required fields come first in a struct.
    ordered = sorted(range(len(columns)), key=lambda i: columns[i].has_default or columns[i].nullable)
    for i in ordered:
        column = columns[i]
        kind = (_ISO_TYPES if column.unit == "iso" else _TYPES)[column.dtype]
        kind = kind | None if column.nullable else kind
        if column.has_default:
            fields.append((f"f{i}", kind, _default(column)))
        elif column.nullable:
            fields.append((f"f{i}", kind, None))
        else:
            fields.append((f"f{i}", kind))
    names = {f"f{i}": column.name for i, column in enumerate(columns)}
    # gc=False: the collector need not know objects that hold no others.
    struct = msgspec.defstruct("Value", fields, rename=names, gc=False)
    pickers = [attrgetter(f"f{i}") for i in range(len(columns))]
    return msgspec.json.Decoder(struct).decode, pickers, classify_json


def _default(column: ColumnSpec) -> object:
    """The default as a decoded value would be."""
    value = column.default
    try:
        if value is None:
            if not column.nullable:
                raise ValueError("null is not allowed")
            return None
        if column.unit == "iso" and column.dtype == "Datetime":
            return datetime.fromtimestamp(parse_instant_us(str(value)) / 1e6, tz=timezone.utc)
        if column.unit == "iso":
            return date.fromisoformat(str(value))
        if column.dtype == "Binary":
            # Avro writes the default of bytes as text, one character a byte.
            return str(value).encode("latin-1")
        return msgspec.convert(value, _TYPES[column.dtype])
    except (ValueError, ConfigError) as error:
        raise SchemaError(f"column '{column.name}': its default {value!r} is no {column.dtype} ({error})") from error


def classify_json(error: Exception, value: bytes) -> tuple[str, str]:
    """(reason, text) of what msgspec raised for a value.

    Of a value that has several faults: malformed if it is no JSON object, else the first one in it.
    """
    if isinstance(error, msgspec.ValidationError):
        # The decoder stopped at the first fault: what follows may be garbage.
        try:
            msgspec.json.decode(value)
        except msgspec.ValidationError:
            pass
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as other:
            error = other
    text = str(error) or type(error).__name__
    what = _PLACE.sub("", text)
    if what.startswith("Number out of range"):
        reason = "out_of_range"
    elif not isinstance(error, msgspec.ValidationError) or what.startswith("Expected `object`"):
        # Not JSON, not UTF-8, nested too deeply, or JSON of another kind: no event.
        reason = "malformed"
    elif what.startswith("Object missing required field"):
        reason = "missing_field"
    elif what.endswith("got `null`"):
        reason = "null_field"
    elif what.startswith(("Expected `int` <=", "Expected `int` >=", "Integer value out of range")):
        reason = "out_of_range"
    else:
        reason = "wrong_type"
    return reason, text
