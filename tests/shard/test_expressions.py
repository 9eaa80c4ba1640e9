"""A row that makes an expression fail costs itself, whatever batch it comes in."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from featurestore.compile.expressions import derived, evaluate, filtered

NUMBER = pl.col("text").cast(pl.Float64)
texts = st.lists(st.sampled_from(["1", "2.5", "abc", "", None, "-3"]), max_size=30)


def frame_of(values: list[str | None]) -> pl.DataFrame:
    return pl.DataFrame({"text": pl.Series(values, dtype=pl.String)})


def naive(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


@given(texts)
def test_a_failing_row_is_null_and_the_others_have_their_values(values):
    assert evaluate(frame_of(values), NUMBER).to_list() == [naive(value) for value in values]
    assert derived(frame_of(values), {"number": NUMBER})["number"].to_list() == [naive(value) for value in values]


@given(texts)
def test_where_leaves_out_the_rows_in_which_it_fails(values):
    kept = filtered(frame_of(values), NUMBER > 0)["text"].to_list()
    assert kept == [value for value in values if (naive(value) or 0) > 0]
