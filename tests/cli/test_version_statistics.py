"""Statistics of two versions' values against definitions written out naively."""

from __future__ import annotations

import math
import statistics

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.cli.version_statistics import (
    BINS,
    category_psi,
    compare_feature,
    ks_statistic,
    numeric_psi,
)

NUMBERS = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6, allow_subnormal=False))
SAMPLE = st.lists(NUMBERS, min_size=1, max_size=60)
TEXT = st.one_of(st.none(), st.sampled_from("abcdefghijklmnop"))


def naive_ks(old: list[float], new: list[float]) -> float:
    def below(sample: list[float], x: float) -> float:
        return sum(value <= x for value in sample) / len(sample)

    return max(abs(below(old, x) - below(new, x)) for x in old + new)


def psi_of_shares(pairs: list[tuple[float, float]]) -> float:
    floored = [(max(o, 1e-4), max(n, 1e-4)) for o, n in pairs if o or n]
    return math.fsum((n - o) * math.log(n / o) for o, n in floored)


def naive_numeric_psi(old: list[float], new: list[float]) -> float:
    ordered = sorted(old)
    deciles = [ordered[math.ceil(len(old) * k / BINS) - 1] for k in range(1, BINS)]

    def bin_of(value: float) -> object:
        if deciles.count(value) > 1:
            return ("alone", value)
        # A bin reaches up to the next decile, without the values that have a bin of their own.
        return ("from", max((d for d in deciles if d <= value), default=-math.inf))

    bins_old, bins_new = [bin_of(value) for value in old], [bin_of(value) for value in new]
    return psi_of_shares([(bins_old.count(b) / len(old), bins_new.count(b) / len(new)) for b in {*bins_old, *bins_new}])


@given(SAMPLE, SAMPLE)
def test_the_ks_statistic_is_the_largest_distance_of_the_distribution_functions(old: list[float], new: list[float]):
    assert ks_statistic(np.array(old), np.array(new)) == pytest.approx(naive_ks(old, new), abs=1e-12)


@given(SAMPLE, SAMPLE)
def test_the_psi_of_numbers_is_that_of_their_shares_in_quantile_bins(old: list[float], new: list[float]):
    assert numeric_psi(np.array(old), np.array(new)) == pytest.approx(naive_numeric_psi(old, new), abs=1e-9)


@given(st.lists(TEXT, min_size=1, max_size=80), st.lists(TEXT, min_size=1, max_size=80))
def test_the_psi_of_texts_is_that_of_the_frequent_ones_and_the_rest(old: list[str | None], new: list[str | None]):
    # Ties as it breaks them: by value, null first.
    ranked = sorted(set(old), key=lambda value: (-old.count(value), value is not None, value or ""))[:BINS]
    pairs = [(old.count(value) / len(old), new.count(value) / len(new)) for value in ranked]
    pairs.append((1 - math.fsum(o for o, _ in pairs), 1 - math.fsum(n for _, n in pairs)))
    pairs = [(o if o > 1e-9 else 0.0, n if n > 1e-9 else 0.0) for o, n in pairs]
    found = category_psi(pl.Series(old, dtype=pl.String), pl.Series(new, dtype=pl.String))
    assert found == pytest.approx(psi_of_shares(pairs), abs=1e-9)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), NUMBERS, st.just(math.nan)),
            st.one_of(st.none(), NUMBERS),
            st.booleans(),
            st.booleans(),
        ),
        min_size=1,
        max_size=50,
    )
)
def test_moments_rates_and_differences_of_numbers(rows: list[tuple[float | None, float | None, bool, bool]]):
    old, new, old_found, new_found = (list(column) for column in zip(*rows, strict=True))
    found = compare_feature(
        "f",
        pl.Series(old, dtype=pl.Float64),
        pl.Series(new, dtype=pl.Float64),
        pl.Series(old_found),
        pl.Series(new_found),
    )
    assert found.rows == len(rows)
    for values, known, side in ((old, old_found, found.old), (new, new_found, found.new)):
        numbers = [value for value in values if value is not None and math.isfinite(value)]
        nulls = [v for v, is_known in zip(values, known, strict=True) if is_known and (v is None or math.isnan(v))]
        assert side.null_rate == pytest.approx(len(nulls) / len(rows))
        assert side.not_found_rate == pytest.approx(known.count(False) / len(rows))
        if not numbers:
            assert (side.mean, side.stddev, side.quantiles, found.ks, found.psi) == (None, None, {}, None, None)
            continue
        assert side.mean == pytest.approx(statistics.fmean(numbers), abs=1e-6)
        assert side.stddev == (None if len(numbers) < 2 else pytest.approx(statistics.stdev(numbers), abs=1e-6))
        assert (side.quantiles["min"], side.quantiles["max"]) == (min(numbers), max(numbers))
        assert side.quantiles["p50"] == statistics.median_low(numbers)
    both = [(a, b) for a, b, *_ in rows if a is not None and b is not None and math.isfinite(a)]
    if both:
        assert found.mean_absolute_difference == pytest.approx(statistics.fmean(abs(a - b) for a, b in both), abs=1e-6)
    finite = [abs(a) for a in old if a is not None and math.isfinite(a)]
    size = statistics.fmean(finite) if finite else 0.0
    equal = sum(
        a is b if a is None or b is None else abs(a - b) <= 1e-9 * max(abs(a), abs(b), size) for a, b, *_ in rows
    )
    assert found.equal_share == pytest.approx(equal / len(rows))


@given(st.lists(TEXT, min_size=1, max_size=50))
def test_a_column_compared_with_itself_differs_in_nothing(values: list[str | None]):
    column, known = pl.Series(values, dtype=pl.String), pl.Series([True] * len(values))
    same = compare_feature("f", column, column, known, known)
    assert (same.equal_share, same.psi, same.top_changes) == (1.0, 0.0, [])


def test_changes_of_texts_and_booleans_are_told_most_frequent_first():
    old, new = pl.Series(["a", "a", "a", "b", None]), pl.Series(["x", "x", "a", None, None])
    known = pl.Series([True] * 5)
    found = compare_feature("f", old, new, known, known)
    assert [(one.old, one.new, one.rows) for one in found.top_changes] == [("a", "x", 2), ("b", None, 1)]
    assert found.equal_share == 2 / 5
    assert (found.old.null_rate, found.new.null_rate) == (1 / 5, 2 / 5)
    flipped = compare_feature("f", pl.Series([True]), pl.Series([False]), pl.Series([True]), pl.Series([True]))
    assert [(one.old, one.new, one.rows) for one in flipped.top_changes] == [(True, False, 1)]
    assert (flipped.psi or 0) > 1


def test_a_constant_that_moves_is_a_large_shift_to_either_side():
    constant = np.full(100, 5.0)
    assert numeric_psi(constant, constant) == 0
    assert min(numeric_psi(constant, constant - 2), numeric_psi(constant, constant + 2)) > 1


def test_another_type_is_compared_as_far_as_it_can_be():
    known = pl.Series([True, True])
    numbers = compare_feature("f", pl.Series([1, 2]), pl.Series([1.0, 2.5]), known, known)
    assert (numbers.dtypes, numbers.equal_share, numbers.ks) == (("Int64", "Float64"), 0.5, 0.5)
    text = compare_feature("f", pl.Series([1, None]), pl.Series(["1", None]), known, known)
    assert (text.equal_share, text.psi) == (0.5, None)
    assert [(one.old, one.new) for one in text.top_changes] == [(1, "1")]
