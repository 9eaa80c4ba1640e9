"""Whether a training set says what the archive says as of its instants, or what was only true later.

The features of its rows are computed again as of each row's instant (by the manifest: as the archive stood). Where a
row says something else, they are computed for later instants, too: a value that stood there only later came from the
future.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import polars as pl

from featurestore.durations import parse_duration_us
from featurestore.errors import MalformedRequestError
from featurestore.training.history import JoinProgress
from featurestore.training.manifest import Manifest, mark_of, view_of
from featurestore.training.manifest_views import after_next_event, manifest_views, window_sizes
from featurestore.training.spine import Spine, read_spine
from featurestore.training.training_set import TrainingSetRequest, make_training_set

AT_THE_INSTANT = "at the instant itself"
AFTER_NEXT_EVENT = "after the entity's next event"
AT_THE_END = "at the set's last instant"
LATER_US = {f"within {t}": parse_duration_us(t) for t in ("1m", "10m", "1h", "1d", "7d")}
"""How much later a row's features are asked for, besides."""
TOLERANCE = 1e-9
"""Of the sum of a window's absolute values: what "the same" means for floats."""
SEED = 7


@dataclass(frozen=True)
class FeatureCheck:
    """What was found of one feature.

    rows: compared; different: from what stood at their instant; largest: of the differences between numbers, None
    without any. later: of the different rows, those that say what stood only later; when: how much later most of them.
    noticeable: rows whose value is another one as of another row's instant (the shuffle test). Where it is 0 the
    feature never changes, and its being right says nothing.
    """

    feature: str
    rows: int
    different: int
    largest: float | None
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
    last_us = _spine_of(rows, manifest).as_of.max()
    if sample is not None and sample < rows.height:
        rows = rows.sample(sample, seed=SEED, shuffle=True)
    join = _Join(data_dir, manifest, progress)
    as_of_us = _spine_of(rows, manifest).as_of
    right = join.as_of(rows, as_of_us)
    shuffled = join.as_of(rows, as_of_us.shuffle(seed=SEED))
    columns = manifest.columns
    found = _Differing(join, rows, right, as_of_us, last_us)  # type: ignore[arg-type]
    return [
        FeatureCheck(
            feature,
            rows.height,
            int(found.wrong[name].sum()),
            found.largest(name),
            *found.later[name],
            int((~same_values(right[name], shuffled[name])).sum()),
        )
        for feature, name in columns.items()
    ]


class _Join:
    """The manifest's archive and views, for other rows and instants than its own."""

    def __init__(self, data_dir: Path, manifest: Manifest, progress: Callable[[JoinProgress], None]) -> None:
        self.data_dir = data_dir
        self.manifest = manifest
        self._progress = progress

    def as_of(self, rows: pl.DataFrame, as_of_us: pl.Series, view: str | None = None) -> pl.DataFrame:
        """The features at these instants (Int64 µs); of one stream view, where it is named."""
        manifest = self.manifest
        if view is not None:
            manifest = msgspec.structs.replace(
                manifest,
                features=tuple(feature for feature in manifest.features if view_of(feature) == view),
                views=tuple(mark for mark in manifest.views if mark.name == view),
                batch_views=(),
            )
        instants = as_of_us.cast(pl.Datetime("us", "UTC")).alias(manifest.event_timestamp)
        asked = rows.drop(*self.manifest.columns.values()).with_columns(instants)
        again = msgspec.structs.replace(manifest, spine=mark_of(_spine_of(asked, manifest)))
        request = TrainingSetRequest(asked, ())
        return make_training_set(self.data_dir, request, again=again, progress=self._progress).frame


