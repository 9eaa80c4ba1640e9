"""Whether a training set says what the archive says as of its instants, or what was only true later.

The features of its rows are computed again as of each row's instant (by the manifest: as the archive stood). Where a
row says something else, they are computed for later instants, too: a value that stood there only later came from the
future.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl

from featurestore.durations import parse_duration_us
from featurestore.errors import MalformedRequestError
from featurestore.training.history import JoinProgress
from featurestore.training.manifest import Manifest, mark_of
from featurestore.training.spine import read_spine
from featurestore.training.training_set import TrainingSetRequest, make_training_set

LATER = {
    "at the instant itself": 1,
    **{f"within {t}": parse_duration_us(t) for t in ("1m", "10m", "1h", "1d", "7d")},
}
"""How much later a row's features are asked for, µs, the least first."""
RELATIVE, ABSOLUTE = 1e-9, 1e-9
SEED = 7


@dataclass(frozen=True)
class FeatureCheck:
    """What was found of one feature.

    rows: compared; different: from what stood at their instant; later: of these, rows that say what stood only later;
    when: how much later most of them. noticeable: rows whose value is another one as of another row's instant (the
    shuffle test). Where it is 0 the feature never changes, and its being right says nothing.
    """

    feature: str
    rows: int
    different: int
    later: int
    when: str | None
    noticeable: int


def read_training_set(path: Path, manifest: Manifest) -> pl.DataFrame:
    """All rows of a Parquet file or a folder of parts.

    Raises MalformedRequestError when it can't be read or lacks a column of the manifest's.
    """
    try:
        rows = pl.read_parquet(path / "*.parquet" if path.is_dir() else path, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise MalformedRequestError(f"training set {path} can't be read: {error}") from error
    for name in (manifest.event_timestamp, *manifest.columns.values()):
        if name not in rows.columns:
            raise MalformedRequestError(
                f"training set {path} has no column '{name}'", hint="is the manifest the one of this set?"
            )
    return rows


def check_training_set(
    data_dir: Path,
    rows: pl.DataFrame,
    manifest: Manifest,
    *,
    sample: int | None = None,
    progress: Callable[[JoinProgress], None] = lambda progress: None,
) -> list[FeatureCheck]:
    """Check the features of a training set's rows (`read_training_set`), one entry each.

    manifest: what it is said to be made of; the archive is read as far as it says. sample: so many rows, the same each
    time; None: all. Raises MalformedRequestError when a view computes something else by now.
    """
    if sample is not None and sample < rows.height:
        rows = rows.sample(sample, seed=SEED, shuffle=True)
    columns = manifest.columns
    given = rows.drop(*columns.values())
    join_keys = list(manifest.join_keys.values())
    # As instants, however they are written.
    as_of_us = read_spine(given, manifest.event_timestamp, join_keys).as_of
    spine = given.with_columns(as_of_us.cast(pl.Datetime("us", "UTC")).alias(manifest.event_timestamp))
    instant = pl.col(manifest.event_timestamp)

    def as_of(asked: pl.DataFrame) -> pl.DataFrame:
        # The manifest's archive and views for other rows than its own.
        mark = mark_of(read_spine(asked, manifest.event_timestamp, join_keys))
        again = msgspec.structs.replace(manifest, spine=mark)
        return make_training_set(data_dir, TrainingSetRequest(asked, ()), again=again, progress=progress).frame

    right = as_of(spine)
    shuffled = as_of(spine.with_columns(instant.shuffle(seed=SEED)))
    wrong = {name: ~_same(rows[name], right[name]) for name in columns.values()}
    later = _from_later(rows, spine, instant, wrong, as_of)
    return [
        FeatureCheck(
            feature,
            rows.height,
            int(wrong[name].sum()),
            *later[name],
            int((~_same(right[name], shuffled[name])).sum()),
        )
        for feature, name in columns.items()
    ]


def _from_later(
    rows: pl.DataFrame,
    spine: pl.DataFrame,
    instant: pl.Expr,
    wrong: Mapping[str, pl.Series],
    as_of: Callable[[pl.DataFrame], pl.DataFrame],
) -> dict[str, tuple[int, str | None]]:
    """By column: wrong rows that say what stood later, and when most of them."""
    if not any(mask.any() for mask in wrong.values()):
        return dict.fromkeys(wrong, (0, None))
    explained = {name: pl.repeat(False, rows.height, eager=True) for name in wrong}
    most: dict[str, tuple[int, str | None]] = dict.fromkeys(wrong, (0, None))
    for when, shift_us in LATER.items():
        then = as_of(spine.with_columns(instant + pl.duration(microseconds=shift_us)))
        for name, mask in wrong.items():
            found = mask & ~explained[name] & _same(rows[name], then[name])
            explained[name] = explained[name] | found
            if found.sum() > most[name][0]:
                most[name] = (int(found.sum()), when)
    return {name: (int(explained[name].sum()), most[name][1]) for name in wrong}


def _same(one: pl.Series, other: pl.Series) -> pl.Series:
    """Row by row whether two columns say the same; floats within what sums in another order may differ by."""
    if one.dtype.is_float() or other.dtype.is_float():
        a, b = one.cast(pl.Float64), other.cast(pl.Float64)
        near = (a - b).abs() <= pl.select(pl.max_horizontal(a.abs(), b.abs())).to_series() * RELATIVE + ABSOLUTE
        return (near | a.eq_missing(b)).fill_null(False)
    return one.cast(other.dtype, strict=False).eq_missing(other)
