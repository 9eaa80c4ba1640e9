"""Aggregates as an author writes them: `agg.count(over="10m")`, `agg.sum("amount", over=["1h", "24h"])`.

over: a duration (a sliding window), a window, or a list of them; one feature a window. default: what a
feature is for an entity that is not known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Union

from featurestore.definitions.metadata import Deprecated, feature_metadata
from featurestore.definitions.names import check_identifier
from featurestore.definitions.specs import NO_METADATA, FeatureMetadataSpec, Number, PIIClass, Scalar, WindowSpec
from featurestore.definitions.windows import Window, lifetime, sliding
from featurestore.errors import DefinitionError

OneWindow = Union[str, timedelta, Window]
Over = Union[OneWindow, Sequence[OneWindow]]


@dataclass(frozen=True)
class Aggregation:
    """An aggregate of a column (None: of rows) over one or more windows. Made by the functions of `agg`."""

    function: str
    column: str | None
    windows: tuple[Window, ...]
    default: Scalar = None
    name: str | None = None
    metadata: FeatureMetadataSpec = NO_METADATA

    def alias(self, name: str) -> Aggregation:
        """The same with another name. Raises DefinitionError with several windows: they would share it."""
        check_identifier(name, f"agg.{self.function}: alias")
        if len(self.windows) > 1:
            raise DefinitionError(
                f"agg.{self.function}: alias {name!r} would name {len(self.windows)} features, one a window",
                hint="write one aggregate a window, each with its own alias",
            )
        return replace(self, name=name)

    def describe(
        self,
        description: str = "",
        *,
        unit: str | None = None,
        pii: PIIClass | None = None,
        valid_range: tuple[Number | None, Number | None] | None = None,
        deprecated: Deprecated | None = None,
    ) -> Aggregation:
        """The same, with what people and tools should know of its features; nothing of what is computed changes.

        pii: "none", "indirect", "direct" or "sensitive"; None: not said. valid_range: least and largest value, None for
        no bound. Raises DefinitionError.
        """
        what = f"agg.{self.function}: describe"
        return replace(self, metadata=feature_metadata(what, description, unit, pii, valid_range, deprecated))

    def features(self) -> list[tuple[str, WindowSpec]]:
        """(name, window) of each feature, in the order of `over`."""
        stem = self.function if self.column is None else f"{self.column}_{self.function}"
        return [(self.name or f"{stem}{window.suffix}", window.spec) for window in self.windows]


def count(column: str | None = None, over: Over | None = None, *, default: Scalar = None) -> Aggregation:
    """Number of rows, or of the column's non-null values. Without `over`: of all events ever."""
    return _aggregation("count", column, lifetime() if over is None else over, default)


def sum(column: str, over: Over, *, default: Scalar = None) -> Aggregation:
    """Sum; nulls are skipped. Of a Boolean: how often it is true."""
    return _aggregation("sum", column, over, default)


def mean(column: str, over: Over, *, default: Scalar = None) -> Aggregation:
    """Arithmetic mean; nulls are skipped."""
    return _aggregation("mean", column, over, default)


def min(column: str, over: Over, *, default: Scalar = None) -> Aggregation:
    """Least value; nulls are skipped."""
    return _aggregation("min", column, over, default)


def max(column: str, over: Over, *, default: Scalar = None) -> Aggregation:
    """Largest value; nulls are skipped."""
    return _aggregation("max", column, over, default)


def var(column: str, over: Over, *, default: Scalar = None) -> Aggregation:
    """Sample variance (n - 1); null with fewer than two values."""
    return _aggregation("var", column, over, default)


def stddev(column: str, over: Over, *, default: Scalar = None) -> Aggregation:
    """Sample standard deviation (n - 1); null with fewer than two values."""
    return _aggregation("stddev", column, over, default)


def first(column: str, over: Over | None = None, *, default: Scalar = None) -> Aggregation:
    """Earliest non-null value by event time. Without `over`: of all events ever."""
    return _aggregation("first", column, lifetime() if over is None else over, default)


def last(column: str, over: Over | None = None, *, default: Scalar = None) -> Aggregation:
    """Newest non-null value by event time. Without `over`: of all events ever."""
    return _aggregation("last", column, lifetime() if over is None else over, default)


def _aggregation(function: str, column: str | None, over: Over, default: Scalar) -> Aggregation:
    where = f"agg.{function}" if column is None else f"agg.{function}({column!r})"
    if column is not None and not isinstance(column, str):
        raise DefinitionError(
            f"agg.{function}: the column must be a name, not {type(column).__name__}",
            hint="name an expression in the view's `derive` and aggregate that column",
        )
    if not isinstance(default, int | float | str | bool | None):
        raise DefinitionError(
            f"{where}: default {default!r} is no number, text or truth value", hint="like default=0, or leave it out"
        )
    if (isinstance(default, float) and not math.isfinite(default)) or (
        isinstance(default, int) and not -(2**63) <= default < 2**63
    ):
        # JSON, in which definitions are kept, has none of them.
        raise DefinitionError(
            f"{where}: default {default!r} is not finite, or needs more than 64 bits", hint="use an ordinary number"
        )
    parts = over if isinstance(over, Sequence) and not isinstance(over, str) else [over]
    if not parts:
        raise DefinitionError(f"{where}: `over` names no window", hint="write it like over='10m'")
    return Aggregation(function, column, tuple(_window(part, where) for part in parts), default)


def _window(over: object, where: str) -> Window:
    if isinstance(over, Window):
        return over
    if isinstance(over, str | timedelta):
        try:
            return sliding(over)
        except DefinitionError as error:
            raise DefinitionError(f"{where}: `over`: {error.message}", hint=error.hint) from error
    raise DefinitionError(
        f"{where}: {over!r} is no window",
        hint="write over='10m', tumbling('1m'), hopping('10m', '1m') or lifetime()",
    )