class _Differing:
    """The rows that say something else than `right`, and what they say."""

    def __init__(self, join: _Join, rows: pl.DataFrame, right: pl.DataFrame, as_of_us: pl.Series, last_us: int) -> None:
        names = list(join.manifest.columns.values())
        unequal = pl.DataFrame([(~same_values(rows[name], right[name])).alias(name) for name in names])
        some = unequal.select(pl.any_horizontal(pl.all())).to_series()
        self._rows, self._right, self._as_of_us = rows.filter(some), right.filter(some), as_of_us.filter(some)
        self._join = join
        self._last_us = last_us
        self._views = manifest_views(join.data_dir, join.manifest) if some.any() else []
        self._sizes = self._window_sizes()
        self.wrong = {name: ~self._says(name, self._right[name]) for name in names}
        self.later = self._from_later()

    def largest(self, name: str) -> float | None:
        """The largest difference between two numbers."""
        one, other = self._rows[name].filter(self.wrong[name]), self._right[name].filter(self.wrong[name])
        if not one.dtype.is_numeric() or not other.dtype.is_numeric():
            return None
        away = (one.cast(pl.Float64) - other.cast(pl.Float64)).abs().drop_nulls().drop_nans()
        return float(away.max()) if len(away) else None  # type: ignore[arg-type]

    def _window_sizes(self) -> pl.DataFrame:
        if not self._views:
            return pl.DataFrame()
        spine = _spine_of(self._rows, self._join.manifest)
        return window_sizes(self._join.data_dir, self._views, self._join.manifest, spine)

    def _says(self, name: str, values: pl.Series) -> pl.Series:
        return same_values(self._rows[name], values, self._sizes[name] if name in self._sizes.columns else None)

    def _from_later(self) -> dict[str, tuple[int, str | None]]:
        """By column: wrong rows that say what stood later, and when most of them."""
        most: dict[str, tuple[int, str | None]] = dict.fromkeys(self.wrong, (0, None))
        left = dict(self.wrong)
        if not any(mask.any() for mask in left.values()):
            return most
        for when, then in self._laters():
            for name in (name for name in then.columns if name in left):
                said = left[name] & self._says(name, then[name])
                left[name] &= ~said
                if said.sum() > most[name][0]:
                    most[name] = (int(said.sum()), when)
        return {name: (int((mask & ~left[name]).sum()), most[name][1]) for name, mask in self.wrong.items()}

    def _laters(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """Features of later instants, the least later first, the set's last one at the end."""
        rows, as_of_us, manifest = self._rows, self._as_of_us, self._join.manifest
        yield AT_THE_INSTANT, self._join.as_of(rows, as_of_us + 1)
        spine = _spine_of(rows, manifest)
        spine = replace(spine, as_of=spine.as_of + 1)  # events at the instant have had their turn
        for view in self._views:
            then_us = after_next_event(self._join.data_dir / "offline", view, manifest, spine).fill_null(as_of_us)
            yield AFTER_NEXT_EVENT, self._join.as_of(rows, then_us, view.bound.compiled.name)
        for when, shift_us in LATER_US.items():
            yield when, self._join.as_of(rows, as_of_us + shift_us)
        yield AT_THE_END, self._join.as_of(rows, pl.repeat(self._last_us, rows.height, dtype=pl.Int64, eager=True))


def _spine_of(rows: pl.DataFrame, manifest: Manifest) -> Spine:
    """Instants and keys of rows, however the instants are written."""
    return read_spine(rows, manifest.event_timestamp, list(manifest.join_keys.values()))


def same_values(one: pl.Series, other: pl.Series, sizes: pl.Series | None = None) -> pl.Series:
    """Row by row whether two columns say the same; floats within what sums in another order may differ by.

    sizes: Σ|x| of what each was summed from; else the values' own.
    """
    numbers = all(column.dtype.is_numeric() or column.dtype == pl.Null for column in (one, other))
    if numbers and (one.dtype.is_float() or other.dtype.is_float()):
        a, b = one.cast(pl.Float64), other.cast(pl.Float64)
        own = pl.select(pl.max_horizontal(a.abs(), b.abs())).to_series()
        largest = own if sizes is None else pl.select(pl.max_horizontal(own, sizes)).to_series()
        # An infinite one would allow everything.
        near = ((a - b).abs() <= largest * TOLERANCE) & largest.is_finite()
        return near.fill_null(False) | a.eq_missing(b)
    cast = one.cast(other.dtype, strict=False)
    # What can't be cast is not null: it is something else.
    return cast.eq_missing(other) & (cast.is_null() == one.is_null())
