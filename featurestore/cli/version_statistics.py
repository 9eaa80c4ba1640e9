"""Two columns of one feature's values for the same entities, compared: what readers would notice of a new version.

Pure functions of polars Series and numpy arrays; they know nothing of stores. A number that is not finite counts as
null in all but the share of equal values.
"""

from __future__ import annotations

import msgspec
import numpy as np
import polars as pl

TOLERANCE = 1e-9
"""Floats are equal within this part of the larger one, or of the old column's mean absolute value, for sums cancel."""

BINS = 10
QUANTILES = {"min": 0.0, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p99": 0.99, "max": 1.0}
CHANGES_SHOWN = 5
_LEAST_SHARE = 1e-4


class Distribution(msgspec.Struct, frozen=True):
    """One version's values, as readers get them. Rates are parts of the rows.

    null_rate: null, or not finite, though the version knows the entity; not_found_rate: it does not, and readers get
    the feature's default. mean, stddev
    (of the sample, None below two values), quantiles (by name, such as "p99"): of numbers that are not null.
    """

    null_rate: float
    not_found_rate: float
    mean: float | None = None
    stddev: float | None = None
    quantiles: dict[str, float] = {}


class ValueChange(msgspec.Struct, frozen=True):
    """So many rows have one value in the old version, another in the new."""

    old: object
    new: object
    rows: int


class FeatureComparison(msgspec.Struct, frozen=True):
    """A feature in two versions. dtypes: names of the types, the old version's and the new one's.

    equal_share: part of the rows. mean_absolute_difference: over rows where both are numbers. psi: population stability
    index of the values. ks: Kolmogorov–Smirnov statistic of numbers. top_changes: of values that are no numbers, or
    where the type changed; most frequent first. None where it does not apply.
    """

    feature: str
    dtypes: tuple[str, str]
    rows: int
    equal_share: float
    old: Distribution
    new: Distribution
    mean_absolute_difference: float | None = None
    psi: float | None = None
    ks: float | None = None
    top_changes: list[ValueChange] = []


def compare_feature(
    feature: str, old: pl.Series, new: pl.Series, old_found: pl.Series, new_found: pl.Series
) -> FeatureComparison:
    """Compare values of the same entities, row by row and as distributions.

    old, new: shape (rows,), rows ≥ 1; *_found: Boolean, whether the version knows the row's entity.
    """
    dtypes = (str(old.dtype), str(new.dtype))
    rows, numbers = len(old), old.dtype.is_numeric() and new.dtype.is_numeric()
    if not numbers:
        same = _equal_values(old, new)
        pairs = pl.DataFrame({"old": old, "new": new}).filter(~same)
        top = pairs.group_by("old", "new").len().sort("len", "old", "new", descending=[True, False, False])
        return FeatureComparison(
            feature,
            dtypes,
            rows,
            float(same.sum()) / rows,
            _distribution(old, old_found),
            _distribution(new, new_found),
            psi=category_psi(old, new) if old.dtype == new.dtype else None,
            top_changes=[ValueChange(*row) for row in top.head(CHANGES_SHOWN).rows()],
        )
    one, other = _finite(old), _finite(new)
    a, b = one.drop_nulls().to_numpy(), other.drop_nulls().to_numpy()
    apart = (one - other).abs().mean()
    return FeatureComparison(
        feature,
        dtypes,
        rows,
        float(_equal_numbers(old, new).sum()) / rows,
        _distribution(old, old_found),
        _distribution(new, new_found),
        mean_absolute_difference=None if apart is None else float(apart),  # type: ignore[arg-type]
        psi=numeric_psi(a, b) if len(a) and len(b) else None,
        ks=ks_statistic(a, b) if len(a) and len(b) else None,
    )


def numeric_psi(old: np.ndarray, new: np.ndarray, bins: int = BINS) -> float:
    """Population stability index of two samples of finite numbers, neither empty, over quantile bins of the old one.

    Σ (n_i - o_i) · ln(n_i / o_i) over the bins' shares: Lewis, "An Introduction to Credit Scoring" (1994); the same as
    Jeffreys' divergence of the two histograms. A value that holds several quantiles gets a bin of its own.
    """
    edges, times = np.unique(
        np.quantile(old, np.arange(1, bins) / bins, method="inverted_cdf").astype(np.float64), return_counts=True
    )
    frequent = edges[times > 1]
    edges = np.unique(np.concatenate([edges, np.nextafter(frequent, np.inf)]))
    counts = [np.bincount(np.searchsorted(edges, side, "right"), minlength=len(edges) + 1) for side in (old, new)]
    return _psi(counts[0], counts[1])


def category_psi(old: pl.Series, new: pl.Series) -> float:
    """Population stability index over the old values that are most frequent, one bin each, and the rest.

    old, new: of one type, neither empty. Null is a value.
    """
    counted = pl.DataFrame({"value": old}).group_by("value").len().sort("len", "value", descending=[True, False])
    frequent = counted.head(BINS).select("value").with_columns(bin=pl.int_range(1, pl.len() + 1))
    size = frequent.height + 1

    def counts(values: pl.Series) -> np.ndarray:
        bins = pl.DataFrame({"value": values}).join(frequent, on="value", how="left", nulls_equal=True)["bin"]
        return np.bincount(bins.fill_null(0).to_numpy(), minlength=size)

    return _psi(counts(old), counts(new))


def ks_statistic(old: np.ndarray, new: np.ndarray) -> float:
    """Two-sample Kolmogorov–Smirnov statistic, 0 to 1: the largest distance of the empirical distribution functions.

    sup |F_old(x) - F_new(x)|, taken at the samples' own values: Smirnov, "Table for Estimating the Goodness of Fit of
    Empirical Distributions", Annals of Mathematical Statistics 19 (1948). Neither sample is empty.
    """
    old, new = np.sort(old), np.sort(new)
    at = np.concatenate([old, new])
    old_below, new_below = np.searchsorted(old, at, "right") / len(old), np.searchsorted(new, at, "right") / len(new)
    return float(np.abs(old_below - new_below).max())


def _psi(old: np.ndarray, new: np.ndarray) -> float:
    # An empty bin would make it infinite; the customary remedy is a small share instead of none.
    filled = (old > 0) | (new > 0)
    o = np.maximum(old[filled] / old.sum(), _LEAST_SHARE)
    n = np.maximum(new[filled] / new.sum(), _LEAST_SHARE)
    return float(((n - o) * np.log(n / o)).sum())


def _distribution(values: pl.Series, found: pl.Series) -> Distribution:
    rows = len(values)
    not_found_rate = float((~found).sum()) / rows
    if not values.dtype.is_numeric():
        return Distribution(float((values.is_null() & found).sum()) / rows, not_found_rate)
    numbers = _finite(values)
    known = numbers.drop_nulls().to_numpy()
    null_rate = float((numbers.is_null() & found).sum()) / rows
    if not len(known):
        return Distribution(null_rate, not_found_rate)
    points = np.quantile(known, list(QUANTILES.values()), method="inverted_cdf").tolist()
    stddev = float(known.std(ddof=1)) if len(known) > 1 else None
    return Distribution(null_rate, not_found_rate, float(known.mean()), stddev, dict(zip(QUANTILES, points)))


def _finite(values: pl.Series) -> pl.Series:
    numbers = values.cast(pl.Float64)
    return numbers.set(~numbers.is_finite(), None)


def _equal_values(old: pl.Series, new: pl.Series) -> pl.Series:
    if old.dtype != new.dtype:
        return old.is_null() & new.is_null()
    return old.eq_missing(new)


def _equal_numbers(old: pl.Series, new: pl.Series) -> pl.Series:
    if old.dtype == new.dtype and old.dtype.is_integer():
        return old.eq_missing(new)
    size = _finite(old).abs().mean() or 0.0
    frame = pl.DataFrame({"old": old.cast(pl.Float64), "new": new.cast(pl.Float64)})
    larger = pl.max_horizontal(pl.col("old").abs(), pl.col("new").abs(), pl.lit(size))
    near = (pl.col("old") - pl.col("new")).abs() <= TOLERANCE * larger
    finite = pl.col("old").is_finite() & pl.col("new").is_finite()
    return frame.select((pl.col("old").eq_missing(pl.col("new")) | (finite & near)).fill_null(False))["old"]
