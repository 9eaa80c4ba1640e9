"""Two versions of a view that are computed side by side, compared as readers would see them, from the online store."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import msgspec
import polars as pl
from xxhash import xxh64_intdigest

from featurestore.batches import NO_TIME
from featurestore.cli.disk_report import collect_disk
from featurestore.cli.status_report import compile_registered
from featurestore.cli.version_statistics import FeatureComparison, compare_feature
from featurestore.compile.view import POLARS_DTYPES, CompiledView
from featurestore.durations import format_instant
from featurestore.errors import ConfigError, RegistryError
from featurestore.online.reader import OnlineReader
from featurestore.online.source_store import read_store_info
from featurestore.registry import RegisteredView, Registry, split_reference
from featurestore.shard.protocol import ViewCounts, ViewState

ROWS_AT_ONCE = 10_000
_SAMPLE_SEED = 1
"""Not the seed that spreads entities over shards: a sample is of all shards."""


class VersionProgress(msgspec.Struct, frozen=True):
    """How far a version has come. Times: ISO 8601, UTC, None before any event.

    newest_event: that it has seen; watermark: the least of its shards'; events: that it has seen, those that its filter
    drops and those without an entity too; applied: that count in its rows; rows: entities now; online_bytes: keys and
    values, uncompressed; offline_bytes: snapshot files. Retiring and purging the version frees both.
    """

    version: int
    newest_event: str | None
    watermark: str | None
    events: int
    applied: int
    rows: int
    online_bytes: int
    offline_bytes: int


class VersionComparison(msgspec.Struct, frozen=True):
    """What is to be known before a version is promoted.

    behind_us, behind_events: by how much the new version's partitions are behind the old one's, the worst in event time
    and the sum of messages. as_of: of the reads, None when there were none. both, only_old, only_new: entities that the
    versions know. sampled: of them compared.
    """

    view: str
    old: VersionProgress
    new: VersionProgress
    behind_us: int
    behind_events: int
    as_of: str | None
    both: int
    only_old: int
    only_new: int
    sampled: int
    features: list[FeatureComparison]
    removed_features: list[str]
    added_features: list[str]
    notes: list[str]


def find_versions(registry: Registry, first: str, second: str | None) -> tuple[RegisteredView, RegisteredView]:
    """The old and the new version that are named: `first` against `second`, or the served one against `first`.

    Raises UnknownViewError for what is not computed, ConfigError for what is no pair, RegistryError for two that no
    entity can be read from.
    """
    name, number = split_reference(first)
    if second is None:
        if number is None:
            raise ConfigError("which version?", hint=f"{name}@2; see featurestore versions {name}")
        old, new = registry.view(name), registry.view(first)
    else:
        old, new = registry.view(first), registry.view(second)
    if old.name != new.name:
        raise ConfigError(f"'{first}' and '{second}' are versions of two views", hint=f"{first} {name}@2")
    if old.version == new.version:
        raise ConfigError(
            f"{new.reference} is compared with itself" + (": it is the served one" if second is None else ""),
            hint=f"name two versions: {name}@1 {name}@2; see featurestore versions {name}",
        )
    if old.spec.join_keys != new.spec.join_keys or old.spec.source != new.spec.source:
        what = "other join keys" if old.spec.join_keys != new.spec.join_keys else "another source"
        raise RegistryError(
            f"{new.reference} has {what} than {old.reference}",
            hint="their rows are not about the same; let the readers of the new version ask for it by name",
        )
    return old, new


def compare_versions(
    data_dir: Path,
    registry: Registry,
    old: RegisteredView,
    new: RegisteredView,
    *,
    sample: int | None,
    as_of_us: int | None = None,
) -> VersionComparison:
    """Compare two versions beside a running worker, both as of one commit of each shard.

    sample: so many entities at most, the same each time, None: all. as_of_us: the instant of the reads, by default just
    after the newest event that both have seen. Raises StoreError.
    """
    source = registry.source(old.spec.source)
    views = compile_registered(old, source), compile_registered(new, source)
    if read_store_info(data_dir, source.name) is None:
        return _comparison(data_dir, old, new, ([], []), None, _Entities([], 0, 0, 0), [], [])
    reader = OnlineReader(data_dir, source.name)
    try:
        reader.refresh()
        states = reader.states(views[0]), reader.states(views[1])
        latest = [reader.latest_us(view) for view in views]
        if NO_TIME in latest:
            return _comparison(data_dir, old, new, states, None, _Entities([], 0, 0, 0), [], [])
        notes = []
        as_of = min(latest) if as_of_us is None else as_of_us
        if as_of < max(latest):
            notes.append("read as of before the newest event of a version: its newest tile may know more than that")
        entities = _sampled(reader, views, sample)
        features = _compare(reader, views, entities.keys, as_of)
    finally:
        reader.close()
    return _comparison(data_dir, old, new, states, as_of, entities, features, notes)


class _Entities(NamedTuple):
    keys: list[str]
    both: int
    only_old: int
    only_new: int


def _sampled(reader: OnlineReader, views: tuple[CompiledView, CompiledView], sample: int | None) -> _Entities:
    """Count all entities of two versions, and choose those with the least hashes."""
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
    return _Entities(keys, counts[True, True], counts[True, False], counts[False, True])


def _compare(
    reader: OnlineReader,
    views: tuple[CompiledView, CompiledView],
    keys: Sequence[str],
    as_of_us: int,
) -> list[FeatureComparison]:
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
    reader: OnlineReader, view: CompiledView, keys: Sequence[str], features: Sequence[str], as_of_us: int
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


def _comparison(
    data_dir: Path,
    old: RegisteredView,
    new: RegisteredView,
    states: tuple[Sequence[ViewState], Sequence[ViewState]],
    as_of_us: int | None,
    entities: _Entities,
    features: list[FeatureComparison],
    notes: list[str],
) -> VersionComparison:
    behind_us, behind_events = behind(states[0], states[1])
    names = [feature.name for feature in old.spec.features], [feature.name for feature in new.spec.features]
    rows = entities.both + entities.only_old, entities.both + entities.only_new
    (disk,) = collect_disk(data_dir, [old, new]).views
    sizes = {version.version: (version.online_bytes, version.offline_bytes) for version in disk.versions}
    return VersionComparison(
        view=old.name,
        old=_progress(old, states[0], rows[0], sizes[old.version]),
        new=_progress(new, states[1], rows[1], sizes[new.version]),
        behind_us=behind_us,
        behind_events=behind_events,
        as_of=None if as_of_us is None else format_instant(as_of_us),
        both=entities.both,
        only_old=entities.only_old,
        only_new=entities.only_new,
        sampled=len(entities.keys),
        features=features,
        removed_features=[name for name in names[0] if name not in names[1]],
        added_features=[name for name in names[1] if name not in names[0]],
        notes=notes,
    )


def behind(old: Sequence[ViewState], new: Sequence[ViewState]) -> tuple[int, int]:
    """By how much the new version's partitions are behind the old one's: the worst in µs of event time, and the sum of
    messages. Partitions that only one of them reads, as those of a topic that is gone, do not count.
    """
    ours, theirs = _partitions(new), _partitions(old)
    late_us = messages = 0
    for key in ours.keys() & theirs.keys():
        messages += max(theirs[key][0] - ours[key][0], 0)
        if theirs[key][1] != NO_TIME and theirs[key][0] > ours[key][0]:
            # Without a time of its own it has seen nothing yet: all that the other one has seen is to come.
            since = ours[key][1] if ours[key][1] != NO_TIME else 0
            late_us = max(late_us, theirs[key][1] - since)
    return late_us, messages


def _partitions(states: Sequence[ViewState]) -> dict[str, tuple[int, int]]:
    """By partition the next offset, the least of the shards', and the largest event time."""
    found: dict[str, tuple[int, int]] = {}
    for state in states:
        for key, fence in state.fences.items():
            offset, time = found.get(key, (fence.next_offset, NO_TIME))
            found[key] = min(offset, fence.next_offset), max(time, fence.max_event_time_us)
    return found


def _progress(view: RegisteredView, states: Sequence[ViewState], rows: int, sizes: tuple[int, int]) -> VersionProgress:
    total = ViewCounts()
    for state in states:
        total = total.plus(state.counts)
    newest = max((fence.max_event_time_us for state in states for fence in state.fences.values()), default=NO_TIME)
    watermark = min((state.watermark_us for state in states), default=NO_TIME)
    return VersionProgress(
        version=view.version,
        newest_event=None if newest == NO_TIME else format_instant(newest),
        watermark=None if watermark == NO_TIME else format_instant(watermark),
        events=total.applied + total.filtered + total.null_key,
        applied=total.applied,
        rows=rows,
        online_bytes=sizes[0],
        offline_bytes=sizes[1],
    )
