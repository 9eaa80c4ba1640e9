"""Expressions must be elementwise and deterministic: a result may depend on its own row alone.

Anything else would make features depend on where batches are cut, or on the clock. What polars says of an expression
is read from its serialised form; our own canonical text of it goes into fingerprints, for polars' own form is not stable
across versions.
"""

from __future__ import annotations

import io
import json
from typing import Any

import polars as pl

from featurestore.errors import DefinitionError

_FAMILIES = frozenset({"Boolean", "StringExpr", "TemporalExpr", "Pow", "Trigonometry", "Bitwise"})
_FUNCTIONS = frozenset(
    {
        *("Abs", "Negate", "FillNull", "Coalesce", "Log", "Log1p", "Exp", "Clip", "Round", "RoundSF", "Floor", "Ceil"),
        *("Sign", "MaxHorizontal", "MinHorizontal", "SumHorizontal", "MeanHorizontal", "Replace", "ReplaceStrict"),
        *("NullIf", "Sqrt", "Cbrt", "FloorDiv", "Truncate"),
    }
)


def check_elementwise(expression: object, what: str) -> None:
    """Raise DefinitionError naming `what` and the operation, unless the expression is elementwise and deterministic."""
    if not isinstance(expression, pl.Expr):
        raise DefinitionError(f"{what}: {expression!r} is no polars expression", hint='write it like pl.col("amount") * 2')
    refused = _refused(_tree(expression, what))
    if refused is None and not expression.meta.is_row_separable():
        refused = "an operation over several rows"
    if refused is not None:
        raise DefinitionError(
            f"{what}: '{refused}' does not depend on its own row alone, or not always in the same way",
            hint="use elementwise operations; aggregate with agg.* and leave clocks, chance and Python functions out",
        )


def canonical(expression: pl.Expr) -> str:
    """Our own text of an expression: equal for equal expressions, whatever the polars version."""
    return _text(_tree(expression, "expression"))


def root_columns(expression: pl.Expr) -> tuple[str, ...]:
    """Columns that the expression reads, sorted."""
    return tuple(sorted(set(expression.meta.root_names())))


def _tree(expression: pl.Expr, what: str) -> Any:
    try:
        return json.loads(expression.meta.serialize(format="json"))
    except pl.exceptions.PolarsError as error:
        raise DefinitionError(
            f"{what}: the expression holds a Python function", hint="use polars' own operations instead"
        ) from error


def _refused(node: Any) -> str | None:
    """Name of the first operation that is not allowed, None when all are."""
    if isinstance(node, str):
        return node
    kind, body = next(iter(node.items()))
    if kind in ("Column", "Literal"):
        return None
    if kind == "Alias":
        return _refused(body[0])
    if kind == "BinaryExpr":
        return _refused(body["left"]) or _refused(body["right"])
    if kind == "Cast":
        return _refused(body["expr"])
    if kind == "Ternary":
        return _refused(body["predicate"]) or _refused(body["truthy"]) or _refused(body["falsy"])
    if kind == "Function":
        function = body["function"]
        name = function if isinstance(function, str) else next(iter(function))
        if name not in _FAMILIES and name not in _FUNCTIONS:
            return str(name)
        return next((found for item in body["input"] if (found := _refused(item))), None)
    if kind == "Agg":
        return str(next(iter(body)))
    return str(kind)


def _text(node: Any) -> str:
    kind, body = next(iter(node.items()))
    if kind == "Column":
        return f"col({json.dumps(body)})"
    if kind == "Literal":
        return f"lit({_literal(body)})"
    if kind == "Alias":
        return _text(body[0])
    if kind == "BinaryExpr":
        return f"{body['op']}({_text(body['left'])}, {_text(body['right'])})"
    if kind == "Cast":
        return f"Cast({_text(body['expr'])}, {json.dumps(body['dtype'], sort_keys=True)}, {body['options']})"
    if kind == "Ternary":
        return f"When({_text(body['predicate'])}, {_text(body['truthy'])}, {_text(body['falsy'])})"
    function = json.dumps(body["function"], sort_keys=True)
    return f"{function}({', '.join(_text(item) for item in body['input'])})"


def _literal(body: Any) -> str:
    scalar = body.get("Scalar") if isinstance(body, dict) else None
    if isinstance(scalar, dict) and isinstance(scalar.get("List"), list):
        # polars writes a list of literals as Arrow bytes, which differ between versions.
        frame = pl.read_ipc_stream(io.BytesIO(bytes(scalar["List"])))
        values = frame.to_series()
        return f"{values.dtype} {json.dumps(values.to_list(), default=str)}"
    return json.dumps(body, sort_keys=True)
