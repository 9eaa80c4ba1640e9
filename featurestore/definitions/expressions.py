"""Expressions must be elementwise and deterministic: a result may depend on its own row alone.

Anything else would make features depend on where batches are cut, or on the clock. An expression is read from
what polars serialises and held against a list of what is allowed, so what polars adds later is refused until
someone has looked at it. Fingerprints are made of our own canonical text, for polars' form is not stable.
"""

from __future__ import annotations

import io
import json
import re
from typing import Any

import polars as pl

from featurestore.errors import DefinitionError

_HINT = "use elementwise operations; aggregate with agg.* and leave clocks, chance and Python functions out"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


OPERATORS = _names(
    """
    Eq NotEq Lt LtEq Gt GtEq EqValidity NotEqValidity Plus Minus Multiply Divide TrueDivide
    FloorDivide Modulus And Or Xor LogicalAnd LogicalOr
    """
)
_FUNCTIONS = _names(
    """
    Abs Negate Sign Round RoundSF Truncate Floor Ceil Clip Log Log1p Exp Atan2 FillNull Coalesce
    Replace ReplaceStrict MinHorizontal MaxHorizontal SumHorizontal MeanHorizontal
    """
)
# Families that polars groups functions in. Those of rows (IsUnique, ConcatVertical, …) are left out.
_FAMILIES: dict[str, frozenset[str]] = {
    "Boolean": _names(
        """
        Not IsNull IsNotNull IsNan IsNotNan IsFinite IsInfinite IsIn IsBetween IsClose AnyHorizontal
        AllHorizontal
        """
    ),
    "Pow": _names(
        """
        Generic Sqrt Cbrt
        """
    ),
    "Bitwise": _names(
        """
        CountOnes CountZeros LeadingOnes LeadingZeros TrailingOnes TrailingZeros
        """
    ),
    "Trigonometry": _names(
        """
        Sin Cos Tan Cot ArcSin ArcCos ArcTan Sinh Cosh Tanh ArcSinh ArcCosh ArcTanh Degrees Radians
        """
    ),
    "StringExpr": _names(
        """
        Lowercase Uppercase Titlecase Contains ContainsAny StartsWith EndsWith StripChars
        StripCharsStart StripCharsEnd StripPrefix StripSuffix Replace ReplaceMany Slice Head Tail
        LenChars LenBytes ZFill PadStart PadEnd Extract CountMatches Find Reverse Normalize ToInteger
        ToDecimal Strptime ConcatHorizontal Format HexEncode HexDecode Base64Encode Base64Decode
        """
    ),
    "BinaryExpr": _names(
        """
        Size HexEncode Base64Encode Contains StartsWith EndsWith
        """
    ),
    "TemporalExpr": _names(
        """
        Millennium Century Year IsoYear Quarter Month Week WeekDay Day OrdinalDay DaysInMonth
        IsLeapYear Hour Minute Second Millisecond Microsecond Nanosecond Date Time Datetime Truncate
        Round OffsetBy MonthStart MonthEnd ToString TimeStamp CastTimeUnit ConvertTimeZone
        ReplaceTimeZone BaseUtcOffset DSTOffset Duration DatetimeFunction TotalDays TotalHours
        TotalMinutes TotalSeconds TotalMilliseconds TotalMicroseconds TotalNanoseconds
        """
    ),
}
# Arguments that are one set or mapping for all rows: a column there would be read whole, as far as the batch goes.
_WHOLE_ARGUMENTS: dict[tuple[str, str], slice] = {
    ("Boolean", "IsIn"): slice(1, 2),
    ("", "Replace"): slice(1, 3),
    ("", "ReplaceStrict"): slice(1, 3),
    ("StringExpr", "ContainsAny"): slice(1, 2),
    ("StringExpr", "ReplaceMany"): slice(1, 3),
}
# The others are nested, or written down as Arrow bytes, which differ between versions of polars.
_CAST_TO = _names(
    """
    Int8 Int16 Int32 Int64 UInt8 UInt16 UInt32 UInt64 Float32 Float64 Decimal String Binary Boolean
    Date Time Datetime Duration
    """
)


