"""Expressions read back from their canonical text.

The text says all that an expression does, so the registry needs no author's module to compute a view: the tree that
polars would have written down is built again, and polars reads it.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import polars as pl

from featurestore.definitions.expressions import OPERATORS
from featurestore.errors import DefinitionError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:\.[A-Za-z][A-Za-z0-9]*)?")
_JSON = json.JSONDecoder()
_PLAIN_LISTS = (
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
    *(pl.Float32, pl.Float64, pl.String, pl.Boolean),
)


def parse_expression(text: str) -> pl.Expr:
    """The expression with this canonical text (`expressions.canonical`).

    Raises DefinitionError when it is no such text, or names what the installed polars does not know.
    """
    reader = _Reader(text)
    try:
        tree = reader.expression()
        reader.end()
        # polars' own form, MessagePack of its tree; as JSON it would read floats back a last digit off.
        return pl.Expr.deserialize(io.BytesIO(msgspec.msgpack.encode(tree)))
    except (ValueError, KeyError, IndexError, TypeError, pl.exceptions.PolarsError) as error:
        raise DefinitionError(
            f"the expression {text!r} can't be read back: {error}",
            hint="was it applied with another version of featurestore or polars?",
        ) from error


class _Reader:
    """Reads one text from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def end(self) -> None:
        if self._at != len(self._text):
            raise ValueError(f"something follows at {self._at}")

    def expression(self) -> Any:
        """The tree of the expression that begins here."""
        found = _NAME.match(self._text, self._at)
        if found is None:
            raise ValueError(f"no operation at {self._at}")
        name = found.group()
        self._at = found.end()
        self._take("(")
        if name == "col":
            tree: Any = {"Column": self._json()}
        elif name == "lit":
            tree = {"Literal": self._literal()}
        elif name == "Cast":
            tree = self._cast()
        else:
            tree = _call(name, *self._arguments())
        self._take(")")
        return tree

    def _arguments(self) -> tuple[list[Any], Any]:
        """Sub-expressions, and the options after them, None for none."""
        arguments: list[Any] = []
        while not self._text.startswith(")", self._at):
            if arguments:
                self._take(", ")
            if not _NAME.match(self._text, self._at) or self._word_is_json():
                return arguments, self._json()
            arguments.append(self.expression())
        return arguments, None

    def _word_is_json(self) -> bool:
        return re.compile(r"(?:true|false|null)\b").match(self._text, self._at) is not None

    def _cast(self) -> Any:
        inner = self.expression()
        self._take(", ")
        dtype = self._json()
        self._take(", ")
        found = _NAME.match(self._text, self._at)
        if found is None:
            raise ValueError(f"no option of a cast at {self._at}")
        self._at = found.end()
        return {"Cast": {"expr": inner, "dtype": dtype, "options": found.group()}}

    def _literal(self) -> Any:
        begin = self._at
        if _NAME.match(self._text, begin) is None or self._word_is_json():
            return _plain(self._json())
        # The type is all up to the blank before the value; blanks inside it stand in parentheses.
        depth = 0
        while depth or self._text[self._at] != " ":
            depth += {"(": 1, ")": -1}.get(self._text[self._at], 0)
            self._at += 1
        dtype = self._text[begin : self._at]
        self._take(" ")
        return {"Scalar": _scalar(dtype, self._json())}

    def _json(self) -> Any:
        value, self._at = _JSON.raw_decode(self._text, self._at)
        return value

    def _take(self, token: str) -> None:
        if not self._text.startswith(token, self._at):
            raise ValueError(f"{token!r} is missing at {self._at}")
        self._at += len(token)


def _plain(value: Any) -> Any:
    """A literal that has no type of its own, or whose text says it."""
    if isinstance(value, bool):
        return {"Scalar": {"Boolean": value}}
    if isinstance(value, str):
        return {"Scalar": {"String": value}}
    if isinstance(value, float):
        return {"Dyn": {"Float": value}}
    # polars counts literals in 128 bits, which MessagePack has no integers for.
    is_wide = not -(2**63) <= value < 2**64
    return {"Dyn": {"Int": value.to_bytes(16, "big", signed=True) if is_wide else value}}


def _scalar(dtype: str, value: Any) -> Any:
    listed = re.fullmatch(r"List\[(.*)\]", dtype)
    if listed is not None:
        return {"List": _arrow(_from_json(value, _dtype(listed.group(1))))}
    plain = getattr(pl, dtype, None)
    if isinstance(value, list) and plain in _PLAIN_LISTS:
        return {"List": _arrow(pl.Series(value, dtype=plain))}
    return {dtype: value}


def _from_json(values: list[Any], dtype: pl.DataType) -> pl.Series:
    if dtype == pl.Binary:
        return pl.Series(values, dtype=pl.String).str.decode("hex")
    whole = {pl.Date: pl.Int32(), pl.Datetime: pl.Int64(), pl.Duration: pl.Int64(), pl.Time: pl.Int64()}
    return pl.Series(values, dtype=whole.get(dtype.base_type(), pl.String())).cast(dtype)


def _arrow(values: pl.Series) -> bytes:
    stream = io.BytesIO()
    pl.DataFrame([values]).write_ipc_stream(stream)
    return stream.getvalue()


def _dtype(text: str) -> pl.DataType:
    """A polars type by its own text: "Int64", "Datetime(time_unit='us', time_zone='UTC')"."""
    name, _, arguments = text.partition("(")
    kind: Callable[..., pl.DataType] = getattr(pl, name)
    if not arguments:
        return kind()
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    options = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    return kind(**options)


def _call(name: str, arguments: list[Any], options: Any) -> Any:
    if name == "When":
        predicate, truthy, falsy = arguments
        return {"Ternary": {"predicate": predicate, "truthy": truthy, "falsy": falsy}}
    if name in OPERATORS:
        left, right = arguments
        return {"BinaryExpr": {"left": left, "op": name, "right": right}}
    family, _, function = name.rpartition(".")
    called: Any = function if options is None else {function: options}
    return {"Function": {"input": arguments, "function": {family: called} if family else called}}
