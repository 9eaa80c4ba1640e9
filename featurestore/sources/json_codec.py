"""JSON values by msgspec, strictly typed by the topic's schema.

Missing field: its default, else null when it is nullable, else a dead letter. Extra fields are ignored. An integer is
taken for a float; nothing else is converted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from featurestore.definitions.specs import ColumnSpec

_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_TYPES: dict[str, Any] = {"Int64": _INT64, "Float64": float, "String": str, "Boolean": bool, "Binary": bytes}


def json_codec(
    columns: Sequence[ColumnSpec],
) -> tuple[Callable[[bytes], Any], Sequence[Callable[[Any], object]], Callable[[Exception], tuple[str, str]]]:
    """(decode, pickers, classify) for values with these columns; see `decode.Codec`."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    # Required fields come first in a struct.
    ordered = sorted(range(len(columns)), key=lambda i: columns[i].has_default or columns[i].nullable)
    for i in ordered:
        column = columns[i]
        kind = _field_type(column)
        if column.has_default or column.nullable:
            fields.append((f"f{i}", kind, column.default if column.has_default else None))
        else:
            fields.append((f"f{i}", kind))
    names = {f"f{i}": column.name for i, column in enumerate(columns)}
    struct = msgspec.defstruct("Value", fields, rename=names, gc=False)
    pickers = [attrgetter(f"f{i}") for i in range(len(columns))]
    return msgspec.json.Decoder(struct).decode, pickers, classify_json


def _field_type(column: ColumnSpec) -> Any:
    if column.dtype == "Datetime":
        kind: Any = Annotated[datetime, msgspec.Meta(tz=True)] if column.unit == "iso" else _INT64
    elif column.dtype == "Date":
        kind = date if column.unit == "iso" else Annotated[int, msgspec.Meta(ge=-719_162, le=2_932_896)]
    else:
        kind = _TYPES[column.dtype]
    return kind | None if column.nullable else kind


def classify_json(error: Exception) -> tuple[str, str]:
    """(reason, text) of what msgspec raised."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        reason = "out_of_range" if "out of range" in text else "malformed"
    elif "missing required field" in text:
        reason = "missing_field"
    elif "got `null`" in text and not text.startswith("Expected `object`"):
        reason = "null_field"
    elif "Expected `object`" in text:
        reason = "malformed"
    elif "out of range" in text or "Expected `int` <=" in text or "Expected `int` >=" in text:
        reason = "out_of_range"
    else:
        reason = "wrong_type"
    return reason, text or type(error).__name__
