"""What readers get of two versions of a view, of the same entities and as of one instant, from one online store."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

import polars as pl
from xxhash import xxh64_intdigest

from featurestore.cli.version_statistics import FeatureComparison, compare_feature
from featurestore.compile.batch import CompiledBatchView
from featurestore.compile.view import POLARS_DTYPES, CompiledView
from featurestore.online.reader import ViewRead

ROWS_AT_ONCE = 10_000
_SAMPLE_SEED = 1
"""Not the seed that spreads entities over shards: a sample is of all shards."""

Version = CompiledView | CompiledBatchView


class VersionReader(Protocol):
    """What reads a store of either kind; a view is compiled, of the store's kind."""

    def keys(self, view: Any) -> list[Iterator[bytes]]:
        """Encoded keys of the entities that have a row, an ascending iterator for each shard."""

    def read(self, view: Any, keys: Sequence[str | None], features: Sequence[str], as_of_us: int) -> ViewRead:
        """Values of features for encoded keys as of an instant."""


class Entities(NamedTuple):
    """Entities of two versions. keys: encoded, of those that are compared; the rest: how many one or both know."""

    keys: list[str]
    both: int
    only_old: int
    only_new: int


def sample_entities(reader: VersionReader, views: tuple[Version, Version], sample: int | None) -> Entities:
    """Count all entities of two versions, and choose so many with the least hashes; all without `sample`."""
    counts = {(True, True): 0, (True, False): 0, (False, True): 0}

    def known() -> Iterator[tuple[int, bytes]]:
        for old, new in zip(reader.keys(views[0]), reader.keys(views[1]), strict=True):
            # Both ascend, so that an entity's two keys meet in the merge.
            merged = heapq.merge(((key, False) for key in old), ((key, True) for key in new))
            for key, members in groupby(merged, key=itemgetter(0)):
                sides = {side for _, side in members}
                counts[False in sides, True in sides] += 1
                yield xxh64_intdigest(key, seed=_SAMPLE_SEED), key

    chosen = sorted(known()) if sample is None else heapq.nsmallest(sample, known())
    keys = [key.decode() for _, key in chosen]
    return Entities(keys, counts[True, True], counts[True, False], counts[False, True])


def compare_reads(
    reader: VersionReader, views: tuple[Version, Version], keys: Sequence[str], as_of_us: int
) -> list[FeatureComparison]:
    """Compare the features that both versions have, as they are read of some entities as of one instant."""
    shared = [name for name in views[0].features if name in views[1].features]
    if not keys or not shared:
        return []
    parts: tuple[list[pl.DataFrame], list[pl.DataFrame]] = ([], [])
    for begin in range(0, len(keys), ROWS_AT_ONCE):
        some = keys[begin : begin + ROWS_AT_ONCE]
        for view, frames in zip(views, parts, strict=True):
            frames.append(_values(reader, view, some, shared, as_of_us))
    old, new = pl.concat(parts[0]), pl.concat(parts[1])
    return [compare_feature(name, old[name], new[name], old[_found(name)], new[_found(name)]) for name in shared]


def _values(
    reader: VersionReader, view: Version, keys: Sequence[str], features: Sequence[str], as_of_us: int
) -> pl.DataFrame:
    columns = reader.read(view, keys, features, as_of_us).columns
    return pl.DataFrame(
        list(
            chain.from_iterable(
                (
                    pl.Series(
                        name, columns[name].values, POLARS_DTYPES[view.features[name].output_dtype], strict=False
                    ),
                    pl.Series(_found(name), [status != "NOT_FOUND" for status in columns[name].statuses], pl.Boolean),
                )
                for name in features
            )
        )
    )


def _found(feature: str) -> str:
    return f"{feature} is found"
