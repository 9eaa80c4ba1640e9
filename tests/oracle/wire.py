"""A JSON value as an event, or the reason why it is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from tests.oracle.model import Event

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
US = timedelta(microseconds=1)
YEAR_1_US = (datetime(1, 1, 1, tzinfo=timezone.utc) - EPOCH) // US
YEAR_9999_US = (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc) - EPOCH) // US
US_OF = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
REQUIRED = object()


@dataclass(frozen=True)
class Column:
    """dtype: "Int64" | "Float64" | "String" | "Boolean" | "Datetime"; unit: of a time that is a number, "iso": is text.

    default: taken when the field is missing, as decoded; REQUIRED: there is none.
    """

    dtype: str
    nullable: bool = False
    unit: str = "us"
    default: Any = REQUIRED


class _BadValueError(Exception):
    """args: the reason."""


def read_json(value: bytes | None, columns: Mapping[str, Column], event_time: str) -> tuple[Event | None, str | None]:
    """(event, None), or (None, reason of the dead letter): of several faults the first in the text counts."""
    try:
        if value is None:
            raise _BadValueError("tombstone")
        fields = _object(value)
        event = {}
        for name, field in fields.pairs:
            if name in columns:  # of a field written twice the last one counts, and each must fit
                event[name] = _cell(columns[name], field)
        for name, column in columns.items():
            if name not in event:
                event[name] = _missing(column)
        for name, column in columns.items():
            time = event[name]
            if column.dtype == "Datetime" and time is not None and not YEAR_1_US <= time <= YEAR_9999_US:
                raise _BadValueError("event_time_out_of_range" if name == event_time else "out_of_range")
    except _BadValueError as bad:
        return None, str(bad)
    return {name: event[name] for name in columns}, None


class _Object(dict[str, Any]):
    """A JSON object that remembers fields which are written twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _object(value: bytes) -> _Object:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        fields = json.loads(value.decode("utf-8"), parse_constant=refuse, object_pairs_hook=_Object)
        # Half a surrogate pair, which an escape can write, is no text.
        json.dumps(fields, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise _BadValueError("malformed") from None
    if not isinstance(fields, _Object):
        raise _BadValueError("malformed")
    return fields


def _missing(column: Column) -> Any:
    if column.default is not REQUIRED:
        return column.default
    if column.nullable:
        return None
    raise _BadValueError("missing_field")


def _cell(column: Column, value: Any) -> Any:
    if value is None:
        if column.nullable:
            return None
        raise _BadValueError("null_field")
    if column.unit == "iso":
        return _iso(value)
    if column.dtype in ("Int64", "Datetime"):
        if type(value) is not int:
            raise _BadValueError("wrong_type")
        if not -(2**63) <= value < 2**63:
            raise _BadValueError("out_of_range")
        times, by = US_OF[column.unit] if column.dtype == "Datetime" else (1, 1)
        return value * times // by
    if column.dtype == "Float64":
        if type(value) not in (int, float):
            raise _BadValueError("wrong_type")
        number = float(value) if abs(value) < 1e308 * 1.79 else float("inf")
        if number in (float("inf"), float("-inf")):
            raise _BadValueError("out_of_range")
        return number
    if type(value) is not {"String": str, "Boolean": bool}[column.dtype]:
        raise _BadValueError("wrong_type")
    return value


def _iso(value: Any) -> int:
    try:
        time = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        raise _BadValueError("wrong_type") from None
    if time.tzinfo is None:
        raise _BadValueError("wrong_type")
    return (time - EPOCH) // US
