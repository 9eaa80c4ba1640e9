"""An expression's canonical text says all that it does: read back it has the same text and the same results."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.definitions.expression_text import parse_expression
from featurestore.definitions.expressions import canonical, check_elementwise
from featurestore.errors import DefinitionError
from tests.definitions.test_expressions import ALLOWED

INSTANT = datetime(2026, 11, 23, 9, 30, tzinfo=timezone.utc)
FRAME = pl.DataFrame(
    {
        "i": [1, -2, None, 40],
        "x": [0.5, float("nan"), -3.25, None],
        "s": ["a", "B c", None, "2026"],
        "b": [True, False, None, True],
        "t": [INSTANT, INSTANT + timedelta(days=40), None, INSTANT - timedelta(seconds=1)],
        "d": [date(2026, 1, 1), None, date(2024, 2, 29), date(1969, 12, 31)],
    }
)
LITERALS = {
    "none": pl.lit(None),
    "bool": pl.lit(True),
    "text": pl.lit('with "quotes", (brackets) and ü'),
    "typed": pl.lit(1, dtype=pl.Int16) + pl.lit(1.5, dtype=pl.Float32),
    "huge": pl.lit(2**70),
    "small": pl.lit(1e-300) + 0.1,
    "date": pl.lit(date(2026, 1, 1)),
    "instant": pl.lit(INSTANT),
    "naive": pl.lit(INSTANT.replace(tzinfo=None)),
    "span": pl.lit(timedelta(hours=1, microseconds=1)),
    "time of day": pl.lit(time(9, 30)),
    "bytes": pl.lit(b"\x00\xff"),
    "numbers in": pl.col("i").is_in([1, 2]) | pl.col("x").is_in([0.5]),
    "flags in": pl.col("b").is_in([True]),
    "dates in": pl.col("d").is_in([date(2026, 1, 1), date(2024, 2, 29)]),
    "instants in": pl.col("t").is_in([INSTANT, None]),
    "nothing in": pl.col("s").is_in([]),
    "bytes in": pl.col("s").cast(pl.Binary).is_in([b"a", b"\x00"]),
    "decimals in": pl.col("i").cast(pl.Decimal(10, 2)).is_in([Decimal("1.00")]),
    "cast": pl.col("t").cast(pl.Datetime("ms", "Europe/Berlin")).dt.hour(),
    "cast wraps": pl.col("i").cast(pl.UInt8, wrap_numerical=True),
    "format": pl.format("{}:{}", pl.col("i"), pl.col("s")),
    "parsed": pl.col("s").str.strptime(pl.Date, "%Y", strict=False),
}


def same(one: pl.Expr, other: pl.Expr) -> None:
    """Equal results, or the same failure."""
    try:
        expected = FRAME.select(r=one)
    except pl.exceptions.PolarsError as error:
        with pytest.raises(type(error)):
            FRAME.select(r=other)
        return
    assert FRAME.select(r=other).equals(expected, null_equal=True)


@pytest.mark.parametrize("name", [*ALLOWED, *LITERALS])
def test_text_read_back_is_the_same_expression(name: str):
    expression = (ALLOWED | LITERALS)[name]
    check_elementwise(expression, name)
    text = canonical(expression)
    again = parse_expression(text)
    assert canonical(again) == text
    same(expression, again)


def expressions() -> st.SearchStrategy[pl.Expr]:
    """Numbers, text and flags from the frame's columns, several operations deep."""
    numbers = st.one_of(
        st.sampled_from([pl.col("i"), pl.col("x")]),
        st.integers(-1000, 1000).map(pl.lit),
        st.floats(-1e6, 1e6, allow_nan=False).map(pl.lit),
    )
    texts = st.one_of(st.just(pl.col("s")), st.text(max_size=5).filter(lambda s: "\0" not in s).map(pl.lit))

    def deeper(inner: st.SearchStrategy[pl.Expr]) -> st.SearchStrategy[pl.Expr]:
        pairs = st.tuples(inner, inner)
        return st.one_of(
            pairs.map(lambda p: p[0] + p[1]),
            pairs.map(lambda p: p[0] * p[1]),
            pairs.map(lambda p: p[0] / p[1]),
            pairs.map(lambda p: pl.coalesce(p[0], p[1])),
            pairs.map(lambda p: pl.when(p[0] > p[1]).then(p[0]).otherwise(p[1])),
            pairs.map(lambda p: pl.max_horizontal(p[0], p[1])),
            inner.map(lambda e: e.clip(-5, 5)),
            inner.map(lambda e: e.fill_null(0).abs().sqrt()),
            inner.map(lambda e: e.cast(pl.Float64).round(2)),
            st.tuples(inner, st.lists(st.integers(-5, 5), min_size=1)).map(lambda p: p[0].is_in(p[1]).cast(pl.Int64)),
        )

    number = st.recursive(numbers, deeper, max_leaves=8)
    text = st.recursive(
        texts,
        lambda inner: st.one_of(
            inner.map(lambda e: e.str.to_uppercase()),
            st.tuples(inner, inner).map(lambda p: pl.concat_str([p[0], p[1]], separator=", ")),
            inner.map(lambda e: e.str.replace("a", "(b", literal=True)),
        ),
        max_leaves=5,
    )
    flag = st.tuples(number, number, text, text).map(lambda p: (p[0] > p[1]) & ~(p[2] == p[3]))
    return st.one_of(number, text, flag)


@given(expressions())
def test_any_expression_is_read_back(expression: pl.Expr):
    text = canonical(expression)
    again = parse_expression(text)
    assert canonical(again) == text
    same(expression, again)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "col",
        'col("a"',
        'col("a")) ',
        'Plus(col("a"))',
        'NoSuch(col("a"))',
        "lit(Nothing 3)",
        'Cast(col("a"), 1, Strict)',
    ],
)
def test_what_is_no_such_text_is_named(text: str):
    with pytest.raises(DefinitionError, match="can't be read back"):
        parse_expression(text)
