"""A compiled view bound to its expressions: what a worker runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from featurestore.compile.view import CompiledView
from featurestore.definitions.expression_text import parse_expression

EntityGroup = tuple[str, ...]
"""Join key names: views with the same ones share a routing."""


@dataclass(frozen=True)
class BoundView:
    """A compiled view with its `where` and `derive` expressions."""

    compiled: CompiledView
    where: pl.Expr | None = None
    derive: Mapping[str, pl.Expr] = field(default_factory=dict)

    @property
    def group(self) -> EntityGroup:
        """The join keys that its events are routed by."""
        return tuple(key.name for key in self.compiled.spec.join_keys)

    def needed_columns(self) -> set[str]:
        """Schema columns that the view reads from an event, join keys left out."""
        needed = set(self.compiled.input_columns) - set(self.derive)
        for expression in (*self.derive.values(), *([] if self.where is None else [self.where])):
            needed.update(expression.meta.root_names())
        return needed


def bind_view(compiled: CompiledView) -> BoundView:
    """A view with the expressions that its definition says in text, so no author's module is needed.

    Raises DefinitionError when the installed polars does not know an operation of them.
    """
    spec = compiled.spec
    where = None if spec.where is None else parse_expression(spec.where)
    return BoundView(compiled, where, {name: parse_expression(text) for name, text in spec.derive})
