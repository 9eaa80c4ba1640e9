"""A check of a project's own features: what happens after an instant must not change them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl

from featurestore.batches import ARRIVAL_TIME, EVENT_TIME, OFFSET, PARTITION
from featurestore.errors import MalformedRequestError
from featurestore.feature_store import FeatureStore
from featurestore.testing.leakage import cuts_of
from featurestore.training.archive_copy import copy_archive, write_archive
from featurestore.training.leakage import same_values
from featurestore.training.manifest import Manifest
from featurestore.training.manifest_views import manifest_views, window_sizes
from featurestore.training.spine import Spine, read_spine
from featurestore.training.training_set import TrainingSetRequest, make_training_set

_PLACE = (EVENT_TIME, ARRIVAL_TIME, PARTITION, OFFSET)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def assert_store_does_not_leak(
    store: FeatureStore,
    spine: Any,
    features: Sequence[str],
    *,
    knowledge: Literal["event", "arrival"] = "event",
    event_timestamp: str = "event_timestamp",
    rows: int = 1_000,
    cuts: int = 5,
    seed: int = 0,
) -> None:
    """Raise AssertionError when a feature of a row depends on what lies after the row's instant in the archive.

    store, spine, features, knowledge, event_timestamp: as of `get_historical_features`. At `cuts` instants of the
    spine, events' own first, features are made from a copy of the archive in which what lies after the instant is left
    out, and from one in which it is shuffled; rows up to the instant must stay as they are, floats within 1e-9 of their
    window's Σ|x|. After an instant lie events at it or later; by arrival those too that arrived after it.
    rows: so many of the spine's are looked at, drawn by `seed`. It reads the archive once, holds the events of these
    rows' entities in memory, and joins twice for each cut; the store is not touched.
    Also raised when the check could find nothing: no event lies after any of the cuts. Raises MalformedRequestError for
    batch views, which have no archive of events, and what `get_historical_features` raises.
    """
    some = read_spine(spine, event_timestamp, []).frame
    some = some.sample(min(rows, some.height), seed=seed)
    request = TrainingSetRequest(some, tuple(features), knowledge, event_timestamp=event_timestamp)
    made = make_training_set(store.data_dir, request)
    if made.manifest.batch_views:
        name = made.manifest.batch_views[0].name
        raise MalformedRequestError(f"'{name}' is a batch view, which has no archive of events", hint="leave it out")
    asked = read_spine(some, event_timestamp, list(made.manifest.join_keys.values()))
    _Check(store.data_dir, made.frame, made.manifest, asked, some, seed).run(cuts)


class _Check:
    def __init__(
        self, data_dir: Path, expected: pl.DataFrame, manifest: Manifest, asked: Spine, spine: pl.DataFrame, seed: int
    ) -> None:
        self._data_dir = data_dir
        self._expected = expected
        self._manifest = manifest
        self._asked = asked
        self._spine = spine
        self._seed = seed
        views = manifest_views(data_dir, manifest)
        self._files = copy_archive(data_dir, views, manifest, asked)
        self._sizes = window_sizes(data_dir, views, manifest, asked)

    def run(self, cuts: int) -> None:
        times = [file.rows[EVENT_TIME].dt.epoch("us") for file in self._files]
        happened = pl.concat([pl.Series(EVENT_TIME, [], pl.Int64), *times])
        found_something = False
        for cut_us in cuts_of(self._asked.as_of, happened, cuts):
            after = self._after(cut_us)
            if not any(file.rows.select(after.any()).item() for file in self._files):
                continue
            found_something = True
            self._compare(cut_us, "left out", partial(_left_out, after))
            self._compare(cut_us, "shuffled", partial(_shuffled, after, self._seed))
        assert found_something, "no event lies at or after any instant of the spine: nothing could leak"

    def _after(self, cut_us: int) -> pl.Expr:
        after = pl.col(EVENT_TIME).dt.epoch("us") >= cut_us
        if self._manifest.knowledge == "arrival":
            after |= pl.col(ARRIVAL_TIME).dt.epoch("us") > cut_us
        return after

    def _compare(self, cut_us: int, how: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
        with tempfile.TemporaryDirectory(prefix="featurestore-leakage-") as folder:
            write_archive(Path(folder), self._files, change)
            (Path(folder) / "registry").symlink_to((self._data_dir / "registry").resolve())
            request = TrainingSetRequest(self._spine, ())
            found = make_training_set(Path(folder), request, again=self._manifest).frame
        up_to = self._asked.as_of <= cut_us
        for feature, name in self._manifest.columns.items():
            sizes = self._sizes[name] if name in self._sizes.columns else None
            wrong = int((up_to & ~same_values(found[name], self._expected[name], sizes)).sum())
            cut = _EPOCH + timedelta(microseconds=cut_us)
            assert not wrong, f"feature '{feature}': {wrong} rows up to {cut} changed when what lies after it was {how}"


def _left_out(after: pl.Expr, events: pl.DataFrame) -> pl.DataFrame:
    return events.filter(~after)


def _shuffled(after: pl.Expr, seed: int, events: pl.DataFrame) -> pl.DataFrame:
    """What lies after gets each other's times: keys and values stay together."""
    later = events.filter(after).with_columns(pl.exclude(*_PLACE).shuffle(seed=seed))
    return pl.concat([events.filter(~after), later])
