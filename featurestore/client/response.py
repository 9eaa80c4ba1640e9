"""An answer of the feature server, column by column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import pyarrow

_ARROW_TYPES = {"String": "string", "Int64": "int64", "Float64": "float64", "Boolean": "bool"}
_FLOAT_TEXTS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class _Metadata(msgspec.Struct, frozen=True):
    feature_names: list[str]
    feature_types: list[str] | None = None


class _Column(msgspec.Struct, frozen=True):
    values: list[Any]
    statuses: list[str] = []
    event_timestamps: list[str] = []


class WireResponse(msgspec.Struct, frozen=True):
    """The response body, as far as the client reads it."""

    metadata: _Metadata
    results: list[_Column]


class OnlineResponse:
    """Join keys first, then the features in the requested order; every list has one entry an entity.

    names: of the columns. statuses: by column, "PRESENT", "NULL_VALUE", "NOT_FOUND" or "OUTSIDE_MAX_AGE".
    event_timestamps: by column, the newest event of the entity's row, ISO 8601 in UTC, whole seconds;
    "1970-01-01T00:00:00Z" where there is none.
    """

    def __init__(self, wire: WireResponse) -> None:
        self.names: list[str] = wire.metadata.feature_names
        self._types = wire.metadata.feature_types
        self._values: dict[str, list[Any]] = {}
        for index, (name, column) in enumerate(zip(self.names, wire.results, strict=True)):
            is_float = self._types is not None and self._types[index] == "Float64"
            self._values[name] = _floats(column.values) if is_float else column.values
        self.statuses: Mapping[str, list[str]] = dict(
            zip(self.names, (column.statuses for column in wire.results), strict=True)
        )
        self.event_timestamps: Mapping[str, list[str]] = dict(
            zip(self.names, (column.event_timestamps for column in wire.results), strict=True)
        )

    def to_dict(self) -> dict[str, list[Any]]:
        """Column name to values."""
        return {name: list(values) for name, values in self._values.items()}

    def to_pylist(self) -> list[dict[str, Any]]:
        """One dict an entity."""
        return [dict(zip(self.names, row, strict=True)) for row in zip(*self._values.values(), strict=True)]

    def to_arrow(self) -> pyarrow.Table:
        """A pyarrow table; columns have the features' types even where every value is null."""
        import pyarrow as pa

        if self._types is None:
            return pa.table(self._values)
        fields = [
            pa.field(name, pa.type_for_alias(_ARROW_TYPES[kind]))
            for name, kind in zip(self.names, self._types, strict=True)
        ]
        return pa.table(self._values, schema=pa.schema(fields))

    def __len__(self) -> int:
        return len(next(iter(self._values.values()), []))

    def __repr__(self) -> str:
        return f"OnlineResponse({len(self)} entities, columns {', '.join(self.names)})"


def _floats(values: list[Any]) -> list[Any]:
    """NaN and infinities travel as text, for JSON has no word for them."""
    return [_FLOAT_TEXTS[value] if isinstance(value, str) else value for value in values]
