"""Archived events of some entities, as a shard would get them: routed by key, with the watermark before each."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from featurestore.batches import EVENT_TIME, NO_TIME, OFFSET, PARTITION, PARTITION_WATERMARK
from featurestore.compile.bind import BoundView
from featurestore.compile.columns import conform
from featurestore.compile.keys import encoded_key
from featurestore.definitions.specs import SourceSpec
from featurestore.offline import layout
from featurestore.offline.layout import EVENTS
from featurestore.offline.listing import segment_files
from featurestore.offline.pieces import partition_folders
from featurestore.offline.tables import read_footer
from featurestore.shard.protocol import KEY

_HASH = "_hash"


class ArchivedEvents:
    """The archive of a view's source. Every read goes through all its files, one at a time.

    histories: generations of imported history that the view was filled from; of others it has no event. Files may
    vanish while it reads: the callers try again (`with_fresh_files`).
    """

    def __init__(self, root: Path, source: SourceSpec, view: BoundView, histories: Collection[str]) -> None:
        self._root = root
        self._histories = histories
        self._source = source.name
        self._columns = source.columns
        self._view = view

    def count(self) -> int:
        """How many events there are."""
        return sum(read_footer(path)[0] for files in self._partitions() for path in files)

    def sample(self, entities: int) -> pl.Series:
        """Encoded keys of so many entities, drawn by their hash: the same ones each time."""
        drawn = pl.DataFrame(schema={KEY: pl.String, _HASH: pl.UInt64})
        key = encoded_key(self._view.compiled.spec.join_keys).alias(KEY)
        names = [join_key.name for join_key in self._view.compiled.spec.join_keys]
        for files in self._partitions():
            for path in files:
                keys = pl.read_parquet(path, columns=names, hive_partitioning=False).select(key).unique().drop_nulls()
                keys = keys.with_columns(pl.col(KEY).hash(seed=1).alias(_HASH))
                drawn = pl.concat([drawn, keys]).unique().sort(_HASH).head(entities)
        return drawn[KEY]

    def read(self, chosen: pl.Expr) -> pl.DataFrame:
        """Events of the entities whose encoded key `chosen` is true of, in the columns that `take_in` wants."""
        compiled = self._view.compiled
        keys = [key.name for key in compiled.spec.join_keys]
        needed = [name for name in sorted({*self._view.needed_columns(), *keys}) if name != EVENT_TIME]
        parts: list[pl.DataFrame] = []
        for files in self._partitions():
            before_us = NO_TIME
            for path in files:
                rows = pl.read_parquet(path, hive_partitioning=False).sort(OFFSET)
                # Files from before a change of the schema lack its columns.
                rows = conform(rows, self._columns, set(needed))
                times = rows[EVENT_TIME].dt.epoch("us").to_numpy()
                highest = np.maximum.accumulate(np.append(before_us, times))
                known = highest[:-1] != NO_TIME
                watermark = np.where(known, highest[:-1] - compiled.max_out_of_orderness_us, NO_TIME)
                before_us = int(highest[-1])
                found = rows.select(
                    encoded_key(compiled.spec.join_keys).alias(KEY),
                    pl.Series(EVENT_TIME, times),
                    PARTITION,
                    OFFSET,
                    pl.Series(PARTITION_WATERMARK, watermark),
                    *needed,
                ).filter(chosen)
                parts.append(found)
        return pl.concat(parts, how="diagonal_relaxed") if parts else self._nothing(needed)

    def _partitions(self) -> Iterator[list[Path]]:
        base = layout.source_dir(self._root, EVENTS, self._source)
        for partition in partition_folders(self._root, self._source):
            history = layout.history_of(base / partition)
            if history is None or history in self._histories:
                yield [path for _, path in segment_files(base / partition)]

    @staticmethod
    def _nothing(needed: list[str]) -> pl.DataFrame:
        schema: dict[str, type[pl.DataType]] = {KEY: pl.String, EVENT_TIME: pl.Int64, PARTITION: pl.Int32}
        schema |= {OFFSET: pl.Int64, PARTITION_WATERMARK: pl.Int64}
        return pl.DataFrame(schema={**schema, **dict.fromkeys(needed, pl.Null)})
