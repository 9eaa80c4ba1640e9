"""Which expressions are refused, and that equal ones have one text."""

from __future__ import annotations

from datetime import datetime, timezone

import polars as pl
import pytest

from featurestore.definitions.expressions import canonical, check_elementwise, root_columns
from featurestore.errors import DefinitionError

A, B = pl.col("a"), pl.col("b")

ALLOWED = {
    "arithmetic": (A + 1) * B / 2 - A // 3 % 2 + A**2,
    "negation": -A,
    "comparison": (A > 1) & (B <= 2) | ~(A == B) ^ A.ne_missing(3),
    "is_in": A.is_in(["x", "y"]),
    "between": A.is_between(1, 2),
    "cast": A.cast(pl.Float64, strict=False),
    "when": pl.when(A > 1).then(2).when(A > 0).then(1).otherwise(None),
    "nulls": pl.coalesce(A.fill_null(0), B).is_null() | A.is_nan() | A.fill_nan(0).is_finite(),
    "numbers": A.abs().sqrt().exp().log().log1p().floor().ceil().round(2).clip(0, 10).sign(),
    "trigonometry": A.sin() + pl.arctan2(A, B) + A.radians(),
    "horizontal": pl.max_horizontal(A, B) + pl.sum_horizontal(A, B),
    "text": A.str.to_lowercase().str.strip_chars().str.replace("x", "y").str.slice(0, 3).str.starts_with("z"),
    "text length": A.str.len_chars() + A.str.count_matches("x") + A.str.to_integer(),
    "text joined": pl.concat_str([A, B], separator="-"),
    "time": A.dt.hour() + A.dt.weekday() + A.dt.epoch("ms"),
    "time of day": A.dt.convert_time_zone("Europe/Berlin").dt.truncate("1h"),
    "span": (A - B).dt.total_seconds(),
    "parsed time": A.str.to_datetime("%Y-%m-%d"),
    "instant": datetime(2026, 1, 1, tzinfo=timezone.utc) < A,
    "replaced": A.replace_strict({"x": 1}, default=B, return_dtype=pl.Int64).replace(1, 2),
    "text replaced": A.str.replace_many({"x": "y"}).str.contains_any(["y", "z"]),
    "exact": A.cast(pl.Decimal(10, 2)),
    "constant": pl.lit(1),
}

REFUSED = {
    "shift": A.shift(1),
    "diff": A.diff(),
    "pct_change": A.pct_change(),
    "over": A.over("b"),
    "sum": A - A.sum(),
    "mean": A / A.mean(),
    "first": A.first(),
    "n_unique": A.n_unique(),
    "len": pl.len(),
    "sort": A.sort(),
    "reverse": A.reverse(),
    "rank": A.rank(),
    "cum_sum": A.cum_sum(),
    "rolling_expr": A.rolling_mean(2),
    "ewm_mean": A.ewm_mean(com=1),
    "interpolate": A.interpolate(),
    "fill_null_with_strategy": A.fill_null(strategy="forward"),
    "hash": A.hash(),
    "random": A.shuffle(),
    "filter": A.filter(B > 1),
    "is_unique": A.is_unique(),
    "is_duplicated": A.is_duplicated(),
    "is_first_distinct": A.is_first_distinct(),
    "any": A.any(),
    "concat_vertical": A.str.join(),
    "rle": A.rle(),
    "is_in of a column": A.is_in(B),
    "replace of a column": A.replace(B, pl.col("c")),
    "replace_strict of a column": A.replace_strict({1: 2}, default=0).replace_strict(1, B),
    "contains_any of a column": A.str.contains_any(B),
    "replace_many of a column": A.str.replace_many(["x"], B),
    "a cast to Enum": A.cast(pl.Enum(["x", "y"])) > "x",
    "a cast to Categorical": A.replace_strict({"x": "y"}, return_dtype=pl.Categorical(), default=None),
    "a cast to List": A.cast(pl.List(pl.Int64)),
    "reading a time without a format": A.str.to_datetime(),
    "a Series as a literal": A + pl.lit(pl.Series([1, 2])),
    "a literal that is NaN or infinite": float("nan") == A,
    "selector": pl.col("a", "b") + 1,
    "range": A + pl.int_range(3),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_an_elementwise_expression_is_allowed_and_has_a_text(name: str) -> None:
    check_elementwise(ALLOWED[name], "view 'v', where")
    assert canonical(ALLOWED[name])


@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_other_rows_or_chance_is_refused_by_name(name: str) -> None:
    with pytest.raises(DefinitionError, match="view 'v', where") as caught:
        check_elementwise(REFUSED[name], "view 'v', where")
    assert f"'{name}'" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("deep", [1 + A.shift(1), pl.when(A.shift(1) > 0).then(1), A.fill_null(B.cum_sum())])
def test_it_is_refused_however_deep_it_stands(deep: pl.Expr) -> None:
    with pytest.raises(DefinitionError):
        check_elementwise(deep, "where")


@pytest.mark.filterwarnings("ignore::polars.exceptions.PolarsInefficientMapWarning")
def test_python_functions_are_refused() -> None:
    for expression in (A.map_elements(lambda x: x, return_dtype=pl.Int64), A.map_batches(lambda x: x)):
        with pytest.raises(DefinitionError):
            check_elementwise(expression, "where")


def test_what_is_no_expression_is_refused() -> None:
    with pytest.raises(DefinitionError, match="no polars expression"):
        check_elementwise("a > 1", "where")


def test_the_text_tells_different_expressions_apart_and_equal_ones_not() -> None:
    texts = [canonical(expression) for expression in ALLOWED.values()]
    assert len(set(texts)) == len(texts)
    assert canonical(A + 1) == canonical(pl.col("a") + 1) != canonical(1 + A)
    assert canonical(A.is_in(["x", "y"])) != canonical(A.is_in(["x", "z"]))
    assert canonical(A == "1") != canonical(A == 1)
    assert canonical(A.round(1)) != canonical(A.round(2))
    assert canonical((A + 1).alias("x")) == canonical(A + 1)


def test_the_text_is_what_it_was() -> None:
    # It is part of fingerprints: another text makes a new version of every view. It must not follow polars.
    expression = (A.is_in(["x", "é"]) & (B.clip(0, 2.5) > 1)) | A.str.to_lowercase().is_null()
    assert canonical(expression) == (
        'Or(And(Boolean.IsIn(col("a"), lit(String ["x", "é"]), {"nulls_equal": false}), '
        'Gt(Clip(col("b"), lit(0), lit(2.5), {"has_max": true, "has_min": true}), lit(1))), '
        'Boolean.IsNull(StringExpr.Lowercase(col("a"))))'
    )


def test_root_columns_are_sorted_and_named_once() -> None:
    assert root_columns(B + A * B) == ("a", "b")
