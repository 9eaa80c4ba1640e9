"""How closely each feature of a training set goes with its label: what looks too good is often leakage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from featurestore.errors import MalformedRequestError

SUSPICIOUS_AUC = 0.99
SUSPICIOUS_CORRELATION = 0.95
SUSPICIOUS_SHARE = 0.99
ROWS_MIN = 20
CLASS_ROWS_MIN = 5
"""In all, and of each of two labels: below, chance tells labels apart: half of all noise tells one of four rows."""
COMMON_MAX, CHANCE_MAX = 0.9, 1e-6
"""A label that more rows than this have anyway, or that so many nulls have by chance, says nothing of nulls."""
CLASSES_MAX = 2
TEXTS_MAX_SHARE = 0.05
"""A text feature with more values a row than this tells rows apart, and says nothing of the label."""


@dataclass(frozen=True)
class Association:
    """One feature beside the label. measure: "auc" (of two classes), "correlation" (Spearman's, of numbers), or
    "share": of the rows in which it is null those with their commonest label.

    value: auc in [0.5, 1], whichever way round; |correlation| and share in [0, 1]. of: "values", or "nulls": whether
    the feature is there at all. enough: whether there are rows enough that chance alone is hardly that good.
    """

    feature: str
    measure: str
    value: float
    of: str
    enough: bool

    @property
    def is_suspicious(self) -> bool:
        """Whether few honest features are that good."""
        return self.enough and self.value >= _SUSPICIOUS[self.measure]

    def sentence(self, label: str) -> str:
        """For people: which feature, how close, what to look at."""
        what = f"feature '{self.feature}'" if self.of == "values" else f"whether '{self.feature}' is null"
        if self.measure == "share":
            what = f"a null in '{self.feature}'"
        return (
            f"{what} tells label '{label}' almost by itself ({self.measure} {self.value:.3f}): is it made from events "
            "that the label is made from, or that came after the decision? knowledge=arrival leaves out what had not "
            "arrived by then"
        )


_SUSPICIOUS = {"auc": SUSPICIOUS_AUC, "correlation": SUSPICIOUS_CORRELATION, "share": SUSPICIOUS_SHARE}


def label_associations(frame: pl.DataFrame, features: Sequence[str], label: str) -> list[Association]:
    """Each feature's values, and its nulls where there are some, beside the label; rows without a label are left out.

    A label of two values (numbers, text or Boolean) gives AUCs from ranks, any other number Spearman's correlation.
    Text features are ranked by the mean label of their rows. Where nulls as a whole don't tell a label of two values,
    the share of their commonest one is told, too: "null only when 1" leaves many rows of 1 that are not null.
    Raises MalformedRequestError for a label that is not there, has one value, or is text of more than two.
    """
    if label not in frame.columns:
        raise MalformedRequestError(f"the spine has no column '{label}'", hint=f"it has {', '.join(frame.columns)}")
    rows = frame.filter(pl.col(label).is_not_null())
    target = _target(rows[label])
    is_class = rows[label].n_unique() <= CLASSES_MAX
    found = []
    for feature in features:
        values, there = rows[feature], rows[feature].is_not_null()
        if 0 < there.sum() < rows.height:
            nulls = _association(feature, there.cast(pl.Float64), target, is_class, "nulls")
            found.append(nulls)
            if is_class and nulls is not None and nulls.value < SUSPICIOUS_AUC:
                found.append(_share(feature, ~there, target))
        numbers = _numbers(values, target)
        known = there if numbers is None else there & numbers.is_not_nan()
        if numbers is not None and known.sum() > 1:
            found.append(_association(feature, numbers.filter(known), target.filter(known), is_class, "values"))
    return [one for one in found if one is not None]


def _target(label: pl.Series) -> pl.Series:
    """The label as numbers: of two classes 0 and 1, in their order."""
    classes = label.unique().sort()
    if len(classes) < CLASSES_MAX:
        raise MalformedRequestError(f"label '{label.name}' has {len(classes)} value(s)", hint="it needs two at least")
    if len(classes) == CLASSES_MAX:
        return label.is_in([classes[1]]).cast(pl.Float64)
    if not label.dtype.is_numeric():
        raise MalformedRequestError(
            f"label '{label.name}' is {label.dtype} of {len(classes)} values", hint="it is a number, or has two values"
        )
    return label.cast(pl.Float64)


def _numbers(values: pl.Series, target: pl.Series) -> pl.Series | None:
    """Values to rank; text by the mean label of its rows; None where that would tell rows apart."""
    if values.dtype.is_numeric() or values.dtype == pl.Boolean:
        return values.cast(pl.Float64)
    if values.n_unique() > max(CLASSES_MAX, TEXTS_MAX_SHARE * len(values)):
        return None
    mean: pl.Series = (
        pl.DataFrame({"value": values, "target": target}).select(pl.col("target").mean().over("value")).to_series()
    )
    nothing = pl.repeat(None, len(values), dtype=pl.Float64, eager=True)
    return mean.zip_with(values.is_not_null(), nothing)


def _association(feature: str, numbers: pl.Series, target: pl.Series, is_class: bool, of: str) -> Association | None:
    ranks = numbers.rank("average")
    if is_class:
        ones = int((target == 1.0).sum())
        zeros = len(target) - ones
        if not ones or not zeros:
            return None
        # Mann and Whitney's U by the ranks of one class.
        auc = (float(ranks.filter(target == 1.0).sum()) - ones * (ones + 1) / 2) / (ones * zeros)
        return Association(feature, "auc", max(auc, 1.0 - auc), of, _are_enough(ones, zeros))
    frame = pl.DataFrame({"a": ranks, "b": target.rank("average")})
    value = frame.select(pl.corr("a", "b")).item()
    return (
        None
        if value is None or value != value
        else Association(feature, "correlation", abs(value), of, len(ranks) >= ROWS_MIN)
    )


def _are_enough(ones: int, zeros: int) -> bool:
    return ones + zeros >= ROWS_MIN and min(ones, zeros) >= CLASS_ROWS_MIN


def _share(feature: str, null: pl.Series, target: pl.Series) -> Association:
    ones = float(target.filter(null).mean())  # type: ignore[arg-type]
    common = 1.0 if ones >= 0.5 else 0.0
    anyway = float((target == common).mean())  # type: ignore[arg-type]
    by_chance = anyway ** int(null.sum())
    share = max(ones, 1.0 - ones)
    return Association(feature, "share", share, "nulls", anyway <= COMMON_MAX and by_chance <= CHANCE_MAX)