def check_elementwise(expression: object, what: str) -> None:
    """Raise DefinitionError naming `what` and the operation unless it is elementwise and deterministic."""
    if not isinstance(expression, pl.Expr):
        raise DefinitionError(
            f"{what}: {expression!r} is no polars expression", hint='write it like pl.col("amount") * 2'
        )
    refused = _refused(_tree(expression, what))
    if refused is None and not expression.meta.is_row_separable() and expression.meta.root_names():
        refused = "an operation over several rows"
    if refused is not None:
        raise DefinitionError(
            f"{what}: '{refused}' is not allowed: a result may depend on its own row alone, and on plain values",
            hint=_HINT,
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
    except (pl.exceptions.PolarsError, ImportError, ValueError, TypeError) as error:
        # A Python function needs a pickler, which need not be installed.
        raise DefinitionError(
            f"{what}: the expression holds a Python function or what can't be written down", hint=_HINT
        ) from error


def _split(node: Any) -> tuple[str, Any]:
    """Name and options of a node: polars writes "Abs", {"Clip": {…}}."""
    if isinstance(node, str):
        return node, None
    name, options = next(iter(node.items()))
    return str(name), options


def _function(node: Any) -> tuple[str, str, Any]:
    """Family ("" for none), name and options of a function."""
    name, options = _split(node)
    if name in _FAMILIES and options is not None:
        return name, *_split(options)
    return "", name, options


def _children(kind: str, body: Any) -> list[Any] | None:
    """Sub-expressions of a node, None when its kind is not allowed."""
    if kind in ("Column", "Literal"):
        return []
    if kind == "Alias":
        return [body[0]]
    if kind == "BinaryExpr":
        return [body["left"], body["right"]]
    if kind == "Cast":
        return [body["expr"]]
    if kind == "Ternary":
        return [body["predicate"], body["truthy"], body["falsy"]]
    if kind == "Function":
        return list(body["input"])
    return None


def _refused(node: Any) -> str | None:
    """Name of the first thing that is not allowed, None when all is."""
    kind, body = _split(node)
    children = _children(kind, body)
    if children is None:
        return _spoken(_split(body)[0] if kind == "Agg" else kind)
    refused = None
    if kind == "BinaryExpr" and body["op"] not in OPERATORS:
        refused = str(body["op"])
    elif kind == "Literal":
        refused = _refused_literal(body)
    elif kind == "Function":
        refused = _refused_function(body)
    elif kind == "Cast":
        refused = _refused_cast(body["dtype"])
    return refused or next((found for child in children if (found := _refused(child))), None)


def _refused_function(body: Any) -> str | None:
    family, name, options = _function(body["function"])
    if name not in (_FAMILIES[family] if family else _FUNCTIONS):
        return _split(options)[0] if name == "Random" and isinstance(options, str) else _spoken(name)
    whole = body["input"][_WHOLE_ARGUMENTS.get((family, name), slice(0))]
    if any(_split(argument)[0] != "Literal" for argument in whole):
        return f"{_spoken(name)} of a column"
    if (family, name) == ("", "ReplaceStrict") and options["return_dtype"] is not None:
        return _refused_cast(options["return_dtype"])
    if name == "Strptime" and options[1].get("format") is None:
        return "reading a time without a format"  # polars guesses the format from a batch's first value
    return None


def _refused_cast(dtype: Any) -> str | None:
    kind, value = _split(dtype)
    name = _split(value)[0] if kind == "Literal" else _spoken(kind)
    return None if name in _CAST_TO else f"a cast to {name}"


def _refused_literal(body: Any) -> str | None:
    kind, value = _split(body)
    if kind not in ("Dyn", "Scalar"):
        return f"a {kind} as a literal"
    name, number = _split(value)
    if name.startswith("Float") and number is None:
        return "a literal that is NaN or infinite"  # polars writes both as null: they can't be told apart
    return None


def _spoken(name: str) -> str:
    """A node's name as an author knows it: CumSum -> cum_sum."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _text(node: Any) -> str:
    kind, body = _split(node)
    if kind == "Column":
        return f"col({json.dumps(body)})"
    if kind == "Literal":
        return f"lit({_literal(body)})"
    if kind == "Alias":
        return _text(body[0])
    arguments = [_text(child) for child in _children(kind, body) or []]
    if kind == "BinaryExpr":
        return f"{body['op']}({', '.join(arguments)})"
    if kind == "Cast":
        return f"Cast({arguments[0]}, {_options(body['dtype'])}, {body['options']})"
    if kind == "Ternary":
        return f"When({', '.join(arguments)})"
    family, name, options = _function(body["function"])
    if options is not None:
        arguments.append(_options(options))
    return f"{family}{'.' if family else ''}{name}({', '.join(arguments)})"


def _options(options: Any) -> str:
    return json.dumps(options, sort_keys=True, ensure_ascii=False)


def _as_json(values: pl.Series) -> pl.Series:
    """Instants and spans as integers, bytes in hexadecimal, the rest as text."""
    if values.dtype.is_temporal():
        return values.to_physical()
    return values.bin.encode("hex") if values.dtype == pl.Binary else values.cast(pl.String)


def _literal(body: Any) -> str:
    kind, value = _split(body)
    name, content = _split(value)
    if kind == "Dyn":
        return _options(content)  # an untyped number: takes the type of its neighbour
    if name == "List" and isinstance(content, list):
        # polars writes a list of literals as Arrow bytes, which differ between versions.
        values = pl.read_ipc_stream(io.BytesIO(bytes(content))).to_series()
        if values.dtype.is_integer() or values.dtype.is_float() or values.dtype in (pl.String, pl.Boolean):
            return f"{values.dtype} {_options(values.to_list())}"
        return f"List[{values.dtype}] {_options(_as_json(values).to_list())}"
    if name in ("String", "Boolean"):
        return _options(content)
    return f"{name} {_options(content)}"
